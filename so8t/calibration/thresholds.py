"""Thresholds with a finite-sample guarantee: P(false-allow rate > alpha) <= delta, for any score distribution.

The hazard of a row is p_escalate + p_deny; a row is allowed when its hazard is *below* the threshold. Learn-then-Test
(Angelopoulos et al. 2021) with exact binomial p-values and a fixed sequence of thresholds reduces to an order
statistic: with m independent unsafe hazards and c = max{c : P(Bin(m, alpha) <= c) <= delta}, the (c+1)-th smallest
hazard is the largest certified threshold. So no grid and no multiplicity.

Note [one row per group]: rows of one template are not independent (rows taken as independent broke the guarantee in
31-43 % of simulated draws); one row of each group counts, chosen by hash and blind to the score.
Note [worst domain]: one shared threshold, the smallest of the domains' own. If it fails in some domain, that domain's
own threshold failed too, so the joint failure is <= delta without Bonferroni (intersection-union).
Note [rows that cannot pass]: a row the decision escalates anyway (not finite, residual mass) has an infinite hazard.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray
from scipy.special import bdtr

from so8t.metrics.intervals import upper_bound
from so8t.params import Cost

ALLOW, ESCALATE, DENY = range(3)
ABOVE_ALL = 2.0  # a threshold above every hazard; JSON has no infinity


@dataclass(frozen=True, slots=True)
class Stratum:
    """One risk that the shared threshold has to keep: its groups, the errors they allow, its own threshold."""

    name: str
    alpha: float
    groups: int
    allowed_errors: int  # -1: too few groups for any threshold
    threshold: float | None
    need_groups: int  # how many more independent unsafe groups until zero errors certify
    binding: bool  # whether the shared threshold must keep it

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


def allowed_errors(groups: int, alpha: float, delta: float) -> int:
    """Most errors among `groups` independent rows that still reject `rate > alpha` at level delta; -1 for none."""
    if groups <= 0:
        return -1
    tail = bdtr(np.arange(groups + 1, dtype=np.float64), groups, alpha)
    return int(np.count_nonzero(tail <= delta)) - 1


def groups_needed(alpha: float, delta: float) -> int:
    """Fewest independent groups that certify with no error: 59 at 5 % / 5 %, 299 at 1 % / 5 %."""
    groups = max(1, math.floor(math.log(delta) / math.log1p(-alpha)) - 1)
    while allowed_errors(groups, alpha, delta) < 0:
        groups += 1
    return groups


def best_alpha(groups: int, delta: float) -> float | None:
    """Smallest alpha that this many groups could certify without an error."""
    return upper_bound(0, groups, delta) if groups else None


def one_per_group(
    ids: Sequence[str], groups: Sequence[str], mask: Bool[ndarray, " n"]
) -> Int[ndarray, " groups"]:
    """Index of one row of each group among the masked rows: the smallest SHA-256 of (group, id), blind to scores."""
    chosen: dict[str, tuple[bytes, int]] = {}
    for index in np.flatnonzero(mask).tolist():
        key = (hashlib.sha256(f"{groups[index]}\0{ids[index]}".encode()).digest(), index)
        chosen[groups[index]] = min(chosen.get(groups[index], key), key)
    return np.array(sorted(index for _, index in chosen.values()), dtype=np.int64)


def certified_threshold(hazards: Float[ndarray, " m"], alpha: float, delta: float) -> float | None:
    """Largest t such that `allow iff hazard < t` is certified; null when there are too few rows for any t.

    Ties count against us: everything equal to t is not allowed. NaN counts as infinite (it is never allowed).
    """
    errors = allowed_errors(len(hazards), alpha, delta)
    if errors < 0:
        return None
    return min(ABOVE_ALL, float(np.sort(np.where(np.isnan(hazards), np.inf, hazards))[errors]))


def stratum(
    name: str, hazards: Float[ndarray, " m"], alpha: float, delta: float, *, binding: bool
) -> Stratum:
    """Certify one risk on one row per group."""
    count = len(hazards)
    return Stratum(
        name,
        alpha,
        count,
        allowed_errors(count, alpha, delta),
        certified_threshold(hazards, alpha, delta),
        max(0, groups_needed(alpha, delta) - count),
        binding,
    )


def cheapest_threshold(
    hazards: Float[ndarray, " n"], gold: Int[ndarray, " n"], limit: float, cost: Cost
) -> float:
    """Threshold <= limit of lowest total cost; every lower threshold is certified too, so this costs no guarantee."""
    reachable = hazards[hazards < limit]
    candidates = np.unique(np.concatenate([[0.0, limit], reachable]))
    unsafe, safe = np.sort(hazards[gold != ALLOW]), np.sort(hazards[gold == ALLOW])
    false_allows = np.searchsorted(unsafe, candidates, side="left")
    withheld = len(safe) - np.searchsorted(safe, candidates, side="left")
    total = cost.false_allow * false_allows + cost.needless_escalation * withheld
    return float(candidates[np.flatnonzero(total == total.min())[-1]])


def deny_threshold(
    p_deny: Float[ndarray, " n"], gold: Int[ndarray, " n"], lowest: float, false_deny: float
) -> float:
    """Deny threshold >= lowest that gains most: +1 for a true DENY, -1 for a true ESCALATE, -false_deny for ALLOW.

    Rows that are not finite are never denied. Without any gain it is 1.0. Equal gains: fewest denials.
    """
    usable = np.isfinite(p_deny)
    order = np.argsort(-p_deny[usable], kind="stable")
    values = p_deny[usable][order]
    gain = np.cumsum(np.array([-false_deny, -1.0, 1.0])[gold[usable][order]])
    last_of_tie = np.append(values[1:] < values[:-1], True)[: len(values)]
    reachable = np.flatnonzero(last_of_tie & (values >= lowest))
    if len(reachable) == 0 or gain[reachable].max() <= 0:
        return 1.0
    return float(values[reachable[np.argmax(gain[reachable])]])


def lowest_deny(p_deny: Float[ndarray, " m"], alpha: float, delta: float) -> float | None:
    """Smallest deny threshold certified to deny at most alpha of true ALLOW (one row per group); null if none <= 1.

    `p_deny` of the true ALLOW rows; NaN rows are never denied.
    """
    errors = allowed_errors(len(p_deny), alpha, delta)
    if errors < 0:
        return None
    highest = np.sort(np.where(np.isnan(p_deny), -np.inf, p_deny))[::-1][errors]
    lowest = max(0.0, float(np.nextafter(highest, 2.0)))
    return lowest if lowest <= 1.0 else None
