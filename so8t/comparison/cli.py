"""`so8t compare sheet | tally`: people compare answers without knowing whose they are."""

from pathlib import Path
from typing import Any

import click

File = click.Path(dir_okay=False, path_type=Path)


@click.group()
def compare() -> None:
    """A blind side-by-side sheet of A's and B's answers, and its tally."""


@compare.command("sheet")
@click.argument("out", type=click.Path(file_okay=False, path_type=Path))
@click.argument("key", type=File)
@click.option(
    "--a",
    "first",
    type=File,
    default=None,
    help="answers of A [default: those of the released type]",
)
@click.option(
    "--b",
    "second",
    type=File,
    default=None,
    help="answers of B [default: those of the released type]",
)
@click.option(
    "--seed", type=int, default=None, help="of the order of rows and sides [default: params seed]"
)
@click.option(
    "--rows",
    type=click.IntRange(1),
    default=None,
    help="most rows [default: all]",
)
def make_sheet(
    out: Path,
    key: Path,
    first: Path | None,
    second: Path | None,
    seed: int | None,
    rows: int | None,
) -> None:
    """Write OUT/sheet.csv and OUT/sheet.html for people, and KEY, which says whose answers they
    are.

    Final answers only, never thinking. Give people OUT and keep KEY.
    """
    # numpy and scipy come with these imports, so they wait until the command runs.
    from so8t import params
    from so8t.comparison import sheet

    values = params.load()
    released = values.release.type
    made, secret = sheet.make(
        first or Path(f"data/answers/a-{released}.jsonl"),
        second or Path(f"data/answers/b-{released}.jsonl"),
        seed=values.seed if seed is None else seed,
        limit=rows,
    )
    sheet.write(
        out,
        key,
        made,
        secret,
    )
    click.echo(
        f"compare sheet: {len(made)} rows in {out}; "
        f"{secret['same_answers']} left out, both answers being the same; key: {key}"
    )


@compare.command("tally")
@click.argument("sheet", type=File)
@click.argument("key", type=File)
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="JSON instead of text",
)
def count_choices(sheet: Path, key: Path, as_json: bool) -> None:
    """Count the choices of the filled SHEET (CSV): wins, ties and losses of B, exact sign test,
    interval.
    """
    import json

    from so8t.comparison.sheet import tally

    found = tally(sheet, key).to_dict()
    if as_json:
        click.echo(json.dumps(found, ensure_ascii=False, indent=1))
        return
    click.echo(
        f"B better {found['wins']}, same {found['ties']}, worse {found['losses']}, "
        f"no choice {found['unanswered']}"
    )
    click.echo(f"B's share: {_share(found['share'])}; exact sign test p = {found['p']:.3g}")


def _share(share: dict[str, Any]) -> str:
    if share["value"] is None:
        return "no row decided"
    # Of the decided rows alone: a tie says nothing about who is better.
    low, high = share["ci95"]
    return (
        f"{share['value']:.1%} of {share['n']} decided rows (95 % interval {low:.1%} - {high:.1%})"
    )
