"""A against B: no difference where there is none, planted differences found, pairs and cards insisted on."""

import csv
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from so8t import card as cards
from so8t.calibration.assess import assess
from so8t.calibration.fit import make_card
from so8t.comparison.compare import baselines, conclude
from so8t.comparison.drift import Pair, add_findings, measure
from so8t.comparison.endpoints import Rules, design_effect, differences
from so8t.comparison.flips import collapsed, flips, worst_flips
from so8t.comparison.sides import Side, describe, in_order, read_split, require_paired
from so8t.errors import ArtifactError, DataError
from so8t.files import write_json
from so8t.metrics import Scores
from so8t.verdict import VERDICTS
from tests.fakes.scores import INDEX, limits, make, meta, with_logits, write

RULES = Rules(alpha=0.05, draws=300, margin=0.02, primary=("false_allow_rate", "macro_f1"), seed=1)
CARD = make_card(make(1600, 1), meta(), limits(), INDEX, readout="prefill", seed=1)[0]


def arm(scores: Scores, card: cards.Card = CARD) -> cards.DecidedRows:
    return cards.decide_rows(card, scores)


def twin(scores: Scores, seed: int, separation: float = 2.4) -> Scores:
    """Another model on the same rows: same law when the separation is the same, its own noise, shared inside groups."""
    other = make(len(scores), 10_000 + seed)
    own_noise = other.logits - 2.4 * np.eye(3)[other.gold]
    return with_logits(scores, own_noise + separation * np.eye(3)[scores.gold])


def conclusion(
    a: cards.DecidedRows,
    b: cards.DecidedRows,
    rules: Rules = RULES,
    closed: list[str] | None = None,
) -> dict[str, Any]:
    return conclude(
        differences(a, b, rules),
        collapsed(a, b, rules.alpha),
        closed or [],
        split="test_iid",
        margin=rules.margin,
        alpha=rules.alpha,
    )


def test_a_file_against_itself_differs_nowhere() -> None:
    a = arm(make(400, 2))
    found = conclusion(a, a)
    assert found["code"] == "no_difference"
    # 178 groups without a change do not exclude 2 points (0.8 x 2.5 %: 1 - 0.02 ** (1 / 178)) ...
    assert found["false_allow_not_worse"]["shown"] is False
    # ... and 800 do.
    many = arm(make(1800, 2))
    assert conclusion(many, many)["false_allow_not_worse"]["shown"] is True
    for values in differences(a, a, RULES).values():
        assert (values["difference"], values["p"], values["outcome"]) == (0.0, 1.0, "no_difference")
    assert flips(a, a)["changed"]["k"] == 0


@pytest.mark.parametrize("unsafe", [1, 5, 20])
def test_a_few_unsafe_rows_without_an_event_show_nothing(unsafe: int) -> None:
    scores = make(200, 2, per_group=1)
    rows = np.flatnonzero(scores.gold != 0)[:unsafe]
    kept = scores.where(np.isin(np.arange(200), rows) | (scores.gold == 0))
    a = arm(kept)
    far = differences(a, a, RULES)["false_allow_rate"]
    assert (far["n"], far["difference"]) == (unsafe, 0.0)
    assert far["ci95"][1] == pytest.approx(1 - 0.02 ** (1 / unsafe))
    assert far["ci95"] == far["ci95_exact"]
    shown = conclusion(a, a)["false_allow_not_worse"]
    assert (shown["shown"], shown["upper"]) == (False, far["ci95_exact"][1])


def test_below_30_groups_a_score_has_no_interval_and_says_why() -> None:
    few, enough = make(58, 2), make(60, 2)
    for scores, groups in ((few, 29), (enough, 30)):
        found = differences(arm(twin(scores, 3)), arm(twin(scores, 4)), RULES)
        for name in ("macro_f1", "ece", "brier_score", "nll"):
            assert found[name]["groups"] == groups
            assert (found[name]["ci95"] is None) == (groups < 30)
            assert found[name].get("ci95_reason") == (
                "fewer_than_30_groups" if groups < 30 else None
            )
        assert found["accuracy"]["ci95"] is not None


@pytest.mark.slow
def test_two_equally_good_models_are_told_apart_in_at_most_five_per_cent_of_200_splits() -> None:
    codes: Counter[str] = Counter()
    for seed in range(200):
        scores = make(400, seed, per_group=4)
        codes[conclusion(arm(twin(scores, 2 * seed + 1)), arm(twin(scores, 2 * seed)))["code"]] += 1
    assert codes["no_difference"] >= 190, codes


def test_a_planted_better_model_is_found_and_a_worse_one_too() -> None:
    scores = make(400, 3)
    good, poor = arm(twin(scores, 1, separation=3.2)), arm(twin(scores, 2, separation=1.8))
    assert conclusion(poor, good)["code"] == "b_better"
    assert conclusion(good, poor)["code"] == "b_worse"
    found = differences(poor, good, RULES)
    assert found["macro_f1"]["ci95"][0] > 0
    assert (found["accuracy"]["outcome"], found["brier_score"]["outcome"]) == ("better", "better")
    assert found["nll"]["difference"] < 0


def test_a_planted_class_collapse_is_found_and_outranks_everything() -> None:
    scores = make(400, 4)
    whole = arm(scores)
    without_deny = arm(with_logits(scores, scores.logits - [0.0, 0.0, 50.0]))
    found = conclusion(whole, without_deny)
    assert (found["code"], found["collapsed"]) == ("b_collapsed", ["DENY"])
    assert collapsed(whole, whole, 0.05) == []


def test_a_closed_gate_is_no_collapse_and_no_merit() -> None:
    scores = make(400, 5)
    closed = make_card(make(60, 1), meta(), limits(), INDEX, readout="prefill", seed=1)[0]
    found = conclusion(arm(scores, closed), arm(scores), closed=["a"])
    assert found["collapsed"] == []
    assert found["primary"]["false_allow_rate"]["outcome"] == "not_comparable"
    assert found["code"] == "b_better"  # by macro-F1; A allows nobody


def test_one_endpoint_better_and_one_worse_is_mixed() -> None:
    scores = make(600, 6)
    eager = scores.logits.copy()
    eager[scores.gold == 0] += [6.0, 0.0, 0.0]  # finds every ALLOW
    eager[(scores.gold == 2) & (np.arange(600) % 4 == 0)] = [
        9.0,
        0.0,
        0.0,
    ]  # and lets a quarter of DENY through
    found = conclusion(arm(twin(scores, 7, separation=1.2)), arm(with_logits(scores, eager)))
    assert found["code"] == "mixed"


def test_every_no_difference_comes_with_what_could_have_been_missed() -> None:
    scores = make(300, 7)
    found = differences(arm(twin(scores, 3)), arm(twin(scores, 4)), RULES)
    for name, values in found.items():
        assert values["mde"] is None or 0 < values["mde"] <= 1.0 or name == "nll"
        assert values["p_adjusted"] >= values["p"] - 1e-12
    assert found["false_allow_rate"]["mde"] is not None
    assert found["macro_f1"]["mde"] > 0
    assert {name for name, values in found.items() if values["primary"]} == {
        "false_allow_rate",
        "macro_f1",
    }


def test_holm_runs_inside_each_family() -> None:
    scores = make(300, 8)
    found = differences(arm(twin(scores, 3, 2.1)), arm(twin(scores, 4)), RULES)
    primary = sorted((v["p"], v["p_adjusted"]) for v in found.values() if v["primary"])
    assert primary[0][1] == pytest.approx(min(1.0, 2 * primary[0][0]))
    rest = sorted((v["p"], v["p_adjusted"]) for v in found.values() if not v["primary"])
    assert rest[0][1] == pytest.approx(min(1.0, len(rest) * rest[0][0]))


def test_rows_of_one_group_count_once() -> None:
    assert design_effect(
        np.repeat([1.0, -1.0, 0.0], 4), [f"g{i // 4}" for i in range(12)]
    ) == pytest.approx(4.0)
    assert design_effect(np.array([1.0, -1.0, 0.0]), ["a", "b", "c"]) == 1.0


def test_worst_flips_are_ordered_by_severity_and_hold_no_text() -> None:
    scores = make(400, 9)
    a = arm(scores)
    b = arm(with_logits(scores, scores.logits + np.array([3.0, 0.0, 0.0])))
    worst = worst_flips(a, b)
    assert len(worst) > 5
    golds = [row["gold"] for row in worst]
    assert (golds, golds[0]) == (sorted(golds), "DENY")  # DENY before ESCALATE
    everywhere = (a.decided != 0) & (b.decided == 0) & (scores.gold == 2)
    assert golds.count("DENY") == min(50, everywhere.sum())
    assert all(
        row["b"] == "ALLOW" and row["a"] != "ALLOW" and row["gold"] != "ALLOW" for row in worst
    )
    assert set(worst[0]) == {"id", "group", "domain", "gold", "a", "b", "p_allow_a", "p_allow_b"}


def pair(scores: Scores, moved: np.ndarray, own: cards.Card = CARD) -> dict[str, Any]:
    quantised = with_logits(scores, moved)
    return {
        **measure(Pair(arm(scores), arm(quantised), arm(quantised, own)), RULES),
        "same_file": False,
    }


def test_a_planted_quantisation_bias_is_found_and_named() -> None:
    scores = make(1000, 10)
    noise = 0.1 * np.random.default_rng(1).standard_normal((1000, 3))
    quiet, biased, scaled = add_findings(
        [
            pair(scores, scores.logits + noise),
            pair(scores, scores.logits + noise + [0.6, 0.0, 0.0]),
            pair(scores, 0.85 * scores.logits),
        ],
        0.05,
    )
    assert (quiet["findings"], quiet["violations"]) == ([], [])
    assert "bias_toward_allow" in biased["findings"]
    assert biased["distance"]["kl_mean"] > quiet["distance"]["kl_mean"]
    assert "bias_away_from_allow" in scaled["findings"]  # a duller file escalates more


def test_more_false_allows_under_the_files_own_card_are_a_violation() -> None:
    scores = make(1000, 11)
    found = add_findings([pair(scores, scores.logits + np.array([1.5, 0.0, 0.0]))], 0.05)[0]
    assert found["violations"] == ["false_allow_regression"]
    assert "false_allow_bias_toward_allow" in found["findings"]


def test_a_quantised_file_that_loses_a_verdict_is_a_violation() -> None:
    scores = make(600, 12)
    found = add_findings([pair(scores, scores.logits - [0.0, 0.0, 50.0])], 0.05)[0]
    assert (found["collapsed"], "class_collapse" in found["violations"]) == (["DENY"], True)


def test_the_same_file_twice_must_not_differ() -> None:
    scores = make(300, 13)
    same = {**pair(scores, scores.logits), "same_file": True}
    moved = {
        **pair(scores, scores.logits + np.random.default_rng(2).standard_normal((300, 3))),
        "same_file": True,
    }
    found = add_findings([same, moved], 0.05)
    assert found[0]["violations"] == []
    assert found[0]["distance"]["kl_max"] == 0.0
    assert "canary_flips" in found[1]["violations"]


def test_unpaired_sides_and_foreign_cards_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SO8T_DATABASE", str(tmp_path / "database"))
    scores = make(60, 14)
    with pytest.raises(DataError, match="same labelled rows"):
        require_paired(arm(scores), arm(scores.where(np.arange(60) < 50)), "x")
    relabelled = scores.relabelled({scores.ids[0]: (int(scores.gold[0]) + 1) % 3}, where="x")
    with pytest.raises(DataError):
        require_paired(arm(scores), arm(relabelled), "x")
    folder = write(tmp_path / "b", {"test_iid": scores}, meta(digest="e" * 64))
    side = Side(folder, CARD)
    with pytest.raises(ArtifactError, match="semantic_digest"):
        describe(side)
    assert read_split(side, "test_iid").scores.ids == in_order(scores).ids


@pytest.mark.parametrize(
    ("value", "baseline", "outcome"),
    [
        (0.9, {"accuracy": 0.5, "n": 300}, "beats"),
        (0.9, {"accuracy": 0.89, "n": 300}, "beats_unclear"),
        (0.5, {"accuracy": 0.89, "n": 300}, "does_not_beat"),
        (0.9, None, "not_run"),
        (0.9, {"accuracy": None, "n": 0}, "not_run"),
    ],
)
def test_baselines_are_beaten_clearly_or_not_claimed(
    value: float, baseline: Any, outcome: str
) -> None:
    k = round(300 * value)
    b = {"value": value, "k": k, "n": 300, "ci95": [value - 0.03, value + 0.03]}
    found = baselines(
        {"probes": {"keywords": {"test_iid": baseline}, "ngram": None}},
        {"test_iid": b, "test_cells": b},
    )
    assert [(row["name"], row["split"], row["outcome"]) for row in found] == [
        ("keywords", "test_iid", outcome),
        ("ngram", "test_cells", "not_run"),
    ]
    for prepare in (None, {"probes": [1]}, {"probes": {"ngram": [1], "keywords": {"test_iid": 3}}}):
        found = baselines(prepare, {"test_iid": b, "test_cells": b})
        assert {entry["outcome"] for entry in found} == {"not_run"}


@pytest.mark.slow
def test_the_stages_write_the_same_bytes_twice_and_the_gate_reads_them(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    text = (root / "params.yaml").read_text(encoding="utf-8")
    types = "  types:\n  - F16\n  - Q8_0\n  - Q5_K_M\n  - Q4_K_M\n"
    assert types in text
    (tmp_path / "params.yaml").write_text(
        text.replace(types, "  types:\n  - F16\n  - Q4_K_M\n"), encoding="utf-8"
    )
    sizes = {"calibration": 1200, "test_iid": 200, "test_cells": 100, "test_phrases": 100}
    rows = {split: make(n, 20 + n, name=split) for split, n in sizes.items()}
    for number, name in enumerate(("a-F16", "a-Q4_K_M", "b-F16", "b-Q4_K_M")):
        noise = 0.2 * np.random.default_rng(number).standard_normal((1200, 3))
        model = {split: twin(s, 30, 1.8) for split, s in rows.items()} if name[0] == "a" else rows
        write(
            tmp_path / "scores" / name,
            {split: with_logits(s, s.logits + noise[: len(s)]) for split, s in model.items()},
            meta(name, digest=str(number) * 64),
        )

    def run(*arguments: object) -> None:
        done = subprocess.run(
            [sys.executable, *map(str, arguments)],
            cwd=tmp_path,
            text=True,
            capture_output=True,
            check=False,
            env={
                "PYTHONPATH": str(root),
                "SO8T_DATABASE": str(tmp_path / "database"),
                "OMP_NUM_THREADS": "1",
                "PATH": "",
            },
        )
        assert done.returncode == 0, done.stderr

    for name in ("a-F16", "a-Q4_K_M", "b-F16", "b-Q4_K_M"):
        run(
            root / "stages/calibrate.py",
            f"scores/{name}",
            f"cards/{name}.json",
            "--train",
            f"scores/{name}/train.jsonl",
            "--model",
            name[0],
        )
    probes = {"keywords": {"test_iid": {"n": 200, "accuracy": 0.3385}}}
    write_json(tmp_path / "prepare.json", {"schema": "so8t.prepare/1", "probes": probes})
    for out in ("one.json", "two.json"):
        run(
            root / "stages/compare.py",
            "scores",
            "cards",
            out,
            "--prepare",
            "prepare.json",
            "--answers",
            "cards",
            "--plots",
            f"plots-{out}",
        )
    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "two.json").read_bytes()
    result = json.loads((tmp_path / "one.json").read_text())
    moved, forest = (
        list(
            csv.DictReader(
                (tmp_path / "plots-one.json" / name).read_text(encoding="utf-8").splitlines()
            )
        )
        for name in ("flips.csv", "forest.csv")
    )
    found = [
        [sum((row["a"], row["b"]) == (was, now) for row in moved) for now in VERDICTS]
        for was in VERDICTS
    ]
    assert found == result["splits"]["test_iid"]["flips"]["matrix"]
    far = {
        row["part"]: float(row["difference"])
        for row in forest
        if row["endpoint"] == "false_allow_rate"
    }
    expected = result["splits"]["test_iid"]["differences"]["false_allow_rate"]
    assert [far["low"], far["difference"], far["high"]] == pytest.approx(
        [expected["ci95"][0], expected["difference"], expected["ci95"][1]], abs=1e-6
    )
    assert result["conclusion"]["code"] == "b_better"
    assert [d["file"] for d in result["drift"]] == ["a-Q4_K_M.gguf", "b-Q4_K_M.gguf"]
    assert [b["outcome"] for b in result["baselines"]] == ["beats", "not_run"]
    assert str(tmp_path) not in json.dumps(result)
    assert assess(cards.read(tmp_path / "cards/b-Q4_K_M.json"), comparison=result).code == 0
    stages = Counter(
        json.loads(line)["stage"]
        for line in (tmp_path / "database/looks.jsonl").read_text().splitlines()
    )
    assert stages == {"calibrate": 4, "compare": 2 * (6 + 12)}
