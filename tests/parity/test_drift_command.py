"""`so8t drift` on a release: exit codes, output, and releases that `so8t ask` would refuse."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from so8t import cli
from so8t.errors import ArtifactError, DataError, So8tError
from so8t.familiarity import write_index
from so8t.monitoring.cli import drift
from tests.fakes.cards import make_card
from tests.fakes.released import FAULTS, IDS, sign, without_signature
from tests.parity.test_ask import SYSTEM, release
from tests.unit.test_drift import SINCE, drifting, index, usual

pytestmark = pytest.mark.parity


@pytest.fixture
def folder(tiny: Path, tmp_path: Path) -> Path:
    """A release whose index knows the sentences of the unit tests."""
    held = index()
    made = make_card(
        tiny,
        SYSTEM,
        familiarity={
            "budget": 0.02,
            "budget_kept": True,
            "limits": {"ngrams": 1.0, "length": 9.0},
            "index": held.digest,
        },
    )
    folder = release(tiny, tmp_path / "r", made)
    write_index(folder / "familiarity.json", held)
    sign(folder)
    return folder


def lines(texts: list[str]) -> str:
    return "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts)


def run(*words: object, given: str | None = None) -> Result:
    return CliRunner().invoke(drift, [str(word) for word in words], input=given)


def test_quiet_requests_end_with_0_and_a_drift_with_8(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "served.jsonl"
    file.write_text(lines(usual(100, 1)), encoding="utf-8")
    quiet = run(file, folder)
    assert (quiet.exit_code, "No evidence" in quiet.output) == (0, True)
    file.write_text(lines(drifting()), encoding="utf-8")
    found = run(file, folder)
    assert found.exit_code == 8
    assert f"DRIFT in ngrams, from about {file}:{SINCE + 1} on" in found.output


def test_json_from_standard_input_says_the_same(folder: Path) -> None:
    found = run("-", folder, "--json", "--delta", "0.01", given=lines(drifting()))
    said = json.loads(found.stdout)
    assert (found.exit_code, said["drift"], said["delta"]) == (8, True, 0.01)
    assert said["signals"]["length"]["alarm_line"] is None


def test_a_bad_line_is_named_and_nothing_is_written(folder: Path, tmp_path: Path) -> None:
    plot = tmp_path / "evidence.svg"
    found = run("-", folder, "--plot", plot, given=lines(drifting()) + "{\n")
    assert isinstance(found.exception, DataError)
    assert "standard input:161: not a UTF-8 JSON line" in str(found.exception)
    assert not plot.exists()
    assert found.stdout == ""


def test_a_plot_is_written_by_its_ending(folder: Path, tmp_path: Path) -> None:
    for name in ("e.svg", "e.csv"):
        assert run("-", folder, "--plot", tmp_path / name, given=lines(drifting())).exit_code == 8
        assert (tmp_path / name).stat().st_size > 1000
    assert run("-", folder, "--plot", tmp_path / "e.png", given=lines(drifting())).exit_code == 2


@pytest.mark.parametrize(("fault", "says"), FAULTS, ids=IDS)
def test_a_release_that_ask_refuses_is_refused(
    folder: Path, fault: Callable[[Path], None], says: str
) -> None:
    fault(folder)
    found = run("-", folder, given=lines(usual(5, 1)))
    assert isinstance(found.exception, ArtifactError)
    with pytest.raises(So8tError, match=says):
        raise found.exception


def test_an_unsigned_release_is_taken_only_on_request_and_loudly(folder: Path) -> None:
    without_signature(folder)
    found = run("-", folder, "--unsigned", given=lines(usual(50, 1)))
    assert (found.exit_code, "not signed" in found.stderr) == (0, True)


def test_the_command_ends_with_the_errors_code(folder: Path, tmp_path: Path) -> None:
    assert cli.run(["drift", str(tmp_path / "none.jsonl"), str(folder)]) == 4
    assert cli.run(["drift", str(tmp_path / "none.jsonl"), str(tmp_path / "none")]) == 5
