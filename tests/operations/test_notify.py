"""SO8T_NOTIFY: each way does what it says, and nothing ever fails or speaks in CI."""

import sys
from pathlib import Path

import pytest

from so8t.progress import LONG_S, notify


def test_off_short_runs_and_ci_are_silent(capsys: pytest.CaptureFixture[str]) -> None:
    assert notify("train", "done", 1e4, {}) == ""
    assert notify("train", "done", LONG_S / 2, {"SO8T_NOTIFY": "bell"}) == ""
    assert notify("train", "done", 1e4, {"SO8T_NOTIFY": "bell", "CI": "true"}) == ""
    assert capsys.readouterr().err == ""


def test_bell_and_osc_go_to_the_terminal_not_to_the_output(
    capsys: pytest.CaptureFixture[str],
) -> None:
    notify("train", "done", 1e4, {"SO8T_NOTIFY": "bell"})
    notify("train", "failed", 1e4, {"SO8T_NOTIFY": "osc"})
    said = capsys.readouterr()
    assert said.err == "\a\033]9;so8t train: failed\a"
    assert said.out == ""


def test_a_command_of_ones_own_gets_stage_and_outcome(tmp_path: Path) -> None:
    script = "import sys, pathlib; pathlib.Path(sys.argv[1]).write_text(' '.join(sys.argv[2:]))"
    notify(
        "train",
        "done",
        1e4,
        {"SO8T_NOTIFY": f'cmd:{sys.executable} -c "{script}" {tmp_path / "said"}'},
    )
    assert (tmp_path / "said").read_text(encoding="utf-8") == "train done"


@pytest.mark.parametrize("way", ["cmd:/no/such/program", "trumpet"])
def test_a_way_that_does_not_work_is_logged_and_nothing_fails(
    way: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert notify("train", "done", 1e4, {"SO8T_NOTIFY": way}) == ""
    assert "did not work" in caplog.text
