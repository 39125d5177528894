"""Two sets of decisions on the same rows: exact paired tests, aware of groups, and what they could have seen.

McNemar's exact test is right for independent rows. For groups, its generalisation flips the sign of each group's
summed difference (exchange of A and B inside a group); with one row per group the two are the same number.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray
from scipy.special import bdtr, gammaln, xlogy

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


def _power(n: int, discordant: float, effect: float, alpha: float) -> float:
    """Power of exact McNemar for n pairs, a discordant share and a difference of proportions."""
    count = np.arange(n + 1)
    with np.errstate(divide="ignore"):
        mass = np.exp(gammaln(n + 1) - gammaln(count + 1) - gammaln(n - count + 1)
                      + xlogy(count, discordant) + xlogy(n - count, 1.0 - discordant))
    likely = count[(mass > 1e-9) & (count > 0)]
    share, reject = (discordant + effect) / (2.0 * discordant), np.zeros(n + 1)
    for pairs in likely:
        tail = bdtr(np.arange(pairs // 2 + 1, dtype=np.float64), int(pairs), 0.5)
        critical = int(np.count_nonzero(2.0 * tail <= alpha)) - 1
        if critical >= 0:
            reject[pairs] = bdtr(critical, int(pairs), share) + bdtr(critical, int(pairs), 1.0 - share)
    return float((mass * reject).sum())


def minimum_detectable(n: int, discordant: float, alpha: float, *, power: float = POWER) -> float | None:
    """Smallest difference of proportions that exact McNemar finds with `power`; null if no difference would do.

    Args:
        n: pairs.
        discordant: share of pairs on which A and B differ, in (0, 1].
        alpha: two-sided level.
    """
    if n == 0 or discordant <= 0 or _power(n, discordant, discordant, alpha) < power:
        return None
    low, high = 0.0, discordant
    for _ in range(20):
        middle = (low + high) / 2.0
        low, high = (low, middle) if _power(n, discordant, middle, alpha) >= power else (middle, high)
    return high
