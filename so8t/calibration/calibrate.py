"""The files of one calibration.

Scores come in, the card and the temperature report go out, and the look at the rows is written down
(`so8t.records.looks`: the certificate counts only if these rows did not choose the model).
"""

from pathlib import Path
from typing import Any

from so8t import card
from so8t.calibration.certify import Fitted
from so8t.calibration.fit import make_card
from so8t.calibration.temperature import report
from so8t.card import Card
from so8t.errors import ArtifactError, DataError
from so8t.familiarity import Example, Index, Reference, make_index, reference_texts, write_index
from so8t.files import read_jsonl, sha256_file, write_json
from so8t.metrics import Scores, read_meta, read_scores
from so8t.params import Calibration, Readout
from so8t.records.looks import look
from so8t.verdict import VERDICTS, verdict_of


def temperature_path(card_file: Path) -> Path:
    """models/calibration/b-Q4_K_M.json -> models/calibration/b-Q4_K_M.temperature.json."""
    return card_file.with_name(f"{card_file.stem}.temperature.json")


def index_path(card_file: Path) -> Path:
    """models/calibration/b-Q4_K_M.json -> models/calibration/b-Q4_K_M.familiarity.json."""
    return card_file.with_name(f"{card_file.stem}.familiarity.json")


def index_of(scores: Scores, meta: dict[str, Any], train: Path, limits: Calibration) -> Index:
    """The familiarity index of one file's calibration rows.

    Args:
        scores: of the calibration split.
        meta: meta.json of the scores.
        train: the prepared training split, which the scores' numbers were made with.
        limits: params.calibration.

    Raises:
        ArtifactError: `train` is not the one of the scores.
    """
    if meta.get("reference_sha256") != sha256_file(train):
        raise ArtifactError(
            "the scores were made with other training rows",
            where=str(train),
            fix="run `dvc repro score`",
        )
    examples = []
    for row, name in enumerate(scores.ids):
        numbers = {signal: float(values[row]) for signal, values in scores.strangeness.items()}
        examples.append(Example(name, scores.groups[row], scores.domains[row], numbers))
    reference = Reference.of(reference_texts(train))
    return make_index(reference, examples, limits.signals, limits.novelty)


def _write(
    out: Path,
    made: Card,
    fitted: Fitted,
    scores: Scores,
    index: Index,
) -> None:
    """Write the card and, beside it, the temperature report and the familiarity index."""
    # The rows of the fit alone: the report is about how well it fits.
    rows = fitted.usable & fitted.familiar
    logits = scores.logits[rows]
    gold = scores.gold[rows]
    write_index(index_path(out), index)
    # The card comes last: where it exists, its report and index exist too.
    write_json(temperature_path(out), report(fitted.temperature, logits, gold))
    card.write(out, made)


def calibrate(
    folder: Path,
    out: Path,
    *,
    train: Path,
    readout: Readout,
    limits: Calibration,
    seed: int,
) -> Card:
    """Calibrate one file from its scores.

    Args:
        folder: of the `score` stage; calibration.jsonl and meta.json are read.
        out: the card; the temperature report and the familiarity index go beside it.
        train: the prepared training split, the reference of familiarity.
        readout: which of the two readouts decides.
        limits: params.calibration.
        seed: of the bootstrap.

    Raises:
        DataError: a label or a row that cannot be used.
        ArtifactError: meta.json is missing or of another schema.
    """
    meta = read_meta(folder)
    path = folder / "calibration.jsonl"
    scores = read_scores(path, readout)
    # After reading: a file that cannot be read was not looked at.
    look("calibrate", "calibration", path)
    index = index_of(scores, meta, train, limits)
    made, fitted = make_card(
        scores,
        meta,
        limits,
        index,
        readout=readout,
        seed=seed,
    )
    _write(out, made, fitted, scores, index)
    return made


def read_labels(path: Path) -> dict[str, int]:
    """Reviewed verdict codes by row id, from JSON Lines {"id", "label"}.

    `label` is the key of the founding documents; `verdict`, the key of prepared rows, is read too.

    Raises:
        DataError: a line without an id, an unknown label, or an id with two labels.
    """
    labels: dict[str, int] = {}
    for line, row in read_jsonl(path):
        name = row.get("id")
        # Both keys, since a reviewer may edit a copy of the prepared rows.
        code = _code_of(row.get("label", row.get("verdict")))
        # Two lines for one id are accepted only where they agree: which review counts is not ours
        # to say.
        if code is None or not isinstance(name, str) or labels.get(name, code) != code:
            raise DataError(
                "not one id with one of ALLOW, ESCALATE, DENY",
                where=f"{path}:{line}",
                fix='one line per row: {"id": ..., "label": "ALLOW"}',
            )
        labels[name] = code
    return labels


def _code_of(label: Any) -> int | None:
    """The code of a label; null when it is none."""
    if not isinstance(label, str):
        return None
    try:
        return VERDICTS.index(verdict_of(label))
    except ValueError:
        return None


def changes(scores: Scores, labels: dict[str, int]) -> list[dict[str, str]]:
    """What a review changed, by id: `from` and `to`; confirmed labels are no change."""
    found = []
    for name, was in zip(scores.ids, scores.gold.tolist(), strict=True):
        now = labels.get(name, was)
        if now != was:
            found.append({"id": name, "from": str(VERDICTS[was]), "to": str(VERDICTS[now])})
    return sorted(found, key=lambda change: change["id"])


def recalibrate(
    old: Path,
    folder: Path,
    out: Path,
    *,
    train: Path,
    labels: dict[str, int],
    reviewer: str = "",
    limits: Calibration,
    seed: int,
) -> Card:
    """Make a new card for the same file, from new rows or from reviewed labels.

    The old card is kept, and the new one names it as `previous`.

    Args:
        old: the card in use.
        folder: scores of the same file.
        out: must not exist yet.
        train: the prepared training split, the reference of familiarity.
        labels: reviewed gold codes by row id; every id must be in the scores.
        reviewer: who reviewed them; needed where there are labels.
        limits: params.calibration.
        seed: of the bootstrap.

    Raises:
        ArtifactError: `out` exists, or the scores are of another file, template or engine.
        DataError: a reviewed id is not among the scores, or nobody says who reviewed.
    """
    # A changed label changes what is certified, so somebody has to stand for it.
    if labels and not reviewer.strip():
        raise DataError(
            "reviewed labels without a reviewer",
            where=str(out),
            fix="say who reviewed them: --reviewer NAME",
        )
    # The old card may be what a server reads now; a new one goes beside it.
    if out.exists() or temperature_path(out).exists():
        raise ArtifactError(
            "this card exists and is kept",
            where=str(out),
            fix="choose another name for the new card",
        )
    before = card.read(old)
    meta = read_meta(folder)
    path = folder / "calibration.jsonl"
    # Otherwise the labels would calibrate a file that the old card does not speak about.
    card.require_match(
        before,
        semantic_digest=meta["semantic_digest"],
        template_sha256=meta["template_sha256"],
        engine=meta["engine"],
    )
    unreviewed = read_scores(path, before.readout)
    scores = unreviewed.relabelled(labels, where=str(path))
    review = None
    if labels:
        review = {"reviewer": reviewer.strip(), "changes": changes(unreviewed, labels)}
    look("recalibrate", "calibration", path)
    index = index_of(scores, meta, train, limits)
    made, fitted = make_card(
        scores,
        meta,
        limits,
        index,
        readout=before.readout,
        seed=seed,
        previous=before.digest,
        review=review,
    )
    _write(out, made, fitted, scores, index)
    return made
