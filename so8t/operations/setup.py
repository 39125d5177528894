"""Small commands around a clone: prepare it, find its report, tabulate its benchmarks."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import click

from so8t.errors import ArtifactError, ToolError

REPORT = Path("reports/report.html")


@click.command()
def init() -> None:
    """Check that DVC is set up here and make the local default remote's folder."""
    if not Path(".dvc/config").is_file():
        raise ArtifactError(
            "this is not the project's root",
            where=str(Path.cwd()),
            fix="cd to the folder with dvc.yaml",
        )
    if shutil.which("git") is None:
        raise ToolError("git is not installed", fix="install git; DVC keeps its metadata there")
    import dvc.api  # noqa: F401 (a broken installation fails here, not in the first stage)

    store = _dvc("config", "remote.store.url")
    folder = (Path(".dvc") / store).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    click.echo(f"ready: dvc {_dvc('--version')}, default remote {folder}")


def _dvc(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "dvc", *arguments], capture_output=True, text=True, check=False
    )
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
    click.echo(f"report: {REPORT.resolve()}\n        {REPORT.with_suffix('.md').resolve()}")


@click.command(name="bench-table")
def bench_table() -> None:
    """Print the newest result of every benchmark as a Markdown table."""
    newest: dict[tuple[str, str], dict[str, object]] = {}
    for file in sorted(Path("bench/results").glob("*.jsonl")):
        for line in file.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            if "bench" not in row:
                continue  # raw results of a study with a page of its own, such as docs/ablation.md
            newest[row["bench"], row["what"]] = row
    columns = ["bench", "what", "unit", "ours", "peer", "peer_name", "ratio", "commit", "date"]
    click.echo("| " + " | ".join(columns) + " |\n|" + "---|" * len(columns))
    for row in newest.values():
        click.echo("| " + " | ".join(_cell(row.get(column)) for column in columns) + " |")


def _cell(value: object) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
