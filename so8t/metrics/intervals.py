"""How sure a number is: exact binomial intervals, bootstrap over groups, paired tests.

Rates use Clopper-Pearson intervals, which never promise too much: 0 of 50 has an upper limit of
7.1 %. Everything else is resampled by *group* (rows made from one template), because the rows of a
group are not independent.

Two sets of decisions, A and B, on the same rows are compared by paired tests. McNemar's exact test
is right for independent rows. Its generalisation for groups exchanges A and B inside each group,
which flips the sign of the group's summed difference; with one row per group both give the same p.

Only scipy.special is used, because scipy.stats takes long to import.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray
from scipy.special import bdtr, betaincinv, gammaln, xlog1py, xlogy

# Two-sided confidence level of every interval that is called `ci95`.
LEVEL = 0.95
# Chance of seeing the minimum detectable effect.
POWER = 0.8
# Bootstrap draws that are held in memory at once.
CHUNK = 512
# Statistics that differ by less are equal: summing in another order rounds differently.
ROUNDING = 1e-12
# Halvings of a search interval: it ends a million times narrower.
BISECTIONS = 20


@dataclass(frozen=True, slots=True)
class Rate:
    """A proportion k / n with its exact 95 % interval.

    `value` is None when n is 0: nothing was measured, which is not zero.
    """

    value: float | None
    k: int
    n: int
    ci95: tuple[float, float]

    def to_dict(self) -> dict[str, Any]:
        """As JSON: {"value", "k", "n", "ci95": [low, high]}."""
        return {**asdict(self), "ci95": list(self.ci95)}


def clopper_pearson(
    k: int,
    n: int,
    level: float = LEVEL,
) -> tuple[float, float]:
    """Exact two-sided interval of a proportion (Clopper and Pearson 1934); (0, 1) when n is 0."""
    tail = (1.0 - level) / 2.0
    return lower_bound(k, n, tail), upper_bound(k, n, tail)


def upper_bound(
    k: int,
    n: int,
    delta: float,
) -> float:
    """Largest proportion that `k or fewer of n` does not reject at level delta, one-sided."""
    if k >= n:
        return 1.0
    bound = betaincinv(k + 1, n - k, 1.0 - delta)
    return float(bound)


def lower_bound(
    k: int,
    n: int,
    delta: float,
) -> float:
    """Smallest proportion that `k or more of n` does not reject at level delta, one-sided."""
    if k <= 0 or n <= 0:
        return 0.0
    bound = betaincinv(k, n - k + 1, delta)
    return float(bound)


def rate(hits: ndarray) -> Rate:
    """Share of true entries of a boolean array."""
    k = int(np.count_nonzero(hits))
    n = len(hits)
    value = k / n if n else None
    return Rate(value, k, n, clopper_pearson(k, n))


def group_sums(values: Float[ndarray, "n k"], groups: Sequence[str]) -> Float[ndarray, "groups k"]:
    """Add up the rows of each group.

    Groups come in sorted order, so that the result does not depend on the order of the rows.
    """
    _, index = np.unique(np.asarray(groups, dtype=np.str_), return_inverse=True)
    rows = np.asarray(values, dtype=np.float64).reshape(len(groups), -1)
    # -1 without groups: there is then no row.
    count = int(index.max(initial=-1)) + 1
    sums = np.zeros((count, rows.shape[1]))
    # `sums[index] += rows` would add only one row of each group.
    np.add.at(sums, index, rows)
    return sums


def _chunks(draws: int) -> Iterator[int]:
    """Sizes of at most CHUNK that add up to `draws`."""
    for start in range(0, draws, CHUNK):
        yield min(CHUNK, draws - start)


def group_bootstrap(
    sums: Float[ndarray, "groups k"],
    statistic: Callable[[ndarray], ndarray],
    *,
    draws: int,
    seed: int,
) -> Float[ndarray, " draws"]:
    """Resample groups with replacement.

    Every statistic that is reported is a function of sums over rows, so that one draw is one
    weighted sum of groups: 10,000 draws of a thousand groups take about a second.

    Args:
        sums: sums over the rows of each group.
        statistic: maps sums [draws, k] to values [draws].
        draws: how many.
        seed: of the random generator.

    Returns:
        The statistic of each draw; NaN when there is no group.
    """
    rng = np.random.default_rng(seed)
    count = len(sums)
    if count == 0:
        return np.full(draws, np.nan)
    evenly = np.full(count, 1.0 / count)
    parts = []
    for size in _chunks(draws):
        # How often each group is drawn.
        weights = rng.multinomial(count, evenly, size=size)
        parts.append(statistic(weights.astype(np.float64) @ sums))
    return np.concatenate(parts)


def percentile_interval(
    values: Float[ndarray, " draws"], level: float = LEVEL
) -> list[float] | None:
    """Percentile interval [low, high] of bootstrap values; None when no draw is finite."""
    finite = values[np.isfinite(values)]
    if finite.size == 0:
        return None
    shares = [(1.0 - level) / 2.0, (1.0 + level) / 2.0]
    low, high = np.quantile(finite, shares)
    return [float(low), float(high)]


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p-values, in the order given (Holm 1979)."""
    order = np.argsort(np.asarray(p_values, dtype=np.float64), kind="stable")
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(order):
        left = len(p_values) - rank
        # A later p-value is never adjusted below an earlier one.
        largest = max(largest, min(1.0, left * p_values[index]))
        adjusted[index] = largest
    return adjusted


@dataclass(frozen=True, slots=True)
class McNemar:
    """Rows that only A has, rows that only B has, and the exact two-sided p-value."""

    only_a: int
    only_b: int
    p: float


def binomial_two_sided(k: int, n: int) -> float:
    """Exact two-sided p-value of k of n under probability one half; 1 when n is 0."""
    if n == 0:
        return 1.0
    smaller = min(k, n - k)
    return min(1.0, 2.0 * float(bdtr(smaller, n, 0.5)))


def mcnemar(a: Bool[ndarray, " n"], b: Bool[ndarray, " n"]) -> McNemar:
    """Exact McNemar test of two boolean outcomes on the same rows."""
    only_a = int(np.count_nonzero(a & ~b))
    only_b = int(np.count_nonzero(~a & b))
    return McNemar(only_a, only_b, binomial_two_sided(only_b, only_a + only_b))


def group_sign_test(
    a: Bool[ndarray, " n"],
    b: Bool[ndarray, " n"],
    groups: Sequence[str],
) -> float:
    """Exact two-sided p-value for `b - a` when A and B may be exchanged inside each group.

    Each group g has an integer difference d_g, summed over its rows. The distribution of
    sum(+-|d_g|) over all signs is found by convolution.
    """
    if len(groups) == 0:
        return 1.0
    change = b.astype(np.int64) - a.astype(np.int64)
    differences = group_sums(change.reshape(-1, 1), groups)[:, 0]
    # Groups without a difference are the same under either sign.
    moving = differences[differences != 0]
    sizes = np.abs(moving).astype(np.int64)
    # mass[s] is the probability that the positive terms add up to s.
    mass = np.ones(1)
    for size in sizes:
        grown = np.zeros(len(mass) + size)
        grown[: len(mass)] += 0.5 * mass
        grown[size:] += 0.5 * mass
        mass = grown
    # Positive terms of s make the whole sum s - (total - s).
    total = int(sizes.sum())
    positive = np.arange(total + 1)
    distance = np.abs(2 * positive - total)
    observed = abs(round(float(differences.sum())))
    p = float(mass[distance >= observed].sum())
    # Rounding may carry a sum of probabilities just above 1.
    return min(1.0, p)


def swap_test(
    sums_a: Float[ndarray, "groups k"],
    sums_b: Float[ndarray, "groups k"],
    statistic: Callable[[ndarray], ndarray],
    *,
    draws: int,
    seed: int,
) -> float:
    """Two-sided p-value of statistic(B) - statistic(A), by exchanging A and B in random groups.

    Args:
        sums_a: sums over the rows of each group, of A.
        sums_b: the same of B.
        statistic: maps sums [draws, k] to values [draws].
        draws: random exchanges.
        seed: of the random generator.
    """
    if len(sums_a) == 0:
        return 1.0
    rng = np.random.default_rng(seed)
    total_a = sums_a.sum(axis=0)
    total_b = sums_b.sum(axis=0)
    value_a = statistic(total_a[None])
    value_b = statistic(total_b[None])
    observed = abs(float((value_b - value_a)[0]))
    difference = sums_b - sums_a
    as_extreme = 0
    for size in _chunks(draws):
        exchanged = rng.integers(0, 2, size=(size, len(difference)))
        moved = exchanged.astype(np.float64) @ difference
        value_b = statistic(total_b - moved)
        value_a = statistic(total_a + moved)
        values = np.abs(value_b - value_a)
        # Written so that a NaN counts as extreme: every comparison with NaN is false.
        as_extreme += int(np.count_nonzero(~(values < observed - ROUNDING)))
    # The observed assignment is one of the possible ones: p is never 0.
    return (1 + as_extreme) / (1 + draws)


class CellDraws(NamedTuple):
    """Flattened confusion matrices (gold-major) of A and of B in each draw."""

    a: Float[ndarray, "draws 9"]
    b: Float[ndarray, "draws 9"]


def cell_bootstrap(
    gold: Int[ndarray, " n"],
    a: Int[ndarray, " n"],
    b: Int[ndarray, " n"],
    *,
    draws: int,
    seed: int,
) -> CellDraws:
    """Resample rows through the 27 cells (gold, A, B); verdicts are codes 0 to 2.

    It takes rows as independent; with groups use `group_bootstrap`. It takes milliseconds where
    resampling rows takes seconds.
    """
    n = len(gold)
    if n == 0:
        nothing = np.full((draws, 9), np.nan)
        return CellDraws(nothing, nothing.copy())
    cell = gold * 9 + a * 3 + b
    counts = np.bincount(cell, minlength=27)
    drawn = np.random.default_rng(seed).multinomial(n, counts / n, size=draws)
    table = drawn.reshape(-1, 3, 3, 3)
    of_a = table.sum(axis=3).reshape(-1, 9)
    of_b = table.sum(axis=2).reshape(-1, 9)
    return CellDraws(of_a.astype(np.float64), of_b.astype(np.float64))


class _Power:
    """Power of the exact McNemar test, by the size of the difference.

    Args:
        n: pairs.
        discordant: share of pairs on which A and B differ.
        alpha: two-sided level.
    """

    def __init__(
        self,
        n: int,
        discordant: float,
        alpha: float,
    ) -> None:
        self.discordant = discordant
        count = np.arange(n + 1, dtype=np.float64)
        # Probability of each number of discordant pairs, by logarithms: factorials would overflow.
        mass = np.exp(
            gammaln(n + 1)
            - gammaln(count + 1)
            - gammaln(n - count + 1)
            + xlogy(count, discordant)
            + xlog1py(n - count, -discordant)
        )
        # Numbers that hardly ever occur are left out.
        likely = np.flatnonzero((mass > 1e-9) & (count > 0))
        critical = np.array([_critical(int(pairs), alpha) for pairs in likely])
        usable = critical >= 0
        self.mass = mass[likely][usable]
        self.pairs = likely[usable]
        self.critical = critical[usable].astype(np.float64)

    def of(self, effect: float) -> float:
        """Chance of a significant result when B - A is `effect`."""
        # Of the discordant pairs, the share that favours B.
        share = (self.discordant + effect) / (2.0 * self.discordant)
        low = bdtr(self.critical, self.pairs, share)
        high = bdtr(self.critical, self.pairs, 1.0 - share)
        return float((self.mass * (low + high)).sum())


def _critical(pairs: int, alpha: float) -> int:
    """Most discordant pairs on the smaller side that still reject; -1 when none do."""
    smaller_side = np.arange(pairs // 2 + 1, dtype=np.float64)
    tail = bdtr(smaller_side, pairs, 0.5)
    # The tail grows with the side: those that reject are the first ones.
    rejecting = int(np.count_nonzero(2.0 * tail <= alpha))
    return rejecting - 1


def minimum_detectable(
    n: int,
    discordant: float,
    alpha: float,
) -> float | None:
    """Smallest difference of proportions that exact McNemar finds with 80 % power.

    A difference cannot exceed the share of discordant pairs. Where even one-sided disagreement at
    the given share would be missed, the share therefore grows with the difference.

    Args:
        n: pairs.
        discordant: share of pairs on which A and B differ, in [0, 1].
        alpha: two-sided level.

    Returns:
        The difference, or None if no difference would be found.
    """
    # The largest difference there can be: every pair is discordant and favours B.
    if n == 0 or _Power(n, 1.0, alpha).of(1.0) < POWER:
        return None
    if discordant > 0:
        power = _Power(n, discordant, alpha)
        if power.of(discordant) >= POWER:
            return _smallest(0.0, discordant, lambda effect: power.of(effect) >= POWER)

    def is_found(effect: float) -> bool:
        # All discordant pairs favour one side here: their share is the effect.
        return _Power(n, effect, alpha).of(effect) >= POWER

    return _smallest(discordant, 1.0, is_found)


def _smallest(
    low: float,
    high: float,
    is_found: Callable[[float], bool],
) -> float:
    """Smallest value in (low, high] that is found, by bisection; `high` is known to be found."""
    for _ in range(BISECTIONS):
        middle = (low + high) / 2.0
        if is_found(middle):
            high = middle
        else:
            low = middle
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
