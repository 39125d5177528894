"""A sweep of the real graph through DVC's queue, two workers, is three runs one after another, and leaves nothing behind."""

import shutil
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from so8t.operations import sweep
from tests.pipeline.conftest import Run, runner

pytestmark = [pytest.mark.pipeline, pytest.mark.nightly]
VALUES = ("0.01", "0.03", "0.1")  # none is the shipped one, whose result is there already
SAME = (
    "train",
    "bake",
    "convert@b",
    "quantize@b-",
    "score@b-",
    "calibrate@b-",
)  # later stages also hold times


def copied(project: Path, folder: Path) -> tuple[Path, Run]:
    shutil.copytree(project, folder, symlinks=True)
    return folder, runner(folder)


def outs(root: Path, name: str) -> dict[str, str]:
    """Digests of what an experiment's stages made, from the dvc.lock in its commit."""
    ref = runner(root)(
        "git", "for-each-ref", "--format=%(refname)", f"refs/exps/**/{name}"
    ).stdout.split()[0]
    stages = YAML(typ="safe").load(runner(root)("git", "show", f"{ref}:dvc.lock").stdout)["stages"]
    return {
        out["path"]: out["md5"]
        for stage, held in stages.items()
        if stage.startswith(SAME)
        for out in held["outs"]
    }


def test_two_workers_make_what_one_run_after_another_makes(project: Path, tmp_path: Path) -> None:
    alone, run_alone = copied(project, tmp_path / "alone")
    for value in VALUES:
        run_alone(
            "dvc",
            "exp",
            "run",
            "-q",
            "-n",
            sweep.name_of("pet.lambda", value),
            "-S",
            f"pet.lambda={value}",
        )
    swept, run_swept = copied(project, tmp_path / "swept")
    before = sorted(p.name for p in swept.iterdir())
    said = run_swept("so8t", "sweep", "pet.lambda", *VALUES, "--workers", "2").stdout
    assert said.count("\n| 0.") == len(VALUES), said
    assert sweep.results("pet.lambda", VALUES, swept) == sweep.results("pet.lambda", VALUES, alone)
    made = {value: outs(swept, sweep.name_of("pet.lambda", value)) for value in VALUES}
    assert made == {value: outs(alone, sweep.name_of("pet.lambda", value)) for value in VALUES}
    assert len({one["models/adapter"] for one in made.values()}) == len(VALUES)
    assert run_swept("git", "status", "--porcelain").stdout == ""
    assert sorted(p.name for p in swept.iterdir()) == before
    assert not list((swept / ".dvc/tmp/exps").glob("tmp*"))
    run_swept("dvc", "exp", "apply", sweep.name_of("pet.lambda", "0.03"))
    assert "lambda: 0.03" in (swept / "params.yaml").read_text(encoding="utf-8")
    run_swept("so8t", "gate", check=False)
