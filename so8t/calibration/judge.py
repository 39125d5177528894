"""A card as a function that decides rows: what comparison needs of calibration, handed over by the stage."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

from numpy import ndarray

from so8t.calibration.card import judge, read, thresholds_of
from so8t.metrics import Scores

Judge = Callable[[Scores], tuple[ndarray, ndarray]]


def judge_of(path: Path) -> tuple[Literal["prefill", "cue"], Judge, dict[str, Any]]:
    """(readout, judge, facts) of a card.

    Raises:
        ArtifactError: the card is missing, edited or inconsistent.
    """
    card = read(path)
    facts = {"semantic_digest": card.semantic_digest, "template_sha256": card.template_sha256,
             "card_digest": card.digest, "status": card.status, "reasons": card.reasons, "readout": card.readout,
             "temperature": card.temperature, "thresholds": card.thresholds.model_dump(),
             "alpha": card.certificate["alpha"], "delta": card.certificate["delta"]}
    return card.readout, partial(judge, card), facts


def under(path: Path, thresholds: Path) -> Judge:
    """Decide by the temperature of one card and the thresholds of another (B under A's thresholds)."""
    return partial(judge, read(path), thresholds=thresholds_of(read(thresholds)))
