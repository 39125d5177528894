"""The files of one calibration: scores in, card and temperature report out, the look written down."""

from pathlib import Path
from typing import Any, Literal

from so8t import card as cards
from so8t.calibration.fit import make_card
from so8t.calibration.temperature import report
from so8t.card import Card
from so8t.errors import ArtifactError, DataError
from so8t.files import read_jsonl, write_json
from so8t.metrics import Scores, read_meta, read_scores
from so8t.params import Calibration
from so8t.records.looks import look
from so8t.verdict import VERDICTS, verdict_of


def temperature_path(card: Path) -> Path:
    """models/calibration/b-Q4_K_M.json -> models/calibration/b-Q4_K_M.temperature.json."""
    return card.with_name(f"{card.stem}.temperature.json")


def _write(
    scores: Scores, meta: dict[str, Any], out: Path, limits: Calibration, **how: Any
) -> Card:
    card, fitted = make_card(scores, meta, limits, **how)
    kept = fitted.usable
    write_json(
        temperature_path(out), report(fitted.temperature, scores.logits[kept], scores.gold[kept])
    )
    cards.write(out, card)
    return card


def calibrate(
    folder: Path, out: Path, *, readout: Literal["prefill", "cue"], limits: Calibration, seed: int
) -> Card:
    """Calibrate from `folder`/calibration.jsonl and meta.json.

    Raises:
        DataError: a label or a row that cannot be used.
        ArtifactError: meta.json is missing or of another schema.
    """
    meta, path = read_meta(folder), folder / "calibration.jsonl"
    scores = read_scores(path, readout)
    look("calibrate", "calibration", path)
    return _write(scores, meta, out, limits, readout=readout, seed=seed)


def read_labels(path: Path) -> dict[str, int]:
    """Reviewed gold codes by row id, from JSONL {"id", "label"} (the founding key; `verdict` is read too).

    Raises:
        DataError: a line without an id, an unknown label, or an id with two labels.
    """
    labels: dict[str, int] = {}
    for line, row in read_jsonl(path):
        name, label = row.get("id"), row.get("label", row.get("verdict"))
        try:
            code = (
                VERDICTS.index(verdict_of(label))
                if isinstance(label, str) and isinstance(name, str)
                else -1
            )
        except ValueError:
            code = -1
        if code < 0 or not isinstance(name, str) or labels.get(name, code) != code:
            raise DataError(
                "not one id with one of ALLOW, ESCALATE, DENY",
                where=f"{path}:{line}",
                fix='one line per row: {"id": ..., "label": "ALLOW"}',
            )
        labels[name] = code
    return labels


def recalibrate(
    old: Path, folder: Path, out: Path, *, labels: dict[str, int], limits: Calibration, seed: int
) -> Card:
    """Make a new card for the same file from new or reviewed rows; the old card is kept and named in the new one.

    Args:
        old: the card in use.
        folder: scores of the same file.
        out: must not exist yet.
        labels: reviewed gold codes by row id; every id must be in the scores.

    Raises:
        ArtifactError: `out` exists, or the scores are of another file, template or engine.
        DataError: a reviewed id is not among the scores.
    """
    if out.exists() or temperature_path(out).exists():
        raise ArtifactError(
            "this card exists and is kept",
            where=str(out),
            fix="choose another name for the new card",
        )
    before, meta, path = cards.read(old), read_meta(folder), folder / "calibration.jsonl"
    cards.require_match(
        before,
        semantic_digest=meta["semantic_digest"],
        template_sha256=meta["template_sha256"],
        engine=meta["engine"],
    )
    scores = read_scores(path, before.readout).relabelled(labels, where=str(path))
    look("recalibrate", "calibration", path)
    return _write(
        scores, meta, out, limits, readout=before.readout, seed=seed, previous=before.digest
    )
