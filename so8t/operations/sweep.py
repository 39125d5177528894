"""`so8t sweep`: several values of one parameter through DVC's queue, with a table and a plot of what came out.

Each worker runs in a folder of its own that DVC makes; its progress and logs go to `database/experiments/NAME`
(so8t.progress), checkpoints are shared because their folders are named by the digest of their inputs and locked.
Not covered: choosing a graphics card per worker (use one worker per card).
"""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from so8t.errors import ArtifactError, ToolError
from so8t.files import csv_text, write_text
from so8t.operations.git import dvc, file_at, git
from so8t.params import load

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WAITING = ("Queued", "Running")
POLL_S = 15.0  # each look costs a second of processor time
COLUMNS = ("value", "false_allow_rate", "allow_rate", "macro_f1", "ece", "train_loss", "certified")


def name_of(key: str, value: str) -> str:
    """The experiment's name: letters, digits, dashes."""
    return f"sweep-{key}-{value}".replace(".", "-").replace("_", "-").lower()


def enqueue(key: str, values: Sequence[str], root: Path = Path()) -> list[str]:
    """Queue one experiment per value; return their names.

    Raises:
        ToolError: DVC refused (an unknown key, a name that exists).
    """
    names = []
    for value in values:
        dvc(
            "exp",
            "run",
            "--queue",
            "--name",
            name_of(key, value),
            "-S",
            f"{key}={value}",
            root=root,
        )
        names.append(name_of(key, value))
    return names


def work(
    names: Sequence[str], workers: int, report: Callable[[str], None], root: Path = Path()
) -> None:
    """Start the workers and wait until none of the experiments waits or runs.

    Raises:
        ToolError: an experiment failed; the others have run.
    """
    said = ""
    while (queue := look(names, root)).waiting:
        if (line := f"{len(names) - queue.waiting} of {len(names)} done") != said:
            report(said := line)
        keep_working(queue, workers, root)
        time.sleep(POLL_S)
    if failed := [name for name, state in queue.states.items() if state not in ("Success",)]:
        raise ToolError(
            f"failed: {', '.join(failed)}",
            where="dvc queue",
            fix=f"dvc queue logs {failed[0]}; then `dvc queue remove --failed`",
        )


@dataclass(frozen=True, slots=True)
class Queue:
    """What DVC says of its queue: the state of each named task that it holds, and how many workers are at work."""

    states: dict[str, str]
    workers: int

    @property
    def waiting(self) -> int:
        """How many of the tasks are not through."""
        return sum(state in WAITING for state in self.states.values())


def look(names: Sequence[str], root: Path = Path()) -> Queue:
    """The queue as it is now."""
    said = dvc("queue", "status", root=root).stdout
    found = {}
    for line in said.splitlines():
        words = line.split()
        found.update(
            {
                name: next((w for w in words if w in ("Success", "Failed", *WAITING)), "?")
                for name in names
                if name in words
            }
        )
    active = re.search(r"(\d+) active", said)
    return Queue(found, int(active[1]) if active else 0)


def keep_working(queue: Queue, workers: int, root: Path = Path()) -> None:
    """While tasks wait, start workers until as many are at work as are wanted; one that found nothing to take has gone.

    They outlive this call and would hold its pipes open, so that whoever reads these would wait for the last experiment: they get none.

    Raises:
        ToolError: DVC does not start them.
    """
    if "Queued" not in queue.states.values() or queue.workers >= workers:
        return
    command = [sys.executable, "-m", "dvc", "queue", "start", "-j", str(workers)]
    if subprocess.run(
        command,
        cwd=root,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"DVC_NO_ANALYTICS": "1"},
        check=False,
    ).returncode:
        raise ToolError(
            "DVC does not start the workers of its queue",
            where="dvc queue",
            fix=f"see what `dvc queue start -j {workers}` says",
        )


def results(key: str, values: Sequence[str], root: Path = Path()) -> list[dict[str, Any]]:
    """One row per value, read from the experiments' own metrics files.

    Raises:
        ArtifactError: an experiment has no result.
    """
    release = load(root / "params.yaml").release
    refs = dict(
        line.split(" ")[::-1]
        for line in git(
            "for-each-ref", "--format=%(objectname) %(refname:lstrip=-1)", "refs/exps", root=root
        ).splitlines()
    )
    rows = []
    for value in values:
        commit = refs.get(name_of(key, value))
        if commit is None:
            raise ArtifactError(
                f"experiment {name_of(key, value)} has no result",
                where="refs/exps",
                fix="dvc exp list",
            )
        metrics = _json(
            file_at(commit, f"reports/metrics/evaluate-{release.model}-{release.type}.json", root)
        )
        rows.append(
            {
                "value": value,
                **_row(metrics, _json(file_at(commit, "reports/metrics/train.json", root))),
            }
        )
    return rows


def _json(text: str | None) -> dict[str, Any]:
    return {} if text is None else dict(json.loads(text))


def _row(metrics: dict[str, Any], training: dict[str, Any]) -> dict[str, Any]:
    return {
        "false_allow_rate": find(metrics, "false_allow_rate"),
        "allow_rate": find(metrics, "allow_rate_on_allow"),
        "macro_f1": find(metrics, "macro_f1"),
        "ece": find(metrics, "ece"),
        "train_loss": find(training, "last_loss") or find(training, "loss"),
        "certified": find(metrics, "status"),
    }


def find(tree: Any, key: str) -> Any:
    """The first value of that key, depth first in file order; a rate `{"value": x, ...}` gives x."""
    if not isinstance(tree, dict):
        return None
    if key in tree:
        held = tree[key]
        return held.get("value") if isinstance(held, dict) else held
    return next((found for child in tree.values() if (found := find(child, key)) is not None), None)


def write(key: str, rows: list[dict[str, Any]], out: Path) -> None:
    """table.md, table.csv and plot.svg."""
    from so8t import drawing

    write_text(out / "table.csv", csv_text(COLUMNS, rows))
    shown = [[_cell(row[column]) for column in COLUMNS] for row in rows]
    lines = [
        f"# {key}",
        "",
        "| " + " | ".join(COLUMNS) + " |",
        "|---" * len(COLUMNS) + "|",
        *("| " + " | ".join(cells) + " |" for cells in shown),
    ]
    write_text(out / "table.md", "\n".join(lines) + "\n")
    write_text(out / "plot.svg", drawing.draw({"plot": _curves}, key, rows)["plot"])


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def _curves(key: str, rows: list[dict[str, Any]]) -> "Figure":
    from so8t.drawing import blank

    figure, ((axes,),) = blank(height=4.0)
    for column in ("false_allow_rate", "allow_rate", "macro_f1", "ece"):
        points = [
            (float(row["value"]), float(row[column]))
            for row in rows
            if isinstance(row[column], int | float)
        ]
        if points:
            axes.plot(*zip(*points, strict=True), marker="o", label=column)
    axes.set(xlabel=key, ylim=(0, 1))
    axes.legend()
    return figure
