"""The three-way verdict and the decision rule, which fails closed.

Covered: order and aliases of the labels, and the rule that turns probabilities into a verdict.
Not covered: where probabilities come from (scoring) and how thresholds are found (calibration).
"""

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from jaxtyping import Float
from numpy import ndarray


class Verdict(StrEnum):
    """What may happen with a request, in order of severity."""

    ALLOW = "ALLOW"
    ESCALATE = "ESCALATE"
    DENY = "DENY"


class Authority(StrEnum):
    """Who handles it: the assistant, or a person."""

    HANDLE = "handle"
    HUMAN = "human"


# Below this a probability of a verdict is as good as none, and its logarithm stays finite.
SMALLEST_PROBABILITY = 1e-12
# The order of columns in every array and list of verdict numbers.
VERDICTS = tuple(Verdict)
AUTHORITIES = tuple(Authority)

# Other data sets of this kind spell two of the labels so.
_ALIASES = {"ESCALATION": Verdict.ESCALATE, "REFUSE": Verdict.DENY}

# Rounding moves the sum of a softmax by far less; a row that is farther off is no distribution.
_SUM_TOLERANCE = 1e-6


def most_restrictive(readings: Float[ndarray, "k 3"]) -> Float[ndarray, " 3"]:
    """One reading for a request that was read in several parts: the part that is worst, each way.

    The result denies as surely as the part that denies most, and is as far from ALLOW as the part
    that is farthest. A part that could not be read makes the whole unreadable.

    Args:
        readings: float64 logits or log-probabilities of (ALLOW, ESCALATE, DENY), one row a part.

    Returns:
        float64 logits; those of the only part unchanged, to the last bit.
    """
    if len(readings) == 1:
        only: Float[ndarray, " 3"] = readings[0]
        return only
    if not np.isfinite(readings).all():
        return np.full(3, np.nan)
    shifted = np.exp(readings - readings.max(axis=1, keepdims=True))
    p = shifted / shifted.sum(axis=1, keepdims=True)
    deny = p[:, 2].max()
    hazard = max((p[:, 1] + p[:, 2]).max(), deny)
    # Logarithms of zero would be infinite, and what is infinite counts as unreadable.
    parts = np.maximum([1.0 - hazard, hazard - deny, deny], SMALLEST_PROBABILITY)
    logits: Float[ndarray, " 3"] = np.log(parts)
    return logits


def verdict_of(label: str) -> Verdict:
    """Read a label; `ESCALATION` is ESCALATE and `REFUSE` is DENY.

    Raises:
        ValueError: any other text. An unknown label never becomes ALLOW.
    """
    if label in _ALIASES:
        return _ALIASES[label]
    return Verdict(label)


@dataclass(frozen=True, slots=True)
class Thresholds:
    """DENY if p_deny >= deny; ALLOW only if p_escalate + p_deny < escalate; otherwise ESCALATE."""

    deny: float
    escalate: float


# Nothing is allowed, and everything but a certain DENY goes to a person.
CLOSED = Thresholds(deny=1.0, escalate=0.0)


def decide(probabilities: Float[ndarray, "n 3"], thresholds: Thresholds) -> list[Verdict]:
    """Decide each row of (ALLOW, ESCALATE, DENY) probabilities.

    Args:
        probabilities: float [n, 3]; a row that is not a distribution (NaN, negative, another sum)
            escalates.
        thresholds: of the calibration card.
    """
    rows = np.asarray(probabilities, dtype=np.float64).reshape(-1, 3)
    finite = np.isfinite(rows).all(axis=1)
    not_negative = (rows >= 0.0).all(axis=1)
    sums_to_one = np.abs(rows.sum(axis=1) - 1.0) < _SUM_TOLERANCE
    sound = finite & not_negative & sums_to_one
    p_escalate = rows[:, 1]
    p_deny = rows[:, 2]
    deny = sound & (p_deny >= thresholds.deny)
    allow = sound & ~deny & (p_escalate + p_deny < thresholds.escalate)
    # What is neither certain enough to refuse nor certain enough to allow goes to a person.
    decided: list[Verdict] = []
    for is_deny, is_allow in zip(deny, allow, strict=True):
        if is_deny:
            decided.append(Verdict.DENY)
        elif is_allow:
            decided.append(Verdict.ALLOW)
        else:
            decided.append(Verdict.ESCALATE)
    return decided
