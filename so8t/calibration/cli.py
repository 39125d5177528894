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
RELEASE = Path("models/release")
COMPARISON = "so8t.ab/1"  # schema of ab.json


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
    from so8t.files import read_object
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
        comparison = read_object(asked.comparison, fix="run `dvc repro compare`", schema=COMPARISON)
    return assess(held, test=test, comparison=comparison)


def _of_the_release(
    gguf: Path | None,
    scores: Path | None,
    comparison: Path | None,
    allow_unsigned: bool,
) -> _Asked:
    """The card in models/release, with the other files of the last run unless they are given."""
    from so8t import card, params
    from so8t.errors import ArtifactError
    from so8t.manifest import CARD
    from so8t.released import open_release

    release = params.load().release
    name = f"{release.model}-{release.type}"
    opened = open_release(RELEASE, allow_unsigned=allow_unsigned)
    if opened.warning:
        click.echo(opened.warning, err=True)
    made_from = Path(f"models/calibration/{name}.json")
    # What is served must be what was measured last, and not an earlier release.
    if card.read(made_from).digest != opened.card.digest:
        raise ArtifactError(
            f"its card is not {made_from}, the newest one of params.release",
            where=str(RELEASE),
            fix="run `dvc repro release`",
        )
    return _Asked(
        card=RELEASE / CARD,
        # The released file was compared with its card when the release was opened.
        gguf=gguf,
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
    help="scores of that file; its false-allow rate on test_iid is measured again, by domain",
)
@click.option(
    "--ab",
    "comparison",
    type=File,
    default=None,
    help="ab.json of the last comparison; its findings about collapse and drift count too",
)
@click.option("--unsigned", is_flag=True, help="without CARD: judge a release that nobody signed")
def gate(
    card: Path | None,
    gguf: Path | None,
    scores: Path | None,
    comparison: Path | None,
    unsigned: bool,
) -> None:
    """Say whether the file of CARD may serve ALLOW, in one sentence and as an exit code.

    Codes: 0 yes; 2 something cannot be used; 3 a limit is violated; 4 nothing was measured; 5 not
    certifiable.

    Without CARD, models/release is judged: its signature first, then its scores and the comparison
    of the last run. With CARD, nothing says who made the card.
    """
    from so8t.calibration.assess import UNUSABLE
    from so8t.errors import So8tError

    if unsigned and card is not None:
        raise click.UsageError("--unsigned is about models/release: leave out CARD")
    try:
        if card is None:
            asked = _of_the_release(gguf, scores, comparison, unsigned)
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
@click.option(
    "--reviewer", default="", help="who reviewed them, for the card; needed with --labels"
)
def recalibrate(
    card: Path,
    scores: Path,
    out: Path,
    train: Path,
    labels: Path | None,
    reviewer: str,
) -> None:
    """Make a new card OUT for CARD's file from SCORES/calibration.jsonl, without training; CARD is
    kept.

    SCORES is a directory of the `score` stage, made from new rows or from the same rows with
    reviewed --labels. OUT names the --reviewer and every label that the review changed.
    """
    from so8t import params
    from so8t.calibration import calibrate
    from so8t.calibration.assess import assess

    # Before anything is read: a review that nobody signs is none.
    if labels is not None and not reviewer.strip():
        raise click.UsageError("--labels needs --reviewer NAME: who reviewed them")
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
        reviewer=reviewer,
        limits=values.calibration,
        seed=values.seed,
    )
    click.echo(f"recalibrate: {out}: {assess(made).sentence}")
