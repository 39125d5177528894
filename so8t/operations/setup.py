"""Small commands around a clone.

`so8t init` prepares it, `so8t report-path` prints what its last run found, `so8t bench-table`
tabulates its benchmarks.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import click

from so8t import signature
from so8t.errors import ArtifactError, DataError, ToolError
from so8t.files import read_jsonl

REPORT = Path("reports/report.html")
TWIN = Path("reports/report.json")  # the same report for programs
BENCHMARKS = Path("bench/results")
COLUMNS = ("bench", "what", "unit", "ours", "peer", "peer_name", "ratio", "commit", "date")


@click.command()
def init() -> None:
    """Check that git and DVC are set up here; make the folder of DVC's default remote, and the keys
    that sign releases.
    """
    if not Path(".dvc/config").is_file():
        raise ArtifactError(
            "this is not the project's folder",
            where=str(Path.cwd()),
            fix="cd to the folder that holds dvc.yaml",
        )
    # Without git DVC would fail later, with a message about something else.
    if shutil.which("git") is None:
        raise ToolError("git is not installed", fix="install git; DVC needs it")
    # A broken installation fails here, not in the first stage.
    import dvc.api  # noqa: F401

    # DVC reads a relative path from the folder of its settings.
    store = _dvc("config", "remote.store.url")
    folder = (Path(".dvc") / store).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    # Not a word when all is well: a first run needs to know nothing of keys.
    said = signature.prepare()
    if said:
        click.echo(said)
    click.echo(f"this clone is ready: dvc {_dvc('--version')}, default remote {folder}")


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
    """Print the report's first sentence, which is its conclusion, and where the report is."""
    for file in (REPORT, TWIN):
        if not file.is_file():
            raise ArtifactError("there is no report yet", where=str(file), fix="dvc repro")
    click.echo(_conclusion())
    click.echo(f"report: {REPORT.resolve()}")
    # The same report as Markdown, for those who read in a terminal.
    click.echo(f"        {REPORT.with_suffix('.md').resolve()}")


def _conclusion() -> str:
    """The report's first sentence.

    Raises:
        ArtifactError: report.json is not the report's.
    """
    try:
        return str(json.loads(TWIN.read_text(encoding="utf-8"))["conclusion"])
    # Not JSON, no object, or an object without a conclusion.
    except (ValueError, TypeError, KeyError):
        raise ArtifactError(
            "holds no conclusion: it was cut off or edited", where=str(TWIN), fix="dvc repro report"
        ) from None


@click.command(name="bench-table")
def bench_table() -> None:
    """Print the newest result of every benchmark as a Markdown table."""
    newest: dict[tuple[str, str], dict[str, object]] = {}
    for file in sorted(BENCHMARKS.glob("*.jsonl")):
        for number, row in read_jsonl(file):
            # Raw results of a study with a page of its own, such as docs/ablation.md, have none.
            if "bench" in row:
                # Files are appended to, so the last line of a benchmark is its newest.
                newest[str(row["bench"]), _what(row, f"{file}:{number}")] = row
    click.echo(f"| {' | '.join(COLUMNS)} |")
    click.echo("|" + "---|" * len(COLUMNS))
    for row in newest.values():
        cells = [cell(row.get(column)) for column in COLUMNS]
        click.echo(f"| {' | '.join(cells)} |")


def _what(row: dict[str, object], where: str) -> str:
    """What a benchmark measured.

    Raises:
        DataError: the row does not say it.
    """
    if isinstance(row.get("what"), str):
        return str(row["what"])
    raise DataError("a result that does not say what", where=where, fix="run the benchmark again")


def cell(value: object) -> str:
    """A value as text in a table.

    Nothing for null, four significant digits of a float, everything else as it is.
    """
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)
