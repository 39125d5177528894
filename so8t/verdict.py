"""The three-way verdict and the fail-closed decision.

Covered: label order, aliases, the decision rule of DESIGN section 5. Not covered: where probabilities come from
(scoring) and how thresholds are found (calibration).
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


VERDICTS = tuple(Verdict)
AUTHORITIES = tuple(Authority)
_ALIASES = {"ESCALATION": Verdict.ESCALATE, "REFUSE": Verdict.DENY}


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


CLOSED = Thresholds(deny=1.0, escalate=0.0)  # nothing is allowed, everything goes to a person


def decide(probabilities: Float[ndarray, "n 3"], thresholds: Thresholds) -> list[Verdict]:
    """Decide each row of (ALLOW, ESCALATE, DENY) probabilities; anything that is not a distribution escalates."""
    rows = np.asarray(probabilities, dtype=np.float64).reshape(-1, 3)
    sound = (
        np.isfinite(rows).all(axis=1)
        & (rows >= 0.0).all(axis=1)
        & (np.abs(rows.sum(axis=1) - 1.0) < 1e-6)
    )
    deny = sound & (rows[:, 2] >= thresholds.deny)
    allow = sound & ~deny & (rows[:, 1] + rows[:, 2] < thresholds.escalate)
    return [
        Verdict.DENY if d else Verdict.ALLOW if a else Verdict.ESCALATE
        for d, a in zip(deny, allow, strict=True)
    ]
