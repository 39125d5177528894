"""README's table says what the committed reports say, and a stale one is noticed."""

import json
import shutil
from pathlib import Path

import pytest

from so8t.coverage import COVERED
from so8t.errors import ArtifactError
from tools import figures

ROOT = Path(__file__).parents[2]


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The pages, parameters and reports of this project, with tables that are up to date."""
    for name in ("README.md", "README.ja.md", "params.yaml"):
        shutil.copy(ROOT / name, tmp_path / name)
    shutil.copytree(ROOT / "reports/metrics", tmp_path / "reports/metrics")
    for name in (figures.REPORT, figures.RUN):
        shutil.copy(ROOT / name, tmp_path / name)
    digest = figures._json(tmp_path, "reports/metrics/evaluate-b-Q4_K_M.json")["semantic_digest"]
    edit(tmp_path / figures.RUN, ("semantic_digest",), digest)
    for page, text in figures.stale(tmp_path).items():
        (tmp_path / page).write_text(text, encoding="utf-8")
    return tmp_path


def edit(path: Path, keys: tuple[str, ...], value: object) -> None:
    whole = json.loads(path.read_text(encoding="utf-8"))
    inner = whole
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    path.write_text(json.dumps(whole), encoding="utf-8")


def test_what_was_written_is_not_stale(copy: Path) -> None:
    assert figures.stale(copy) == {}


@pytest.mark.parametrize(
    ("file", "keys", "value", "shown"),
    [
        (
            "reports/metrics/evaluate-b-Q4_K_M.json",
            ("splits", "test_iid", "accuracy", "value"),
            0.1234,
            "12.3 %",
        ),
        ("reports/metrics/verify-b-Q4_K_M.json", ("drift", "kl_mean"), 0.4321, "0.4321"),
        ("reports/metrics/prepare.json", ("probes", "ngram", "test_iid", "accuracy"), 0.1, "10.0"),
        ("reports/metrics/ab.json", ("sides", "b", "alpha"), 0.07, "7 %"),
        ("reports/run.json", ("repro_minutes",), 77.0, "77 "),
        ("reports/run.json", ("answers", "refusals"), 38, "38 "),
    ],
)
def test_a_changed_result_makes_both_tables_stale(
    copy: Path, file: str, keys: tuple[str, ...], value: object, shown: str
) -> None:
    edit(copy / file, keys, value)
    found = figures.stale(copy)
    assert set(found) == {"README.md", "README.ja.md"}
    for page, text in found.items():
        assert shown in text, page


def test_what_the_certificate_covers_stands_below_both_tables(copy: Path) -> None:
    for page, covered in zip(("README.ja.md", "README.md"), COVERED, strict=True):
        text = (copy / page).read_text(encoding="utf-8")
        assert f"\n{covered}\n" in text


def test_a_certificate_that_is_gone_takes_its_words_along(copy: Path) -> None:
    edit(copy / "reports/metrics/ab.json", ("sides", "b", "status"), "not_certified")
    for text, covered in zip(sorted(figures.stale(copy).items()), COVERED, strict=True):
        assert covered not in text[1]


def test_unfamiliar_requests_have_a_row_once_they_were_measured(copy: Path) -> None:
    allowed = {"test_foreign": {"all": {"rate": 0.004}}, "test_evasion": {"all": {"rate": 0.017}}}
    path = copy / "reports/metrics/evaluate-b-Q4_K_M.json"
    edit(path, ("unfamiliar",), allowed)
    for page, text in figures.stale(copy).items():
        assert "| 0.4 % / 1.7 % |" in text, page
    edit(path, ("unfamiliar",), {**allowed, "test_foreign": None})
    assert all("1.7 %" not in text for text in figures.stale(copy).values())


def test_without_a_certificate_no_rate_is_promised(copy: Path) -> None:
    edit(copy / "reports/metrics/ab.json", ("sides", "b", "status"), "not_certified")
    found = figures.stale(copy)
    assert "| certificate | none: nothing is allowed |" in found["README.md"]
    assert "| 証明 | なし。何も許可しない |" in found["README.ja.md"]


def test_times_of_another_run_are_refused(copy: Path) -> None:
    edit(copy / figures.RUN, ("semantic_digest",), "0" * 64)
    with pytest.raises(ArtifactError, match="is of the file 0000000000"):
        figures.stale(copy)


def test_a_page_without_its_comments_is_refused(copy: Path) -> None:
    page = copy / "README.md"
    end = figures.LANGUAGES["en"].end
    page.write_text(page.read_text(encoding="utf-8").replace(end, ""), encoding="utf-8")
    with pytest.raises(ArtifactError, match="needs exactly one line"):
        figures.stale(copy)


def test_a_stale_table_fails_the_check_of_all_generated_pages(
    copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from tools import docs

    # The generated pages have tests of their own; here only the table counts.
    monkeypatch.setattr(docs, "PAGES", {})
    monkeypatch.chdir(copy)
    assert docs.main(["--check"]) == 0
    edit(copy / figures.RUN, ("repro_minutes",), 77.0)
    before = (copy / "README.md").read_text(encoding="utf-8")
    assert docs.main(["--check"]) == 1
    assert "the table in README.md is stale" in capsys.readouterr().err
    assert (copy / "README.md").read_text(encoding="utf-8") == before
    assert docs.main([]) == 0
    assert docs.main(["--check"]) == 0
