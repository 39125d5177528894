"""From the sources in params.yaml to the six prepared splits, all or nothing.

One pass: read, understand, clean, compare with what was kept, place, write into a directory that appears only when
everything went well. Rows that are malformed stop it with file and line; rows that are well-formed but unfit are counted
by reason. Memory holds signatures and counts, never the texts.

Covered: the order of the steps, weights of sources, counts. Not covered: each step (ingest, formats, hygiene, near, split).
"""

import hashlib
import json
import tempfile
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

from so8t.chat import response_of
from so8t.data import ingest
from so8t.data.formats import Row, row_of
from so8t.data.hygiene import clean, is_forbidden_target
from so8t.data.near_duplicates import NearIndex, Sketch, normalise
from so8t.data.splits import place, unit
from so8t.errors import DataError
from so8t.files import atomic_dir
from so8t.params import Data, Source
from so8t.progress import Progress
from so8t.rows import SPLITS

FIRST = {
    "test": 0,
    "calibration": 1,
    "auto": 2,
    "train": 3,
}  # a user's test rows stay; whatever resembles them goes


@dataclass(slots=True)
class Counts:
    """What happened to the rows."""

    sources: list[dict[str, Any]] = field(default_factory=list)
    kept: Counter[tuple[str, str, str]] = field(default_factory=Counter)  # (split, domain, verdict)
    dropped: Counter[str] = field(default_factory=Counter)
    groups: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    unsafe: dict[str, set[str]] = field(
        default_factory=lambda: defaultdict(set)
    )  # domain -> calibration groups
    lengths: dict[str, Counter[int]] = field(
        default_factory=lambda: {"text": Counter(), "response": Counter()}
    )
    languages_only: int = 0


class Texts:
    """Kept texts on disk, asked back by number."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.ends = file, array("Q", [0])

    def add(self, text: str) -> None:
        """Append a text under the next number."""
        data = text.encode()
        self.file.seek(self.ends[-1])
        self.file.write(data)
        self.ends.append(self.ends[-1] + len(data))

    def __getitem__(self, number: int) -> str:
        self.file.seek(self.ends[number])
        return self.file.read(self.ends[number + 1] - self.ends[number]).decode()


class Kept:
    """What was kept so far: decides whether a row is new, and which group and split it belongs to."""

    def __init__(self, data: Data, seed: int, texts: Texts) -> None:
        self.data, self.seed, self.texts = data, seed, texts
        self.index = NearIndex(data.near_duplicate, self.texts.__getitem__)
        self.exact: dict[bytes, str] = {}
        self.split_of_group: dict[str, str] = {}
        self.group_of: list[str] = []
        self.ids: set[bytes] = set()

    def admit(self, row: Row, use: str) -> tuple[str, str] | str:
        """(group, split) of a new row, or the reason to drop it."""
        digest = hashlib.sha256(normalise(row.text).encode()).digest()[:16]
        if digest in self.exact:
            return (
                "exact_duplicate"
                if self.exact[digest] == str(row.verdict)
                else "same_text_other_label"
            )
        sketch = self.index.sketch(row.text)
        near = list(dict.fromkeys(self.group_of[n] for n in self.index.similar(sketch)))
        if row.group is not None and any(g != row.group for g in near):
            return "near_duplicate_of_another_group"
        group = row.group or (near[0] if near else row.id)
        held_out = "cells" if row.domain == self.data.held_out_domain else row.held_out
        split = place(group, use, held_out, self.seed, self.data.split)
        if (
            any(self.split_of_group[g] != split for g in near)
            or self.split_of_group.get(group, split) != split
        ):
            return "would_straddle_splits"
        self._remember(row, digest, sketch, group, split)
        return group, split

    def _remember(self, row: Row, digest: bytes, sketch: Sketch, group: str, split: str) -> None:
        self.exact[digest] = str(row.verdict)
        self.split_of_group.setdefault(group, split)
        self.texts.add(row.text)
        self.index.add(sketch)
        self.group_of.append(group)

    def unique_id(self, row: Row) -> None:
        """Refuse an id that another row has."""
        digest = hashlib.sha256(row.id.encode()).digest()[:12]
        if digest in self.ids:
            raise DataError(
                "the id is used by another row",
                where=row.where,
                fix="give every row its own id, or none",
            )
        self.ids.add(digest)


def prepare(data: Data, seed: int, out: Path | None, progress: Progress) -> Counts:
    """Write the splits into `out` (None: a dry run that writes nothing) and return what was counted.

    Raises:
        DataError: a malformed row (`file:line`), or nothing was left.
    """
    with tempfile.TemporaryFile() as texts:
        counts, kept = Counts(), Kept(data, seed, Texts(texts))
        if out is None:
            _run(data, kept, counts, {}, progress)
            return counts
        with atomic_dir(out) as folder:
            with ExitStack() as writing:
                files = {
                    name: writing.enter_context(
                        (folder / f"{name}.jsonl").open("w", encoding="utf-8", newline="\n")
                    )
                    for name in SPLITS
                }
                _run(data, kept, counts, files, progress)
            if not counts.kept:
                raise DataError(
                    "no row was kept",
                    where="data.sources",
                    fix="`prepare --dry-run` says why each was dropped",
                )
        return counts


def _run(
    data: Data, kept: Kept, counts: Counts, files: Mapping[str, IO[str]], progress: Progress
) -> None:
    for source in sorted(data.sources, key=lambda s: FIRST[s.use]):
        paths = ingest.files_of(source.path)
        entry: dict[str, Any] = {
            "path": source.path,
            "use": source.use,
            "weight": source.weight,
            "files": {},
            "read": 0,
            "kept": 0,
        }
        counts.sources.append(entry)
        for row in progress.bar(
            _rows(paths, source, data, counts, entry), what="prepare", unit="row"
        ):
            _take(row, source, data, kept, counts, entry, files)


def _rows(
    paths: list[Path], source: Source, data: Data, counts: Counts, entry: dict[str, Any]
) -> Iterator[Row]:
    """Clean rows of a source; the others are counted."""
    for path in paths:
        entry["files"][str(path)] = 0
        for where, raw in ingest.read(path):
            entry["files"][str(path)] += 1
            row = row_of(raw, where, source.path)
            row = clean(row, data) if isinstance(row, Row) else row
            if isinstance(row, str):
                counts.dropped[row] += 1
            elif source.weight < 1.0 and unit(row.group or row.id) >= source.weight:
                counts.dropped["not_sampled"] += 1
            else:
                yield row
        entry["read"] += entry["files"][str(path)]


def _take(
    row: Row,
    source: Source,
    data: Data,
    kept: Kept,
    counts: Counts,
    entry: dict[str, Any],
    files: Mapping[str, IO[str]],
) -> None:
    placed = kept.admit(row, source.use)
    if isinstance(placed, str):
        counts.dropped[placed] += 1
        return
    kept.unique_id(row)
    group, split = placed
    response = response_of(row.verdict, row.thinking, row.final, data.format)
    if is_forbidden_target(response):
        raise DataError(
            "the rendered training text holds hazardous content",
            where=row.where,
            fix="remove the row",
        )
    entry["kept"] += 1
    _count(row, group, split, response, counts)
    copies = _copies(row.id, source.weight) if split == "train" else 1
    for copy in range(copies if files else 0):
        written = prepared(
            replace(row, id=row.id if copy == 0 else f"{row.id}#{copy + 1}"), group, response
        )
        files[split].write(json.dumps(written, ensure_ascii=False, allow_nan=False) + "\n")


def _copies(row_id: str, weight: float) -> int:
    """How often a training row is written: the whole part of the weight, and one more for its fraction of the rows."""
    whole = max(1, int(weight))
    return whole + (weight > whole and unit(f"{row_id}|again") < weight - whole)


def prepared(row: Row, group: str, response: str) -> dict[str, Any]:
    """A row as it is written."""
    return {
        "id": row.id,
        "text": row.text,
        "verdict": None if row.verdict is None else str(row.verdict),
        "authority": None if row.authority is None else str(row.authority),
        "domain": row.domain,
        "thinking": row.thinking,
        "final": row.final,
        "response": response,
        "group": group,
        "pair": row.pair,
        "factors": row.factors,
        "source": row.source,
        "license": row.license,
    }


def _count(row: Row, group: str, split: str, response: str, counts: Counts) -> None:
    verdict = "none" if row.verdict is None else str(row.verdict)
    counts.kept[split, row.domain, verdict] += 1
    counts.groups[split].add(group)
    counts.lengths["text"][len(row.text)] += 1
    counts.lengths["response"][len(response)] += 1
    if split == "calibration" and verdict in ("ESCALATE", "DENY"):
        counts.unsafe[row.domain].add(group)
