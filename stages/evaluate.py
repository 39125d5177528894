"""Measure one served file on the test splits under its own card, and run it if it is a released or F16 file."""

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
@click.option("--prepared", type=Readable, required=True, help="directory of the prepared splits")
@click.option("--out", type=Writable, required=True, help="metrics file")
@click.option("--plots", type=Writable, required=True, help="directory of CSV tables")
@click.option("--answers", type=Writable, required=True, help="JSONL of answers, for the comparison")
@click.option("--generate/--no-generate", default=None, help="run the file too [default: F16 and release.type]")
def main(file: Path, scores: Path, card: Path, prepared: Path, out: Path, plots: Path, answers: Path,
         generate: bool | None) -> None:
    """Write metrics of FILE to --out, its tables to --plots and what it answered to --answers."""
    with stage("evaluate", scores.name) as run:
        from so8t.calibration import card as cards
        from so8t.evaluation import evaluate as ev
        from so8t.scoring.prompts import Prompter

        held = cards.read(card)
        job = ev.Job.open(file, scores, prepared, held.readout)
        cards.require_match(held, semantic_digest=job.meta["semantic_digest"],
                            template_sha256=job.meta["template_sha256"], engine=job.meta["engine"])
        judged = ev.judge(job, partial(cards.judge, held))
        wanted = job.type in ("F16", run.params.release.type) if generate is None else generate
        served = ev.run(job, Prompter, run.params, run.progress) if wanted else ev.NOT_RUN
        run.summary = ev.write(job, judged, served, run.params, threshold=held.thresholds.escalate, out=out,
                               plots=plots, answers=answers)


if __name__ == "__main__":
    main()
