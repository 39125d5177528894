"""Over arbitrary inputs: a row is allowed only if it could be read and its calibrated hazard is below the threshold."""

import math
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from so8t import card as cards
from so8t.calibration.assess import assess
from so8t.calibration.fit import make_card
from so8t.metrics import Scores
from so8t.metrics.scores import number
from so8t.verdict import Verdict, decide
from tests.fakes.scores import FAMILIAR, INDEX, limits, make, meta, usual

ANY = st.floats(allow_nan=True, allow_infinity=True, width=64)
OPEN = make_card(make(1200, 1, separation=3.5), meta(), limits(), INDEX, readout="prefill", seed=1)[
    0
]
OPEN_CUE = make_card(make(1200, 1, separation=3.5), meta(), limits(), INDEX, readout="cue", seed=1)[
    0
]
CLOSED = make_card(make(60, 1), meta(), limits(), INDEX, readout="prefill", seed=1)[0]


def test_the_cards_under_test_are_what_they_should_be() -> None:
    assert (OPEN.status, OPEN_CUE.status, CLOSED.status) == (
        "certified",
        "certified",
        "not_certified",
    )
    assert (
        cards.apply(OPEN, [9.0, 0.0, 0.0], None, FAMILIAR).verdict is Verdict.ALLOW
    )  # so the property below is not empty
    assert cards.apply(OPEN_CUE, [9.0, 0.0, 0.0], 0.1, FAMILIAR).verdict is Verdict.ALLOW


@given(logits=st.lists(ANY, min_size=0, max_size=5), residual=st.none() | ANY)
@settings(max_examples=500, deadline=None)
def test_only_a_readable_row_below_the_threshold_is_allowed(
    logits: list[float], residual: float | None
) -> None:
    for card in (OPEN, OPEN_CUE, CLOSED):
        decision = cards.apply(card, logits, residual, FAMILIAR)
        if decision.verdict is not Verdict.ALLOW:
            continue
        assert card.status == "certified"
        assert len(logits) == 3
        assert all(map(math.isfinite, logits))
        assert card.readout == "prefill" or (residual is not None and residual <= card.residual.max)
        assert logits[0] == max(logits)  # the floor: ALLOW is the most probable verdict
        assert decision.probabilities is not None
        assert decision.probabilities[1] + decision.probabilities[2] < card.thresholds.escalate


@given(logits=st.lists(st.floats(-30, 30), min_size=3, max_size=3), more=st.floats(0, 40))
@settings(max_examples=300, deadline=None)
def test_more_evidence_for_deny_never_opens_the_gate(logits: list[float], more: float) -> None:
    before = cards.apply(OPEN, logits, None, FAMILIAR).verdict
    after = cards.apply(OPEN, [logits[0], logits[1], logits[2] + more], None, FAMILIAR).verdict
    assert not (before is not Verdict.ALLOW and after is Verdict.ALLOW)
    assert not (before is Verdict.DENY and after is not Verdict.DENY)


@given(
    rows=st.lists(
        st.tuples(
            st.integers(0, 2),
            st.integers(0, 8),
            st.lists(ANY, min_size=3, max_size=3),
            ANY,
            st.sampled_from("ab"),
        ),
        max_size=40,
    ),
    readout=st.sampled_from(["prefill", "cue"]),
)
@settings(max_examples=150, deadline=None)
def test_any_calibration_rows_give_a_card_that_follows_its_own_certificate(
    rows: list[Any], readout: str
) -> None:
    scores = Scores(
        tuple(f"r{i}" for i in range(len(rows))),
        tuple(f"g{row[1]}" for row in rows),
        tuple(row[4] for row in rows),
        np.array([row[0] for row in rows], dtype=np.int64),
        np.array([row[2] for row in rows], dtype=np.float64).reshape(-1, 3),
        np.array([row[3] for row in rows], dtype=np.float64),
        strangeness=usual(len(rows)),
    )
    card, _ = make_card(scores, meta(), limits(bootstrap=100), INDEX, readout=readout, seed=1)
    assert card.status == "not_certified"  # 40 rows can never do
    assert (card.thresholds.escalate, card.thresholds.allow) == (0.0, None)
    assert assess(card).code in (4, 5)
    assert not (cards.decide_rows(card, scores).decided == 0).any()
    assert cards.parse(cards.to_dict(card), "memory") == card


@given(value=st.none() | st.booleans() | st.text() | ANY | st.integers() | st.lists(ANY))
@settings(max_examples=300, deadline=None)
def test_any_json_value_is_read_as_a_number_or_as_nothing(value: Any) -> None:
    found = number(value)
    assert isinstance(found, float)
    assert math.isnan(found) or found == float(value)


@given(escalate=st.floats(0, 1), deny=st.floats(0, 1))
@settings(max_examples=300, deadline=None)
def test_float32_keys_are_never_looser_than_the_card(escalate: float, deny: float) -> None:
    card = OPEN.model_copy(
        update={
            "thresholds": cards.CardThresholds(deny=deny, escalate=escalate, allow=1.0 - escalate)
        }
    )
    held = cards.float32_thresholds(card)
    assert 0.0 <= held.escalate <= escalate
    assert held.deny <= deny
    for value in (held.escalate, held.deny):
        assert float(np.float32(value)) == value


def test_decide_escalates_what_is_not_a_distribution() -> None:
    rows = np.array([[1.0, 0.0, 0.5], [np.nan, 0, 0], [2.0, -1.0, 0.0], [0.99, 0.005, 0.005]])
    assert decide(rows, cards.thresholds_of(OPEN)) == [
        Verdict.ESCALATE,
        Verdict.ESCALATE,
        Verdict.ESCALATE,
        Verdict.ALLOW,
    ]


def test_serving_sees_the_very_bits_that_were_certified() -> None:
    scores = make(1200, 1, separation=3.5)
    card, fitted = make_card(
        scores, meta(), limits(bootstrap=100), INDEX, readout="prefill", seed=1
    )
    p = cards.decide_rows(card, scores).probabilities
    assert np.array_equal(p, fitted.probabilities)
    for i in range(0, 1200, 97):
        assert cards.apply(card, scores.logits[i], None, FAMILIAR).probabilities == tuple(p[i])
