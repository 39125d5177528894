"""`so8t repro -j`: independent stages really run beside each other, alone ones alone, and dvc.lock is that of a serial run."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from so8t.errors import ResourceError, ToolError
from so8t.operations import parallel
from so8t.operations.parallel import Node, Work
from so8t.params import read_yaml
from tests.fakes.clone import run

ROOT = Path(__file__).parents[2]
# left and right each wait for the other to begin, so that one after the other could never finish; last must find nobody running
MEETS = """
import sys, time
from pathlib import Path
name, other = sys.argv[1:]
Path("here").mkdir(exist_ok=True)
(Path("here") / name).touch()
for _ in range(600):
    if (Path("here") / other).exists():
        break
    time.sleep(0.05)
else:
    sys.exit(f"{name}: {other} never began")
Path(name).write_text(Path("first").read_text())
"""
GRAPH = """stages:
  first: {cmd: echo one > first, deps: [seed], outs: [first]}
  left: {cmd: python meets.py left right, deps: [first], outs: [left]}
  right: {cmd: python meets.py right left, deps: [first], outs: [right]}
  last: {cmd: cat left right > last, deps: [left, right], outs: [last], meta: {alone: true}}
"""


def make(folder: Path, graph: str) -> Path:
    folder.mkdir(parents=True)
    (folder / "meets.py").write_text(MEETS, encoding="utf-8")
    (folder / "seed").write_text("1", encoding="utf-8")
    (folder / "dvc.yaml").write_text(graph, encoding="utf-8")
    for command in (
        ("git", "init", "-q", "-b", "main"),
        ("git", "config", "user.email", "t@example.invalid"),
        ("git", "config", "user.name", "t"),
        (sys.executable, "-m", "dvc", "init", "-q"),
    ):
        run(folder, *command)
    return folder


@pytest.fixture(autouse=True)
def interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")


@pytest.mark.slow
def test_branches_run_beside_each_other_and_the_lock_is_the_serial_one(tmp_path: Path) -> None:
    folder, said = make(tmp_path / "parallel", GRAPH), []
    assert parallel.repro(2, said.append, folder) == 4
    serial = make(tmp_path / "serial", GRAPH)
    (serial / "here").mkdir()
    for name in ("left", "right"):
        (serial / "here" / name).touch()
    run(serial, sys.executable, "-m", "dvc", "repro", "-q")
    assert read_yaml(folder / "dvc.lock") == read_yaml(serial / "dvc.lock")
    assert parallel.repro(2, said.append, folder) == 0
    (folder / "left").unlink()
    assert set(parallel.stale(parallel.graph(folder), folder)) == {"left", "last"}


@pytest.mark.slow
def test_what_does_not_need_a_failed_stage_still_runs(tmp_path: Path) -> None:
    graph = """stages:
  bad: {cmd: "false", outs: [bad]}
  below: {cmd: cp bad below, deps: [bad], outs: [below]}
  good: {cmd: echo 1 > good, outs: [good]}
"""
    folder = make(tmp_path / "clone", graph)
    with pytest.raises(ToolError, match="failed: bad\n"):
        parallel.repro(2, lambda _said: None, folder)
    assert (folder / "good").is_file()
    assert not (folder / "below").exists()


@pytest.mark.slow
def test_sigterm_reaches_the_stages_and_leaves_with_143(tmp_path: Path) -> None:
    graph = """stages:
  long: {cmd: python waits.py, outs: [long]}
"""
    folder = make(tmp_path / "clone", graph)
    (folder / "waits.py").write_text(
        "import signal, sys, time\nfrom pathlib import Path\n"
        "signal.signal(signal.SIGTERM, lambda *_: (Path('told').touch(), sys.exit(143)))\n"
        "Path('began').touch()\ntime.sleep(60)\n",
        encoding="utf-8",
    )
    (folder / "params.yaml").write_text(
        (ROOT / "params.yaml").read_text(encoding="utf-8"), encoding="utf-8"
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "so8t.cli", "repro", "-j", "1"],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    while not (folder / "began").exists() and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=60)[0].decode()
    assert process.returncode == 143, said
    assert (folder / "told").exists(), said


def test_a_stage_that_must_be_alone_waits_for_the_others_and_they_for_it() -> None:
    free, alone = Node(frozenset(), False), Node(frozenset(), True)
    work = Work({"a": free, "x": alone, "b": free})
    work.running.add("a")
    assert work.ready(2) == "b"
    work.running.add("b")
    assert work.ready(3) is None  # x must wait
    work.ended("a", well=True)
    work.ended("b", well=True)
    assert work.ready(2) == "x"
    work.todo["c"] = free
    work.running.add("x")
    assert work.ready(2) is None


def test_a_failed_stage_takes_all_below_it_along() -> None:
    work = Work(
        {
            "a": Node(frozenset(), False),
            "b": Node(frozenset({"a"}), False),
            "c": Node(frozenset({"b"}), False),
            "d": Node(frozenset(), False),
        }
    )
    work.running.add("a")
    work.ended("a", well=False)
    assert (list(work.todo), work.failed) == (["d"], ["a"])


def test_more_stages_than_the_cores_carry_are_refused() -> None:
    with pytest.raises(ResourceError, match="do not fit") as caught:
        parallel.limit(10_000, 1)
    assert caught.value.fix.startswith("so8t repro -j ")
    assert parallel.limit(1, 10_000) == 1
