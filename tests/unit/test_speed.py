"""Order-statistic intervals against what the theory promises."""

import numpy as np
import pytest

from so8t.generation.speed import distribution, order_statistic_interval


def test_the_interval_of_the_median_covers_as_often_as_it_says():
    random = np.random.default_rng(3)
    inside = 0
    for _ in range(2000):
        low, high = order_statistic_interval(list(random.exponential(size=24)), 0.5)
        inside += low <= np.log(2) <= high
    assert inside / 2000 >= 0.945


def test_a_95th_percentile_has_no_upper_limit_below_72_runs():
    assert order_statistic_interval(list(range(71)), 0.95)[1] is None
    assert order_statistic_interval(list(range(73)), 0.95)[1] == 72


def test_nothing_measured_gives_no_number():
    assert distribution([]) == {
        "n": 0,
        "p50": {"value": None, "n": 0, "ci95": [None, None]},
        "p95": {"value": None, "n": 0, "ci95": [None, None]},
    }


def test_the_value_is_one_of_the_measurements():
    assert distribution([3.0, 1.0, 2.0])["p50"]["value"] == pytest.approx(2.0)
