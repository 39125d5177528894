"""How sure a number is: exact binomial intervals, bootstrap over groups, Holm's correction.

Rates use Clopper-Pearson, which never promises too much (0 of 50 gives an upper limit of 7.1 %). Everything else is
resampled by *group*, because rows of one group are not independent. scipy.special alone, since scipy.stats is slow
to import.

Two sets of decisions on the same rows: exact paired tests, aware of groups, and what they could have seen.

McNemar's exact test is right for independent rows. For groups, its generalisation flips the sign of each group's
summed difference (exchange of A and B inside a group); with one row per group the two are the same number.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray
from scipy.special import bdtr, betaincinv, gammaln, xlog1py, xlogy

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


def group_bootstrap(
    sums: Float[ndarray, "groups k"],
    statistic: Callable[[ndarray], ndarray],
    *,
    draws: int,
    seed: int,
) -> Float[ndarray, " draws"]:
    """Resample groups with replacement; `statistic` maps [draws, k] sums to [draws] values.

    Every statistic we report is a function of sums over rows, so one draw is one weighted sum: 10,000 draws of a
    thousand groups take about a second.
    """
    rng, count = np.random.default_rng(seed), len(sums)
    if count == 0:
        return np.full(draws, np.nan)
    parts = []
    for start in range(0, draws, CHUNK):
        weights = rng.multinomial(
            count, np.full(count, 1.0 / count), size=min(CHUNK, draws - start)
        )
        parts.append(statistic(weights.astype(np.float64) @ sums))
    return np.concatenate(parts)


def percentile_interval(
    values: Float[ndarray, " draws"], level: float = LEVEL
) -> list[float] | None:
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


POWER = 0.8  # chance of seeing the minimum detectable effect


@dataclass(frozen=True, slots=True)
class McNemar:
    """Rows only A has (`only_a`), rows only B has (`only_b`), and the exact two-sided p-value."""

    only_a: int
    only_b: int
    p: float


def binomial_two_sided(k: int, n: int) -> float:
    """Exact two-sided p-value of k of n under probability one half."""
    return 1.0 if n == 0 else min(1.0, 2.0 * float(bdtr(min(k, n - k), n, 0.5)))


def mcnemar(a: Bool[ndarray, " n"], b: Bool[ndarray, " n"]) -> McNemar:
    """Exact McNemar test of two boolean outcomes on the same rows."""
    only_a, only_b = int(np.count_nonzero(a & ~b)), int(np.count_nonzero(~a & b))
    return McNemar(only_a, only_b, binomial_two_sided(only_b, only_a + only_b))


def group_sign_test(a: Bool[ndarray, " n"], b: Bool[ndarray, " n"], groups: Sequence[str]) -> float:
    """Exact two-sided p-value for `b - a` when A and B may be exchanged inside each group.

    The null distribution of sum(+-|d_g|) over the groups' integer differences d_g is found by convolution.
    """
    if len(groups) == 0:
        return 1.0
    differences = group_sums((b.astype(np.int64) - a.astype(np.int64)).reshape(-1, 1), groups)[:, 0]
    sizes = np.abs(differences[differences != 0]).astype(np.int64)
    total, mass = int(sizes.sum()), np.ones(1)
    for size in sizes:  # mass[s] = P(sum of positive parts == s)
        grown = np.zeros(len(mass) + size)
        grown[: len(mass)] += 0.5 * mass
        grown[size:] += 0.5 * mass
        mass = grown
    distance = np.abs(2 * np.arange(total + 1) - total)
    return min(1.0, float(mass[distance >= abs(round(float(differences.sum())))].sum()))


def swap_test(
    sums_a: Float[ndarray, "groups k"],
    sums_b: Float[ndarray, "groups k"],
    statistic: Callable[[ndarray], ndarray],
    *,
    draws: int,
    seed: int,
) -> float:
    """Two-sided p-value of statistic(B) - statistic(A) by exchanging A and B inside random groups."""
    if len(sums_a) == 0:
        return 1.0
    rng, total_a, total_b = np.random.default_rng(seed), sums_a.sum(axis=0), sums_b.sum(axis=0)
    observed = abs(float((statistic(total_b[None]) - statistic(total_a[None]))[0]))
    step, as_extreme = sums_b - sums_a, 0
    for start in range(0, draws, CHUNK):
        moved = (
            rng.integers(0, 2, size=(min(CHUNK, draws - start), len(step))).astype(np.float64)
            @ step
        )
        values = np.abs(statistic(total_b - moved) - statistic(total_a + moved))
        as_extreme += int(np.count_nonzero(~(values < observed - 1e-12)))
    return (1 + as_extreme) / (1 + draws)


def cell_bootstrap(
    gold: Int[ndarray, " n"], a: Int[ndarray, " n"], b: Int[ndarray, " n"], *, draws: int, seed: int
) -> tuple[Float[ndarray, "draws 9"], Float[ndarray, "draws 9"]]:
    """Resample rows through the 27 cells (gold, A, B): confusion counts of A and of B per draw.

    Takes rows as independent; with groups use `group_bootstrap`. Milliseconds where row resampling takes seconds.
    """
    if len(gold) == 0:
        return np.full((draws, 9), np.nan), np.full((draws, 9), np.nan)
    counts = np.bincount(gold * 9 + a * 3 + b, minlength=27)
    drawn = (
        np.random.default_rng(seed)
        .multinomial(len(gold), counts / len(gold), size=draws)
        .reshape(-1, 3, 3, 3)
    )
    return drawn.sum(axis=3).reshape(-1, 9).astype(np.float64), drawn.sum(axis=2).reshape(
        -1, 9
    ).astype(np.float64)


class _Power:
    """Power of exact McNemar for n pairs of which a share is discordant, by the size of the difference."""

    def __init__(self, n: int, discordant: float, alpha: float) -> None:
        count = np.arange(n + 1, dtype=np.float64)
        mass = np.exp(
            gammaln(n + 1)
            - gammaln(count + 1)
            - gammaln(n - count + 1)
            + xlogy(count, discordant)
            + xlog1py(n - count, -discordant)
        )
        likely = np.flatnonzero((mass > 1e-9) & (count > 0))
        critical = np.array([_critical(int(pairs), alpha) for pairs in likely])
        usable = critical >= 0
        self.discordant = discordant
        self.mass, self.pairs, self.critical = (
            mass[likely][usable],
            likely[usable],
            critical[usable].astype(np.float64),
        )

    def of(self, effect: float) -> float:
        """Chance of a significant result when B - A is `effect`."""
        share = (self.discordant + effect) / (2.0 * self.discordant)
        low, high = (
            bdtr(self.critical, self.pairs, share),
            bdtr(self.critical, self.pairs, 1.0 - share),
        )
        return float((self.mass * (low + high)).sum())


def _critical(pairs: int, alpha: float) -> int:
    """Most discordant pairs on the smaller side that still reject; -1 when none do."""
    tail = bdtr(np.arange(pairs // 2 + 1, dtype=np.float64), pairs, 0.5)
    return int(np.count_nonzero(2.0 * tail <= alpha)) - 1


def minimum_detectable(n: int, discordant: float, alpha: float) -> float | None:
    """Smallest difference of proportions that exact McNemar finds with 80 % power; null if no difference would do.

    A difference cannot exceed the share of discordant pairs. So where even one-sided disagreement at the given share
    would be missed, the share grows with the difference.

    Args:
        n: pairs.
        discordant: share of pairs on which A and B differ, in [0, 1].
        alpha: two-sided level.
    """
    if n == 0 or _Power(n, 1.0, alpha).of(1.0) < POWER:
        return None
    fixed = _Power(n, discordant, alpha) if discordant > 0 else None
    if fixed is not None and fixed.of(discordant) >= POWER:
        return _smallest(0.0, discordant, lambda effect: fixed.of(effect) >= POWER)
    return _smallest(discordant, 1.0, lambda effect: _Power(n, effect, alpha).of(effect) >= POWER)


def _smallest(low: float, high: float, found: Callable[[float], bool]) -> float:
    """Smallest value in (low, high] that is found, by bisection; `high` is."""
    for _ in range(20):
        middle = (low + high) / 2.0
        low, high = (low, middle) if found(middle) else (middle, high)
    return high


def groups_needed(alpha: float, delta: float) -> int:
    """Fewest independent groups that certify `rate <= alpha` at level delta with no error at all.

    The certificate asks whether P(Bin(n, alpha) = 0) = (1 - alpha)^n is at most delta: 59 groups at
    5 % / 5 %, 299 at 1 % / 5 %.
    """
    # One below the logarithm's answer, which may round to either side of the exact test's.
    groups = max(1, math.floor(math.log(delta) / math.log1p(-alpha)) - 1)
    while bdtr(0.0, groups, alpha) > delta:
        groups += 1
    return groups
