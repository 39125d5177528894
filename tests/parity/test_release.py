"""The release: the same model with its card inside, everything needed to run it, and never a half."""

import json
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from so8t import card as cards
from so8t import gguf_file, identity
from so8t.params import load
from so8t.release import modelcard
from so8t.release.make import float32_up
from so8t.serving.answer import Assistant
from so8t.verdict import Verdict
from stages.release import main as release_stage
from tests.fakes.cards import make_card
from tests.fakes.tiny_gguf import write_tiny

pytestmark = [
    pytest.mark.parity,
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]  # the log file of each stage run
ROOT = Path(__file__).parents[2]


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SO8T_DATABASE", str(tmp_path / "database"))
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "params.yaml", tmp_path / "params.yaml")
    write_tiny(tmp_path / "b-Q4_K_M.gguf")
    (tmp_path / "metrics").mkdir()
    return tmp_path


def run(work: Path, card: cards.Card, out: str = "release") -> int:
    cards.write(work / "card.json", card)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            sys,
            "argv",
            [
                "release",
                str(work / "b-Q4_K_M.gguf"),
                str(work / out),
                "--card",
                str(work / "card.json"),
                "--metrics",
                str(work / "metrics"),
            ],
        )
        try:
            release_stage(standalone_mode=False)
        except SystemExit as ended:
            return int(ended.code or 0)
    return 0


def card_of(work: Path, **changes: Any) -> cards.Card:
    return make_card(work / "b-Q4_K_M.gguf", load(work / "params.yaml").data.system, **changes)


def test_the_released_file_is_the_calibrated_one_with_its_numbers_inside(work: Path) -> None:
    card = card_of(work, escalate=0.3, deny=0.7)
    assert run(work, card) == 0
    file = work / "release" / "b-Q4_K_M.gguf"
    keys = gguf_file.read_keys(file)
    assert identity.semantic_digest(file) == card.semantic_digest
    identity.check_seal(file)
    assert keys["so8t.calibration.escalate"] == 0.3
    assert keys["so8t.escalation_threshold"] <= 0.3
    assert keys["so8t.safety_threshold"] >= 0.7
    assert keys["so8t.calibration.card_sha256"] == card.digest
    assert sorted(p.name for p in (work / "release").iterdir()) == [
        "Modelfile",
        "README.md",
        "b-Q4_K_M.gguf",
        "card.json",
        "llama_cpp.md",
        "release.json",
    ]


def test_the_release_can_be_asked_and_an_uncertified_one_is_written_with_its_gate_closed(
    work: Path,
) -> None:
    assert run(work, card_of(work, certified=False)) == 0
    with Assistant(work / "release") as assistant:
        answer = assistant.answer("予定は?")
    assert answer.verdict is Verdict.ESCALATE
    assert gguf_file.read_keys(work / "release" / "b-Q4_K_M.gguf")["so8t.safety_threshold"] == 1.0
    assert "not passed" in (work / "release" / "README.md").read_text(encoding="utf-8")


def test_the_same_inputs_give_the_same_bytes(work: Path) -> None:
    card = card_of(work)
    assert run(work, card, "one") == run(work, card, "two") == 0
    one, two = (
        {p.name: p.read_bytes() for p in (work / name).iterdir()} for name in ("one", "two")
    )
    assert one == two


def test_a_card_of_another_file_releases_nothing(work: Path) -> None:
    assert run(work, card_of(work, semantic_digest="0" * 64)) == 5
    assert not (work / "release").exists()


def test_an_edited_card_releases_nothing(work: Path) -> None:
    cards.write(work / "card.json", card_of(work))
    edited = card_of(work).model_copy(update={"temperature": 9.0})
    assert run(work, edited) == 5
    assert not (work / "release").exists()


def test_a_system_prompt_that_a_modelfile_cannot_carry_leaves_only_the_modelfile_out(
    work: Path,
) -> None:
    text = (work / "params.yaml").read_text(encoding="utf-8")
    system = load(work / "params.yaml").data.system
    (work / "params.yaml").write_text(
        text.replace(system, "あなたは　仕分け係です。"), encoding="utf-8"
    )
    assert run(work, card_of(work)) == 0
    assert not (work / "release" / "Modelfile").exists()
    assert (work / "release" / "b-Q4_K_M.gguf").exists()


def test_the_command_lines_hold_the_cards_engine_and_open_at_the_answer(work: Path) -> None:
    run(work, card_of(work))
    lines = (work / "release" / "llama_cpp.md").read_text(encoding="utf-8")
    words = shlex.split(
        lines[lines.index("llama-cli") : lines.index("As a server")].replace("```", "")
    )
    assert words[words.index("-fa") + 1] == "off"
    assert words[words.index("-c") + 1] == "1024"
    assert words[words.index("-p") + 1].endswith("<|assistant|>\n# 最終回答\n")


def test_the_model_card_reads_every_number_from_its_file(work: Path) -> None:
    rate = {"value": 0.0123, "k": 1, "n": 81, "ci95": [0.0, 0.067]}
    evaluation = {
        "splits": {
            "test_iid": {
                "false_allow_rate": rate,
                "macro_f1": {"value": 0.9, "n": 81, "ci95": [0.8, 0.95]},
            }
        }
    }
    (work / "metrics" / "evaluate-b-Q4_K_M.json").write_text(json.dumps(evaluation))
    run(work, card_of(work))
    text = (work / "release" / "README.md").read_text(encoding="utf-8")
    assert (
        "| test_iid: false-allow rate | 0.0123 (0.000-0.067, n = 81) | `evaluate-b-Q4_K_M.json` "
        in text
    )
    assert "| test_cells: accuracy | not run |" in text
    from so8t.params import read_yaml

    (work / "head.yaml").write_text(text.split("---\n")[1], encoding="utf-8")
    head = read_yaml(work / "head.yaml")
    assert head["library_name"] == "gguf"
    metrics = {m["type"]: m["value"] for m in head["model-index"][0]["results"][0]["metrics"]}
    assert metrics == {"false_allow_rate": 0.0123, "f1": 0.9}


def test_what_was_not_measured_is_not_a_number() -> None:
    assert modelcard.shown(None) == modelcard.shown({"value": None, "ci95": []}) == "not run"
    assert modelcard.shown({"value": 0.5, "n": 4, "ci95": [0.1, 0.9]}) == "0.5 (0.100-0.900, n = 4)"


@pytest.mark.parametrize("value", [0.1, 0.7, 1.0, 1 / 3])
def test_thresholds_are_rounded_to_the_stricter_side(value: float) -> None:
    assert value <= float32_up(value) < value + 1e-7
