"""The stage scripts as `dvc` runs them: exit codes, files, a dry run, a warning."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from so8t.rows import SPLITS

ROOT = Path(__file__).parents[2]


def stage(folder: Path, script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "SO8T_DATABASE": str(folder / "database"),
        "OMP_NUM_THREADS": "1",
    }
    return subprocess.run(
        [sys.executable, str(ROOT / "stages" / script), *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    text = (ROOT / "params.yaml").read_text(encoding="utf-8")
    for before, after in (("rows: 4999", "rows: 400"), ("foreign: 40", "foreign: 3")):
        assert before in text
        text = text.replace(before, after)
    (tmp_path / "params.yaml").write_text(text, encoding="utf-8")
    return tmp_path


PREPARE = ("data/prepared", "--metrics", "m.json", "--page", "p.md", "--plots", "plots/data")


@pytest.mark.slow
def test_synthesize_then_prepare_writes_every_split_metrics_and_a_page(folder: Path) -> None:
    assert stage(folder, "synthesize.py", "data/raw/synthetic.jsonl").returncode == 0
    done = stage(folder, "prepare.py", *PREPARE)
    assert done.returncode == 0, done.stderr
    assert "cannot certify" in done.stderr
    written = {path.name for path in (folder / "data/prepared").iterdir()}
    assert written == {f"{split}.jsonl" for split in SPLITS}
    metrics = json.loads((folder / "m.json").read_text(encoding="utf-8"))
    disguised = metrics["rows"]["test_evasion"]
    assert disguised > 0
    # 400 rows inside the domains, and three of each of thirteen kinds outside.
    assert metrics["rows"]["total"] - disguised == 400 + 3 * 13
    assert max(metrics["calibration"]["unsafe_groups"].values()) < 59
    assert set(metrics["probes"]) == {"single_factor", "keywords", "ngram"}
    assert set(metrics["census"]) == {"fields", "factors", "group_sizes"}
    assert metrics["tokens"] is None  # the demo's tokenizer is trained on these data
    check_the_page(folder, metrics)
    before = {
        p.name: p.read_bytes()
        for p in [folder / "m.json", folder / "p.md", *(folder / "plots/data").iterdir()]
    }
    assert stage(folder, "prepare.py", *PREPARE).returncode == 0
    assert {
        p.name: p.read_bytes()
        for p in [folder / "m.json", folder / "p.md", *(folder / "plots/data").iterdir()]
    } == before


def check_the_page(folder: Path, metrics: dict) -> None:
    """Every point of the page that issue 4 lists is there, with the metrics' own numbers and figures that exist."""
    page = (folder / "p.md").read_text(encoding="utf-8")
    parts = dict(part.split("\n", 1) for part in page.split("\n## ")[1:])
    english = {title.rpartition("/ ")[2]: text for title, text in parts.items()}
    assert set(english) == {
        "Rows",
        "Domains by split",
        "Verdicts by domain",
        "Dropped",
        "Duplicates",
        "Sources",
        "By field",
        "By factor",
        "Calibration groups",
        "Lengths",
        "Probes",
        "Figures",
        "Examples",
    }
    assert f"| train | {metrics['rows']['train']} |" in english["Rows"]
    assert all(f"| {split} |" in english["Probes"] for split in metrics["probes"]["ngram"])
    assert str(metrics["probes"]["single_factor"]["largest"]) in english["Probes"]
    assert "In characters only" in english["Lengths"]
    assert "| exact_duplicate |" in english["Duplicates"]
    for block in english["Examples"].split("### ")[1:]:
        assert block.count("\n| ") == 12  # head, rule, ten rows
    figures = re.findall(r"!\[.+?\]\((.+?)\)", english["Figures"])
    assert len(figures) == 5
    assert all(
        (folder / path).read_text(encoding="utf-8").lstrip().startswith("<?xml") for path in figures
    )


@pytest.mark.slow
def test_a_dry_run_over_the_examples_says_what_would_be_kept_and_writes_nothing(
    folder: Path,
) -> None:
    shutil.copytree(ROOT / "data" / "examples", folder / "mine")
    params = (folder / "params.yaml").read_text(encoding="utf-8")
    (folder / "params.yaml").write_text(
        params.replace("data/raw/synthetic.jsonl", "mine"), encoding="utf-8"
    )
    done = stage(folder, "prepare.py", *PREPARE, "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "would keep" in done.stdout
    assert "text_label.jsonl: 3 rows" in done.stdout
    assert sorted(p.name for p in folder.iterdir()) == ["database", "mine", "params.yaml"]


@pytest.mark.slow
def test_a_malformed_row_ends_with_code_4_file_line_and_fix(folder: Path) -> None:
    (folder / "data/raw").mkdir(parents=True)
    (folder / "data/raw/synthetic.jsonl").write_text(
        '{"text": "資料を見せて。", "label": "deny"}\n', encoding="utf-8"
    )
    done = stage(folder, "prepare.py", *PREPARE)
    assert done.returncode == 4
    assert "data/raw/synthetic.jsonl:1: unknown label" in done.stderr
    assert "fix:" in done.stderr
    assert not (folder / "data/prepared").exists()
    assert not (folder / "m.json").exists()
