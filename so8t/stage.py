"""What stage scripts share: parameters, progress, a log file, exit codes, one summary line."""

import logging
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import click

from so8t import bug
from so8t.errors import SIGINT_EXIT, Interrupted
from so8t.params import Params, load, refuse_hidden_changes
from so8t.progress import Progress, notify, run_dir
from so8t.quiet import quieten


@dataclass(slots=True)
class Run:
    """One stage's run: its validated parameters, its progress, and the line it ends with."""

    params: Params
    progress: Progress
    summary: str = "done"


@contextmanager
def stage(name: str, variant: str = "") -> Iterator[Run]:
    """Run a stage: read all of params.yaml, report errors, leave with the documented exit code.

    Args:
        name: of the stage.
        variant: which of several, for the log's name; a stage of a matrix runs once for each.
    """
    # First: what follows may import libraries that read these settings.
    quieten()
    label = f"{name}@{variant}" if variant else name
    log_path = _log_to_file(label)
    began = time.monotonic()
    # Python's default ends the process without running any `finally`.
    signal.signal(signal.SIGTERM, _on_sigterm)
    try:
        params = load()
        refuse_hidden_changes()
        run = Run(params, Progress(label))
        run.progress.emit("start")
        yield run
        seconds = time.monotonic() - began
        run.progress.emit("end", seconds=round(seconds, 2), summary=run.summary)
        click.echo(f"{label}: {run.summary} ({seconds:.1f} s)")
        notify(label, "done", seconds)
    except Interrupted as error:
        click.echo(f"{label}: {error}", err=True)
        sys.exit(128 + error.signal_number)
    except KeyboardInterrupt:
        click.echo(f"{label}: interrupted\n  fix: run the same command again", err=True)
        sys.exit(SIGINT_EXIT)
    except Exception as error:  # noqa: BLE001 (what is left over is a bug, and is told as one)
        code = _told(label, error, log_path)
        notify(label, "failed", time.monotonic() - began)
        sys.exit(code)


def _told(label: str, error: Exception, log_path: Path) -> int:
    """Say what went wrong: what to do about it, or that it is a bug; return the exit code."""
    known = bug.ours(error)
    if known is None:
        line, code = bug.report(label, error, log_path)
        click.echo(line, err=True)
        return code
    logging.getLogger(__name__).info("failed: %s", known)
    click.echo(f"{label}: {known}\n  log: {log_path}", err=True)
    return known.exit_code


def _log_to_file(name: str) -> Path:
    """Log everything to a file, and warnings to the terminal too."""
    path = run_dir() / "logs" / f"{name}.log"
    terminal = logging.StreamHandler(sys.stderr)
    # The rest would stand between the bars.
    terminal.setLevel(logging.WARNING)
    handlers: list[logging.Handler] = [terminal]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handlers.append(logging.FileHandler(path, encoding="utf-8"))
    except OSError as error:
        # A read-only folder of records must not stop the stage.
        click.echo(f"warning: no log file ({error})", err=True)
    logging.basicConfig(
        level=logging.INFO,
        handlers=handlers,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    return path


def _on_sigterm(number: int, _frame: object) -> None:
    # As an exception, so that temporary files are removed and checkpoints closed on the way out.
    raise Interrupted(number, "stopped by SIGTERM", fix="run the same command again")
