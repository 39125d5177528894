"""Score files of the `score` stage as arrays: the only reader, so that everybody sees the same rows.

Covered: labels (unknown is an error), the chosen readout, rows without a label left out, numbers that are not finite
kept as NaN (they escalate later). Not covered: decisions.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray

from so8t.errors import ArtifactError, DataError
from so8t.files import read_json, read_jsonl
from so8t.verdict import VERDICTS, verdict_of

SCHEMA = "so8t.scores/1"
UNNAMED = "unnamed"  # domain of rows that name none


@dataclass(frozen=True, slots=True)
class Scores:
    """Labelled rows of one split: gold codes [n], logits [n, 3] (ALLOW, ESCALATE, DENY), residual mass [n]."""

    ids: tuple[str, ...]
    groups: tuple[str, ...]
    domains: tuple[str, ...]
    gold: Int[ndarray, " n"]
    logits: Float[ndarray, "n 3"]
    residual: Float[ndarray, " n"]
    unlabelled: int = 0

    def __len__(self) -> int:
        return len(self.ids)

    def where(self, mask: Bool[ndarray, " n"]) -> "Scores":
        """The rows where `mask` is true."""
        keep = np.flatnonzero(mask)
        ids, groups, domains = (
            tuple(v[i] for i in keep) for v in (self.ids, self.groups, self.domains)
        )
        return Scores(
            ids,
            groups,
            domains,
            self.gold[keep],
            self.logits[keep],
            self.residual[keep],
            self.unlabelled,
        )

    def relabelled(self, labels: dict[str, int], *, where: str) -> "Scores":
        """The same rows with reviewed gold codes.

        Raises:
            DataError: a reviewed id is not among the rows.
        """
        place = {name: index for index, name in enumerate(self.ids)}
        if strange := sorted(set(labels) - set(place)):
            raise DataError(
                f"{len(strange)} reviewed ids are not labelled rows here (first: {strange[0]})",
                where=where,
                fix="score these rows first, with a label",
            )
        gold = self.gold.copy()
        for name, code in labels.items():
            gold[place[name]] = code
        return replace(self, gold=gold)


def number(value: Any) -> float:
    """A JSON number as float; null, text, booleans and numbers too large for float64 are NaN."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return float("nan")
    try:
        return float(value)
    except OverflowError:
        return float("nan")


def _text(row: dict[str, Any], key: str, where: str) -> str:
    value = row.get(key)
    if not isinstance(value, str) or not value:
        raise DataError(
            f"`{key}` is missing or empty",
            where=where,
            fix="score the split again: dvc repro score",
        )
    return value


def _gold(row: dict[str, Any], where: str) -> int | None:
    label = row.get("verdict")
    if label is None:
        return None
    try:
        return VERDICTS.index(verdict_of(label))
    except (ValueError, TypeError):
        raise DataError(
            "unknown verdict label", where=where, fix="use ALLOW, ESCALATE or DENY"
        ) from None


def _logits(row: dict[str, Any], readout: str, where: str) -> list[float]:
    values = row.get(readout)
    if not isinstance(values, list) or len(values) != len(VERDICTS):
        raise DataError(
            f"`{readout}` is not a list of three numbers",
            where=where,
            fix="score the split again, or change scoring.readout",
        )
    return [number(value) for value in values]


def read_scores(path: Path, readout: Literal["prefill", "cue"]) -> Scores:
    """Read one split of a scores directory.

    Raises:
        DataError: missing file or field, unknown label, an id twice; `where` is `file:line`.
    """
    kept: list[tuple[str, str, str, int, list[float], float]] = []
    seen: set[str] = set()
    unlabelled = 0
    for line, row in read_jsonl(path):
        where = f"{path}:{line}"
        name, gold = _text(row, "id", where), _gold(row, where)
        if name in seen:
            raise DataError("an id occurs twice", where=where, fix="score the split again")
        seen.add(name)
        if gold is None:
            unlabelled += 1
            continue
        domain = _text(row, "domain", where) if row.get("domain") else UNNAMED
        kept.append(
            (
                name,
                _text(row, "group", where),
                domain,
                gold,
                _logits(row, readout, where),
                number(row.get("residual")),
            )
        )
    ids, groups, domains, golds, logits, residual = zip(*kept, strict=True) if kept else ((),) * 6
    rows = np.array(logits, dtype=np.float64).reshape(-1, 3)
    outside = np.array(residual, dtype=np.float64)
    return Scores(ids, groups, domains, np.array(golds, dtype=np.int64), rows, outside, unlabelled)


def read_meta(folder: Path) -> dict[str, Any]:
    """Read meta.json of a scores directory.

    Raises:
        ArtifactError: missing, or not of the schema we know.
    """
    meta = read_json(folder / "meta.json", fix="run the `score` stage")
    wanted = ("file", "semantic_digest", "template_sha256", "engine")
    if (
        not isinstance(meta, dict)
        or meta.get("schema") != SCHEMA
        or any(not meta.get(key) for key in wanted)
    ):
        raise ArtifactError(
            f"not a {SCHEMA} record", where=str(folder / "meta.json"), fix="run the `score` stage"
        )
    return meta
