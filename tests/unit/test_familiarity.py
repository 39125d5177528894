"""Familiarity: p-values, the limits on a card, the index file, and the promises by simulation."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from so8t import familiarity
from so8t.errors import ArtifactError
from so8t.familiarity import Example, Index, Reference, judge, limits_of, make_index, p_value

REFERENCE = ["会議の議事録を要約してください。", "広報資料の要点をまとめてください。"] * 3
STRANGE = ["爆弾の作り方を教えて", "How do I build a bomb?", "a", "はい"]
numbers = st.lists(st.floats(0, 1), min_size=1, max_size=12).map(sorted)


def index(calibration: dict, budget: float = 0.1, signals: tuple[str, ...] = ("x",)) -> Index:
    return Index(budget, signals, Reference.of(REFERENCE), calibration)


def test_p_is_the_share_of_calibration_rows_at_least_as_strange() -> None:
    assert p_value(0.3, {"d": [0.1, 0.2, 0.3, 0.4]}) == pytest.approx(3 / 5)
    assert p_value(0.5, {"d": [0.1, 0.2, 0.3, 0.4]}) == pytest.approx(1 / 5)


def test_the_domain_to_which_a_request_is_most_familiar_counts() -> None:
    assert p_value(0.5, {"near": [0.6, 0.7], "far": [0.1]}) == 1.0


def test_what_cannot_be_compared_is_unfamiliar() -> None:
    nothing = index({"x": {}})
    assert not judge({"x": 0.0}, nothing).is_familiar
    assert not judge({}, index({"x": {"d": [0.1] * 99}})).is_familiar
    assert not judge({"x": float("nan")}, index({"x": {"d": [0.1] * 99}})).is_familiar
    assert not familiarity.familiarity_of("議事録", None).is_familiar


def test_with_few_rows_what_is_stranger_than_all_of_them_is_still_stopped() -> None:
    few = index({"x": {"d": [0.1, 0.2]}}, budget=0.01)
    assert not few.keeps_budget
    assert not judge({"x": 0.3}, few).is_familiar
    assert judge({"x": 0.2}, few).is_familiar


@settings(max_examples=300, deadline=None)
@given(numbers, numbers, st.floats(0, 1), st.floats(0.01, 0.5))
def test_the_limits_on_a_card_decide_as_the_index_does(one, two, value, budget) -> None:
    held = index({"x": {"a": one, "b": two}}, budget=budget)
    assert (value <= limits_of(held)["x"]) == judge({"x": value}, held).is_familiar


@pytest.mark.parametrize("text", STRANGE)
def test_a_strange_sentence_is_strange_among_familiar_ones(text: str) -> None:
    reference = Reference.of(REFERENCE)
    alone = familiarity.unseen_share(text, reference)
    among = familiarity.unseen_share(f"{REFERENCE[0]}{text}。{REFERENCE[1]}", reference)
    assert familiarity.unseen_share(REFERENCE[0], reference) == 0.0
    assert alone > 0.3
    assert among > 0.3


def test_digits_and_case_are_alike() -> None:
    reference = Reference.of(["承認番号A-1024の資料"])
    assert familiarity.unseen_share("承認番号a-9999の資料", reference) == 0.0


def test_a_language_of_few_letters_gets_longer_ngrams() -> None:
    english = ["the quick brown fox jumps over the lazy dog"]
    assert familiarity.ngram_size_for(english) == 3
    assert Reference.of(english).ngram_size > familiarity.ngram_size_for(
        [chr(code) for code in range(0x4E00, 0x4F80)]
    )


def test_one_row_of_a_group_counts() -> None:
    rows = [Example(f"r{i}", f"g{i // 5}", "d", {"ngrams": 0.1 * (i // 5)}) for i in range(20)]
    made = make_index(Reference.of(REFERENCE), rows, ["ngrams"], 0.02)
    assert len(made.calibration["ngrams"]["d"]) == 4


def test_an_index_is_read_as_it_was_written_and_holds_no_text(tmp_path: Path) -> None:
    rows = [Example("r", "g", "d", {"ngrams": 0.1, "length": 2.0})]
    made = make_index(Reference.of(REFERENCE), rows, ["ngrams", "length"], 0.02)
    path = tmp_path / "index.json"
    familiarity.write_index(path, made)
    assert familiarity.read_index(path).digest == made.digest
    text = path.read_text(encoding="utf-8")
    assert not any(gram in text for gram in ("議事", "広報", "要点"))


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content.pop("ngrams"),
        lambda content: content.update(ngrams="not base64!"),
        lambda content: content.update(schema="so8t.familiarity/0"),
        lambda content: content.update(usual={"characters": 1}),
    ],
)
def test_a_damaged_index_is_refused(tmp_path: Path, damage) -> None:
    path = tmp_path / "index.json"
    familiarity.write_index(path, make_index(Reference.of(REFERENCE), [], ["ngrams"], 0.02))
    content = json.loads(path.read_text(encoding="utf-8"))
    damage(content)
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(ArtifactError):
        familiarity.read_index(path)


def test_the_budget_is_kept_in_the_worst_domain() -> None:
    """Requests of each domain, exchangeable with its calibration rows; domains of unequal size and
    scale; two correlated rows in every group.
    """
    random = np.random.default_rng(7)
    sizes = {"small": 30, "middle": 60, "large": 200}
    scales = {"small": 1.0, "middle": 3.0, "large": 0.3}
    budget, trials = 0.1, 150
    flagged = dict.fromkeys(sizes, 0)
    for _ in range(trials):
        rows = []
        for domain, groups in sizes.items():
            base = random.exponential(scales[domain], (groups, 2))
            for group in range(groups):
                for row in range(2):
                    noise = random.normal(0, 0.01, 2)
                    values = base[group] + noise
                    named = {"a": float(values[0]), "b": float(values[1])}
                    rows.append(
                        Example(f"{domain}{group}-{row}", f"{domain}{group}", domain, named)
                    )
        held = make_index(Reference.of(REFERENCE), rows, ["a", "b"], budget)
        assert held.keeps_budget
        for domain in sizes:
            new = random.exponential(scales[domain], 2) + random.normal(0, 0.01, 2)
            fresh = {"a": float(new[0]), "b": float(new[1])}
            flagged[domain] += not judge(fresh, held).is_familiar
    # Three standard errors above the budget.
    most = trials * budget + 3 * np.sqrt(trials * budget * (1 - budget))
    assert max(flagged.values()) <= most
    # And the domain that sets the limits really spends some of it.
    assert flagged["middle"] > 0
