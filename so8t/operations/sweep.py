"""`so8t sweep`: several values of one parameter through DVC's queue, with a table and a plot.

Each worker runs in a folder of its own that DVC makes. Its progress and logs go to
`database/experiments/NAME` (so8t.progress). Checkpoints are shared, because their folders are named
by the digest of their inputs and locked.

Not covered: choosing a graphics card per worker (use one worker per card).
"""

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
from so8t.operations.git import dvc, git, object_at, quiet_dvc, text_of
from so8t.operations.setup import cell
from so8t.params import load

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WAITING = ("Queued", "Running")
STATES = ("Success", "Failed", *WAITING)
POLL_S = 15.0  # each look costs a second of processor time
COLUMNS = ("value", "false_allow_rate", "allow_rate", "macro_f1", "ece", "train_loss", "certified")
CURVES = ("false_allow_rate", "allow_rate", "macro_f1", "ece")


def name_of(key: str, value: str) -> str:
    """The experiment's name: letters, digits, dashes."""
    # The same name on every run, so that results are found again by key and value.
    return f"sweep-{key}-{value}".replace(".", "-").replace("_", "-").lower()


def enqueue(key: str, values: Sequence[str], root: Path = Path()) -> list[str]:
    """Queue one experiment per value.

    Args:
        key: path of a parameter in params.yaml, such as `pet.lambda`.
        values: as they would be written there.
        root: the project's folder.

    Returns:
        The experiments' names, in the order of the values.

    Raises:
        ToolError: DVC refused (an unknown key, a name that exists).
    """
    names = []
    for value in values:
        name = name_of(key, value)
        dvc("exp", "run", "--queue", "--name", name, "-S", f"{key}={value}", root=root)
        names.append(name)
    return names


@dataclass(frozen=True, slots=True)
class Queue:
    """What DVC says of its queue.

    Attributes:
        states: by name of each task that was asked for and that the queue holds: one of `STATES`,
            or "?" where DVC says something else.
        workers: how many are at work.
    """

    states: dict[str, str]
    workers: int

    @property
    def waiting(self) -> int:
        """How many of the tasks are not through."""
        return sum(state in WAITING for state in self.states.values())


def work(
    names: Sequence[str], workers: int, report: Callable[[str], None], root: Path = Path()
) -> None:
    """Start the workers and wait until none of the experiments waits or runs.

    Args:
        names: the experiments.
        workers: how many run at a time.
        report: is told how many are done, whenever that changes.
        root: the project's folder.

    Raises:
        ToolError: an experiment failed; the others have run.
    """
    # Reported only when it changes: a line every fifteen seconds would fill the screen.
    said = ""
    queue = read_queue(names, root)
    while queue.waiting:
        line = f"{len(names) - queue.waiting} of {len(names)} done"
        if line != said:
            report(line)
            said = line
        keep_working(queue, workers, root)
        time.sleep(POLL_S)
        queue = read_queue(names, root)
    # A task that DVC took out of the queue is not there to fail: `results` names it.
    failed = [name for name, state in queue.states.items() if state != "Success"]
    if failed:
        raise ToolError(
            f"failed: {', '.join(failed)}",
            where="dvc queue",
            fix=f"dvc queue logs {failed[0]}; then `dvc queue remove --failed`",
        )


def read_queue(names: Sequence[str], root: Path = Path()) -> Queue:
    """The queue as it is now.

    Args:
        names: the experiments that matter; others may be in the queue too.
        root: the project's folder.
    """
    said = text_of(dvc("queue", "status", root=root).stdout)
    states = {}
    for line in said.splitlines():
        words = line.split()
        # `dvc queue status` has no JSON: its table is read by the words of a line.
        state = next((word for word in words if word in STATES), "?")
        for name in names:
            if name in words:
                states[name] = state
    active = re.search(r"(\d+) active", said)
    return Queue(states, int(active[1]) if active else 0)


def keep_working(queue: Queue, workers: int, root: Path = Path()) -> None:
    """While tasks wait, start workers until as many are at work as are wanted.

    A worker that found nothing to take has ended, so this is called again and again.

    Raises:
        ToolError: DVC does not start them.
    """
    if "Queued" not in queue.states.values() or queue.workers >= workers:
        return
    # The workers outlive this call. With our pipes they would hold them open, and whoever reads
    # these would wait for the last experiment: they get none.
    started = subprocess.run(
        [sys.executable, "-m", "dvc", "queue", "start", "-j", str(workers)],
        cwd=root,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=quiet_dvc(),
        check=False,
    )
    if started.returncode:
        raise ToolError(
            "DVC does not start the workers of its queue",
            where="dvc queue",
            fix=f"see what `dvc queue start -j {workers}` says",
        )


def results(key: str, values: Sequence[str], root: Path = Path()) -> list[dict[str, Any]]:
    """One row per value, read from the experiments' own metrics files.

    Args:
        key: path of the parameter.
        values: as they were queued.
        root: the project's folder.

    Returns:
        Rows with the keys `COLUMNS`; what an experiment did not measure is None.

    Raises:
        ArtifactError: an experiment has no result.
    """
    release = load(root / "params.yaml").release
    # Of all files that are evaluated, the released one is what a value is chosen for.
    evaluated = f"reports/metrics/evaluate-{release.model}-{release.type}.json"
    commits = _experiments(root)
    rows = []
    for value in values:
        name = name_of(key, value)
        if name not in commits:
            raise ArtifactError(
                f"experiment {name} has no result", where="refs/exps", fix="dvc exp list"
            )
        # From git: the files in the workspace are those of the current parameters.
        metrics = object_at(commits[name], evaluated, root)
        training = object_at(commits[name], "reports/metrics/train.json", root)
        rows.append({"value": value, **_row(metrics, training)})
    return rows


def _experiments(root: Path) -> dict[str, str]:
    """Commit of every finished experiment, by name."""
    # lstrip=-1: the last part of refs/exps/AB/CDEF.../NAME.
    form = "--format=%(objectname) %(refname:lstrip=-1)"
    found = {}
    for line in git("for-each-ref", form, "refs/exps", root=root).splitlines():
        commit, name = line.split(" ")
        found[name] = commit
    return found


def _row(metrics: dict[str, Any], training: dict[str, Any]) -> dict[str, Any]:
    """The numbers of one experiment, from its evaluation and its training."""
    return {
        "false_allow_rate": find(metrics, "false_allow_rate"),
        "allow_rate": find(metrics, "allow_rate_on_allow"),
        "macro_f1": find(metrics, "macro_f1"),
        "ece": find(metrics, "ece"),
        "train_loss": find(training, "last_loss") or find(training, "loss"),
        "certified": find(metrics, "status"),
    }


def find(tree: Any, key: str) -> Any:
    """The first value of that key, depth first in file order.

    Args:
        tree: content of a JSON file.
        key: what is looked for at any depth.

    Returns:
        None where the key is nowhere. A rate, which is written as {"value": x, ...} with its
        interval, gives x.
    """
    if not isinstance(tree, dict):
        return None
    if key in tree:
        held = tree[key]
        return held.get("value") if isinstance(held, dict) else held
    for child in tree.values():
        found = find(child, key)
        if found is not None:
            return found
    return None


def write(key: str, rows: list[dict[str, Any]], out: Path) -> None:
    """Write table.md, table.csv and plot.svg.

    Args:
        key: path of the parameter; the table's title and the plot's axis.
        rows: as `results` gives them.
        out: the folder.
    """
    # Here, because matplotlib is slow to import.
    from so8t import drawing

    write_text(out / "table.csv", csv_text(COLUMNS, rows))
    lines = [
        f"# {key}",
        "",
        f"| {' | '.join(COLUMNS)} |",
        "|---" * len(COLUMNS) + "|",
    ]
    for row in rows:
        cells = [cell(row[column]) for column in COLUMNS]
        lines.append(f"| {' | '.join(cells)} |")
    write_text(out / "table.md", "\n".join(lines) + "\n")
    plots = drawing.draw({"plot": _curves}, key, rows)
    write_text(out / "plot.svg", plots["plot"])


def _curves(key: str, rows: list[dict[str, Any]]) -> "Figure":
    """Every rate over the parameter's values; a value without a number has no point."""
    from so8t.drawing import blank

    figure, axes = blank(height=4.0)
    plot = axes[0, 0]
    for column in CURVES:
        measured = [row for row in rows if isinstance(row[column], int | float)]
        if measured:
            x = [float(row["value"]) for row in measured]
            y = [float(row[column]) for row in measured]
            plot.plot(x, y, marker="o", label=column)
    # Every curve is a share.
    plot.set(xlabel=key, ylim=(0, 1))
    plot.legend()
    return figure
