"""Scores that are functions of sums over rows, and their intervals by resampling groups.

ECE, Brier and NLL can all be computed from the column sums of a table with one line per row. So one
bootstrap draw is one weighted sum of group totals, and no row is looked at again.

Covered: those tables, the functions of their sums, the interval. Not covered: the values themselves
(`so8t.metrics.quality`), the drawing of groups (`so8t.metrics.intervals`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from so8t.metrics.exact import resampled_interval
from so8t.metrics.intervals import group_bootstrap, group_sums
from so8t.metrics.quality import Scheme, brier_rows, ece_gaps

# The smallest normal float64 stands for a probability of 0, whose logarithm is infinite.
TINY = float(np.finfo(np.float64).tiny)

# Maps [draws, k] sums to [draws] values.
Statistic = Callable[[ndarray], ndarray]


@dataclass(frozen=True, slots=True)
class Resampled:
    """One score: its value on some rows is `statistic` of the sums of their lines in `table`."""

    table: Float[ndarray, "n k"]
    statistic: Statistic

    @property
    def value(self) -> float:
        """The score of all rows; there must be at least one."""
        return float(self.statistic(self.table.sum(axis=0, keepdims=True))[0])


def first_over_last(sums: Float[ndarray, "draws k"]) -> Float[ndarray, " draws"]:
    """A mean or a rate: first column over last; NaN where a draw holds nothing to divide by."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(sums[:, 0] / sums[:, -1])


def ece_of(sums: Float[ndarray, "draws columns"]) -> Float[ndarray, " draws"]:
    """ECE of summed gaps per bin (`quality.ece_gaps`) and, in the last column, rows."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.abs(sums[:, :-1]).sum(axis=1) / sums[:, -1])


def row_losses(p: Float[ndarray, "n k"], gold: Int[ndarray, " n"]) -> Float[ndarray, " n"]:
    """Negative log-likelihood of each row's gold class, in nats."""
    likelihood = p[np.arange(len(gold)), gold]
    return np.asarray(-np.log(np.maximum(likelihood, TINY)))


def ece_score(p: Float[ndarray, "n k"], gold: Int[ndarray, " n"], scheme: Scheme) -> Resampled:
    """Expected calibration error of the top class."""
    return Resampled(_with_count(ece_gaps(p, gold, scheme)), ece_of)


def brier_score(p: Float[ndarray, "n k"], gold: Int[ndarray, " n"]) -> Resampled:
    """Mean multiclass Brier score, 0 to 2."""
    return Resampled(_with_count(brier_rows(p, gold)[:, None]), first_over_last)


def nll_score(p: Float[ndarray, "n k"], gold: Int[ndarray, " n"]) -> Resampled:
    """Mean negative log-likelihood in nats."""
    return Resampled(_with_count(row_losses(p, gold)[:, None]), first_over_last)


def _with_count(rows: Float[ndarray, "n k"]) -> Float[ndarray, "n columns"]:
    """The table with a last column of ones, whose sum is how many rows were drawn."""
    return np.hstack([rows, np.ones((len(rows), 1))])


def group_interval(
    table: Float[ndarray, "n k"],
    groups: Sequence[str],
    statistic: Statistic,
    *,
    draws: int,
    seed: int,
) -> list[float] | None:
    """95 % interval of a function of sums over rows, by resampling whole groups.

    Returns:
        [low, high], or null when there are too few groups to resample or no draw gave a number.
    """
    if len(groups) == 0:
        return None
    # Once for all draws: rows of a group only ever come together.
    sums = group_sums(table, groups)
    values = group_bootstrap(sums, statistic, draws=draws, seed=seed)
    return resampled_interval(values, len(sums))
