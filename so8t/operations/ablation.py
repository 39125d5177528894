"""`so8t ablation`: train each part of SO8T alone and together, several seeds each.

The parts are the SO(8) gate, PET (the curvature penalty on the gates' rotations) and the triality
heads; each arm of the ablation is one choice of them. The trainings go through DVC's experiment
queue. Only `train` and a probe of the adapter run (bench/ablation/probe.yaml). Data and base model
come from the cache, because the only seed that varies is `train.seed`.

Results are appended to bench/results/ablation.jsonl as they come, so an ablation that was stopped
goes on where it was, and a training that was killed goes on from its last checkpoint.
"""

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from so8t.errors import DataError, ParamsError, ToolError
from so8t.files import read_jsonl, sha256_tree
from so8t.operations.git import changed_files, dvc, git, object_at
from so8t.operations.sweep import POLL_S, Queue, keep_working, read_queue
from so8t.params import Params, load

# The probe's graph as git has it.
GRAPH = Path("bench/ablation/probe.yaml")
# The graph has the name that DVC reads only while the queue works.
PLACED = Path("bench/ablation/dvc.yaml")
TARGET = f"{PLACED}:probe"
FOUND = "bench/ablation/probe.json"
BASE = Path("models/base")
RESULTS = Path("bench/results/ablation.jsonl")
RESULT_KEYS = {"arm", "seed", "scale", "profile", "base_sha256"}
PROBE_SHARE = 0.15  # what the probe adds, as a share of a full training's time
# What running the ablation itself writes, and what its page is: changes there are expected.
OWN_OUTPUT = ("bench/results/", "reports/", "docs/ablation.md")

Report = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Arm:
    """One choice of what is trained.

    Attributes:
        title: its name in the tables.
        settings: the parameters that choose it, by their path in params.yaml.
    """

    title: str
    settings: dict[str, str]


# Every arm starts from LoRA alone and says what it adds.
_LORA = {
    "gates.enabled": "false",
    "heads.enabled": "false",
    "pet.lambda": "0.0",
    "train.adapter": "lora",
}
_GATE = {"gates.enabled": "true"}
_PET = {"pet.lambda": "0.05"}
_TRIALITY = {"heads.enabled": "true", "heads.mode": "triality"}
_PLAIN_HEADS = {"heads.enabled": "true", "heads.mode": "plain"}

ARMS: dict[str, Arm] = {
    "lora": Arm("LoRA only", _LORA),
    "gate": Arm("+ gate", _LORA | _GATE),
    "pet": Arm("+ PET", _LORA | _PET),
    "triality": Arm("+ triality heads", _LORA | _TRIALITY),
    "all": Arm("+ all three", _LORA | _GATE | _TRIALITY | _PET),
    "oft": Arm("PEFT OFT, block 8", _LORA | {"train.adapter": "oft"}),
    "plain": Arm("+ plain heads", _LORA | _PLAIN_HEADS),
}


@dataclass(frozen=True, slots=True)
class Run:
    """One training of the ablation.

    Attributes:
        arm: key of `ARMS`.
        seed: `train.seed`, from 1.
        scale: share of the profile's epochs.
    """

    arm: str
    seed: int
    scale: float

    @property
    def name(self) -> str:
        """The experiment's name."""
        share = ""
        if self.scale != 1.0:
            # Letters, digits and dashes only, as in a sweep's names.
            share = f"-x{self.scale:g}".replace(".", "-")
        return f"ablation-{self.arm}-s{self.seed}{share}"

    def settings(self, params: Params, threads: int) -> list[str]:
        """What `dvc exp run -S` takes for this run.

        Args:
            params: as they are in the project.
            threads: how many the training may use.

        Returns:
            `key=value` each; keys that the run does not name stay as they are.
        """
        changes = dict(ARMS[self.arm].settings)
        changes["train.seed"] = str(self.seed)
        changes["train.threads"] = str(threads)
        if self.scale != 1.0:
            epochs = params.train.epochs * self.scale
            changes["train.epochs"] = f"{epochs:g}"
        # What the profile sets is changed there: above it, the change would be hidden.
        return [f"{params.key_in_force(key)}={value}" for key, value in changes.items()]


def runs(arms: Sequence[str], seeds: int, scale: float) -> list[Run]:
    """Every arm with every seed, seed by seed: a stopped ablation is a whole one of fewer seeds.

    Args:
        arms: keys of `ARMS`.
        seeds: how many, from seed 1.
        scale: share of the profile's epochs.

    Raises:
        ParamsError: an arm that does not exist.
    """
    strange = [arm for arm in arms if arm not in ARMS]
    if strange:
        raise ParamsError(f"no arm {strange}", where="--arms", fix=f"choose from {', '.join(ARMS)}")
    wanted = []
    for seed in range(1, seeds + 1):
        wanted += [Run(arm, seed, scale) for arm in arms]
    return wanted


def known(root: Path, profile: str) -> dict[Run, dict[str, Any]]:
    """The results so far of a profile on one base; of two equal runs the newer result.

    The base is the one in models/base, or without it the base of the newest result. A result on
    another base is of another task: it stays in the file and is not mixed in.

    Args:
        root: the project's folder.
        profile: name of a profile of params.yaml.

    Returns:
        The lines of the results file, as objects, by run.
    """
    path = root / RESULTS
    if not path.is_file():
        return {}
    rows = []
    for line, row in read_jsonl(path):
        if not row.keys() >= RESULT_KEYS:
            raise DataError(
                f"a result without {', '.join(sorted(RESULT_KEYS - row.keys()))}",
                where=f"{path}:{line}",
                fix=f"remove the line, or git checkout {RESULTS}",
            )
        if row["profile"] == profile:
            rows.append(row)
    if not rows:
        return {}
    base = rows[-1]["base_sha256"]
    if (root / BASE).is_dir():
        base = sha256_tree(root / BASE)
    found = {}
    for row in rows:
        if row["base_sha256"] == base:
            found[Run(row["arm"], row["seed"], row["scale"])] = row
    return found


def estimate(count: int, scale: float, workers: int, root: Path = Path()) -> float | None:
    """How long the runs will take, by the longest whole training on this machine.

    Args:
        count: how many runs.
        scale: share of the profile's epochs.
        workers: how many run at a time.
        root: the project's folder.

    Returns:
        Seconds; None where there was no whole training yet.
    """
    log = root / "database" / "progress" / "train.jsonl"
    if not log.is_file():
        return None
    whole = []
    for _, row in read_jsonl(log):
        seconds = row.get("seconds")
        # Records may be of an older version; an estimate does without them.
        if row.get("event") == "end" and isinstance(seconds, int | float):
            whole.append(seconds)
    if not whole:
        return None
    longest: float = max(whole)
    return count * longest * (scale + PROBE_SHARE) / workers


def enqueue(
    wanted: Sequence[Run],
    params: Params,
    threads: int,
    report: Report,
    root: Path = Path(),
) -> None:
    """Queue what is neither queued nor running.

    What failed, or was left by a worker that died, is queued again.

    Args:
        wanted: runs without a result.
        params: as they are in the project.
        threads: how many each training may use.
        report: is told of every run that is queued.
        root: the project's folder.

    Raises:
        ToolError: DVC refused.
    """
    queue = read_queue([run.name for run in wanted], root)
    for run in wanted:
        state = queue.states.get(run.name)
        if state == "Running" and not queue.workers:
            # DVC goes on calling a task "Running" when its worker was killed.
            dvc("queue", "kill", "--force", run.name, root=root, check=False)
            state = "Failed"
        if state == "Failed":
            # DVC queues no second task of the same name.
            dvc("queue", "remove", run.name, root=root)
            state = None
        if state is None and commit_of(run, root) is None:
            _enqueue_one(run, run.settings(params, threads), root)
            report(f"queued {run.name}")


def _enqueue_one(run: Run, settings: list[str], root: Path) -> None:
    flags = []
    # One -S for each parameter.
    for pair in settings:
        flags += ["-S", pair]
    # --copy-paths, because the placed graph is not committed: DVC would leave it out.
    queued = ("exp", "run", "--queue", "--name", run.name, "--copy-paths", str(PLACED))
    dvc(*queued, *flags, TARGET, root=root)


def commit_of(run: Run, root: Path = Path()) -> str | None:
    """The commit of a finished experiment on the current revision."""
    head = git("rev-parse", "HEAD", root=root)
    # DVC keeps a finished experiment under the commit that it started from.
    pattern = f"refs/exps/{head[:2]}/{head[2:]}/{run.name}"
    found = git("for-each-ref", "--format=%(objectname)", pattern, root=root)
    return found or None


def collect(run: Run, profile: str, root: Path = Path()) -> bool:
    """Append a finished run's figures to the results file.

    Args:
        run: what may have finished.
        profile: name of the profile it ran with.
        root: the project's folder.

    Returns:
        False when the run has no figures yet; nothing is written then.
    """
    commit = commit_of(run, root)
    if commit is None:
        return False
    measured = object_at(commit, FOUND, root)
    if not measured:
        return False
    row = {
        "arm": run.arm,
        "seed": run.seed,
        "scale": run.scale,
        "profile": profile,
        "commit": git("rev-parse", "--short", "HEAD", root=root),
        "date": datetime.now(UTC).date().isoformat(),
        **measured,
    }
    path = root / RESULTS
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as out:
        out.write(json.dumps(row, ensure_ascii=False) + "\n")
    return True


def work(wanted: Sequence[Run], workers: int, report: Report, root: Path = Path()) -> None:
    """Run all that has no result yet; each result is written as it comes.

    Args:
        wanted: the whole ablation; runs that have a result are left out.
        workers: how many run at a time; they share the cores evenly.
        report: is told how far it is.
        root: the project's folder.

    Raises:
        ToolError: an experiment failed; the others have run.
    """
    params = load(root / "params.yaml")
    have = known(root, params.profile)
    left = []
    for run in wanted:
        if run not in have and not collect(run, params.profile, root):
            left.append(run)
    report(f"{len(wanted) - len(left)} of {len(wanted)} are there")
    if not left:
        return
    # Two trainings with all cores each would slow each other down.
    cores = os.cpu_count() or 1
    threads = max(1, cores // workers)
    with placed_graph(root):
        enqueue(left, params, threads, report, root)
        _wait(left, _Progress(len(wanted), len(left), report), params.profile, workers, root)


@contextmanager
def placed_graph(root: Path) -> Iterator[None]:
    """The probe's graph under the name that DVC reads, for as long as the block runs.

    Git must not ignore that file, or DVC refuses it. If it stayed, every `dvc status` of the
    project would show the probe.
    """
    shutil.copyfile(root / GRAPH, root / PLACED)
    try:
        yield
    finally:
        (root / PLACED).unlink(missing_ok=True)


class _Progress:
    """Says how many runs are done and how long the rest will take at the rate so far."""

    def __init__(self, total: int, left_at_first: int, report: Report) -> None:
        self._total = total
        self._left_at_first = left_at_first
        self._report = report
        self._began = time.monotonic()

    def say(self, done: list[Run], left: int) -> None:
        """Report the runs that were just done; `left` are still to come."""
        names = ", ".join(run.name for run in done)
        seconds = time.monotonic() - self._began
        seconds_each = seconds / (self._left_at_first - left)
        minutes = left * seconds_each / 60
        count = f"{self._total - left} of {self._total}"
        self._report(f"{count} done ({names}); about {minutes:.0f} min left")


def _wait(left: list[Run], progress: _Progress, profile: str, workers: int, root: Path) -> None:
    """Collect results until none is left.

    Raises:
        ToolError: nothing waits or runs any more, and some runs left no result.
    """
    while left:
        queue = read_queue([run.name for run in left], root)
        keep_working(queue, workers, root)
        time.sleep(POLL_S)
        done = [run for run in left if collect(run, profile, root)]
        left = [run for run in left if run not in done]
        if done:
            progress.say(done, len(left))
        stuck = _stuck(left, queue, profile, root)
        # While one still runs, wait: the others can be looked at afterwards.
        if left and len(stuck) == len(left):
            raise ToolError(
                f"failed: {', '.join(stuck)}",
                where="dvc queue",
                fix=f"dvc queue logs {stuck[0]}; then run this again",
            )


def _stuck(left: list[Run], queue: Queue, profile: str, root: Path) -> list[str]:
    """Names of the runs that are out of the queue and left no result."""
    stuck = []
    for run in left:
        at_work = queue.states.get(run.name) in ("Queued", "Running")
        # A run may have ended since the queue was read: it is stuck only if nothing came of it.
        if not at_work and not collect(run, profile, root):
            stuck.append(run.name)
    return stuck


def clean_for_queue(root: Path = Path()) -> None:
    """Refuse to start from uncommitted code, which the results could not be traced to.

    Raises:
        ToolError: tracked files differ from HEAD.
    """
    # What is beside the project in its repository, no training reads.
    expected = (*OWN_OUTPUT, "../")
    changed = [name for name in changed_files(root) if not name.startswith(expected)]
    if changed:
        raise ToolError(
            f"uncommitted changes: {', '.join(changed[:5])}",
            where="git",
            fix="commit them, results name a commit",
        )
