"""Training under `dvc repro`, killed with SIGKILL at twenty random moments: each time the next `dvc repro` ends with the same weights."""

import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from so8t.files import sha256_file, sha256_tree
from tests.pipeline.chaos import environment
from tests.pipeline.conftest import REDUCED, copy_of_project, runner

pytestmark = [pytest.mark.pipeline, pytest.mark.nightly]
SMALL = REDUCED | {
    "synthesize.rows": 400,
    "train.epochs": 5.0,
    "train.save_steps": 2,
    "train.lora_dropout": 0.1,
}
KILLS = 20
LIMIT_S = 300.0


def digests(root: Path) -> tuple[str, str]:
    return sha256_tree(root / "models/adapter"), sha256_file(root / "data/train_log.csv")


def half_written(root: Path) -> bool:
    return any((root / "database/checkpoints").rglob(".step-*.part"))


def kill_once(root: Path, whole_s: float, choose: random.Random) -> str:
    """Start `dvc repro train` and kill it and its stage together; says what was left behind."""
    in_a_save, moment = choose.random() < 0.4, choose.uniform(0.0, 0.95) * whole_s
    began = time.monotonic()
    process = subprocess.Popen(
        ["dvc", "repro", "train"],
        cwd=root,
        env=environment(root),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    while process.poll() is None and time.monotonic() - began < LIMIT_S:
        if time.monotonic() - began > moment and (not in_a_save or half_written(root)):
            break
        time.sleep(0.0005)
    ended = process.poll()
    if ended is None:
        os.killpg(process.pid, signal.SIGKILL)
    said = process.communicate()[0].decode(errors="replace")
    assert ended in (None, 0), said[-3000:]
    steps = sorted(p.name for p in (root / "database/checkpoints/train").glob("*/step-*"))
    return (
        "finished before"
        if ended == 0
        else f"killed, {'half a checkpoint and ' * half_written(root)}{steps[-1:] or 'no checkpoint'} left"
    )


def test_every_next_repro_ends_with_the_same_weights(tmp_path: Path) -> None:
    root, choose = copy_of_project(tmp_path / "project", SMALL), random.Random(4)
    run = runner(root)
    run("dvc", "repro", "base")
    untrained = (root / "dvc.lock").read_bytes()
    began = time.monotonic()
    run("dvc", "repro", "train")
    whole_s, wanted, moments = time.monotonic() - began, digests(root), []
    for number in range(KILLS):
        for known in (
            "database/checkpoints",
            "models/adapter",
            ".dvc/cache/runs",
        ):  # as never trained
            shutil.rmtree(root / known, ignore_errors=True)
        (root / "dvc.lock").write_bytes(untrained)
        moments.append(kill_once(root, whole_s, choose))
        run("dvc", "repro", "train")
        assert digests(root) == wanted, (number, moments)
        print(moments[-1], flush=True)
    assert sum(moment.startswith("killed") for moment in moments) >= KILLS * 3 // 4, moments
    assert any("half a checkpoint" in moment for moment in moments), moments
    assert sum("step-" in moment for moment in moments) >= KILLS // 4, (
        moments
    )  # there was something to resume from
