"""`so8t repro -j N`: the stages that are out of date, up to N independent ones at a time, each through `dvc repro -s`.

DVC runs one stage after another, and two whole `dvc repro` collide on the first stage that both want ("is busy"). Single
stages do not: DVC gives the repository's lock back while a command runs, `--wait-for-lock` waits for it before and after, and
independent stages write different outputs. A stage whose `meta` says `alone: true` (it fills the cores itself, or measures time) has
the machine for itself, and its output is shown as it comes; what runs beside others is shown when it ends.
Covered: the graph of one dvc.yaml. Not covered: a graphics card per stage, other machines, memory (two files of a large model are
loaded at once: see `so8t plan`).
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent import futures
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from so8t.errors import Interrupted, ResourceError, ToolError
from so8t.operations.git import dvc

Report = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Node:
    """One stage: what it needs first, and whether it must run alone."""

    needs: frozenset[str]
    alone: bool


@dataclass(slots=True)
class Work:
    """What is to be done, runs now, is done, failed or is not tried because something before it failed."""

    todo: dict[str, Node]
    running: set[str] = field(default_factory=set)
    failed: list[str] = field(default_factory=list)

    def ready(self, jobs: int) -> str | None:
        """The next stage that may start now."""
        if len(self.running) >= jobs or any(self.todo[name].alone for name in self.running):
            return None
        free = (
            n
            for n, node in self.todo.items()
            if n not in self.running
            and not node.needs & self.todo.keys()
            and not (node.alone and self.running)
        )
        return next(free, None)

    def ended(self, name: str, *, well: bool) -> None:
        """Note how a stage ended; what needs a failed one is given up."""
        self.running.discard(name)
        self.todo.pop(name)
        if well:
            return
        self.failed.append(name)
        lost = {name}
        while more := {n for n, node in self.todo.items() if node.needs & lost} - lost:
            lost |= more
        self.todo = {n: node for n, node in self.todo.items() if n not in lost}


def limit(jobs: int, threads: int) -> int:
    """`jobs`, if the cores carry that many stages of `threads` threads.

    Raises:
        ResourceError: they do not; llama.cpp's threads spin while they wait, so too many cost more than they bring.
    """
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    if jobs > 1 and jobs * threads > cores:
        raise ResourceError(
            f"{jobs} stages of {threads} threads do not fit on {cores} cores",
            where="so8t repro",
            fix=f"so8t repro -j {max(1, cores // threads)} (scoring.threads is {threads})",
        )
    return jobs


def graph(root: Path = Path()) -> dict[str, Node]:
    """Every stage of the project, as DVC resolves it."""
    from dvc.repo import Repo

    with Repo(str(root)) as repo:
        edges = repo.index.graph
        return {
            _name(stage): Node(
                frozenset(map(_name, edges.successors(stage))),
                bool((stage.meta or {}).get("alone")),
            )
            for stage in repo.index.stages
        }


def _name(stage: Any) -> str:
    """As `dvc status` prints it in the project's root, wherever we are."""
    return str(getattr(stage, "name", None) or stage.path_in_repo)


def stale(nodes: Mapping[str, Node], root: Path = Path()) -> dict[str, Node]:
    """Stages that `dvc status` calls changed, and all that comes after them, in the graph's order."""
    changed = set(json.loads(dvc("status", "--json", root=root).stdout or "{}")) & nodes.keys()
    while more := {name for name, node in nodes.items() if node.needs & changed} - changed:
        changed |= more
    return {name: node for name, node in nodes.items() if name in changed}


def repro(jobs: int, report: Report, root: Path = Path()) -> int:
    """Run what is out of date; return how many stages that was.

    Raises:
        ToolError: a stage failed; what does not need it has run.
        Interrupted: SIGINT or SIGTERM, which was passed on to the stages.
    """
    work = Work(stale(graph(root), root))
    count = len(work.todo)
    with _children() as children, futures.ThreadPoolExecutor(max(1, jobs)) as pool:
        pending: dict[futures.Future[int], str] = {}
        while work.todo:
            while (name := work.ready(jobs)) is not None:
                work.running.add(name)
                pending[
                    pool.submit(
                        _stage,
                        name,
                        children,
                        report,
                        root,
                        streamed=work.todo[name].alone or jobs == 1,
                    )
                ] = name
            for future in futures.wait(pending, return_when=futures.FIRST_COMPLETED).done:
                work.ended(pending.pop(future), well=future.result() == 0)
    if work.failed:
        raise ToolError(
            f"failed: {', '.join(work.failed)}",
            where="so8t repro",
            fix="its message is above; then the same command again",
        )
    return count


def _stage(
    name: str, children: set[subprocess.Popen[str]], report: Report, root: Path, *, streamed: bool
) -> int:
    """One `dvc repro -s`, in a group of its own so that a signal reaches the stage and not DVC alone; its exit code."""
    pipe = None if streamed else subprocess.PIPE
    process = subprocess.Popen(
        (sys.executable, "-m", "dvc", "--wait-for-lock", "repro", "-s", name),
        cwd=root,
        stdout=pipe,
        text=True,
        stderr=None if streamed else subprocess.STDOUT,
        start_new_session=True,
        env=os.environ | {"OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "passive")},
    )
    children.add(process)
    said, _ = process.communicate()
    children.discard(process)
    report(said.rstrip() if said else f"{name}: exit code {process.returncode}")
    return process.returncode


@contextmanager
def _children() -> Iterator[set[subprocess.Popen[str]]]:
    """The running children; SIGINT and SIGTERM are passed on to them and end the run."""
    children: set[subprocess.Popen[str]] = set()

    def stop(number: int, _frame: object) -> None:
        for child in list(children):
            if hasattr(os, "killpg"):
                os.killpg(child.pid, number)
            else:
                child.terminate()
        raise Interrupted(
            number,
            "stopped; the stages were told",
            fix="run the same command again: training resumes",
        )

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield children
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
