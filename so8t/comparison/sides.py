"""One side of a comparison: the rows of a split with its probabilities and decisions.

How a decision is made arrives as a function (a calibration card's), so this package knows no cards.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from so8t.errors import ArtifactError, DataError
from so8t.metrics import Scores, read_meta, read_scores
from so8t.records.looks import look

SPLITS = ("test_iid", "test_cells", "test_phrases")
Judge = Callable[[Scores], tuple[ndarray, ndarray]]


@dataclass(frozen=True, slots=True)
class Side:
    """A scored file and the card that decides for it (`facts` of the card go into the result as they are)."""

    folder: Path
    readout: Literal["prefill", "cue"]
    judge: Judge
    facts: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Arm:
    """Rows of one split, probabilities [n, 3] (NaN = nothing readable), decided codes [n]."""

    scores: Scores
    probabilities: Float[ndarray, "n 3"]
    decided: Int[ndarray, " n"]

    @property
    def top(self) -> Int[ndarray, " n"]:
        """Most probable verdict, ESCALATE where nothing was readable: the model itself, before any threshold."""
        readable = np.isfinite(self.probabilities).all(axis=1)
        return np.where(readable, np.nan_to_num(self.probabilities).argmax(axis=1), 1)

    def judged_by(self, judge: Judge) -> "Arm":
        """The same rows decided by another card."""
        return Arm(self.scores, *judge(self.scores))


def describe(side: Side) -> dict[str, Any]:
    """Facts of a side for the result.

    Raises:
        ArtifactError: the card is for another file or template than the scores.
    """
    meta = read_meta(side.folder)
    for key in ("semantic_digest", "template_sha256"):
        if meta[key] != side.facts[key]:
            raise ArtifactError(
                f"the card and the scores differ in {key}",
                where=str(side.folder),
                fix="run `dvc repro calibrate` and compare again",
            )
    return {
        **side.facts,
        "file": meta["file"],
        "engine": meta["engine"],
        "sampled": bool(meta.get("sampled", False)),
    }


def arm_of(side: Side, split: str) -> Arm:
    """Read one split of a side and decide it by its own card; the look is written down."""
    path = side.folder / f"{split}.jsonl"
    scores = in_order(read_scores(path, side.readout))
    look("compare", split, path)
    return Arm(scores, *side.judge(scores))


def in_order(scores: Scores) -> Scores:
    """The same rows sorted by id, so that pairing and seeds do not depend on the order in the file."""
    order = np.argsort(np.asarray(scores.ids, dtype=np.str_), kind="stable")
    ids, groups, domains = (
        tuple(values[i] for i in order.tolist())
        for values in (scores.ids, scores.groups, scores.domains)
    )
    return Scores(
        ids,
        groups,
        domains,
        scores.gold[order],
        scores.logits[order],
        scores.residual[order],
        scores.unlabelled,
    )


def require_paired(a: Arm, b: Arm, where: str) -> None:
    """Refuse to compare sides that were not scored on the same labelled rows.

    Raises:
        DataError: ids, groups, domains or labels differ.
    """
    same = (
        a.scores.ids == b.scores.ids
        and a.scores.groups == b.scores.groups
        and a.scores.domains == b.scores.domains
    )
    if not same or not np.array_equal(a.scores.gold, b.scores.gold):
        raise DataError(
            "A and B were not scored on the same labelled rows",
            where=where,
            fix="score both files again: dvc repro score",
        )
