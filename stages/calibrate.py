"""Calibrate one file from its scores: the card, and the temperature report beside it."""

from pathlib import Path

import click

from so8t.stage import stage

Readable = click.Path(exists=True, file_okay=False, path_type=Path)


@click.command()
@click.argument("scores_dir", type=Readable)
@click.argument("out", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--model", type=click.Choice(["a", "b"]), required=True, help="whose readout applies")
@click.option("--strict", is_flag=True, help="leave with the code of `so8t gate` (without DVC)")
def main(scores_dir: Path, out: Path, model: str, strict: bool) -> None:
    """Fit SCORES_DIR/calibration.jsonl, write the card to OUT and OUT's sibling NAME.temperature.json."""
    with stage("calibrate", out.stem) as run:
        from so8t.calibration.assess import assess
        from so8t.calibration.calibrate import calibrate

        card = calibrate(
            scores_dir,
            out,
            readout=getattr(run.params.scoring.readout, model),
            limits=run.params.calibration,
            seed=run.params.seed,
        )
        outcome = assess(card)
        run.summary = outcome.sentence
    if strict:
        raise SystemExit(outcome.code)


if __name__ == "__main__":
    main()
