"""From the sources in params.yaml to the prepared splits, all or nothing.

One pass: read, understand, clean, compare with what was kept, place, write into a directory that
appears only when everything went well. Rows that are malformed stop it with file and line; rows
that are well-formed but unfit are counted by reason. Memory holds signatures and counts, never the
texts: 200,000 rows take 300 MiB at the peak.

Covered: the order of the steps, weights of sources, counts. Not covered: each step (`ingest`,
`formats`, `hygiene`, `near_duplicates`, `splits`).
"""

import hashlib
import json
import tempfile
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, NamedTuple, TypeAlias

from so8t.chat import response_of
from so8t.data import ingest
from so8t.data.alike import AlikeGroups, rename_groups
from so8t.data.evasion import chosen, evasion_rows
from so8t.data.formats import Reason, Sample, sample_of, shown
from so8t.data.hygiene import clean, is_forbidden_target
from so8t.data.near_duplicates import NearIndex, Sketch, normalise
from so8t.data.splits import place, unit
from so8t.errors import DataError
from so8t.files import atomic_dir, write_jsonl
from so8t.params import Data, Source
from so8t.progress import Progress
from so8t.rows import SPLITS, Row, read_rows
from so8t.verdict import Verdict

# Sources are read in this order, because the first of two near-duplicates stays: a user's own test
# rows are kept, and training rows that resemble them go.
READING_ORDER = ("test", "probe", "calibration", "auto", "train")


@dataclass(slots=True)
class SourceCounts:
    """What was read of one source, as it goes into the metrics; `files` holds rows by file."""

    path: str
    use: str
    weight: float
    files: dict[str, int] = field(default_factory=dict)
    read: int = 0
    kept: int = 0


Sets: TypeAlias = defaultdict[str, set[str]]


def _no_sets() -> Sets:
    return defaultdict(set)


def _no_lengths() -> dict[str, Counter[int]]:
    return {
        "text": Counter(),
        "response": Counter(),
    }


@dataclass(slots=True)
class Counts:
    """What happened to the rows."""

    sources: list[SourceCounts] = field(default_factory=list)
    # (split, domain, verdict or "none") -> rows
    kept: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    # Reason -> rows
    dropped: Counter[Reason] = field(default_factory=Counter)
    # Split -> groups
    groups: Sets = field(default_factory=_no_sets)
    # Domain -> calibration groups with an unsafe row, on which a certificate rests
    unsafe: Sets = field(default_factory=_no_sets)
    # Calibration groups that were merged into another one, which they resemble
    merged: int = 0
    # What -> length in characters -> rows
    lengths: dict[str, Counter[int]] = field(default_factory=_no_lengths)

    def add(self, row: Row, split: str) -> None:
        """Count one kept row, once however often its weight repeats it."""
        verdict = str(row.verdict or "none")
        self.kept[split, row.domain, verdict] += 1
        self.groups[split].add(row.group)
        self.lengths["text"][len(row.text)] += 1
        self.lengths["response"][len(row.response)] += 1
        is_unsafe = row.verdict in (Verdict.ESCALATE, Verdict.DENY)
        if split == "calibration" and is_unsafe:
            self.unsafe[row.domain].add(row.group)

    def merge(self, merged: dict[str, str]) -> None:
        """Count the calibration groups under their new names."""
        self.merged = len(merged)
        for groups in (self.groups["calibration"], *self.unsafe.values()):
            names = {merged.get(group, group) for group in groups}
            groups.clear()
            groups.update(names)


class Texts:
    """Kept texts on disk, asked back by number."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        # Text i lies between ends[i] and ends[i + 1].
        self.ends = array("Q", [0])

    def add(self, text: str) -> None:
        """Append a text under the next number."""
        data = text.encode()
        # A read may have moved the position.
        self.file.seek(self.ends[-1])
        self.file.write(data)
        end = self.ends[-1] + len(data)
        self.ends.append(end)

    def __getitem__(self, number: int) -> str:
        start = self.ends[number]
        end = self.ends[number + 1]
        self.file.seek(start)
        return self.file.read(end - start).decode()


class Place(NamedTuple):
    """Where a row belongs."""

    group: str
    split: str


class Kept:
    """What was kept so far: decides whether a row is new, and its group and split."""

    def __init__(self, data: Data, seed: int, texts: Texts) -> None:
        self.data = data
        self.seed = seed
        self.texts = texts
        self.index = NearIndex(data.near_duplicate, self.texts.__getitem__)
        # Digest of the normalised text -> label
        self.exact: dict[bytes, str] = {}
        self.split_of_group: dict[str, str] = {}
        # By the row's number in `index` and `texts`
        self.group_of: list[str] = []
        self.ids: set[bytes] = set()
        # Groups on which the certificate rests, which must be independent.
        self.alike = AlikeGroups(self.texts.__getitem__)

    def admit(self, sample: Sample, use: str) -> Place | Reason:
        """Group and split of a new row, which is remembered; or the reason to drop it.

        Args:
            sample: a clean row.
            use: of its source.
        """
        digest = _digest(normalise(sample.text))
        label = str(sample.verdict)
        if digest in self.exact:
            if self.exact[digest] == label:
                return "exact_duplicate"
            return "same_text_other_label"
        sketch = self.index.sketch(sample.text)
        near = self._groups_like(sketch)
        if sample.group is not None:
            # A named group is the user's word: a near-duplicate elsewhere is dropped, not moved.
            if set(near) - {sample.group}:
                return "near_duplicate_of_another_group"
            group = sample.group
        elif near:
            group = near[0]
        else:
            # The first of its kind gives the group its name.
            group = sample.id
        split = self._split_of(sample, group, use)
        # Sources with a fixed use can put one group, or near-duplicates, into two splits.
        homes = {self.split_of_group[other] for other in near}
        homes.add(self.split_of_group.get(group, split))
        if homes != {split}:
            return "would_straddle_splits"
        self.exact[digest] = label
        self._remember(sample.text, sketch, group, split)
        return Place(group, split)

    def _groups_like(self, sketch: Sketch) -> list[str]:
        """Groups of near-duplicates, each once, the oldest first."""
        groups = []
        for number in self.index.similar(sketch):
            groups.append(self.group_of[number])
        return list(dict.fromkeys(groups))

    def _split_of(self, sample: Sample, group: str, use: str) -> str:
        held_out = sample.held_out
        if sample.domain == self.data.held_out_domain:
            held_out = "cells"
        return place(
            group=group,
            use=use,
            held_out=held_out,
            seed=self.seed,
            shares=self.data.split,
        )

    def _remember(self, text: str, sketch: Sketch, group: str, split: str) -> None:
        self.split_of_group.setdefault(group, split)
        self.texts.add(text)
        self.index.add(sketch)
        self.group_of.append(group)
        if split == "calibration":
            self.alike.add(len(self.group_of) - 1, text, group)

    def unique_id(self, sample: Sample) -> None:
        """Refuse an id that another row has.

        Raises:
            DataError: it has.
        """
        digest = _digest(sample.id)
        if digest in self.ids:
            raise DataError(
                "the id is used by another row",
                where=sample.where,
                fix="give every row its own id, or none",
            )
        self.ids.add(digest)


def _digest(text: str) -> bytes:
    # 16 bytes, in memory for every row: no two of a billion texts share them by chance.
    digest = hashlib.sha256(text.encode()).digest()
    return digest[:16]


class Writer:
    """One file for each split; a dry run has none and writes nothing."""

    def __init__(self, files: dict[str, IO[str]]) -> None:
        self.files = files

    def write(self, row: Row, split: str, weight: float) -> None:
        """Write a row, training rows as often as their source's weight says."""
        if not self.files:
            return
        copies = 1
        # A repeated row of a test or of the calibration split would count twice as evidence.
        if split == "train":
            copies = _copies(row.id, weight)
        file = self.files[split]
        for copy in range(1, copies + 1):
            written = row
            if copy > 1:
                # Ids are unique in the files too.
                written = replace(row, id=f"{row.id}#{copy}")
            line = json.dumps(
                written.to_json(),
                ensure_ascii=False,
                allow_nan=False,
            )
            file.write(f"{line}\n")


def _copies(row_id: str, weight: float) -> int:
    """How often a training row is written.

    The whole part of the weight, and once more for a share of the rows as large as its fraction.
    """
    whole = max(1, int(weight))
    fraction = weight - whole
    once_more = unit(f"{row_id}|again") < fraction
    return whole + once_more


def prepare(data: Data, seed: int, out: Path | None, progress: Progress) -> Counts:
    """Write the splits into `out` and return what was counted.

    Args:
        data: the section of params.yaml.
        seed: of the split.
        out: directory to be made or replaced; None for a dry run that writes nothing.
        progress: shown while rows are read.

    Raises:
        DataError: a malformed row (`file:line`), or nothing was left.
    """
    with tempfile.TemporaryFile() as texts:
        kept = Kept(data, seed, Texts(texts))
        if out is None:
            return _prepare(data, kept, Writer({}), progress)
        with atomic_dir(out) as folder:
            with ExitStack() as opened:
                files: dict[str, IO[str]] = {}
                for name in SPLITS:
                    path = folder / f"{name}.jsonl"
                    file = path.open("w", encoding="utf-8", newline="\n")
                    files[name] = opened.enter_context(file)
                counts = _prepare(data, kept, Writer(files), progress)
            rename_groups(folder / "calibration.jsonl", kept.alike.merged())
            _write_evasions(folder, data.evasions, seed, counts)
            _require_evidence(counts)
        return counts


def _require_evidence(counts: Counts) -> None:
    """Refuse, with a DataError, no row at all, or rows of one group, which lies in one split."""
    if not counts.kept:
        raise DataError(
            "no row was kept",
            where="data.sources",
            fix="`prepare --dry-run` says why each was dropped",
        )
    groups = set().union(*counts.groups.values())
    rows = counts.kept.total()
    if rows > 1 and len(groups) == 1:
        raise DataError(
            f"all {rows} rows are of one group, {shown(groups.pop())}: a group lies in one split, "
            "so the others are empty",
            where="data.sources",
            fix='give rows of another template another "group", or leave the field out',
        )


def _write_evasions(folder: Path, most: int, seed: int, counts: Counts) -> None:
    """Write test_evasion: unsafe rows of test_iid, disguised in every way that we know."""
    unsafe, permitted = [], []
    for row in read_rows(folder / "test_iid.jsonl"):
        if row.verdict is Verdict.ALLOW:
            permitted.append(row)
        elif row.verdict is not None:
            unsafe.append(row)
    rows = []
    # A disguise may need a permitted request to hide behind.
    if permitted:
        rows = list(evasion_rows(chosen(unsafe, most), permitted, seed))
    for row in rows:
        counts.add(row, "test_evasion")
    write_jsonl(folder / "test_evasion.jsonl", (row.to_json() for row in rows))


def _prepare(data: Data, kept: Kept, writer: Writer, progress: Progress) -> Counts:
    counts = Counts()
    # Sorting is stable: sources of one use stay in the order of params.yaml.
    for source in sorted(data.sources, key=_turn):
        # Before the source is counted: it may not exist.
        paths = ingest.files_of(source.path)
        tally = SourceCounts(path=source.path, use=source.use, weight=source.weight)
        counts.sources.append(tally)
        samples = _samples(paths, source, data, counts, tally)
        for sample in progress.bar(samples, what="prepare", unit="row"):
            placed = kept.admit(sample, source.use)
            if isinstance(placed, str):
                counts.dropped[placed] += 1
                continue
            kept.unique_id(sample)
            row = _row_of(sample, placed.group, data)
            tally.kept += 1
            counts.add(row, placed.split)
            writer.write(row, placed.split, source.weight)
    counts.merge(kept.alike.merged())
    return counts


def _turn(source: Source) -> int:
    return READING_ORDER.index(source.use)


def _samples(
    paths: list[Path], source: Source, data: Data, counts: Counts, tally: SourceCounts
) -> Iterator[Sample]:
    """Clean rows of a source; the others are counted."""
    for path in paths:
        name = str(path)
        tally.files[name] = 0
        for where, raw in ingest.read(path):
            tally.files[name] += 1
            sample = sample_of(raw, where, source.path, data.system)
            if isinstance(sample, Sample):
                sample = clean(sample, data)
            if isinstance(sample, str):
                counts.dropped[sample] += 1
            elif _is_sampled(sample, source.weight):
                yield sample
            else:
                counts.dropped["not_sampled"] += 1
        tally.read += tally.files[name]


def _is_sampled(sample: Sample, weight: float) -> bool:
    """Whether a row is among the share that a weight below 1 takes, the whole group or none."""
    if weight >= 1.0:
        return True
    name = sample.group or sample.id
    return unit(name) < weight


def _row_of(sample: Sample, group: str, data: Data) -> Row:
    """The prepared row, with the assistant's turn rendered.

    Raises:
        DataError: the turn cannot be rendered, or holds what must never be a target.
    """
    response = response_of(
        sample.verdict,
        sample.thinking,
        sample.final,
        data.format,
    )
    # `clean` has looked at the parts; rendering must not have put anything together again.
    if is_forbidden_target(response):
        raise DataError(
            "the rendered training text holds hazardous content",
            where=sample.where,
            fix="remove the row",
        )
    return Row(
        id=sample.id,
        text=sample.text,
        verdict=sample.verdict,
        authority=sample.authority,
        domain=sample.domain,
        thinking=sample.thinking,
        final=sample.final,
        response=response,
        group=group,
        pair=sample.pair,
        factors=sample.factors,
        source=sample.source,
        license=sample.license,
    )
