"""The table behind the figure of familiarity: cumulative shares, counted by hand."""

from dataclasses import replace

import numpy as np
import pytest

from so8t.card import DecidedRows
from so8t.evaluation import tables
from so8t.metrics import softmax
from tests.fakes.scores import make


def scores_of(**strangeness):
    scores = make(len(next(iter(strangeness.values()))), 1)
    return replace(scores, strangeness={name: np.array(v) for name, v in strangeness.items()})


def table_of(decided, others):
    rows = {}
    for split, scores in decided.items():
        known = np.ones(len(scores), dtype=bool)
        rows[split] = DecidedRows(scores, softmax(scores.logits), scores.gold, known)
    made = tables.make_tables(rows, headline="test_iid", threshold=0.25, delta=0.05, others=others)
    return [tuple(line.values()) for line in made["familiarity"]]


def test_a_number_that_several_rows_share_is_one_step() -> None:
    iid = scores_of(ngrams=[0.2, 0.0, 0.2, 0.5], length=[1.0, 1.0, 1.0, 1.0])
    assert table_of({"test_iid": iid}, {}) == [
        ("test_iid", "ngrams", 0.0, 0.25),
        ("test_iid", "ngrams", 0.2, 0.75),
        ("test_iid", "ngrams", 0.5, 1.0),
        ("test_iid", "length", 1.0, 1.0),
    ]


def test_rows_without_a_number_reach_no_share() -> None:
    found = table_of({"test_iid": scores_of(ngrams=[0.1, np.nan, 0.1])}, {})
    assert found == [("test_iid", "ngrams", 0.1, pytest.approx(2 / 3))]


def test_splits_beside_the_test_splits_follow_them() -> None:
    iid = scores_of(ngrams=[0.0, 0.0])
    foreign = scores_of(ngrams=[0.9, 0.8])
    found = table_of({"test_iid": iid}, {"test_foreign": foreign})
    assert found == [
        ("test_iid", "ngrams", 0.0, 1.0),
        ("test_foreign", "ngrams", 0.8, 0.5),
        ("test_foreign", "ngrams", 0.9, 1.0),
    ]
