"""Measure one file on the test splits under its own card."""

from pathlib import Path

import click

from so8t.stage import stage

Readable = click.Path(exists=True, path_type=Path)
Writable = click.Path(path_type=Path)


@click.command()
@click.argument("file", type=Readable)
@click.option("--scores", type=Readable, required=True, help="directory of the score stage")
@click.option("--card", type=Readable, required=True, help="calibration card of the file")
@click.option("--served", type=Readable, required=True, help="file of the serve stage")
@click.option("--prepared", type=Readable, required=True, help="directory of the prepared splits")
@click.option("--out", type=Writable, required=True, help="metrics file")
@click.option("--plots", type=Writable, required=True, help="directory of CSV tables")
def main(
    file: Path, scores: Path, card: Path, served: Path, prepared: Path, out: Path, plots: Path
) -> None:
    """Write metrics of FILE to --out and its tables to --plots."""
    with stage("evaluate", scores.name) as run:
        # numpy and scipy come with these imports, so they wait until the stage runs.
        from so8t import generated
        from so8t.card import read
        from so8t.evaluation.evaluate import Job, decide_splits, write

        job = Job.open(file, scores, read(card))
        splits = decide_splits(job)
        ran = generated.load(served, job.meta["semantic_digest"])
        run.summary = write(job, splits, ran, run.params, prepared=prepared, out=out, plots=plots)


if __name__ == "__main__":
    main()
