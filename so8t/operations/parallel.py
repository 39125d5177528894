"""`so8t repro -j N`: run the stages that are out of date, up to N independent ones at a time.

DVC runs one stage after another, and two whole `dvc repro` collide on the first stage that both
want ("is busy"). Single stages (`dvc repro -s`) do not collide: DVC gives the repository's lock
back while a command runs, `--wait-for-lock` waits for it before and after, and independent stages
write different outputs.

A stage whose `meta` says `alone: true` (it fills the cores itself, or measures time) has the
machine for itself, and its output is shown as it comes. What runs beside others is shown when it
ends.

Covered: the graph of one dvc.yaml. Not covered: a graphics card per stage, other machines, memory
(two files of a large model are loaded at once: see `so8t plan`).
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
from so8t.operations.git import dvc, opened
from so8t.operations.machine import cores_here
from so8t.operations.store import require_no_conflict
from so8t.params import read_yaml

Report = Callable[[str], None]
Children = set[subprocess.Popen[str]]


@dataclass(frozen=True, slots=True)
class Node:
    """One stage of the graph.

    Attributes:
        needs: stages whose outputs it reads.
        alone: whether nothing may run beside it.
    """

    needs: frozenset[str]
    alone: bool


@dataclass(slots=True)
class Work:
    """What is still to be done.

    Attributes:
        todo: the stages that are not done, in the graph's order; those that run now are among them.
            A stage that needs a failed one is taken out.
        running: names of the stages that run now.
        failed: names of the stages that failed.
    """

    todo: dict[str, Node]
    running: set[str] = field(default_factory=set)
    failed: list[str] = field(default_factory=list)

    def ready(self, jobs: int) -> str | None:
        """The next stage that may start now.

        Args:
            jobs: how many may run at a time.

        Returns:
            None when no stage may start now.
        """
        if len(self.running) >= jobs:
            return None
        if any(self.todo[name].alone for name in self.running):
            return None
        for name, node in self.todo.items():
            if name in self.running or node.needs & self.todo.keys():
                continue
            # It waits until the others have ended.
            if node.alone and self.running:
                continue
            return name
        return None

    def ended(self, name: str, *, well: bool) -> None:
        """Note how a stage ended; what needs a failed one is given up."""
        self.running.discard(name)
        # Out of `todo`, so that what needs it may start.
        self.todo.pop(name)
        if well:
            return
        self.failed.append(name)
        lost = _with_all_after({name}, self.todo)
        self.todo = {other: node for other, node in self.todo.items() if other not in lost}


def _with_all_after(names: set[str], nodes: Mapping[str, Node]) -> set[str]:
    """These stages and all that need one of them, directly or not."""
    found = set(names)
    while True:
        more = {name for name, node in nodes.items() if node.needs & found}
        if more <= found:
            return found
        found |= more


def limit(jobs: int, threads: int) -> int:
    """Refuse more stages at a time than the cores carry.

    Args:
        jobs: how many stages are wanted at a time.
        threads: how many threads each of them uses.

    Returns:
        `jobs`.

    Raises:
        ResourceError: the cores are too few. llama.cpp's threads spin while they wait, so too many
            of them cost more than they bring.
    """
    cores = cores_here()
    if jobs > 1 and jobs * threads > cores:
        raise ResourceError(
            f"{jobs} stages of {threads} threads do not fit on {cores} cores",
            where="so8t repro",
            fix=f"so8t repro -j {max(1, cores // threads)} (scoring.threads is {threads})",
        )
    return jobs


def graph(root: Path = Path()) -> dict[str, Node]:
    """Every stage of the project, as DVC resolves it.

    Returns:
        Stages by name, in DVC's order. Stages that dvc.yaml repeats have names like
        `score@b-Q4_K_M`.
    """
    nodes = {}
    with opened(root) as repo:
        edges = repo.index.graph
        for stage in repo.index.stages:
            # In DVC's graph an edge leads from a stage to what it needs.
            needs = frozenset(_name(other) for other in edges.successors(stage))
            meta = stage.meta or {}
            nodes[_name(stage)] = Node(needs, bool(meta.get("alone")))
    return nodes


def _name(stage: Any) -> str:
    """As `dvc status` prints it in the project's root, wherever we are."""
    # Only stages of a dvc.yaml have names; those of single .dvc files are called by their path.
    return str(getattr(stage, "name", None) or stage.path_in_repo)


def stale(nodes: Mapping[str, Node], root: Path = Path()) -> dict[str, Node]:
    """Stages that `dvc status` calls changed, and all that need them.

    Args:
        nodes: the whole graph.
        root: the project's folder.

    Returns:
        The part of `nodes` that must run, in the same order.
    """
    # DVC names the changed stages only, not those that follow from them.
    status = dvc("status", "--json", root=root).stdout or b"{}"
    changed = _with_all_after(set(json.loads(status)) & nodes.keys(), nodes)
    return {name: node for name, node in nodes.items() if name in changed}


def repro(jobs: int, report: Report, root: Path = Path()) -> int:
    """Run what is out of date.

    Args:
        jobs: stages at a time.
        report: is given each stage's output, or one line where it was shown already.
        root: the project's folder.

    Returns:
        How many stages were out of date.

    Raises:
        ArtifactError: a merge left its markers in dvc.lock.
        ParamsError: dvc.yaml is not YAML, or a merge left its markers in it.
        ToolError: a stage failed; what does not need it has run.
        Interrupted: SIGINT or SIGTERM, which was passed on to the stages.
    """
    # DVC would say of a merge's markers that they are no YAML.
    require_no_conflict(root)
    read_yaml(root / "dvc.yaml")
    work = Work(stale(graph(root), root))
    count = len(work.todo)
    # Threads, because each of them only waits for a process.
    with _children() as children, futures.ThreadPoolExecutor(max(1, jobs)) as pool:
        pending: dict[futures.Future[int], str] = {}
        while work.todo:
            while (name := work.ready(jobs)) is not None:
                work.running.add(name)
                # With one job, or alone, there is no other output that it could mix with.
                streamed = work.todo[name].alone or jobs == 1
                started = pool.submit(_run, name, children, report, root, streamed=streamed)
                pending[started] = name
            for future in futures.wait(pending, return_when=futures.FIRST_COMPLETED).done:
                work.ended(pending.pop(future), well=future.result() == 0)
    if work.failed:
        raise ToolError(
            f"failed: {', '.join(work.failed)}",
            where="so8t repro",
            fix="its message is above; then the same command again",
        )
    return count


def _run(name: str, children: Children, report: Report, root: Path, *, streamed: bool) -> int:
    """Run one stage.

    Args:
        name: of the stage.
        children: holds the process while it runs, so that a signal can be passed on.
        report: is given the output when the stage ends.
        root: the project's folder.
        streamed: show the output as it comes instead.

    Returns:
        Its exit code.
    """
    output = None if streamed else subprocess.PIPE
    errors = None if streamed else subprocess.STDOUT
    # A waiting OpenMP thread that spins takes a core from the stages beside it.
    wait_policy = os.environ.get("OMP_WAIT_POLICY", "passive")
    process = subprocess.Popen(
        (sys.executable, "-m", "dvc", "--wait-for-lock", "repro", "-s", name),
        cwd=root,
        stdout=output,
        stderr=errors,
        text=True,
        # A group of its own, so that a signal reaches the stage and not DVC alone.
        start_new_session=True,
        env=os.environ | {"OMP_WAIT_POLICY": wait_policy},
    )
    children.add(process)
    said, _ = process.communicate()
    children.discard(process)
    # A streamed stage has shown its output itself.
    report(said.rstrip() if said else f"{name}: exit code {process.returncode}")
    return process.returncode


@contextmanager
def _children() -> Iterator[Children]:
    """The running children; SIGINT and SIGTERM are passed on to them and end the run."""
    children: Children = set()

    def stop(number: int, _frame: object) -> None:
        # A copy: the threads take ended children out meanwhile.
        for child in list(children):
            # Windows has no process groups.
            if hasattr(os, "killpg"):
                os.killpg(child.pid, number)
            else:
                child.terminate()
        # Python runs handlers in the main thread, so this ends `repro`.
        raise Interrupted(
            number,
            "stopped; the stages were told",
            fix="run the same command again: training resumes",
        )

    # Put back afterwards: tests and other commands have handlers of their own.
    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield children
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
