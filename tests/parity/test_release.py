"""The release: the same model with its card inside, everything needed to run it, and never a half."""

import json
import re
import shlex
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from so8t import card as cards
from so8t import gguf_file, identity, signature
from so8t.calibration.cli import gate
from so8t.errors import ArtifactError
from so8t.familiarity import Index, write_index
from so8t.files import write_json
from so8t.operations.handing_over import sign as sign_command
from so8t.params import load
from so8t.release import modelcard
from so8t.released import float32_up, open_release
from so8t.serving.answer import Assistant
from so8t.verdict import Verdict
from stages.release import main as release_stage
from tests.fakes import scores
from tests.fakes.cards import LOOSE_INDEX, make_card
from tests.fakes.clone import build, sealed_tiny
from tests.fakes.released import FAULTS, IDS, forge, forged_card, without_signature
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
    signature.prepare(tmp_path)
    (tmp_path / "metrics").mkdir()
    return tmp_path


def run(work: Path, card: cards.Card, out: str = "release", *, index: Index = LOOSE_INDEX) -> int:
    cards.write(work / "card.json", card)
    write_index(work / "card.familiarity.json", index)
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
        "familiarity.json",
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


def test_with_a_key_the_stage_signs_and_says_not_a_word_about_it(
    work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(work, card_of(work)) == 0
    assert capsys.readouterr().out.startswith("release: b-Q4_K_M.gguf certified (")
    opened = open_release(work / "release")
    assert opened.signed_by == json.loads((work / "release.sig").read_text())["key"]
    assert opened.warning == ""
    assert len(json.loads((work / "release.sig").read_text())["files"]) == 7


def test_two_runs_leave_the_same_signature(work: Path) -> None:
    card = card_of(work)
    signatures = []
    for _ in range(2):
        run(work, card)
        signatures.append((work / "release.sig").read_bytes())
    assert signatures[0] == signatures[1]


def test_without_a_key_the_stage_releases_and_says_so_in_one_line(
    work: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SO8T_KEY", str(work.parent / "nowhere.key"))
    assert run(work, card_of(work)) == 0
    assert "not signed: no private key here" in capsys.readouterr().out
    with pytest.raises(ArtifactError, match="not signed"):
        open_release(work / "release")
    assert open_release(work / "release", allow_unsigned=True).warning


def test_a_receiver_without_the_key_who_makes_the_same_bytes_keeps_the_signature(
    work: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    card = card_of(work)
    run(work, card)
    capsys.readouterr()
    monkeypatch.setenv("SO8T_KEY", str(work.parent / "nowhere.key"))
    assert run(work, card) == 0
    assert "not signed" not in capsys.readouterr().out
    assert open_release(work / "release").signed_by


def test_the_signature_of_an_earlier_release_does_not_hold_for_a_later_one(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(work, card_of(work, escalate=0.3))
    monkeypatch.setenv("SO8T_KEY", str(work.parent / "nowhere.key"))
    assert run(work, card_of(work, escalate=0.9)) == 0
    with pytest.raises(ArtifactError, match=r"card\.json was changed") as refused:
        Assistant(work / "release")
    assert "so8t sign" in refused.value.fix


def test_what_does_not_belong_together_is_not_signed(work: Path) -> None:
    run(work, card_of(work, escalate=0.3))
    forged_card(work / "release")
    done = CliRunner().invoke(sign_command, [str(work / "release")])
    assert isinstance(done.exception, ArtifactError)
    assert "keys in the GGUF file are not the card's" in str(done.exception)


# --- the gate ---


@pytest.fixture(scope="module")
def certified(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a signed release, its scores and its comparison, that the gate passes."""
    folder = tmp_path_factory.mktemp("certified")
    shutil.copy(ROOT / "params.yaml", folder / "params.yaml")
    file = sealed_tiny(folder / "b-Q4_K_M.gguf")
    card = make_card(file, load(folder / "params.yaml").data.system, escalate=0.5, deny=0.9)
    build(folder, card=card)
    about = {"semantic_digest": card.semantic_digest, "template_sha256": card.template_sha256}
    rows = scores.make(400, 1, separation=9.0)
    name = "b-Q4_K_M"
    scores.write(
        folder / f"data/scores/{name}",
        {"test_iid": rows},
        scores.meta(name) | about | {"engine": card.engine},
    )
    write_json(
        folder / "reports/metrics/ab.json",
        {"schema": "so8t.ab/1", "sides": {"b": {"card_digest": card.digest}}, "drift": []},
    )
    return folder


@pytest.fixture
def project(
    certified: Path, tmp_path: Path, database: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    folder = Path(shutil.copytree(certified, tmp_path / "project"))
    monkeypatch.chdir(folder)
    return folder


def gated(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(gate, arguments)
    return done.exit_code, done.output


def test_the_gate_passes_a_signed_release(project: Path) -> None:
    assert gated()[0] == 0, gated()


@pytest.mark.parametrize(("fault", "says"), FAULTS, ids=IDS)
def test_the_gate_refuses_what_was_not_signed(project: Path, fault: Any, says: str) -> None:
    fault(project / "models/release")
    code, said = gated()
    assert code == 2
    assert re.search(says, said)
    assert "fix: " in said


def test_the_gate_refuses_a_release_that_the_newest_card_did_not_make(project: Path) -> None:
    forge(project / "models/calibration/b-Q4_K_M.json", deny=0.9)
    code, said = gated()
    assert (code, "dvc repro release" in said) == (2, True)


def test_the_gate_judges_an_unsigned_release_only_when_asked_to_and_says_so(project: Path) -> None:
    without_signature(project / "models/release")
    assert gated()[0] == 2
    code, said = gated("--unsigned")
    assert (code, "WARNING: this release is not signed" in said) == (0, True)
    assert gated("models/release/card.json", "--unsigned")[0] == 2


def test_a_card_of_another_file_releases_nothing(work: Path) -> None:
    assert run(work, card_of(work, semantic_digest="0" * 64)) == 5
    assert not (work / "release").exists()


def test_an_index_of_another_card_releases_nothing(work: Path) -> None:
    assert run(work, card_of(work)) == 0
    shutil.rmtree(work / "release")
    assert run(work, card_of(work), index=replace(LOOSE_INDEX, budget=0.5)) == 5
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


def test_the_model_card_quotes_no_time_and_says_where_times_are(work: Path) -> None:
    metrics = work / "metrics"
    for out, seconds in (("one", 0.0123), ("two", 0.0456)):
        timed = {"verdict_s": {"p50": {"value": seconds, "n": 24, "ci95": [0.01, 0.05]}}}
        (metrics / "speed-b-Q4_K_M.json").write_text(json.dumps(timed), encoding="utf-8")
        assert run(work, card_of(work), out) == 0
    one, two = ((work / name / "README.md").read_text(encoding="utf-8") for name in ("one", "two"))
    assert one == two
    assert "`reports/speed.md`" in one


def test_the_model_card_says_how_the_comparison_ended(work: Path) -> None:
    # The code of so8t.comparison.compare, which is what ab.json has.
    ended = {"conclusion": {"code": "b_better", "split": "test_iid"}}
    (work / "metrics" / "ab.json").write_text(json.dumps(ended), encoding="utf-8")
    run(work, card_of(work))
    text = (work / "release" / "README.md").read_text(encoding="utf-8")
    assert "| conclusion | b_better | `ab.json` `/conclusion/code` |" in text


def test_what_was_not_measured_is_not_a_number() -> None:
    assert modelcard.shown(None) == modelcard.shown({"value": None, "ci95": []}) == "not run"
    assert modelcard.shown({"value": 0.5, "n": 4, "ci95": [0.1, 0.9]}) == "0.5 (0.100-0.900, n = 4)"


@pytest.mark.parametrize("value", [0.1, 0.7, 1.0, 1 / 3])
def test_thresholds_are_rounded_to_the_stricter_side(value: float) -> None:
    assert value <= float32_up(value) < value + 1e-7
