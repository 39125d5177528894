"""Importance matrix of a model from training conversations, for the quantised types; an empty file
unless `quant.imatrix`."""

from pathlib import Path

import click

from so8t.stage import stage


@click.command(help=__doc__)
@click.argument("source", type=click.Path(path_type=Path, file_okay=False))
@click.argument("texts", type=click.Path(path_type=Path, dir_okay=False))
@click.argument("out", type=click.Path(path_type=Path, dir_okay=False))
def main(source: Path, texts: Path, out: Path) -> None:
    with stage("imatrix", out.stem) as run:
        from so8t.gguf.imatrix import compute_imatrix, conversations, write_empty

        wanted = run.params.quant
        # A stage of the graph must leave its output, wanted or not.
        if not wanted.imatrix:
            write_empty(out)
            run.summary = "quant.imatrix is false: no importance matrix"
            return
        rows = conversations(source, texts, run.params.data.system, wanted.imatrix_rows)
        shown = run.progress.bar(rows, total=wanted.imatrix_rows, what="imatrix", unit="row")
        threads = run.params.active.train.threads
        tokens = compute_imatrix(source, shown, out, threads=threads)
        run.summary = f"{tokens:,} tokens of at most {wanted.imatrix_rows} training conversations"


if __name__ == "__main__":
    main()
