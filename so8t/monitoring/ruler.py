"""p-values that are valid although every request is compared with the same calibration rows.

A conformal p-value is uniform over calibration set and request together. Given one calibration set,
whose rows happen to be a little too familiar, those of all later requests are too small by the same
amount, and a bet on it grows without end. Measured (docs/drift.md): with 150 calibration rows more
than half of the quiet deployments of 2,000 requests are called a drift where 1 in 20 is promised.

So a p-value here is an upper bound of the share of requests that are as strange, given the
calibration rows: after K of n calibration rows are stranger, the bound of Clopper and Pearson
(1934) for K of n. It holds at chosen K at once by Bonferroni's inequality, and between them the
next one counts. With probability 1 - delta over the calibration set all bounds hold, and then the
p-values of requests like the calibration rows are independent and at least uniform (calibration-
conditional validity: Bates, Candes, Lei, Romano, Sesia, Ann. Statist. 2023).

A request's domain is unknown, so the largest p over the domains counts. Any mixture of the domains
is "like before".
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from so8t.metrics.intervals import upper_bound

# Recorded p-values are fractions in binary: so far from one is still that one.
ROUNDING = 1e-6


def rank_bounds(n: int, delta: float) -> Float[ndarray, " n+1"]:
    """By the number of stranger calibration rows: the most requests that are as strange.

    Args:
        n: calibration rows.
        delta: probability, over calibration sets, that one of the bounds is too small.

    Returns:
        A share for each of 0 ... n stranger rows, ascending; the last is 1.
    """
    chosen = _chosen_ranks(n)
    bounds = [upper_bound(rank, n, delta / max(1, len(chosen))) for rank in chosen]
    # The share of n stranger rows is at most 1, which needs no row.
    places = np.searchsorted(chosen, np.arange(n + 1), side="left")
    return np.array([*bounds, 1.0])[places]


def _chosen_ranks(n: int) -> list[int]:
    """0, 1, 2, ... and then in steps of about a standard deviation of the rank; all below n."""
    ranks = []
    rank = 0
    while rank < n:
        ranks.append(rank)
        rank += max(1, math.isqrt(rank + 1))
    return ranks


@dataclass(frozen=True, slots=True)
class _Scale:
    """One domain: what its calibration rows measure.

    Attributes:
        values: the different numbers of the rows, ascending.
        keys: of each row the place of its number in `values`, and a random part below 1; ascending.
        bounds: see `rank_bounds`.
    """

    values: Float[ndarray, " d"]
    keys: Float[ndarray, " n"]
    bounds: Float[ndarray, " n+1"]

    @property
    def rows(self) -> int:
        return len(self.keys)

    def stranger(
        self, numbers: Float[ndarray, " t"], ties: Float[ndarray, " t"]
    ) -> Int[ndarray, " t"]:
        """How many rows are stranger than each number; among equal ones chance decides."""
        places = np.searchsorted(self.values, numbers, side="left")
        inside = np.minimum(places, len(self.values) - 1)
        keys = places + np.where(self.values[inside] == numbers, ties, 0.0)
        return self.rows - np.searchsorted(self.keys, keys, side="left")

    def as_strange(self, recorded: Float[ndarray, " t"]) -> Int[ndarray, " t"]:
        """The most rows that are as strange, by a recorded p-value of this or another domain."""
        rows = np.floor(recorded * (1 + self.rows) + ROUNDING).astype(np.int64) - 1
        return np.clip(rows, 0, self.rows)


@dataclass(frozen=True, slots=True)
class Ruler:
    """What one signal is measured by."""

    scales: tuple[_Scale, ...]

    @classmethod
    def of(
        cls,
        calibration: Mapping[str, Sequence[float]],
        delta: float,
        random: np.random.Generator,
    ) -> Self:
        """Of the calibration rows' numbers by domain.

        Args:
            calibration: of one signal; at least one domain, none without a number.
            delta: probability that the p-values of this signal are too small, in any domain.
            random: settles ties.
        """
        scales = []
        for numbers in calibration.values():
            values, places = np.unique(np.asarray(numbers, dtype=float), return_inverse=True)
            keys = np.sort(places + random.random(len(numbers)))
            bounds = rank_bounds(len(numbers), delta / len(calibration))
            scales.append(_Scale(values, keys, bounds))
        return cls(tuple(scales))

    @property
    def smallest(self) -> float:
        """The p-value of what is stranger than every calibration row."""
        return max(float(scale.bounds[0]) for scale in self.scales)

    def of_numbers(
        self, numbers: Float[ndarray, " t"], ties: Float[ndarray, " t"]
    ) -> Float[ndarray, " t"]:
        """p-values of a signal's numbers.

        Args:
            numbers: of each request.
            ties: of each request a uniform random number, independent of everything.
        """
        found = [scale.bounds[scale.stranger(numbers, ties)] for scale in self.scales]
        largest: Float[ndarray, " t"] = np.stack(found).max(axis=0)
        return largest

    def of_recorded(self, recorded: Float[ndarray, " t"]) -> Float[ndarray, " t"]:
        """p-values for those that `so8t ask --json` gave: never smaller than from the numbers.

        The domain in which a recorded p is the largest is not known, so every domain is taken to
        have it; and all calibration rows with an equal number count as stranger.
        """
        found = [scale.bounds[scale.as_strange(recorded)] for scale in self.scales]
        largest: Float[ndarray, " t"] = np.stack(found).max(axis=0)
        return largest

    def gives(self, recorded: float) -> bool:
        """Whether a p-value can be one that `so8t ask` gave with these calibration rows."""
        if not 0.0 < recorded <= 1.0:
            return False
        scaled = (recorded * (1 + scale.rows) for scale in self.scales)
        return any(abs(value - round(value)) < ROUNDING and value > 0.5 for value in scaled)
