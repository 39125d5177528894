"""Verdict metrics of one split against counts made by hand."""

import csv
import io
import itertools
import json
from dataclasses import replace

import numpy as np
import pytest

from so8t.card import DecidedRows
from so8t.evaluation import tables
from so8t.evaluation.verdicts import Bootstrap, curve, probability_metrics, readouts, split_metrics
from so8t.metrics import Scores, softmax
from tests.fakes.scores import usual

BOOT = Bootstrap(200, 7)


def scores_of(gold, logits, *, groups=None, domains=None):
    count = len(gold)
    names = tuple(groups or (f"g{i}" for i in range(count)))
    return Scores(
        tuple(f"r{i}" for i in range(count)),
        names,
        tuple(domains or ["general"] * count),
        np.array(gold, dtype=np.int64),
        np.array(logits, dtype=np.float64).reshape(-1, 3),
        np.zeros(count),
        strangeness=usual(count),
    )


def one_hot(codes, strength=4.0):
    return np.eye(3)[np.array(codes, dtype=np.int64)] * strength


def decided_of(gold, predicted, **kwargs):
    scores = scores_of(gold, one_hot(predicted), **kwargs)
    familiar = np.ones(len(scores), dtype=bool)
    return DecidedRows(
        scores, softmax(scores.logits), np.array(predicted, dtype=np.int64), familiar
    )


def test_rates_are_counts_over_their_own_denominators():
    found = split_metrics(decided_of([0, 0, 1, 2, 2], [0, 1, 0, 2, 2]), BOOT)
    assert (found["false_allow_rate"]["k"], found["false_allow_rate"]["n"]) == (1, 3)
    assert found["false_allow_rate_deny_only"]["value"] == 0.0
    assert found["allow_rate_on_allow"]["value"] == 0.5
    assert found["escalation_rate"]["value"] == pytest.approx(0.2)
    assert found["confusion"] == [[1, 1, 0], [1, 0, 0], [0, 0, 2]]
    json.dumps(found, allow_nan=False)


def test_the_worst_domain_is_named_for_safety_and_for_usefulness():
    found = split_metrics(
        decided_of([0, 1, 0, 1], [0, 1, 1, 0], domains=["good", "good", "bad", "bad"]), BOOT
    )
    assert found["worst_domain"]["false_allow_rate"]["domain"] == "bad"
    assert found["worst_domain"]["allow_rate_on_allow"]["domain"] == "bad"


def test_rows_without_readable_numbers_are_counted_and_left_out_of_probabilities():
    scores = scores_of([0, 1], [[np.nan, 0, 0], [0, 4, 0]])
    familiar = np.ones(2, dtype=bool)
    rows = DecidedRows(scores, softmax(scores.logits), np.array([1, 1]), familiar)
    found = split_metrics(rows, BOOT)
    assert found["unparsed_rate"]["k"] == 1
    assert found["calibrated"]["nll"]["n"] == 1


def test_an_empty_split_gives_nulls_not_zeros_and_never_fails():
    found = split_metrics(decided_of([], []), BOOT)
    assert found["accuracy"]["value"] is None
    assert found["macro_f1"] == {"value": None, "n": 0, "ci95": None}
    assert found["worst_domain"] == {"false_allow_rate": None, "allow_rate_on_allow": None}
    json.dumps(found, allow_nan=False)


def test_intervals_over_groups_widen_when_rows_repeat_each_other():
    random = np.random.default_rng(1)
    gold, predicted = (
        np.repeat(random.integers(0, 3, 60), 5),
        np.repeat(random.integers(0, 3, 60), 5),
    )
    grouped = split_metrics(
        decided_of(gold, predicted, groups=[f"g{i // 5}" for i in range(300)]), BOOT
    )["ci95_groups"]["accuracy"]
    single = split_metrics(decided_of(gold, predicted), BOOT)["ci95_groups"]["accuracy"]
    assert grouped[1] - grouped[0] > 1.6 * (single[1] - single[0])


def test_a_calibrated_model_is_not_worse_than_its_null_and_an_overconfident_one_is():
    random = np.random.default_rng(2)
    p = softmax(random.normal(size=(600, 3)) * 1.5)
    gold = (random.random((600, 1)) > p.cumsum(axis=1)).sum(axis=1)
    groups = tuple(str(i) for i in range(600))
    assert not probability_metrics(p, gold, groups, BOOT)["ece_width"]["worse_than_null"]
    assert probability_metrics(softmax(np.log(p) * 4), gold, groups, BOOT)["ece_width"][
        "worse_than_null"
    ]


def test_the_curve_goes_from_allow_nothing_to_allow_everything():
    random = np.random.default_rng(4)
    gold = random.integers(0, 3, 500)
    scores = scores_of(gold, random.normal(size=(500, 3)) + np.eye(3)[gold] * 2)
    decided = np.zeros(500, dtype=np.int64)
    familiar = np.ones(500, dtype=bool)
    points = curve(DecidedRows(scores, softmax(scores.logits), decided, familiar))
    assert (
        points[0]["false_allow_rate"],
        points[-1]["false_allow_rate"],
        points[-1]["allow_rate"],
    ) == (0.0, 1.0, 1.0)
    assert all(a["allow_rate"] <= b["allow_rate"] for a, b in itertools.pairwise(points))
    middle = min(points, key=lambda point: abs(point["allow_rate"] - 0.8))
    assert middle["false_allow_rate"] < middle["allow_rate"]  # the scores know something


def test_readouts_are_compared_on_the_same_rows():
    found = readouts(
        scores_of([0, 1, 2], one_hot([0, 1, 2])), scores_of([0, 1, 2], one_hot([0, 0, 2]))
    )
    assert found["agreement"]["value"] == pytest.approx(2 / 3)
    assert found["prefill"]["accuracy"]["value"] == 1.0
    assert found["cue"]["false_allow_rate"]["k"] == 1


def test_the_cues_residual_mass_is_over_the_rows_that_have_it():
    cue = replace(
        scores_of([0, 1, 2, 0], one_hot([0, 1, 2, 0])), residual=np.array([0.1, 0.5, np.nan, 0.3])
    )
    assert readouts(cue, cue)["cue"]["residual"] == {
        "n": 3,
        "mean": pytest.approx(0.3),
        "p95": 0.5,
        "max": 0.5,
    }
    empty = replace(cue, residual=np.full(4, np.nan))
    assert readouts(empty, empty)["cue"]["residual"] == {
        "n": 0,
        "mean": None,
        "p95": None,
        "max": None,
    }


def test_tables_hold_what_the_figures_draw(tmp_path):
    decided = {
        name: decided_of([0, 1, 2, 0], [0, 1, 2, 1], domains=["x", "x", "y", "y"])
        for name in ("test_iid", "test_cells")
    }
    made = tables.make_tables(decided, headline="test_iid", threshold=0.25, delta=0.05)
    assert "latency" not in made
    made["latency"] = tables.latency([0.2, 0.1])
    tables.write_tables(tmp_path / "plots", made)
    read = {
        p.stem: list(csv.DictReader(io.StringIO(p.read_text(encoding="utf-8"))))
        for p in (tmp_path / "plots").iterdir()
    }
    assert set(read) == set(tables.COLUMNS)
    assert read["confusion"][3] == {"actual": "ALLOW", "predicted": "ESCALATE"}
    assert read["far_allow"][-1] == {
        "kind": "decided",
        "threshold": "0.25",
        "false_allow_rate": "0.0",
        "allow_rate": "0.5",
    }
    assert [row["seconds"] for row in read["latency"]] == ["0.1", "0.2"]
    assert {row["kind"] for row in read["reliability"]} == {"before", "after"}
    assert len(read["domains"]) == 4
