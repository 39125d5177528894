"""The train stage, killed with SIGKILL at seeded random moments until it is done, writes the bytes of an undisturbed run.

The process is the one that DVC starts (`python stages/train.py`). Moments: while it starts, some steps in and a random part
of a step later, and at the first sight of a half-written checkpoint.
"""

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from so8t.files import sha256_file, sha256_tree
from tests.fakes.tuning import ROOT, params, prepared, tiny_base

pytestmark = [
    pytest.mark.parity,
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL"),
]
SETTINGS = {
    "train.lora_dropout": 0.1,
    "train.batch_size": 2,
    "train.save_steps": 2,
    "train.keep": 3,
    "train.valid_steps": 10,
    "train.epochs": 4.0,
}
STEPS = 48  # 24 rows, 2 a step, 4 epochs
KILLS = 5  # twenty, through DVC: tests/pipeline/test_killed_training.py
LIMIT_S = 300.0  # for one attempt, on a machine that is busy


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    from ruamel.yaml import YAML

    root = tmp_path_factory.mktemp("kill")
    tiny_base(root / "base", "phi3")
    prepared(root / "prepared")
    with (root / "params.yaml").open("w", encoding="utf-8") as out:
        YAML().dump(params(**SETTINGS).model_dump(by_alias=True), out)
    return root


def start(place: Path, folder: Path) -> subprocess.Popen[bytes]:
    folder.mkdir(exist_ok=True)
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "SO8T_DATABASE": str(folder / "database"),
        "OMP_NUM_THREADS": "1",
    }
    command = [
        sys.executable,
        str(ROOT / "stages/train.py"),
        "base",
        "prepared",
        str(folder / "adapter"),
        "--log",
        str(folder / "log.csv"),
    ]
    with (folder / "said").open("ab") as said:
        return subprocess.Popen(command, cwd=place, env=environment, stdout=said, stderr=said)


def steps_done(folder: Path) -> int:
    log = folder / "database/progress/train.jsonl"
    whole = log.read_text(encoding="utf-8").splitlines() if log.is_file() else []
    return sum(json.loads(line)["event"] == "step" for line in whole if line.endswith("}"))


def saving(folder: Path) -> bool:
    return any((folder / "database/checkpoints").rglob(".step-*.part"))


def kill_once(place: Path, folder: Path, choose: random.Random) -> str:
    """One attempt, killed at a moment of `choose`; says at which, or that it ended first."""
    kind = choose.choice(["start", "step", "step", "save", "save"])
    wait, more, before = choose.uniform(0.0, 3.0), choose.randint(1, 6), steps_done(folder)
    delay, began = choose.uniform(0.0, 0.1), time.monotonic()
    process = start(place, folder)
    try:
        while process.poll() is None and time.monotonic() - began < LIMIT_S:
            if kind == "start" and time.monotonic() - began > wait:
                break
            if kind == "step" and steps_done(folder) >= before + more:
                time.sleep(delay)
                break
            if kind == "save" and saving(folder) and steps_done(folder) > before:
                break
            time.sleep(0.0005 if kind == "save" else 0.005)
        ended = process.poll()
        half = saving(folder)
    finally:
        process.kill()
        process.wait()
    assert ended in (None, 0), (folder / "said").read_text(encoding="utf-8", errors="replace")[
        -2000:
    ]
    return (
        "done"
        if ended == 0
        else f"{kind}{' (half-written)' if half else ''} at {steps_done(folder)}"
    )


def digests(folder: Path) -> tuple[str, str]:
    return sha256_tree(folder / "adapter"), sha256_file(folder / "log.csv")


@pytest.fixture(scope="module")
def undisturbed(place):
    process = start(place, place / "whole")
    assert process.wait(LIMIT_S) == 0, (place / "whole/said").read_text(
        encoding="utf-8", errors="replace"
    )[-2000:]
    assert steps_done(place / "whole") == STEPS
    return digests(place / "whole")


def test_a_stage_that_is_killed_again_and_again_ends_with_the_same_bytes(
    place, undisturbed, tmp_path
):
    choose, moments = random.Random(1), []
    for _ in range(KILLS):
        moments.append(kill_once(place, tmp_path / "run", choose))
    process = start(place, tmp_path / "run")
    assert process.wait(LIMIT_S) == 0, (tmp_path / "run/said").read_text(
        encoding="utf-8", errors="replace"
    )[-2000:]
    assert digests(tmp_path / "run") == undisturbed, moments
    assert sum(moment != "done" for moment in moments) >= KILLS // 2, (
        moments
    )  # it was really killed
    assert any("half-written" in moment for moment in moments), moments
