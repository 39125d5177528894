"""Intervals over groups that hold for any number of groups and of events.

Resampling groups promises too much when there is little to resample: with 3 groups its 95 %
intervals cover 62 %, with 5 groups 83 %, and where no row changed it gives [0, 0], as if nothing
could ever change. So a bootstrap interval is given from `MIN_GROUPS` groups on, and for rates only
where `MIN_EVENTS` groups showed each outcome. Otherwise rates have an exact interval on one row of
each group, and what is no rate has none.

The exact interval of a rate is that of Clopper and Pearson. The difference of two rates on the same
rows is p01 - p10, the shares of rows that only B and only A has. Each is a binomial proportion with
its own Clopper-Pearson bounds, and by Bonferroni's inequality the bounds hold together: [lower(p01)
- upper(p10), upper(p01) - lower(p10)]. That is exact in the sense of never promising too much, for
any number of rows (Clopper and Pearson 1934; Newcombe 1998, Statistics in Medicine 17:2635, on
paired differences and why intervals of no width must not be given).

One row per group, chosen blind to the results, makes the rows independent.
"""

import hashlib
import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray
from scipy.special import ndtr, stdtrit

from so8t.metrics.intervals import (
    LEVEL,
    clopper_pearson,
    group_bootstrap,
    group_sums,
    lower_bound,
    percentile_interval,
    upper_bound,
)

# Below so many groups a bootstrap interval covers less than it says.
MIN_GROUPS = 30

# Groups that must show an outcome before its share may be resampled.
MIN_EVENTS = 10

# Why there is no interval, as results say it.
FEW_GROUPS = "fewer_than_30_groups"

# Part of the error that the upper bounds get: where changes are rare, they make the width.
UPPER_SHARE = 0.8

Hits = Bool[ndarray, " n"]


def one_per_group(
    ids: Sequence[str], groups: Sequence[str], mask: Bool[ndarray, " n"]
) -> Int[ndarray, " groups"]:
    """Choose one row of each group among the masked rows, blind to scores.

    The choice is the smallest SHA-256 of (group, id), so it is the same in every run and cannot be
    steered by looking at results.

    Returns:
        Indices of the chosen rows, ascending.
    """
    chosen: dict[str, tuple[bytes, int]] = {}
    for index in np.flatnonzero(mask).tolist():
        group = groups[index]
        # The NUL keeps (ab, c) and (a, bc) apart.
        digest = hashlib.sha256(f"{group}\0{ids[index]}".encode()).digest()
        # The index settles the tie of two rows with the same id.
        candidate = (digest, index)
        if group not in chosen or candidate < chosen[group]:
            chosen[group] = candidate
    indices = [index for _, index in chosen.values()]
    return np.array(sorted(indices), dtype=np.int64)


def paired_difference(
    only_a: int, only_b: int, n: int, level: float = LEVEL
) -> tuple[float, float]:
    """Interval of p01 - p10 from `n` independent pairs; (-1, 1) when n is 0.

    Args:
        only_a: pairs of which only A is a hit (p10).
        only_b: pairs of which only B is a hit (p01).
        n: pairs.
        level: two-sided.
    """
    if n == 0:
        return -1.0, 1.0
    # Four bounds share the error, so that all hold together.
    of_upper = (1.0 - level) / 2.0 * UPPER_SHARE
    of_lower = (1.0 - level) / 2.0 * (1.0 - UPPER_SHARE)
    low = lower_bound(only_b, n, of_lower) - upper_bound(only_a, n, of_upper)
    high = upper_bound(only_b, n, of_upper) - lower_bound(only_a, n, of_lower)
    return max(-1.0, low), min(1.0, high)


def exact_difference(
    a: Hits, b: Hits, ids: Sequence[str], groups: Sequence[str]
) -> list[float] | None:
    """Exact 95 % interval of the difference of two rates on the same rows; null without rows.

    Args:
        a: hits of A.
        b: hits of B.
        ids: of the rows.
        groups: of the rows.
    """
    rows = one_per_group(ids, groups, np.ones(len(a), dtype=bool))
    if len(rows) == 0:
        return None
    only_a = int(np.count_nonzero(a[rows] & ~b[rows]))
    only_b = int(np.count_nonzero(b[rows] & ~a[rows]))
    return list(paired_difference(only_a, only_b, len(rows)))


def difference_interval(
    a: Hits, b: Hits, ids: Sequence[str], groups: Sequence[str], *, draws: int, seed: int
) -> list[float] | None:
    """95 % interval of the difference of two rates on the same rows; null without rows.

    Args:
        a: hits of A.
        b: hits of B.
        ids: of the rows.
        groups: of the rows.
        draws: of the bootstrap, where there is enough to resample.
        seed: of the bootstrap.
    """
    change = b.astype(np.float64) - a
    sums = group_sums(np.stack([change, np.ones(len(a))], axis=1), groups)
    if len(sums) < MIN_GROUPS or np.count_nonzero(sums[:, 0]) < MIN_EVENTS:
        return exact_difference(a, b, ids, groups)
    return _expanded_interval(sums, draws, seed)


def rate_interval(
    hits: Hits, ids: Sequence[str], groups: Sequence[str], *, draws: int, seed: int
) -> list[float] | None:
    """95 % interval of a rate over groups; null without rows.

    Args:
        hits: of the rows that count.
        ids: of the same rows.
        groups: of the same rows.
        draws: of the bootstrap, where there is enough to resample.
        seed: of the bootstrap.
    """
    if len(hits) == 0:
        return None
    sums = group_sums(np.stack([hits, np.ones(len(hits))], axis=1), groups)
    shown = np.count_nonzero(sums[:, 0])
    missed = np.count_nonzero(sums[:, 0] < sums[:, 1])
    if len(sums) < MIN_GROUPS or min(shown, missed) < MIN_EVENTS:
        rows = one_per_group(ids, groups, np.ones(len(hits), dtype=bool))
        return list(clopper_pearson(int(np.count_nonzero(hits[rows])), len(rows)))
    return _expanded_interval(sums, draws, seed)


def resampled_interval(
    values: Float[ndarray, " draws"], groups: int, level: float = LEVEL
) -> list[float] | None:
    """Percentile interval of bootstrap values; null below `MIN_GROUPS` groups."""
    if groups < MIN_GROUPS:
        return None
    return percentile_interval(values, level)


def reason_for(interval: object, groups: int) -> dict[str, str]:
    """What stands beside `ci95` in results: nothing, or why it is null although there are rows."""
    if interval or not 0 < groups < MIN_GROUPS:
        return {}
    return {"ci95_reason": FEW_GROUPS}


def _expanded_interval(
    sums: Float[ndarray, "groups 2"], draws: int, seed: int
) -> list[float] | None:
    """Percentile interval of a ratio at a level that makes up for few groups.

    A resample of G groups varies as if there were G - 1, and its percentiles are those of a normal
    where they should be those of Student's t; so further percentiles are taken (Hesterberg 2015,
    The American Statistician 69:371, "expanded percentile interval").
    """
    groups = len(sums)
    outer = stdtrit(groups - 1, (1.0 + LEVEL) / 2.0) * math.sqrt(groups / (groups - 1))
    values = group_bootstrap(sums, _ratio, draws=draws, seed=seed)
    return percentile_interval(values, 2.0 * float(ndtr(outer)) - 1.0)


def _ratio(sums: Float[ndarray, "draws 2"]) -> Float[ndarray, " draws"]:
    return np.asarray(sums[:, 0] / sums[:, 1])
