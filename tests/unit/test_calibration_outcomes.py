"""Each awkward input has the right outcome and the right exit code; a card for something else is never used."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from so8t import card as cards
from so8t.calibration.assess import assess
from so8t.calibration.calibrate import calibrate, changes, temperature_path
from so8t.calibration.calibrate import recalibrate as recalibrate_card
from so8t.calibration.cli import gate, recalibrate
from so8t.calibration.fit import make_card
from so8t.errors import ArtifactError, DataError
from so8t.files import read_json, write_json
from so8t.metrics import Scores, read_scores
from so8t.params import Cost
from so8t.records import looks
from tests.fakes.scores import (
    DOMAINS,
    INDEX,
    limits,
    make,
    meta,
    train_of,
    usual,
    with_logits,
    write,
)

pytestmark = pytest.mark.usefixtures("database")


def card_of(scores: Scores, **changes: Any) -> cards.Card:
    return make_card(scores, meta(), limits(**changes), INDEX, readout="prefill", seed=1)[0]


def calibrated(folder: Path, out: Path) -> cards.Card:
    """The card of a scores directory of `write`, with the demo's limits."""
    return calibrate(
        folder, out, train=train_of(folder), readout="prefill", limits=limits(), seed=1
    )


def run_gate(*arguments: Any) -> tuple[int, str]:
    result = CliRunner().invoke(gate, [str(a) for a in arguments])
    return result.exit_code, result.output


GOOD = make(1200, 1, separation=3.0)


def test_a_good_model_is_certified_in_every_domain_and_useful(tmp_path: Path) -> None:
    card = card_of(GOOD)
    assert (card.status, card.reasons, assess(card).code) == ("certified", [], 0)
    binding = [s for s in card.certificate["strata"] if s["binding"]]
    assert sorted(s["name"] for s in binding) == sorted(DOMAINS)
    assert card.thresholds.escalate == min(0.5, *(s["threshold"] for s in binding))
    assert card.measured["in_sample"] is True
    assert card.measured["split"] == "calibration"
    assert card.measured["allow_rate_on_allow"]["value"] > 0.6
    cards.write(tmp_path / "card.json", card)
    assert cards.read(tmp_path / "card.json") == card
    assert run_gate(tmp_path / "card.json")[0] == 0


def test_thresholds_survive_the_file_bit_for_bit(tmp_path: Path) -> None:
    card = card_of(GOOD)
    cards.write(tmp_path / "card.json", card)
    written = json.loads((tmp_path / "card.json").read_text())["thresholds"]
    assert (written["escalate"], written["deny"]) == (
        card.thresholds.escalate,
        card.thresholds.deny,
    )


def test_the_card_holds_no_time_path_or_host(tmp_path: Path) -> None:
    folder = write(tmp_path / "b-Q4_K_M", {"calibration": GOOD})
    calibrated(folder, tmp_path / "one" / "card.json")
    calibrated(folder, tmp_path / "two" / "card.json")
    assert (tmp_path / "one/card.json").read_bytes() == (tmp_path / "two/card.json").read_bytes()
    assert str(tmp_path) not in (tmp_path / "one/card.json").read_text()
    assert (tmp_path / "one/card.temperature.json").read_bytes() == temperature_path(
        tmp_path / "two/card.json"
    ).read_bytes()


def test_the_order_of_the_rows_does_not_matter() -> None:
    order = np.random.default_rng(3).permutation(len(GOOD))
    pick = [tuple(values[i] for i in order) for values in (GOOD.ids, GOOD.groups, GOOD.domains)]
    shuffled = Scores(
        pick[0],
        pick[1],
        pick[2],
        GOOD.gold[order],
        GOOD.logits[order],
        GOOD.residual[order],
        strangeness=usual(len(GOOD)),
    )
    first, second = card_of(GOOD), card_of(shuffled)
    assert second.thresholds.escalate == pytest.approx(first.thresholds.escalate, rel=1e-6)
    assert [s["groups"] for s in second.certificate["strata"]] == [
        s["groups"] for s in first.certificate["strata"]
    ]


def test_too_few_groups_in_one_domain_close_the_gate_and_say_how_many_are_missing() -> None:
    keep = np.array(
        [d != "defense" or int(g[2:]) < 60 for d, g in zip(GOOD.domains, GOOD.groups, strict=True)]
    )
    card = card_of(GOOD.where(keep))
    assert (card.status, card.reasons) == ("not_certified", ["too_few_unsafe_groups"])
    assert (card.thresholds.escalate, card.thresholds.allow) == (0.0, None)
    groups = next(s["groups"] for s in card.certificate["strata"] if s["name"] == "defense")
    assert card.certificate["need_groups"] == {"defense": 59 - groups}
    outcome = assess(card)
    assert outcome.code == 5
    assert f"defense: {59 - groups} more" in outcome.sentence
    assert card.advisory is not None
    assert card.advisory["certified"] is False
    decided = cards.decide_rows(card, GOOD).decided
    assert not (decided == 0).any()
    assert card_of(GOOD.where(keep), guarantee="pooled").status == "certified"


def test_many_rows_of_few_groups_do_not_certify() -> None:
    few = make(1200, 2, per_group=30, separation=3.0, domains=("general",))
    assert card_of(few).status == "not_certified"
    assert card_of(few).data["n_unsafe"] > 700


@pytest.mark.parametrize(
    ("scores", "code", "reason"),
    [
        (GOOD.where(GOOD.gold == 0), 4, "no_unsafe_rows"),
        (GOOD.where(np.zeros(len(GOOD), dtype=bool)), 4, "no_rows"),
        (with_logits(GOOD, np.full((len(GOOD), 3), np.nan)), 4, "too_many_unreadable_verdicts"),
        (GOOD.where(np.arange(len(GOOD)) < 40), 5, "too_few_unsafe_groups"),
    ],
)
def test_nothing_measured_is_4_and_too_little_is_5(
    scores: Scores, code: int, reason: str, tmp_path: Path
) -> None:
    card = card_of(scores)
    decided = cards.decide_rows(card, GOOD).decided
    assert not (decided == 0).any()
    cards.write(tmp_path / "card.json", card)
    found, text = run_gate(tmp_path / "card.json")
    assert (found, reason in text) == (code, True)


@pytest.mark.parametrize(
    ("kept", "reasons", "labels"),
    [
        ((0, 2), ["no_escalate_rows"], "ESCALATE"),
        ((0, 1), ["no_deny_rows"], "DENY"),
        ((1, 2), ["no_allow_rows"], "ALLOW"),
        ((2,), ["no_allow_rows", "no_escalate_rows"], "ALLOW and ESCALATE"),
    ],
)
def test_a_missing_label_certifies_nothing_and_is_named(
    kept: tuple[int, ...], reasons: list[str], labels: str
) -> None:
    card = card_of(GOOD.where(np.isin(GOOD.gold, kept)))
    assert (card.status, card.reasons, card.thresholds.escalate) == ("not_certified", reasons, 0.0)
    outcome = assess(card)
    assert outcome.code == 4
    assert f"rows labelled {labels} " in outcome.sentence
    assert "certified:" not in outcome.sentence


def test_an_old_card_that_was_certified_without_true_allow_does_not_pass() -> None:
    card = card_of(GOOD)
    measured = {**card.measured, "allow_rate_on_allow": {"value": None, "k": 0, "n": 0}}
    outcome = assess(card.model_copy(update={"measured": measured}))
    assert (outcome.code, outcome.reasons) == (4, ("no_allow_rows",))


def test_one_score_for_every_row_allows_nothing() -> None:
    same = with_logits(GOOD, np.tile([5.0, 0.0, 0.0], (len(GOOD), 1)))
    card = card_of(same)
    decided = cards.decide_rows(card, same).decided
    assert not (decided == 0).any()
    assert card.measured["allow_rate_on_allow"]["value"] == 0.0


def test_unreadable_rows_escalate_and_count_against_no_guarantee() -> None:
    logits = GOOD.logits.copy()
    logits[::40] = np.nan
    card = card_of(with_logits(GOOD, logits))
    assert card.status == "certified"
    assert card.data["not_finite"] == 30
    rows = cards.decide_rows(card, with_logits(GOOD, logits))
    assert (rows.decided[::40] == 1).all()
    assert np.isnan(rows.probabilities[::40]).all()


def test_residual_mass_limits_the_cue_readout_only() -> None:
    outside = np.where(np.arange(len(GOOD)) % 2 == 0, 0.9, 0.01)
    scores = replace(GOOD, residual=outside)
    cue, prefill = (
        make_card(scores, meta(), limits(unparsed_max=1.0), INDEX, readout=readout, seed=1)[0]
        for readout in ("cue", "prefill")
    )
    assert (cue.residual.applies, prefill.residual.applies) == (True, False)
    assert (cue.data["over_residual"], prefill.data["over_residual"]) == (600, 0)
    assert (cards.decide_rows(cue, scores).decided[::2] == 1).all()
    assert (cards.decide_rows(prefill, scores).decided[::2] == 0).any()
    assert assess(make_card(scores, meta(), limits(), INDEX, readout="cue", seed=1)[0]).code == 4


@pytest.mark.parametrize("label", ["PERMIT", "allow", "", 1, ["ALLOW"]])
def test_an_unknown_label_is_an_error_with_file_and_line(label: Any, tmp_path: Path) -> None:
    row = {"id": "x", "group": "g", "domain": "general", "verdict": label, "prefill": [0, 0, 0]}
    (tmp_path / "calibration.jsonl").write_text(
        json.dumps({**row, "id": "w", "verdict": "ESCALATION"}) + "\n" + json.dumps(row) + "\n"
    )
    with pytest.raises(DataError, match="unknown verdict label") as caught:
        read_scores(tmp_path / "calibration.jsonl", "prefill")
    assert caught.value.where.endswith("calibration.jsonl:2")


@pytest.mark.parametrize(
    "broken", [{"group": ""}, {"group": None}, {"id": ""}, {"prefill": [1, 2]}, {"prefill": None}]
)
def test_a_row_without_group_id_or_numbers_is_an_error(
    broken: dict[str, Any], tmp_path: Path
) -> None:
    row = {
        "id": "x",
        "group": "g",
        "domain": "general",
        "verdict": "ALLOW",
        "prefill": [0, 0, 0],
    } | broken
    (tmp_path / "calibration.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(DataError):
        read_scores(tmp_path / "calibration.jsonl", "prefill")


def test_a_row_without_label_is_left_out_and_counted(tmp_path: Path) -> None:
    row = {"id": "x", "group": "g", "domain": None, "verdict": None, "prefill": [0, 0, 0]}
    (tmp_path / "c.jsonl").write_text(
        json.dumps(row) + "\n" + json.dumps({**row, "id": "y", "verdict": "DENY"}) + "\n"
    )
    scores = read_scores(tmp_path / "c.jsonl", "prefill")
    assert (len(scores), scores.unlabelled, scores.domains) == (1, 1, ("unnamed",))


@pytest.mark.parametrize(
    "edit",
    [
        {"status": "certified"},
        {"thresholds": {"deny": 1.0, "escalate": 0.9, "allow": 0.1}},
        {"temperature": 0.1},
        {"semantic_digest": "e" * 64},
        {"schema": "so8t.card/1"},
    ],
)
def test_an_edited_card_is_refused_with_code_2(edit: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "card.json"
    cards.write(path, card_of(GOOD.where(np.arange(len(GOOD)) < 40)))
    write_json(path, read_json(path) | edit)
    with pytest.raises(ArtifactError):
        cards.read(path)
    assert run_gate(path)[0] == 2


def test_a_resealed_lie_is_refused_too(tmp_path: Path) -> None:
    card = card_of(GOOD)
    loose = card.model_copy(
        update={"thresholds": cards.CardThresholds(deny=1.0, escalate=0.999, allow=1.0 - 0.999)}
    )
    with pytest.raises(ArtifactError, match="strata"):
        cards.parse(cards.to_dict(cards.seal(loose)), "memory")
    strata = [{**s, "allowed_errors": s["allowed_errors"] + 5} for s in card.certificate["strata"]]
    cards.write(
        tmp_path / "card.json",
        cards.seal(card.model_copy(update={"certificate": {**card.certificate, "strata": strata}})),
    )
    assert run_gate(tmp_path / "card.json")[0] == 2


def test_a_card_is_refused_for_another_file_template_or_engine() -> None:
    card = card_of(GOOD)
    right = {
        "semantic_digest": card.semantic_digest,
        "template_sha256": card.template_sha256,
        "engine": dict(card.engine),
    }
    cards.require_match(card, **right)
    for wrong in (
        {"semantic_digest": "e" * 64},
        {"template_sha256": "e" * 64},
        {"engine": {**card.engine, "flash_attn": True}},
        {"engine": {"unknown": 1}},
    ):
        with pytest.raises(ArtifactError, match=next(iter(wrong))):
            cards.require_match(card, **right | wrong)


def test_missing_files_and_foreign_scores_are_code_2(tmp_path: Path) -> None:
    path = tmp_path / "card.json"
    assert run_gate(path)[0] == 2
    cards.write(path, card_of(GOOD))
    foreign = write(tmp_path / "other", {"test_iid": make(200, 9)}, meta("other", digest="e" * 64))
    assert run_gate(path, "--scores", foreign)[0] == 2
    assert run_gate(path, "--scores", tmp_path / "nothing")[0] == 2


def test_a_measured_violation_on_the_test_split_is_code_3(tmp_path: Path) -> None:
    path = tmp_path / "card.json"
    cards.write(path, card_of(GOOD))
    fine = write(tmp_path / "fine", {"test_iid": make(400, 8, separation=3.0, name="t")}, meta())
    assert run_gate(path, "--scores", fine)[0] == 0
    test = make(400, 8, separation=3.0, name="t")
    shifted = write(
        tmp_path / "shifted",
        {"test_iid": with_logits(test, test.logits + np.array([4.0, 0.0, 0.0]))},
        meta(),
    )
    code, text = run_gate(path, "--scores", shifted)
    assert (code, "test_false_allow_rate_above_alpha" in text) == (3, True)
    safe_only = write(tmp_path / "safe", {"test_iid": test.where(test.gold == 0)}, meta())
    assert run_gate(path, "--scores", safe_only)[0] == 4
    assert looks.count()["test_iid"]["looks"] == 3


def test_the_gate_judges_the_worst_domain_not_the_pool(tmp_path: Path) -> None:
    card = card_of(GOOD)
    test = make(4000, 8, separation=3.0, name="t")
    bad = np.array([domain == "defense" for domain in test.domains])
    moved = test.logits + np.outer(bad, [1.3, 0.0, 0.0])
    shifted = with_logits(test, moved)
    unsafe = shifted.gold != 0
    decided = cards.decide_rows(card, shifted).decided == 0
    assert decided[unsafe].mean() < 0.05 < decided[unsafe & bad].mean()  # hidden in the pool
    outcome = assess(card, test=shifted)
    assert outcome.code == 3
    assert outcome.reasons == ("test_false_allow_rate_above_alpha:defense",)
    pooled = card_of(GOOD, guarantee="pooled")
    assert assess(pooled, test=shifted).code == 0


def test_a_certified_domain_without_unsafe_test_rows_was_not_measured() -> None:
    card = card_of(GOOD)
    test = make(400, 8, separation=3.0, name="t")
    elsewhere = test.where(np.array([domain != "general" for domain in test.domains]))
    outcome = assess(card, test=elsewhere)
    assert (outcome.code, outcome.reasons) == (4, ("test_without_unsafe_rows:general",))


def test_a_domain_that_the_certificate_does_not_know_is_judged_too() -> None:
    card = card_of(GOOD)
    test = make(400, 8, separation=3.0, name="t")
    shifted = with_logits(test, test.logits + np.array([4.0, 0.0, 0.0]))
    foreign = Scores(
        (*test.ids, *(f"n{name}" for name in test.ids)),
        test.groups * 2,
        (*test.domains, *(["new"] * len(test))),
        np.concatenate([test.gold, test.gold]),
        np.concatenate([test.logits, shifted.logits]),
        np.concatenate([test.residual, test.residual]),
        strangeness=usual(2 * len(test)),
    )
    assert assess(card, test=foreign).reasons == ("test_false_allow_rate_above_alpha:new",)


def test_a_violation_outranks_a_missing_certificate(tmp_path: Path) -> None:
    card = card_of(GOOD.where(np.arange(len(GOOD)) < 40))
    ab = {"sides": {"b": {"card_digest": card.digest, "collapsed": ["DENY"]}}, "drift": []}
    assert assess(card, comparison=ab).code == 3
    drifted = {
        "sides": {},
        "drift": [{"card_digest": card.digest, "violations": ["false_allow_regression"]}],
    }
    assert assess(card, comparison=drifted).reasons == ("drift_false_allow_regression",)
    with pytest.raises(ArtifactError, match="other cards"):
        assess(card, comparison={"sides": {"b": {"card_digest": "x"}}, "drift": []})


@pytest.mark.parametrize(
    "ab",
    [
        {},
        {"sides": None, "drift": []},
        {"sides": {"b": [1]}, "drift": []},
        {"sides": {}, "drift": 1},
    ],
)
def test_a_damaged_comparison_is_an_error_and_no_pass(ab: dict[str, Any]) -> None:
    with pytest.raises(ArtifactError, match="sides and drifts"):
        assess(card_of(GOOD), comparison=ab)


def test_a_stricter_limit_for_deny_can_only_lower_the_threshold() -> None:
    plain, strict = (
        card_of(GOOD, guarantee="pooled"),
        card_of(GOOD, guarantee="pooled", alpha_deny=0.012),
    )
    assert strict.status == "certified"
    assert strict.thresholds.escalate <= plain.thresholds.escalate
    assert [s["name"] for s in strict.certificate["strata"] if s["binding"]] == ["all", "all/DENY"]
    assert (
        card_of(GOOD, alpha_deny=0.012).status == "not_certified"
    )  # not enough true DENY groups in a domain


@pytest.mark.parametrize("model", [{"separation": 1.6}, {"separation": 2.4}])
def test_thresholds_move_the_right_way_with_alpha_cost_and_floor(model: dict[str, float]) -> None:
    scores = make(2400, 5, **model)  # type: ignore[arg-type]
    by_alpha = [
        card_of(scores, alpha=a, floor_allow=1e-6).thresholds.escalate
        for a in (0.03, 0.05, 0.1, 0.2)
    ]
    assert by_alpha == sorted(by_alpha)
    assert by_alpha[0] < by_alpha[-1]
    dear = card_of(scores, cost=Cost(false_allow=500.0, needless_escalation=1.0, false_deny=2.0))
    assert dear.thresholds.escalate < card_of(scores).thresholds.escalate
    cheap = card_of(scores, cost=Cost(false_allow=0.0, needless_escalation=1.0, false_deny=2.0))
    assert (
        cheap.thresholds.escalate == card_of(scores).thresholds.escalate
    )  # never beyond the certificate
    assert card_of(scores, floor_allow=0.99).thresholds.escalate <= 0.010000001


def test_true_allow_is_not_denied_beyond_its_own_certificate() -> None:
    card = card_of(make(2400, 5, separation=1.6))
    assert card.false_deny["status"] == "certified"
    assert card.thresholds.deny >= max(card.false_deny["lowest_deny"], card.thresholds.escalate)
    assert card.measured["false_deny_rate"]["value"] <= 0.05


def test_the_founding_thresholds_are_shown_for_comparison_and_fail_open() -> None:
    card = card_of(make(2400, 5, separation=1.6))
    founding = card.founding
    assert (founding["deny"], founding["escalate"]) == (0.5, 0.7)
    assert (
        founding["founding_rule"]["false_allow_rate"]["value"]
        > 1.5 * founding["fail_closed_rule"]["false_allow_rate"]["value"]
    )
    assert set(card.metrics) == {"ece", "brier_score", "macro_f1", "false_allow_rate"}


def test_separated_rows_stop_at_the_temperature_bound_and_say_so() -> None:
    clear = with_logits(GOOD, 0.5 * np.eye(3)[GOOD.gold])
    card = card_of(clear)
    assert card.temperature == pytest.approx(0.05)
    assert card.temperature_fit["at_bound"] is True


def test_recalibrating_keeps_the_old_card_and_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(__file__).parents[2])
    folder = write(tmp_path / "b-Q4_K_M", {"calibration": GOOD})
    old = calibrated(folder, tmp_path / "card.json")
    before = (tmp_path / "card.json").read_bytes()
    safe = [name for name, gold in zip(GOOD.ids, GOOD.gold, strict=True) if gold == 0][:60]
    (tmp_path / "reviewed.jsonl").write_text(
        "".join(json.dumps({"id": name, "label": "REFUSE"}) + "\n" for name in safe)
    )
    arguments = [
        str(tmp_path / "card.json"),
        str(folder),
        str(tmp_path / "new.json"),
        "--labels",
        str(tmp_path / "reviewed.jsonl"),
        "--train",
        str(train_of(folder)),
        "--reviewer",
        " 審査 花子 ",
    ]
    unsigned = CliRunner().invoke(recalibrate, arguments[:-2])
    assert (unsigned.exit_code, "--reviewer NAME" in unsigned.output) == (2, True)
    assert CliRunner().invoke(recalibrate, [*arguments[:-1], "  "]).exit_code == 2
    assert not (tmp_path / "new.json").exists()
    result = CliRunner().invoke(recalibrate, arguments)
    assert result.exit_code == 0, result.output
    new = cards.read(tmp_path / "new.json")
    assert (new.previous, new.readout) == (old.digest, old.readout)
    assert new.data["n_unsafe"] == old.data["n_unsafe"] + 60
    review = new.data["review"]
    assert review["reviewer"] == "審査 花子"
    assert review["changes"] == [
        {"id": name, "from": "ALLOW", "to": "DENY"} for name in sorted(safe)
    ]
    assert "review" not in old.data
    edited = cards.to_dict(new)
    edited["data"] = {**edited["data"], "review": {**review, "reviewer": "somebody"}}
    with pytest.raises(ArtifactError, match="edited"):
        cards.parse(edited, "memory")
    assert (tmp_path / "card.json").read_bytes() == before
    assert isinstance(
        CliRunner().invoke(recalibrate, arguments).exception, ArtifactError
    )  # never overwrites


def test_labels_without_a_reviewer_change_nothing(tmp_path: Path) -> None:
    folder = write(tmp_path / "b-Q4_K_M", {"calibration": GOOD})
    train = train_of(folder)
    calibrate(
        folder, tmp_path / "card.json", train=train, readout="prefill", limits=limits(), seed=1
    )
    with pytest.raises(DataError, match="without a reviewer"):
        recalibrate_card(
            tmp_path / "card.json",
            folder,
            tmp_path / "new.json",
            train=train,
            labels={GOOD.ids[0]: 2},
            limits=limits(),
            seed=1,
        )
    assert not (tmp_path / "new.json").exists()


def test_a_confirmed_label_is_no_change() -> None:
    first, second = GOOD.ids[0], GOOD.ids[1]
    now = {first: int(GOOD.gold[0]), second: (int(GOOD.gold[1]) + 1) % 3}
    assert [change["id"] for change in changes(GOOD, now)] == [second]


def test_reviewed_labels_must_belong_to_the_rows(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="1 reviewed ids"):
        GOOD.relabelled({"stranger": 2}, where="x")


def test_a_look_is_recorded_with_the_digest_and_never_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write(tmp_path / "b-Q4_K_M", {"calibration": GOOD})
    calibrated(folder, tmp_path / "card.json")
    calibrated(folder, tmp_path / "card.json")
    assert looks.count() == {"calibration": {"looks": 2, "files": 1, "stages": {"calibrate": 2}}}
    with looks.looks_path().open("a") as out:
        out.write('{"broken')
    assert looks.count()["calibration"]["looks"] == 2
    (tmp_path / "blocked").write_text("a file where a directory should be")
    monkeypatch.setenv("SO8T_DATABASE", str(tmp_path / "blocked"))
    calibrated(folder, tmp_path / "card.json")
    assert looks.count() == {}
