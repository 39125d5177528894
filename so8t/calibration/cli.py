"""`so8t gate`: may a file serve ALLOW? `so8t recalibrate`: a new card without training."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

# numpy and scipy are imported inside the commands, so that `--help` answers at once.
if TYPE_CHECKING:
    from so8t.calibration.assess import Outcome

# Existence is not checked here: a missing file is code 2 with a fix, not click's usage error.
File = click.Path(dir_okay=False, path_type=Path)
Folder = click.Path(file_okay=False, path_type=Path)


@dataclass(frozen=True, slots=True)
class _Asked:
    """The files that `so8t gate` reads; what is null is not checked."""

    card: Path
    gguf: Path | None
    scores: Path | None
    comparison: Path | None


def _assess(asked: _Asked) -> "Outcome":
    """Read and match everything, then assess; every error of reading is code 2."""
    from so8t import card
    from so8t.calibration.assess import assess
    from so8t.files import read_json
    from so8t.identity import semantic_digest
    from so8t.metrics import read_meta, read_scores
    from so8t.records.looks import look

    # The card alone decides what the other files must be.
    held = card.read(asked.card)
    test = None
    comparison = None
    if asked.gguf is not None:
        # A GGUF file alone says nothing of its template, so only its digest is compared.
        card.require_match(
            held,
            semantic_digest=semantic_digest(asked.gguf),
            template_sha256=held.template_sha256,
        )
    if asked.scores is not None:
        meta = read_meta(asked.scores)
        card.require_match(
            held,
            semantic_digest=meta["semantic_digest"],
            template_sha256=meta["template_sha256"],
            engine=meta["engine"],
        )
        # test_iid has rows like the calibration rows, which is what the certificate speaks about.
        path = asked.scores / "test_iid.jsonl"
        test = read_scores(path, held.readout)
        look("gate", "test_iid", path)
    if asked.comparison is not None:
        comparison = read_json(asked.comparison)
    return assess(held, test=test, comparison=comparison)


def _of_the_last_run(
    gguf: Path | None,
    scores: Path | None,
    comparison: Path | None,
) -> _Asked:
    """The card of params.release, with the other files of the last run unless they are given."""
    from so8t import params

    # The file that `make release` would publish.
    release = params.load().release
    name = f"{release.model}-{release.type}"
    return _Asked(
        card=Path(f"models/calibration/{name}.json"),
        gguf=gguf or Path(f"models/gguf/{name}.gguf"),
        scores=scores or Path(f"data/scores/{name}"),
        comparison=comparison or Path("reports/metrics/ab.json"),
    )


@click.command()
@click.argument("card", type=File, required=False)
@click.option(
    "--gguf",
    type=File,
    default=None,
    help="the file to be served; its digest must be the one on the card",
)
@click.option(
    "--scores",
    type=Folder,
    default=None,
    help="scores of that file; its false-allow rate on test_iid is measured again",
)
@click.option(
    "--ab",
    "comparison",
    type=File,
    default=None,
    help="ab.json of the last comparison; its findings about collapse and drift count too",
)
def gate(
    card: Path | None,
    gguf: Path | None,
    scores: Path | None,
    comparison: Path | None,
) -> None:
    """Say whether the file of CARD may serve ALLOW, in one sentence and as an exit code.

    Codes: 0 yes; 2 something cannot be used; 3 a limit is violated; 4 nothing was measured; 5 not
    certifiable.

    Without CARD, the file that params.yaml releases is judged, with its scores and the comparison
    of the last run.
    """
    from so8t.calibration.assess import UNUSABLE
    from so8t.errors import So8tError

    try:
        if card is None:
            asked = _of_the_last_run(gguf, scores, comparison)
        else:
            asked = _Asked(card, gguf, scores, comparison)
        outcome = _assess(asked)
    # What cannot be read is not certified, so every failure to read is a refusal.
    except (So8tError, OSError) as error:
        click.echo(f"gate: {error}", err=True)
        sys.exit(UNUSABLE)
    click.echo(f"gate: {outcome.sentence}")
    sys.exit(outcome.code)


@click.command()
@click.argument("card", type=File)
@click.argument("scores", type=Folder)
@click.argument("out", type=File)
@click.option(
    "--train",
    type=File,
    default=Path("data/prepared/train.jsonl"),
    show_default=True,
    help="the prepared training rows that the scores were made with",
)
@click.option("--labels", type=File, default=None, help='reviewed verdicts, JSONL {"id", "label"}')
def recalibrate(
    card: Path,
    scores: Path,
    out: Path,
    train: Path,
    labels: Path | None,
) -> None:
    """Make a new card OUT for CARD's file from SCORES/calibration.jsonl, without training; CARD is
    kept.

    SCORES is a directory of the `score` stage, made from new rows or from the same rows with
    reviewed --labels.
    """
    from so8t import params
    from so8t.calibration import calibrate
    from so8t.calibration.assess import assess

    values = params.load()
    reviewed: dict[str, int] = {}
    if labels is not None:
        reviewed = calibrate.read_labels(labels)
    made = calibrate.recalibrate(
        card,
        scores,
        out,
        train=train,
        labels=reviewed,
        limits=values.calibration,
        seed=values.seed,
    )
    click.echo(f"recalibrate: {out}: {assess(made).sentence}")
