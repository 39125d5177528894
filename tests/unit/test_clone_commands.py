"""Small commands around a clone: what they print is what their help says."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from so8t.errors import ArtifactError
from so8t.files import write_json
from so8t.operations.setup import report_path


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "reports").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_report_path_prints_the_first_sentence_and_then_both_pages(clone: Path) -> None:
    (clone / "reports/report.html").write_text("<p>", encoding="utf-8")
    write_json(clone / "reports/report.json", {"conclusion": "認証されています。"})
    done = CliRunner().invoke(report_path, catch_exceptions=False)
    first, *paths = done.output.splitlines()
    assert first == "認証されています。"
    assert [Path(line.split()[-1]).name for line in paths] == ["report.html", "report.md"]


@pytest.mark.parametrize("content", ['{"schema": 1}', "[]", '{"conclusion": ', "null"])
def test_a_report_without_a_conclusion_is_an_error_and_nothing_is_printed(
    clone: Path, content: str
) -> None:
    (clone / "reports/report.html").write_text("<p>", encoding="utf-8")
    (clone / "reports/report.json").write_text(content, encoding="utf-8")
    done = CliRunner().invoke(report_path)
    assert isinstance(done.exception, ArtifactError)
    assert done.exception.fix == "dvc repro report"
    assert done.output == ""


def test_before_the_first_run_it_says_what_to_type(clone: Path) -> None:
    done = CliRunner().invoke(report_path)
    assert isinstance(done.exception, ArtifactError)
    assert done.exception.fix == "dvc repro"
