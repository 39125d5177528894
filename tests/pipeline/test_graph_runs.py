"""The whole graph under DVC: it finishes, knows what to run again, and fails in the documented way."""

import json
import re
from pathlib import Path

import pytest

from tests.pipeline.conftest import REDUCED, copy_of_project, reduce_params, runner

pytestmark = pytest.mark.pipeline


def stages_run(text: str) -> list[str]:
    return re.findall(r"Running stage '([^']+)'", text)


def test_the_graph_leaves_a_report_a_release_and_a_card(project: Path) -> None:
    for name in (
        "reports/report.md",
        "reports/report.json",
        "reports/report.html",
        "reports/metrics/ab.json",
        "models/release/card.json",
    ):
        assert (project / name).is_file(), name
    card = json.loads((project / "models/release/card.json").read_text())
    assert card["status"] in {"certified", "not_certified"}


def test_a_second_repro_runs_nothing(project: Path) -> None:
    done = runner(project)("dvc", "repro")
    assert stages_run(done.stdout) == []


def test_a_changed_readme_runs_nothing(project: Path) -> None:
    (project / "README.md").write_text("changed", encoding="utf-8")
    assert stages_run(runner(project)("dvc", "repro", "--dry").stdout) == []
    runner(project)("git", "checkout", "README.md")


def test_a_changed_line_in_rotation_runs_train_and_later_alone(project: Path) -> None:
    path = project / "so8t/rotation.py"
    path.write_text(path.read_text(encoding="utf-8") + "\nCHANGED = True\n", encoding="utf-8")
    dirty = {
        stage.split("@")[0] for stage in stages_run(runner(project)("dvc", "repro", "--dry").stdout)
    }
    runner(project)("git", "checkout", "so8t/rotation.py")
    assert {"train", "bake"} <= dirty
    assert not dirty & {"synthesize", "prepare", "base"}


def test_an_experiment_with_another_lambda_runs_train_and_what_follows(project: Path) -> None:
    done = runner(project)("dvc", "exp", "run", "-S", "pet.lambda=0.08", "--name", "stronger")
    ran = {stage.split("@")[0] for stage in stages_run(done.stdout)}
    assert "train" in ran
    assert not ran & {"synthesize", "prepare", "base"}
    assert not any(
        stage.startswith(("convert@a", "score@a", "quantize@a"))
        for stage in stages_run(done.stdout)
    )
    table = runner(project)("dvc", "exp", "show", "--csv").stdout
    assert "stronger" in table
    assert "0.08" in table
    runner(project)("git", "checkout", ".")
    runner(project)("dvc", "checkout")


def test_another_alpha_runs_no_model(project: Path) -> None:
    done = runner(project)("dvc", "exp", "run", "-S", "calibration.alpha=0.2")
    ran = {stage.split("@")[0] for stage in stages_run(done.stdout)}
    assert "calibrate" in ran
    assert not ran & {
        "synthesize",
        "prepare",
        "train",
        "score",
        "base",
        "bake",
        "convert",
        "quantize",
        "verify",
        "generate",
    }
    runner(project)("git", "checkout", ".")
    runner(project)("dvc", "checkout")


def test_two_runs_from_clean_give_the_same_digests(project: Path, tmp_path: Path) -> None:
    from so8t.params import read_yaml

    second = copy_of_project(tmp_path / "again", REDUCED)
    runner(second)("dvc", "repro", "quantize", "bake")
    first = read_yaml(project / "dvc.lock")["stages"]
    again = read_yaml(second / "dvc.lock")["stages"]
    for name in again:
        assert first[name]["outs"] == again[name]["outs"], name


@pytest.mark.parametrize(
    ("change", "code", "says"),
    [
        ({"calibration.alpha": 7}, 3, "calibration.alpha"),
        (
            {
                "data.sources": [
                    {"path": "data/examples/missing.jsonl", "weight": 1.0, "use": "auto"}
                ]
            },
            4,
            "missing.jsonl",
        ),
        (
            {
                "base.kind": "local",
                "base.path": "models/nowhere",
                "scratch": None,
            },
            5,
            "base model not found",
        ),
    ],
)
def test_a_mistake_gives_one_clear_message_and_its_exit_code(
    tmp_path: Path, change: dict, code: int, says: str
) -> None:
    broken = copy_of_project(tmp_path / "broken", {})
    run = runner(broken)
    run("python", "stages/synthesize.py", "data/raw/synthetic.jsonl")
    (broken / "data/prepared").mkdir(parents=True, exist_ok=True)
    (broken / "data/prepared/train.jsonl").write_text("{}\n", encoding="utf-8")
    reduce_params(broken / "params.yaml", change)
    command = (
        ["stages/base.py", "data/prepared/train.jsonl", "models/base"]
        if code == 5
        else [
            "stages/prepare.py",
            "data/out",
            "--metrics",
            "reports/m.json",
            "--page",
            "reports/p.md",
            "--plots",
            "reports/p",
        ]
    )
    done = run("python", *command, check=False)
    assert done.returncode == code, done.stderr
    assert says in done.stderr
    assert "fix:" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (broken / "data/out").exists()
    assert not (broken / "models/base").exists()
