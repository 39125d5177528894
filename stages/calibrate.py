"""Calibrate one file from its scores: the card, and the temperature report beside it."""

from pathlib import Path

import click

from so8t.stage import stage

Folder = click.Path(exists=True, file_okay=False, path_type=Path)
File = click.Path(dir_okay=False, path_type=Path)


@click.command()
@click.argument("scores_dir", type=Folder)
@click.argument("out", type=File)
@click.option("--train", type=File, required=True, help="the prepared training rows")
@click.option(
    "--model",
    type=click.Choice(["a", "b"]),
    required=True,
    help="whose readout applies",
)
@click.option(
    "--strict",
    is_flag=True,
    help="leave with the code of `so8t gate` (without DVC)",
)
def main(scores_dir: Path, out: Path, train: Path, model: str, strict: bool) -> None:
    """Fit SCORES_DIR/calibration.jsonl, write the card to OUT and beside it
    NAME.temperature.json and NAME.familiarity.json.
    """
    with stage("calibrate", out.stem) as run:
        # numpy and scipy come with these imports, so they wait until the stage runs.
        from so8t.calibration.assess import assess
        from so8t.calibration.calibrate import calibrate

        readouts = run.params.scoring.readout
        card = calibrate(
            scores_dir,
            out,
            train=train,
            readout=readouts.a if model == "a" else readouts.b,
            limits=run.params.calibration,
            seed=run.params.seed,
        )
        outcome = assess(card)
        run.summary = outcome.sentence
    # A card that is not certified is a result, not a failure: under DVC the run goes on with it.
    if strict:
        raise SystemExit(outcome.code)


if __name__ == "__main__":
    main()
