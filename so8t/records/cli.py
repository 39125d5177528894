"""`so8t ledger ...`: what was converted, when, and how it ended."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

# SQLite and the rest are imported when a command runs, so that `--help` stays quick.
if TYPE_CHECKING:
    from so8t.records.ledger import Ledger


@click.group()
@click.option(
    "--db",
    type=click.Path(path_type=Path),
    help="Ledger file; default: database/so8t_conversion.db.",
)
@click.pass_context
def ledger(context: click.Context, db: Path | None) -> None:
    """The conversion ledger."""
    context.obj = db


def _open(db: Path | None) -> "Ledger":
    from so8t.errors import ArtifactError
    from so8t.records.ledger import Ledger, default_path

    path = db or default_path()
    # Opening it would make an empty one.
    if not path.is_file():
        raise ArtifactError(
            "no ledger yet", where=str(path), fix="convert a model first: dvc repro"
        )
    return Ledger(path)


@ledger.command("list")
@click.option("--limit", type=click.IntRange(1), default=20, show_default=True)
@click.pass_obj
def list_sessions(db: Path | None, limit: int) -> None:
    """List sessions, newest first."""
    with _open(db) as book:
        for row in book.sessions()[:limit]:
            # A session that runs has no duration yet.
            seconds = "-"
            if row["duration_seconds"] is not None:
                seconds = f"{row['duration_seconds']:.3f} s"
            cells = [
                row["session_id"],
                f"{row['conversion_status']:<11} {seconds:>10}",
                f"{row['model_type']:<18} {row['model_name']}",
                f"{row['output_path']}",
            ]
            click.echo("  ".join(cells))


@ledger.command()
@click.argument("session")
@click.pass_obj
def show(db: Path | None, session: str) -> None:
    """Print one session as JSON."""
    with _open(db) as book:
        summary = book.get_session_summary(session)
    click.echo(json.dumps(summary, ensure_ascii=False, indent=1))


@ledger.command()
@click.option(
    "--format", "kind", type=click.Choice(["json", "csv"]), default="json", show_default=True
)
@click.option("--table", help="One table only (needed for csv).")
@click.pass_obj
def export(db: Path | None, kind: str, table: str | None) -> None:
    """Print all rows of the five tables, or of one."""
    from so8t.files import csv_text
    from so8t.records.schema import TABLES

    names = [table] if table else TABLES
    with _open(db) as book:
        tables = {name: book.rows(name) for name in names}
    if kind == "json":
        click.echo(json.dumps(tables, ensure_ascii=False, indent=1))
        return
    if table is None:
        raise click.UsageError("csv needs --table")
    rows = tables[table]
    columns = list(rows[0]) if rows else []
    # RFC 4180 ends a line of CSV with CR LF.
    click.echo(csv_text(columns, rows, end="\r\n"), nl=False)
