"""Generate Japanese triage rows from the factor grammar and its written policy."""

from pathlib import Path

import click

from so8t.stage import stage


@click.command(help=__doc__)
@click.argument("out", type=click.Path(path_type=Path, dir_okay=False))
def main(out: Path) -> None:
    """Write OUT, one JSON row per line."""
    with stage("synthesize") as run:
        from itertools import chain

        from so8t.files import write_jsonl
        from so8t.synthetic.foreign import foreign_rows
        from so8t.synthetic.synthesize import generate

        wanted = run.params.synthesize
        split = run.params.data.split
        rows = generate(
            wanted.rows,
            wanted.domains,
            run.params.seed,
            cells_share=split.test_cells,
            phrases_share=split.test_phrases,
            tail=wanted.tail,
        )
        outside = foreign_rows(wanted.foreign, run.params.seed)
        shown = run.progress.bar(
            chain(rows, outside), total=wanted.rows, what="synthesize", unit="row"
        )
        count = write_jsonl(out, shown)
        run.summary = f"{count} rows in {len(wanted.domains)} domains -> {out}"


if __name__ == "__main__":
    main()
