"""Measure one file on the test splits under its own card."""

from functools import partial
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
@click.option("--out", type=Writable, required=True, help="metrics file")
@click.option("--plots", type=Writable, required=True, help="directory of CSV tables")
def main(file: Path, scores: Path, card: Path, served: Path, out: Path, plots: Path) -> None:
    """Write metrics of FILE to --out and its tables to --plots."""
    with stage("evaluate", scores.name) as run:
        from so8t import card as cards
        from so8t.evaluation import evaluate as ev
        from so8t.generated import load

        held = cards.read(card)
        job = ev.Job.open(file, scores, held.readout)
        cards.require_match(
            held,
            semantic_digest=job.meta["semantic_digest"],
            template_sha256=job.meta["template_sha256"],
            engine=job.meta["engine"],
        )
        judged = ev.judge(job, partial(cards.judge, held))
        found = load(served, job.meta["semantic_digest"])
        run.summary = ev.write(
            job, judged, found, run.params, threshold=held.thresholds.escalate, out=out, plots=plots
        )


if __name__ == "__main__":
    main()
