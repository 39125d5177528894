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
@click.option("--generated", type=Readable, required=True, help="file of the generate stage")
@click.option("--timings", type=Readable, required=True, help="times of the generate stage")
@click.option("--prepared", type=Readable, required=True, help="directory of the prepared splits")
@click.option("--out", type=Writable, required=True, help="metrics file")
@click.option("--plots", type=Writable, required=True, help="directory of CSV tables")
@click.option("--speed", type=Writable, required=True, help="metrics file of times and memory")
@click.option("--speed-plots", type=Writable, required=True, help="directory of the times' table")
def main(
    file: Path,
    *,
    scores: Path,
    card: Path,
    generated: Path,
    timings: Path,
    prepared: Path,
    out: Path,
    plots: Path,
    speed: Path,
    speed_plots: Path,
) -> None:
    """Write metrics of FILE to --out and its tables to --plots; times go to --speed alone."""
    with stage("evaluate", scores.name) as run:
        # numpy and scipy come with these imports, so they wait until the stage runs.
        from so8t.card import read
        from so8t.evaluation.evaluate import Job, decide_splits, write
        from so8t.evaluation.speed import write_speed
        from so8t.generated import load, load_timings

        job = Job.open(file, scores, read(card))
        digest = job.meta["semantic_digest"]
        ran = load(generated, digest)
        timed = load_timings(timings, digest)
        splits = decide_splits(job)
        run.summary = write(job, splits, ran, run.params, prepared=prepared, out=out, plots=plots)
        write_speed(job, timed, out=speed, plots=speed_plots)


if __name__ == "__main__":
    main()
