"""`so8t ledger ...`: what was converted, when, and how it ended."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

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
            seconds = (
                f"{row['duration_seconds']:.3f} s" if row["duration_seconds"] is not None else "-"
            )
            click.echo(
                f"{row['session_id']}  {row['conversion_status']:<11} {seconds:>10}  {row['model_type']:<18} {row['model_name']}  {row['output_path']}"
            )


@ledger.command()
@click.argument("session")
@click.pass_obj
def show(db: Path | None, session: str) -> None:
    """Print one session as JSON."""
    with _open(db) as book:
        click.echo(json.dumps(book.get_session_summary(session), ensure_ascii=False, indent=1))


@ledger.command()
@click.option(
    "--format", "kind", type=click.Choice(["json", "csv"]), default="json", show_default=True
)
@click.option("--table", help="One table only (needed for csv).")
@click.pass_obj
def export(db: Path | None, kind: str, table: str | None) -> None:
    """Print all rows of the five tables, or of one."""
    from so8t.files import csv_text
    from so8t.records.ledger import TABLES

    with _open(db) as book:
        tables = {name: book.rows(name) for name in ([table] if table else TABLES)}
    if kind == "json":
        click.echo(json.dumps(tables, ensure_ascii=False, indent=1))
        return
    if table is None:
        raise click.UsageError("csv needs --table")
    click.echo(
        csv_text(list(tables[table][0]) if tables[table] else [], tables[table], end="\r\n"),
        nl=False,
    )
