"""One side of a comparison: a scored file, the card that decides for it, its rows of a split."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from so8t.card import Card, DecidedRows, decide_rows
from so8t.errors import ArtifactError, DataError
from so8t.metrics import Scores, read_meta, read_scores
from so8t.records.looks import look

SPLITS = ("test_iid", "test_cells", "test_phrases")


@dataclass(frozen=True, slots=True)
class Side:
    """A directory of the `score` stage and the card of the same file."""

    folder: Path
    card: Card


def describe(side: Side) -> dict[str, Any]:
    """Facts of a side as they go into ab.json.

    Raises:
        ArtifactError: the card is for another file or template than the scores.
    """
    meta = read_meta(side.folder)
    card = side.card
    facts = {
        "semantic_digest": card.semantic_digest,
        "template_sha256": card.template_sha256,
        "card_digest": card.digest,
        "status": card.status,
        "reasons": card.reasons,
        "readout": card.readout,
        "temperature": card.temperature,
        "thresholds": card.thresholds.model_dump(),
        "alpha": card.certificate["alpha"],
        "delta": card.certificate["delta"],
        "file": meta["file"],
        "engine": meta["engine"],
        "sampled": bool(meta.get("sampled", False)),
    }
    # The engine is not compared here: it goes into the facts, and `so8t gate` compares it.
    for key in ("semantic_digest", "template_sha256"):
        if meta[key] != facts[key]:
            raise ArtifactError(
                f"the card and the scores differ in {key}",
                where=str(side.folder),
                fix="run `dvc repro calibrate` and compare again",
            )
    return facts


def read_split(side: Side, split: str) -> DecidedRows:
    """Read one split of a side and decide it by its own card; the look is written down."""
    path = side.folder / f"{split}.jsonl"
    # Each card was fitted on one of the two readouts and means nothing for the other.
    scores = in_order(read_scores(path, side.card.readout))
    # Comparing many candidates on the same test rows wears them out, so each look is counted.
    look("compare", split, path)
    return decide_rows(side.card, scores)


def in_order(scores: Scores) -> Scores:
    """The same rows sorted by id.

    So the pairing of two files and the random draws do not depend on the order in either file.
    """
    order = np.argsort(np.asarray(scores.ids, dtype=np.str_), kind="stable")
    places = order.tolist()
    return Scores(
        ids=tuple(scores.ids[place] for place in places),
        groups=tuple(scores.groups[place] for place in places),
        domains=tuple(scores.domains[place] for place in places),
        strangeness={name: numbers[order] for name, numbers in scores.strangeness.items()},
        gold=scores.gold[order],
        logits=scores.logits[order],
        residual=scores.residual[order],
        unlabelled=scores.unlabelled,
    )


def require_paired(a: DecidedRows, b: DecidedRows, where: str) -> None:
    """Refuse to compare sides that were not scored on the same labelled rows.

    Args:
        a: rows of one side.
        b: rows of the other side, in the same order.
        where: the other side's file, for the error.

    Raises:
        DataError: ids, groups, domains or labels differ.
    """
    first = a.scores
    second = b.scores
    # Every test here is paired: a row that only one side has, or that changed its label between
    # two runs of the score stage, would count as a difference between the models.
    same_names = (
        first.ids == second.ids
        and first.groups == second.groups
        and first.domains == second.domains
    )
    if not same_names or not np.array_equal(first.gold, second.gold):
        raise DataError(
            "A and B were not scored on the same labelled rows",
            where=where,
            fix="score both files again: dvc repro score",
        )
