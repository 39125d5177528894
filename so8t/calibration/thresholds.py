"""Thresholds with a finite-sample guarantee, for any distribution of scores.

The promise is P(false-allow rate > alpha) <= delta, where the probability is over the draw of the
calibration rows. The hazard of a row is p_escalate + p_deny; a row is allowed when its hazard is
*below* the threshold.

Learn-then-Test (Angelopoulos et al. 2021) with exact binomial p-values and a fixed sequence of
thresholds comes down to an order statistic: with m independent unsafe hazards and
c = max{c : P(Bin(m, alpha) <= c) <= delta}, the (c+1)-th smallest hazard is the largest certified
threshold. So there is no grid of thresholds and no correction for testing many of them.

One row per group: rows of one template are not independent. Taking them as independent broke the
guarantee in 31-43 % of simulated draws. So one row of each group counts, chosen by hash, blind to
the score.

Worst domain: all domains share one threshold, the smallest of their own. If it fails in some
domain, that domain's own threshold failed too, so the chance that any fails is at most delta
without a Bonferroni correction (an intersection-union test).

Rows that cannot pass: a row that is escalated anyway (not finite, too much residual) has an
infinite hazard.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from scipy.special import bdtr

from so8t.metrics.intervals import groups_needed, upper_bound
from so8t.metrics.quality import ALLOW, Codes
from so8t.params import Cost

ABOVE_ALL = 2.0  # a threshold above every hazard; JSON has no infinity

# p_escalate + p_deny of each row, or p_deny alone.
Values = Float[ndarray, " n"]


@dataclass(frozen=True, slots=True)
class Stratum:
    """One risk that is certified by itself: one domain, or all rows.

    Attributes:
        name: the domain, or "all"; "/DENY" is added where only true DENY counts.
        alpha: the largest false-allow rate that is promised.
        groups: independent unsafe groups, one row each.
        allowed_errors: how many of them may lie below the threshold; -1 when there are too few
            groups for any threshold.
        threshold: the largest certified hazard limit of this stratum, or null.
        need_groups: how many more groups until zero errors would certify.
        binding: whether the shared threshold must keep this risk.
    """

    name: str
    alpha: float
    groups: int
    allowed_errors: int
    threshold: float | None
    need_groups: int
    binding: bool

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


def allowed_errors(groups: int, alpha: float, delta: float) -> int:
    """Most errors among `groups` independent rows that still reject `rate > alpha` at level delta.

    Returns:
        -1 when not even zero errors reject it.
    """
    if groups <= 0:
        return -1
    counts = np.arange(groups + 1, dtype=np.float64)
    # p_values[c]: chance of c errors or fewer when the true rate is exactly alpha.
    p_values = bdtr(counts, groups, alpha)
    return int(np.count_nonzero(p_values <= delta)) - 1


def best_alpha(groups: int, delta: float) -> float | None:
    """Smallest alpha that this many groups could certify without an error."""
    if groups == 0:
        return None
    return upper_bound(0, groups, delta)


def certified_threshold(hazards: Values, alpha: float, delta: float) -> float | None:
    """Largest t such that `allow iff hazard < t` is certified.

    Ties count against us: everything equal to t is not allowed. NaN counts as infinite, because
    such a row is never allowed.

    Args:
        hazards: of independent unsafe rows, one per group.
        alpha: the largest false-allow rate.
        delta: the chance that the promise is wrong.

    Returns:
        Null when there are too few rows for any t.
    """
    errors = allowed_errors(len(hazards), alpha, delta)
    if errors < 0:
        return None
    ascending = np.sort(np.where(np.isnan(hazards), np.inf, hazards))
    return min(ABOVE_ALL, float(ascending[errors]))


def stratum(
    name: str,
    hazards: Values,
    alpha: float,
    delta: float,
    *,
    binding: bool,
) -> Stratum:
    """Certify one risk on one row per group."""
    count = len(hazards)
    return Stratum(
        name=name,
        alpha=alpha,
        groups=count,
        allowed_errors=allowed_errors(count, alpha, delta),
        threshold=certified_threshold(hazards, alpha, delta),
        need_groups=max(0, groups_needed(alpha, delta) - count),
        binding=binding,
    )


def cheapest_threshold(
    hazards: Values,
    gold: Codes,
    limit: float,
    cost: Cost,
) -> float:
    """Threshold of lowest total cost that is not above `limit`.

    Every lower threshold is certified too, so choosing one costs no guarantee. Of equal costs the
    highest threshold wins: it allows most.
    """
    reachable = hazards[hazards < limit]
    # Costs change only where a row changes sides, so no other value needs a look.
    candidates = np.unique(np.concatenate([[0.0, limit], reachable]))
    unsafe = np.sort(hazards[gold != ALLOW])
    safe = np.sort(hazards[gold == ALLOW])
    false_allows = np.searchsorted(unsafe, candidates, side="left")
    withheld = len(safe) - np.searchsorted(safe, candidates, side="left")
    total = cost.false_allow * false_allows + cost.needless_escalation * withheld
    cheapest = np.flatnonzero(total == total.min())
    return float(candidates[cheapest[-1]])


def deny_threshold(
    p_deny: Values,
    gold: Codes,
    lowest: float,
    false_deny: float,
) -> float:
    """Deny threshold that gains most: +1 for a true DENY, -1 for a true ESCALATE.

    Args:
        p_deny: calibrated; a row that is not finite is never denied.
        gold: codes of the same rows.
        lowest: the smallest threshold to consider.
        false_deny: what denying a true ALLOW loses.

    Returns:
        The threshold with the fewest denials among those of equal gain; 1.0 without any gain.
    """
    # sort puts NaN last, where it would count as the smallest p_deny.
    usable = np.isfinite(p_deny)
    # Stable, so that equal values keep the order of the rows on every machine.
    descending = np.argsort(-p_deny[usable], kind="stable")
    values = p_deny[usable][descending]
    gain_of_code = np.array([-false_deny, -1.0, 1.0])
    # gain[i]: what denying the i + 1 rows of largest p_deny brings.
    gain = np.cumsum(gain_of_code[gold[usable][descending]])
    # Rows of equal p_deny are denied together, so only the last of them is a possible threshold.
    last_of_tie = np.append(values[1:] < values[:-1], True)[: len(values)]
    reachable = np.flatnonzero(last_of_tie & (values >= lowest))
    if len(reachable) == 0 or gain[reachable].max() <= 0:
        return 1.0
    best = reachable[np.argmax(gain[reachable])]
    return float(values[best])


def lowest_deny(p_deny: Values, alpha: float, delta: float) -> float | None:
    """Smallest deny threshold certified to deny at most alpha of true ALLOW.

    Args:
        p_deny: of true ALLOW rows, one per group; NaN rows are never denied.
        alpha: the largest share of true ALLOW that may be denied.
        delta: the chance that the promise is wrong.

    Returns:
        Null when there are too few rows, or none up to 1 is certified.
    """
    errors = allowed_errors(len(p_deny), alpha, delta)
    if errors < 0:
        return None
    descending = np.sort(np.where(np.isnan(p_deny), -np.inf, p_deny))[::-1]
    highest = descending[errors]
    # DENY is `p_deny >= threshold`, so the next float above leaves this row out.
    lowest = max(0.0, float(np.nextafter(highest, 2.0)))
    if lowest > 1.0:
        return None
    return lowest
