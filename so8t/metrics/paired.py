"""Two sets of decisions on the same rows: exact paired tests, aware of groups, and what they could have seen.

McNemar's exact test is right for independent rows. For groups, its generalisation flips the sign of each group's
summed difference (exchange of A and B inside a group); with one row per group the two are the same number.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray
from scipy.special import bdtr, gammaln, xlog1py, xlogy

from so8t.metrics.intervals import CHUNK, group_sums

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


def swap_test(sums_a: Float[ndarray, "groups k"], sums_b: Float[ndarray, "groups k"],
              statistic: Callable[[ndarray], ndarray], *, draws: int, seed: int) -> float:
    """Two-sided p-value of statistic(B) - statistic(A) by exchanging A and B inside random groups."""
    if len(sums_a) == 0:
        return 1.0
    rng, total_a, total_b = np.random.default_rng(seed), sums_a.sum(axis=0), sums_b.sum(axis=0)
    observed = abs(float((statistic(total_b[None]) - statistic(total_a[None]))[0]))
    step, as_extreme = sums_b - sums_a, 0
    for start in range(0, draws, CHUNK):
        moved = rng.integers(0, 2, size=(min(CHUNK, draws - start), len(step))).astype(np.float64) @ step
        values = np.abs(statistic(total_b - moved) - statistic(total_a + moved))
        as_extreme += int(np.count_nonzero(~(values < observed - 1e-12)))
    return (1 + as_extreme) / (1 + draws)


def cell_bootstrap(gold: Int[ndarray, " n"], a: Int[ndarray, " n"], b: Int[ndarray, " n"], *, draws: int,
                   seed: int) -> tuple[Float[ndarray, "draws 9"], Float[ndarray, "draws 9"]]:
    """Resample rows through the 27 cells (gold, A, B): confusion counts of A and of B per draw.

    Takes rows as independent; with groups use `group_bootstrap`. Milliseconds where row resampling takes seconds.
    """
    if len(gold) == 0:
        return np.full((draws, 9), np.nan), np.full((draws, 9), np.nan)
    counts = np.bincount(gold * 9 + a * 3 + b, minlength=27)
    drawn = np.random.default_rng(seed).multinomial(len(gold), counts / len(gold), size=draws).reshape(-1, 3, 3, 3)
    return drawn.sum(axis=3).reshape(-1, 9).astype(np.float64), drawn.sum(axis=2).reshape(-1, 9).astype(np.float64)


class _Power:
    """Power of exact McNemar for n pairs of which a share is discordant, by the size of the difference."""

    def __init__(self, n: int, discordant: float, alpha: float) -> None:
        count = np.arange(n + 1, dtype=np.float64)
        mass = np.exp(gammaln(n + 1) - gammaln(count + 1) - gammaln(n - count + 1)
                      + xlogy(count, discordant) + xlog1py(n - count, -discordant))
        likely = np.flatnonzero((mass > 1e-9) & (count > 0))
        critical = np.array([_critical(int(pairs), alpha) for pairs in likely])
        usable = critical >= 0
        self.discordant = discordant
        self.mass, self.pairs, self.critical = mass[likely][usable], likely[usable], critical[usable].astype(np.float64)

    def of(self, effect: float) -> float:
        """Chance of a significant result when B - A is `effect`."""
        share = (self.discordant + effect) / (2.0 * self.discordant)
        low, high = bdtr(self.critical, self.pairs, share), bdtr(self.critical, self.pairs, 1.0 - share)
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
