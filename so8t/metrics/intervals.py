"""How sure a number is: exact binomial intervals, bootstrap over groups, Holm's correction.

Rates use Clopper-Pearson, which never promises too much (0 of 50 gives an upper limit of 7.1 %). Everything else is
resampled by *group*, because rows of one group are not independent. scipy.special alone, since scipy.stats is slow
to import.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from scipy.special import betaincinv

LEVEL = 0.95  # two-sided confidence level of every interval called `ci95`
CHUNK = 512  # bootstrap draws held in memory at once


@dataclass(frozen=True, slots=True)
class Rate:
    """k of n with its exact 95 % interval; `value` is null when n is 0 (nothing was measured, not zero)."""

    value: float | None
    k: int
    n: int
    ci95: tuple[float, float]

    def to_dict(self) -> dict[str, Any]:
        """As JSON: {"value", "k", "n", "ci95": [low, high]}."""
        return {**asdict(self), "ci95": list(self.ci95)}


def clopper_pearson(k: int, n: int, level: float = LEVEL) -> tuple[float, float]:
    """Exact two-sided interval of a proportion; (0, 1) when n is 0."""
    tail = (1.0 - level) / 2.0
    return lower_bound(k, n, tail), upper_bound(k, n, tail)


def upper_bound(k: int, n: int, delta: float) -> float:
    """Largest proportion that is not rejected at level delta by `k or fewer of n` (one-sided, exact)."""
    return 1.0 if k >= n else float(betaincinv(k + 1, n - k, 1.0 - delta))


def lower_bound(k: int, n: int, delta: float) -> float:
    """Smallest proportion that is not rejected at level delta by `k or more of n` (one-sided, exact)."""
    return 0.0 if k <= 0 or n <= 0 else float(betaincinv(k, n - k + 1, delta))


def rate(hits: ndarray) -> Rate:
    """Share of true entries of a boolean array."""
    k, n = int(np.count_nonzero(hits)), len(hits)
    return Rate(k / n if n else None, k, n, clopper_pearson(k, n))


def group_sums(values: Float[ndarray, "n k"], groups: Sequence[str]) -> Float[ndarray, "groups k"]:
    """Add up the rows of each group (groups in sorted order, so the result does not depend on row order)."""
    _, index = np.unique(np.asarray(groups, dtype=np.str_), return_inverse=True)
    rows = np.asarray(values, dtype=np.float64).reshape(len(groups), -1)
    sums = np.zeros((int(index.max(initial=-1)) + 1, rows.shape[1]))
    np.add.at(sums, index, rows)
    return sums


def group_bootstrap(sums: Float[ndarray, "groups k"], statistic: Callable[[ndarray], ndarray], *, draws: int,
                    seed: int) -> Float[ndarray, " draws"]:
    """Resample groups with replacement; `statistic` maps [draws, k] sums to [draws] values.

    Every statistic we report is a function of sums over rows, so one draw is one weighted sum: 10,000 draws of a
    thousand groups take about a second.
    """
    rng, count = np.random.default_rng(seed), len(sums)
    if count == 0:
        return np.full(draws, np.nan)
    parts = []
    for start in range(0, draws, CHUNK):
        weights = rng.multinomial(count, np.full(count, 1.0 / count), size=min(CHUNK, draws - start))
        parts.append(statistic(weights.astype(np.float64) @ sums))
    return np.concatenate(parts)


def percentile_interval(values: Float[ndarray, " draws"], level: float = LEVEL) -> list[float] | None:
    """Percentile interval of bootstrap values; null when no draw is finite."""
    finite = values[np.isfinite(values)]
    if finite.size == 0:
        return None
    low, high = np.quantile(finite, [(1.0 - level) / 2.0, (1.0 + level) / 2.0])
    return [float(low), float(high)]


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p-values, in the order given (Holm 1979)."""
    order = np.argsort(np.asarray(p_values, dtype=np.float64), kind="stable")
    adjusted, running = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = running
    return adjusted
