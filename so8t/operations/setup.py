"""Small commands around a clone.

`so8t init` prepares it, `so8t report-path` finds its report, `so8t bench-table` tabulates its
benchmarks.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import click

from so8t.errors import ArtifactError, ToolError

REPORT = Path("reports/report.html")
BENCHMARKS = Path("bench/results")
COLUMNS = ("bench", "what", "unit", "ours", "peer", "peer_name", "ratio", "commit", "date")


@click.command()
def init() -> None:
    """Check that DVC is set up here and make the local default remote's folder."""
    if not Path(".dvc/config").is_file():
        raise ArtifactError(
            "this is not the project's root",
            where=str(Path.cwd()),
            fix="cd to the folder with dvc.yaml",
        )
    # Without git DVC would fail later, with a message about something else.
    if shutil.which("git") is None:
        raise ToolError("git is not installed", fix="install git; DVC keeps its metadata there")
    # A broken installation fails here, not in the first stage.
    import dvc.api  # noqa: F401

    # DVC reads a relative path from the folder of its settings.
    store = _dvc("config", "remote.store.url")
    folder = (Path(".dvc") / store).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    click.echo(f"ready: dvc {_dvc('--version')}, default remote {folder}")


def _dvc(*arguments: str) -> str:
    # Not `operations.git.dvc`: while a clone is set up, `make setup` is the fix, not `so8t doctor`.
    """Standard output of this environment's DVC.

    Raises:
        ToolError: it failed.
    """
    command = [sys.executable, "-m", "dvc", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ToolError(
            f"dvc {' '.join(arguments)} failed: {done.stderr.strip()[-300:]}",
            fix="run `make setup` again",
        )
    return done.stdout.strip()


@click.command(name="report-path")
def report_path() -> None:
    """Print where the report is, and its first sentence."""
    if not REPORT.is_file():
        raise ArtifactError("no report yet", where=str(REPORT), fix="dvc repro")
    click.echo(f"report: {REPORT.resolve()}")
    # The same report as Markdown, for those who read in a terminal.
    click.echo(f"        {REPORT.with_suffix('.md').resolve()}")


@click.command(name="bench-table")
def bench_table() -> None:
    """Print the newest result of every benchmark as a Markdown table."""
    newest: dict[tuple[str, str], dict[str, object]] = {}
    for file in sorted(BENCHMARKS.glob("*.jsonl")):
        for line in file.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            # Raw results of a study with a page of its own, such as docs/ablation.md, have none.
            if "bench" in row:
                # Files are appended to, so the last line of a benchmark is its newest.
                newest[row["bench"], row["what"]] = row
    click.echo(f"| {' | '.join(COLUMNS)} |")
    click.echo("|" + "---|" * len(COLUMNS))
    for row in newest.values():
        cells = [cell(row.get(column)) for column in COLUMNS]
        click.echo(f"| {' | '.join(cells)} |")


def cell(value: object) -> str:
    """A value as text in a table.

    Nothing for null, four significant digits of a float, everything else as it is.
    """
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)
