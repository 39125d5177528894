"""`so8t ablation`: each part of training alone and together, several seeds each, through DVC's experiment queue.

Only `train` and a probe of the adapter run (bench/ablation/probe.yaml); data and base come from the cache, because the seed that
varies is `train.seed`. Results are appended to bench/results/ablation.jsonl as they come, so that a stopped ablation goes on
where it was; a training that was killed goes on from its last checkpoint.
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

from so8t.errors import ParamsError, ToolError
from so8t.files import read_jsonl, sha256_tree
from so8t.operations.git import call, dvc, file_at, git
from so8t.operations.sweep import POLL_S, keep_working, look
from so8t.params import Params, load

GRAPH, PLACED = (
    Path("bench/ablation/probe.yaml"),
    Path("bench/ablation/dvc.yaml"),
)  # under DVC's name only while the queue works
TARGET = f"{PLACED}:probe"
FOUND = "bench/ablation/probe.json"
BASE = Path("models/base")
RESULTS = Path("bench/results/ablation.jsonl")
PROBE_SHARE = 0.15  # of a full training's time
LORA = {
    "gates.enabled": "false",
    "heads.enabled": "false",
    "pet.lambda": "0.0",
    "train.adapter": "lora",
}
ARMS: dict[str, tuple[str, dict[str, str]]] = {
    "lora": ("LoRA only", LORA),
    "gate": ("+ gate", LORA | {"gates.enabled": "true"}),
    "pet": ("+ PET", LORA | {"pet.lambda": "0.05"}),
    "triality": ("+ triality heads", LORA | {"heads.enabled": "true", "heads.mode": "triality"}),
    "all": (
        "+ all three",
        LORA
        | {
            "gates.enabled": "true",
            "heads.enabled": "true",
            "heads.mode": "triality",
            "pet.lambda": "0.05",
        },
    ),
    "oft": ("PEFT OFT, block 8", LORA | {"train.adapter": "oft"}),
    "plain": ("+ plain heads", LORA | {"heads.enabled": "true", "heads.mode": "plain"}),
}


@dataclass(frozen=True, slots=True)
class Run:
    """One training of the ablation."""

    arm: str
    seed: int
    scale: float

    @property
    def name(self) -> str:
        """The experiment's name."""
        part = "" if self.scale == 1.0 else f"-x{self.scale:g}".replace(".", "-")
        return f"ablation-{self.arm}-s{self.seed}{part}"

    def settings(self, params: Params, threads: int) -> list[str]:
        """`key=value` for `dvc exp run -S`."""
        own = f"profiles.{params.profile}.train"
        pairs = {
            key.replace("train.", f"{own}.") if key.startswith("train.") else key: value
            for key, value in ARMS[self.arm][1].items()
        }
        pairs |= {f"{own}.seed": str(self.seed), f"{own}.threads": str(threads)}
        if self.scale != 1.0:
            pairs |= {f"{own}.epochs": f"{params.active.train.epochs * self.scale:g}"}
        return [f"{key}={value}" for key, value in pairs.items()]


def runs(arms: Sequence[str], seeds: int, scale: float) -> list[Run]:
    """Seed by seed, so that a stopped ablation is a whole one of fewer seeds.

    Raises:
        ParamsError: an arm that does not exist.
    """
    if strange := [arm for arm in arms if arm not in ARMS]:
        raise ParamsError(f"no arm {strange}", where="--arms", fix=f"choose from {', '.join(ARMS)}")
    return [Run(arm, seed, scale) for seed in range(1, seeds + 1) for arm in arms]


def known(root: Path, profile: str) -> dict[Run, dict[str, Any]]:
    """The results so far of a profile on the base that is here, without one on that of the newest result; the newest of equals.

    Another base is another task: its results stay in the file and are not mixed in.
    """
    path = root / RESULTS
    rows = (
        [row for _, row in read_jsonl(path) if row["profile"] == profile] if path.is_file() else []
    )
    if not rows:
        return {}
    base = sha256_tree(root / BASE) if (root / BASE).is_dir() else rows[-1]["base_sha256"]
    return {
        Run(row["arm"], row["seed"], row["scale"]): row
        for row in rows
        if row["base_sha256"] == base
    }


def estimate(count: int, scale: float, workers: int, root: Path = Path()) -> float | None:
    """Seconds that `count` runs will take, by the last whole training on this machine; None where there was none."""
    log = root / "database" / "progress" / "train.jsonl"
    ends = (
        [row["seconds"] for _, row in read_jsonl(log) if row["event"] == "end"]
        if log.is_file()
        else []
    )
    return None if not ends else count * max(ends) * (scale + PROBE_SHARE) / workers


def enqueue(
    wanted: Sequence[Run],
    params: Params,
    threads: int,
    say: Callable[[str], None],
    root: Path = Path(),
) -> None:
    """Queue what is neither queued nor running; what failed, or was left by a worker that died, is queued again.

    Raises:
        ToolError: DVC refused.
    """
    queue = look([run.name for run in wanted], root)
    for run in wanted:
        state = queue.states.get(run.name)
        if state == "Running" and not queue.workers:
            dvc("queue", "kill", "--force", run.name, root=root, check=False)
            state = "Failed"
        if state == "Failed":
            dvc("queue", "remove", run.name, root=root)
            state = None
        if state is None and commit_of(run, root) is None:
            flags = [word for pair in run.settings(params, threads) for word in ("-S", pair)]
            dvc(
                "exp",
                "run",
                "--queue",
                "--name",
                run.name,
                "--copy-paths",
                str(PLACED),
                *flags,
                TARGET,
                root=root,
            )
            say(f"queued {run.name}")


def commit_of(run: Run, root: Path = Path()) -> str | None:
    """The commit of a finished experiment on the current revision."""
    head = git("rev-parse", "HEAD", root=root)
    pattern = f"refs/exps/{head[:2]}/{head[2:]}/{run.name}"
    found = git("for-each-ref", "--format=%(objectname)", pattern, root=root)
    return found or None


def collect(run: Run, profile: str, root: Path = Path()) -> bool:
    """Append a finished run's figures to the results; False when it has none yet."""
    commit = commit_of(run, root)
    text = file_at(commit, FOUND, root) if commit else None
    if text is None:
        return False
    head = git("rev-parse", "--short", "HEAD", root=root)
    row = {
        "arm": run.arm,
        "seed": run.seed,
        "scale": run.scale,
        "profile": profile,
        "commit": head,
        "date": datetime.now(UTC).date().isoformat(),
        **json.loads(text),
    }
    path = root / RESULTS
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as out:
        out.write(json.dumps(row, ensure_ascii=False) + "\n")
    return True


def work(
    wanted: Sequence[Run], workers: int, say: Callable[[str], None], root: Path = Path()
) -> None:
    """Run all that has no result yet; each result is written as it comes.

    Raises:
        ToolError: an experiment failed; the others have run.
    """
    params = load(root / "params.yaml")
    have = known(root, params.profile)
    left = [run for run in wanted if run not in have and not collect(run, params.profile, root)]
    say(f"{len(wanted) - len(left)} of {len(wanted)} are there")
    if not left:
        return
    with placed_graph(root):
        enqueue(left, params, max(1, (os.cpu_count() or 1) // workers), say, root)
        _await(wanted, left, params.profile, workers, say, root)


@contextmanager
def placed_graph(root: Path) -> Iterator[None]:
    """The probe's graph under the name that DVC reads, which git must not ignore; if it stayed, every `dvc status` would show it."""
    shutil.copyfile(root / GRAPH, root / PLACED)
    try:
        yield
    finally:
        (root / PLACED).unlink(missing_ok=True)


def _await(
    wanted: Sequence[Run],
    left: list[Run],
    profile: str,
    workers: int,
    say: Callable[[str], None],
    root: Path,
) -> None:
    began, first = time.monotonic(), len(left)
    while left:
        queue = look([run.name for run in left], root)
        keep_working(queue, workers, root)
        time.sleep(POLL_S)
        done = [run for run in left if collect(run, profile, root)]
        left = [run for run in left if run not in done]
        if done:
            rate = (time.monotonic() - began) / (first - len(left))
            say(
                f"{len(wanted) - len(left)} of {len(wanted)} done ({', '.join(run.name for run in done)}); about {len(left) * rate / 60:.0f} min left"
            )
        stuck = [
            run.name
            for run in left
            if queue.states.get(run.name) not in ("Queued", "Running")
            and not collect(run, profile, root)
        ]
        if left and len(stuck) == len(left):
            raise ToolError(
                f"failed: {', '.join(stuck)}",
                where="dvc queue",
                fix=f"dvc queue logs {stuck[0]}; then run this again",
            )


def clean_for_queue(root: Path = Path()) -> None:
    """Refuse to start from uncommitted code, which the results could not be traced to.

    Raises:
        ToolError: tracked files differ from HEAD.
    """
    lines = [
        line
        for line in call(
            "git", "status", "--porcelain", "--untracked-files=no", root=root
        ).stdout.splitlines()
        if not line[3:].startswith(("bench/results/", "reports/", "docs/ablation.md"))
    ]
    if lines:
        raise ToolError(
            f"uncommitted changes: {', '.join(line[3:] for line in lines[:5])}",
            where="git",
            fix="commit them, results name a commit",
        )
