"""Score files of the `score` stage as arrays.

This is the only reader, so that everybody sees the same rows. An unknown label is an error, a row
without a label is left out, and a number that is not finite becomes NaN (such a row escalates
later). The readout is `prefill` (the reserved rows at the end of the prompt) or `cue` (the labels
after the heading `# 判定`).

Not covered: decisions.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray

from so8t.errors import ArtifactError, DataError
from so8t.files import read_json, read_jsonl
from so8t.verdict import VERDICTS, verdict_of

SCHEMA = "so8t.scores/2"
# Domain of rows that name none.
UNNAMED = "unnamed"
# What meta.json must say: without it nobody knows which file and prompt the numbers are of.
IDENTITY = ("file", "semantic_digest", "template_sha256", "engine")


@dataclass(frozen=True, slots=True)
class Scores:
    """Labelled rows of one split.

    Attributes:
        ids: id of each row.
        groups: group of each row (rows made from one template).
        domains: domain of each row.
        gold: codes of the labels, in the order of VERDICTS.
        logits: of (ALLOW, ESCALATE, DENY).
        residual: probability of anything but the labels after the cue.
        unlabelled: rows of the split that were left out.
        strangeness: familiarity signals of each row, by name (so8t.familiarity).
    """

    ids: tuple[str, ...]
    groups: tuple[str, ...]
    domains: tuple[str, ...]
    gold: Int[ndarray, " n"]
    logits: Float[ndarray, "n 3"]
    residual: Float[ndarray, " n"]
    unlabelled: int = 0
    strangeness: Mapping[str, Float[ndarray, " n"]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.ids)

    def where(self, mask: Bool[ndarray, " n"]) -> "Scores":
        """The rows where `mask` is true; `unlabelled` stays that of the whole split."""
        keep = np.flatnonzero(mask)
        return replace(
            self,
            ids=tuple(self.ids[index] for index in keep),
            groups=tuple(self.groups[index] for index in keep),
            domains=tuple(self.domains[index] for index in keep),
            gold=self.gold[keep],
            logits=self.logits[keep],
            residual=self.residual[keep],
            strangeness={name: values[keep] for name, values in self.strangeness.items()},
        )

    def relabelled(self, labels: dict[str, int], *, where: str) -> "Scores":
        """The same rows with reviewed gold codes.

        Args:
            labels: codes by row id.
            where: the file that the labels come from, for the error.

        Raises:
            DataError: a reviewed id is not among the rows.
        """
        place = {name: index for index, name in enumerate(self.ids)}
        strange = sorted(set(labels) - set(place))
        if strange:
            raise DataError(
                f"{len(strange)} reviewed ids are not labelled rows here (first: {strange[0]})",
                where=where,
                fix="score these rows first, with a label",
            )
        # A copy: `replace` would share the array with the original.
        gold = self.gold.copy()
        for name, code in labels.items():
            gold[place[name]] = code
        return replace(self, gold=gold)


@dataclass(slots=True)
class _Columns:
    """The fields of `Scores` while they are read."""

    ids: list[str] = field(default_factory=list)
    groups: list[str] = field(default_factory=list)
    domains: list[str] = field(default_factory=list)
    gold: list[int] = field(default_factory=list)
    logits: list[list[float]] = field(default_factory=list)
    residual: list[float] = field(default_factory=list)
    unlabelled: int = 0
    strangeness: list[dict[str, float]] = field(default_factory=list)

    def scores(self) -> Scores:
        return Scores(
            ids=tuple(self.ids),
            groups=tuple(self.groups),
            domains=tuple(self.domains),
            gold=np.array(self.gold, dtype=np.int64),
            # No rows would otherwise have shape [0].
            logits=np.array(self.logits, dtype=np.float64).reshape(-1, len(VERDICTS)),
            residual=np.array(self.residual, dtype=np.float64),
            unlabelled=self.unlabelled,
            strangeness=self._signals(),
        )

    def _signals(self) -> dict[str, Float[ndarray, " n"]]:
        """One array for each signal; NaN where a row lacks it."""
        names = sorted({name for row in self.strangeness for name in row})
        signals = {}
        for name in names:
            values = [number(row.get(name)) for row in self.strangeness]
            signals[name] = np.array(values, dtype=np.float64)
        return signals


def number(value: Any) -> float:
    """A JSON number as float; null, text, booleans and numbers beyond float64 are NaN."""
    # In Python a boolean is an int.
    if isinstance(value, bool) or not isinstance(value, int | float):
        return float("nan")
    try:
        return float(value)
    except OverflowError:
        return float("nan")


def _text(
    row: dict[str, Any],
    key: str,
    where: str,
) -> str:
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
    # A TypeError is a label that is a list or an object.
    except (ValueError, TypeError):
        raise DataError(
            "unknown verdict label", where=where, fix="use ALLOW, ESCALATE or DENY"
        ) from None


def _logits(
    row: dict[str, Any],
    readout: str,
    where: str,
) -> list[float]:
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
    kept = _Columns()
    # An id twice would count one request twice, and every rate with it.
    seen: set[str] = set()
    for line, row in read_jsonl(path):
        where = f"{path}:{line}"
        name = _text(row, "id", where)
        gold = _gold(row, where)
        if name in seen:
            raise DataError("an id occurs twice", where=where, fix="score the split again")
        seen.add(name)
        if gold is None:
            kept.unlabelled += 1
            continue
        kept.ids.append(name)
        kept.gold.append(gold)
        domain = UNNAMED
        if row.get("domain"):
            domain = _text(row, "domain", where)
        kept.domains.append(domain)
        kept.groups.append(_text(row, "group", where))
        kept.logits.append(_logits(row, readout, where))
        kept.residual.append(number(row.get("residual")))
        kept.strangeness.append(row.get("strangeness") or {})
    return kept.scores()


def read_meta(folder: Path) -> dict[str, Any]:
    """Read meta.json of a scores directory.

    Raises:
        ArtifactError: missing, or not of the schema we know.
    """
    path = folder / "meta.json"
    # Older formats are refused, because a field that they lack may decide what a number means.
    meta = read_json(path, fix="run the `score` stage")
    known = isinstance(meta, dict) and meta.get("schema") == SCHEMA
    if not known or not all(meta.get(key) for key in IDENTITY):
        raise ArtifactError(f"not a {SCHEMA} record", where=str(path), fix="run the `score` stage")
    found: dict[str, Any] = meta
    return found
