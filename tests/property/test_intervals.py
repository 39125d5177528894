"""Intervals over groups cover what they say, for few groups and rare events too: by simulation, seeded."""

from functools import partial

import numpy as np
import pytest
from scipy import stats

from so8t.metrics.exact import (
    MIN_EVENTS,
    MIN_GROUPS,
    difference_interval,
    exact_difference,
    one_per_group,
    rate_interval,
    resampled_interval,
)
from so8t.metrics.intervals import group_bootstrap, group_sums, percentile_interval

REPEATS, NOMINAL, DRAWS = 300, 0.95, 1000


def not_below_nominal(covered: int, repeats: int = REPEATS) -> bool:
    """One-sided binomial test at 1 % of `coverage >= 95 %`."""
    return bool(stats.binomtest(covered, repeats, NOMINAL, "less").pvalue > 0.01)


def grouped(
    rng: np.random.Generator, groups: int, per_group: int, p01: float, p10: float
) -> tuple[np.ndarray, np.ndarray, list[str], list[str]]:
    """Hits of A and of B; three of four rows copy what their group does."""
    n = groups * per_group
    group = np.repeat(np.arange(groups), per_group)
    state = rng.choice(3, size=groups, p=[p01, p10, 1 - p01 - p10])[group]
    own = rng.choice(3, size=n, p=[p01, p10, 1 - p01 - p10])
    state = np.where(rng.random(n) < 0.75, state, own)
    a = (state == 1) | ((state == 2) & (rng.random(n) < 0.3))
    b = np.where(state == 2, a, state == 0)
    return a, b, [f"r{i}" for i in range(n)], [f"g{g}" for g in group]


@pytest.mark.slow
@pytest.mark.parametrize("groups", [3, 5, 30, 60])
@pytest.mark.parametrize(("p01", "p10"), [(0.05, 0.0), (0.02, 0.02), (0.25, 0.1), (0.5, 0.0)])
def test_the_interval_of_a_difference_of_rates_holds(groups: int, p01: float, p10: float) -> None:
    rng = np.random.default_rng((groups, round(100 * p01), round(100 * p10)))
    covered = 0
    for seed in range(REPEATS):
        sample = grouped(rng, groups, 3, p01, p10)
        low, high = difference_interval(*sample, draws=DRAWS, seed=seed) or (1.0, -1.0)
        covered += low <= p01 - p10 <= high
    assert not_below_nominal(covered), covered


@pytest.mark.slow
@pytest.mark.parametrize("groups", [3, 5, 30, 60])
@pytest.mark.parametrize("p", [0.02, 0.1, 0.5, 0.95])
def test_the_interval_of_a_rate_over_groups_holds(groups: int, p: float) -> None:
    rng = np.random.default_rng((groups, round(100 * p)))
    covered = 0
    for seed in range(REPEATS):
        _, hits, ids, names = grouped(rng, groups, 3, p, 1 - p)
        low, high = rate_interval(hits, ids, names, draws=DRAWS, seed=seed) or (1.0, -1.0)
        covered += low <= p <= high
    assert not_below_nominal(covered), covered


@pytest.mark.parametrize(("groups", "holds"), [(3, False), (5, False), (MIN_GROUPS, True)])
def test_resampling_few_groups_covers_too_little_and_is_not_offered(
    groups: int, holds: bool
) -> None:
    rng = np.random.default_rng(groups)
    covered = 0
    for seed in range(REPEATS):
        sums = np.stack([rng.standard_normal(groups), np.ones(groups)], axis=1)
        draws = group_bootstrap(sums, lambda s: s[:, 0] / s[:, 1], draws=DRAWS, seed=seed)
        assert (resampled_interval(draws, groups) is None) == (groups < MIN_GROUPS)
        low, high = percentile_interval(draws) or (1.0, -1.0)
        covered += low <= 0.0 <= high
    # At 30 groups the percentile interval is two points short at most; at 5 it is ten and more.
    assert (covered >= (NOMINAL - 0.03) * REPEATS) == holds, covered


def test_where_nothing_changed_there_is_still_something_to_learn() -> None:
    a = np.zeros(200, dtype=bool)
    names = [f"g{i}" for i in range(200)]
    found = partial(difference_interval, a, ids=names, groups=names, draws=DRAWS, seed=1)
    low, high = found(a) or (0.0, 0.0)
    assert low < 0 < high
    b = np.arange(200) < MIN_EVENTS - 1
    assert found(b) == exact_difference(a, b, names, names)
    assert found(np.arange(200) < MIN_EVENTS) != exact_difference(
        a, np.arange(200) < MIN_EVENTS, names, names
    )


def test_copies_of_a_row_in_its_group_teach_nothing() -> None:
    a, b, ids, names = grouped(np.random.default_rng(1), 20, 1, 0.3, 0.1)
    once = difference_interval(a, b, ids, names, draws=DRAWS, seed=1)
    copied = difference_interval(
        np.repeat(a, 9),
        np.repeat(b, 9),
        [f"{name}-{i}" for name in ids for i in range(9)],
        [name for name in names for _ in range(9)],
        draws=DRAWS,
        seed=1,
    )
    assert copied == pytest.approx(once)
    sums = group_sums(np.ones((180, 1)), [name for name in names for _ in range(9)])
    assert len(sums) == len(one_per_group(ids, names, np.ones(20, dtype=bool)))
