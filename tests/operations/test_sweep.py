"""A sweep through DVC's queue with two workers gives what one run after another gives, and leaves nothing behind."""

import json
import os
import shutil
import sys
from pathlib import Path

import pytest

from so8t.operations import sweep
from tests.fakes.clone import run

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.slow, pytest.mark.nightly]
STAGE = """
import json, sys
from pathlib import Path
from so8t.params import load
from so8t.progress import run_dir
weight = load().pet.weight
out = Path("reports/metrics"); out.mkdir(parents=True, exist_ok=True)
(out / "evaluate-b-Q4_K_M.json").write_text(json.dumps({"test_iid": {"false_allow_rate": {"value": weight}, "macro_f1": 1 - weight}}))
(run_dir() / "progress").mkdir(parents=True, exist_ok=True)
(run_dir() / "progress/measure.jsonl").write_text(str(weight))
"""
GRAPH = """stages:
  measure:
    cmd: python measure.py
    params: [pet.lambda]
    metrics: [reports/metrics/evaluate-b-Q4_K_M.json: {cache: false}]
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    monkeypatch.delenv("SO8T_DATABASE", raising=False)
    shutil.copyfile(ROOT / "params.yaml", tmp_path / "params.yaml")
    (tmp_path / "measure.py").write_text(STAGE, encoding="utf-8")
    (tmp_path / "dvc.yaml").write_text(GRAPH, encoding="utf-8")
    for command in (
        ("git", "init", "-q", "-b", "main"),
        ("git", "config", "user.email", "t@example.invalid"),
        ("git", "config", "user.name", "t"),
        (sys.executable, "-m", "dvc", "init", "-q"),
    ):
        run(tmp_path, *command)
    (tmp_path / ".gitignore").write_text("/database/\n__pycache__/\n", encoding="utf-8")
    run(tmp_path, sys.executable, "-m", "dvc", "repro", "-q")
    run(tmp_path, "git", "add", "-A")
    run(tmp_path, "git", "commit", "-qm", "start")
    return tmp_path


def test_two_workers_give_what_one_run_after_another_gives(project: Path) -> None:
    values = ("0.01", "0.03", "0.1")  # none is the shipped one, whose result DVC has already
    said: list[str] = []
    sweep.work(sweep.enqueue("pet.lambda", values, project), 2, said.append, project)
    assert said[0] == "0 of 3 done"  # told while the workers are at work
    rows = sweep.results("pet.lambda", values, project)
    alone = []
    for value in values:
        run(
            project,
            sys.executable,
            "-m",
            "dvc",
            "exp",
            "run",
            "-q",
            "-f",
            "-S",
            f"pet.lambda={value}",
        )
        alone.append(
            json.loads(
                (project / "reports/metrics/evaluate-b-Q4_K_M.json").read_text(encoding="utf-8")
            )["test_iid"]["macro_f1"]
        )
    run(project, "git", "restore", "-SW", ".")
    assert [row["macro_f1"] for row in rows] == alone
    assert [row["false_allow_rate"] for row in rows] == [0.01, 0.03, 0.1]
    assert run(project, "git", "status", "--porcelain") == ""
    own = sorted((project / "database/experiments").glob("*/progress/measure.jsonl"))
    assert sorted(path.read_text(encoding="utf-8") for path in own) == sorted(
        values
    )  # three runs, three places
    sweep.write("pet.lambda", rows, project / "database/sweeps/pet.lambda")
    assert (project / "database/sweeps/pet.lambda/table.md").read_text(encoding="utf-8").count(
        "\n| 0."
    ) == 3
    assert (project / "database/sweeps/pet.lambda/plot.svg").stat().st_size > 1000


def test_an_unknown_key_is_refused_before_anything_is_queued(project: Path) -> None:
    from so8t.errors import ToolError

    with pytest.raises(ToolError, match="lamda"):
        sweep.enqueue("pet.lamda", ("1",), project)
