"""`so8t drift` keeps its promise of false alarms: simulated deployments, quiet and drifting."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from so8t.monitoring.martingale import beginning, log_bets, log_evidence
from so8t.monitoring.ruler import Ruler, rank_bounds
from tests.fakes.deployments import (
    SIGNALS,
    World,
    conformal,
    corrected,
    first_alarms,
    numbers,
    uncorrected,
)

DELTA, DEPLOYMENTS = 0.05, 500
# With half of delta spent on the calibration set, and with none.
THRESHOLD, PLAIN = 2 * SIGNALS / DELTA, SIGNALS / DELTA


def kept(alarms: int, delta: float = DELTA) -> bool:
    """One-sided binomial test at 1 % of `P(false alarm) <= delta`."""
    return bool(stats.binomtest(alarms, DEPLOYMENTS, delta, "greater").pvalue > 0.01)


def false_alarms(world: World, make=corrected, *, threshold=THRESHOLD, recorded=False) -> int:
    at = first_alarms(
        world, make, threshold, delta=DELTA, deployments=DEPLOYMENTS, recorded=recorded
    )
    return int((at < world.requests).sum())


@pytest.mark.slow
@pytest.mark.parametrize("rows", [150, 600])
@pytest.mark.parametrize("recorded", [False, True])
@pytest.mark.parametrize("tied", [0.0, 0.7])
def test_a_quiet_deployment_is_called_a_drift_with_probability_delta_at_most(
    rows: int, recorded: bool, tied: float
) -> None:
    assert kept(false_alarms(World(rows, tied=tied), recorded=recorded))


@pytest.mark.slow
def test_also_in_the_worst_of_four_domains() -> None:
    assert kept(false_alarms(World(150, domains=4)))


@pytest.mark.slow
def test_a_martingale_on_plain_p_values_breaks_the_promise() -> None:
    """Why the ruler is needed: every request is compared with the same calibration rows."""
    alarms = false_alarms(World(150), uncorrected, threshold=PLAIN)
    assert not kept(alarms)
    assert alarms > 2 * DELTA * DEPLOYMENTS


def test_uniform_p_values_alarm_with_probability_delta_at_most() -> None:
    p = np.random.default_rng(1).random((1500, 400))
    crossed = (log_evidence(p) >= np.log(1 / DELTA)).any(axis=1).sum()
    assert stats.binomtest(int(crossed), 1500, DELTA, "greater").pvalue > 0.01
    # And the promise is used, not avoided.
    assert crossed > 0.2 * DELTA * 1500


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 400), st.floats(0.001, 0.3))
def test_rank_bounds_grow_with_the_rank_and_end_at_one(n: int, delta: float) -> None:
    bounds = rank_bounds(n, delta)
    assert len(bounds) == n + 1
    assert (np.diff(bounds) >= 0).all()
    assert bounds[-1] == 1.0
    # Above the share that is seen, or they would bound nothing.
    assert (bounds[:-1] > np.arange(n) / n).all()


@pytest.mark.parametrize("n", [30, 150, 600])
def test_all_rank_bounds_hold_at_once_in_most_calibration_sets(n: int) -> None:
    """The share of requests above the k-th strangest of n uniform rows is an order statistic."""
    delta, sets = 0.1, 2000
    shares = np.sort(np.random.default_rng(n).random((sets, n)), axis=1)
    broken = (shares > rank_bounds(n, delta)[:-1]).any(axis=1).sum()
    assert stats.binomtest(int(broken), sets, delta, "greater").pvalue > 0.01
    assert broken > 0


def test_no_bet_pays_more_than_it_takes_on_uniform_p_and_each_falls_with_p() -> None:
    # Midpoints, so that no p lies on a level.
    p = (np.arange(100_000) + 0.5) / 100_000
    paid = np.exp(log_bets(p))
    assert paid.mean(axis=0) == pytest.approx(1.0, abs=2e-3)
    assert (np.diff(paid, axis=0) <= 0).all()


def test_p_values_are_uniform_where_numbers_are_tied() -> None:
    """By the ruler's count of stranger rows; the plain p-value has half of its mass at 1."""
    random = np.random.default_rng(3)
    world = World(2000, tied=0.7)
    held = {"d": numbers(world, np.zeros(2000), random).tolist()}
    served = numbers(world, np.zeros(5000), random)
    scale = Ruler.of(held, 0.05, random).scales[0]
    p = scale.stranger(served, random.random(5000)) / 2000
    assert abs(p.mean() - 0.5) < 0.02
    assert (conformal(held, served, None) == 1.0).mean() > 0.5
    assert [(p <= level).mean() for level in (0.1, 0.5, 0.9)] == pytest.approx(
        [0.1, 0.5, 0.9], abs=0.04
    )


def test_recorded_p_values_are_never_smaller_than_those_from_the_numbers() -> None:
    random = np.random.default_rng(5)
    for tied in (0.0, 0.7):
        world = World(80, domains=3, tied=tied)
        held = {
            f"d{d}": numbers(world, np.full(60 + 20 * d, float(d)), random).tolist()
            for d in range(3)
        }
        served = numbers(world, np.zeros(500), random)
        ruler = Ruler.of(held, 0.05, random)
        recorded = conformal(held, served, None)
        assert all(ruler.gives(value) for value in recorded)
        sharp = ruler.of_numbers(served, random.random(500))
        assert (ruler.of_recorded(recorded) >= sharp).all()
        # Not simply 1.
        assert ruler.of_recorded(np.array([recorded.min()]))[0] < 0.5


@pytest.mark.slow
@pytest.mark.parametrize(("rows", "most"), [(150, 250), (600, 120)])
@pytest.mark.parametrize("since", [0, 1000])
def test_a_fifth_of_strange_requests_is_found(rows: int, most: int, since: int) -> None:
    world = World(rows, 4, since + 500, 0.7, strange=0.2, since=since, mixed=True)
    at = first_alarms(world, corrected, THRESHOLD, deployments=40)
    assert (at >= since).mean() > 0.9
    assert np.median(at) - since < most


def test_the_beginning_is_near_the_first_strange_request() -> None:
    p = np.random.default_rng(2).random(400)
    p[300:] = 0.02
    assert abs(beginning(p[:320]) - 300) <= 5
