"""Score every labelled row of the prepared splits with one GGUF file.

The outputs depend on the file, the prompts and the engine's settings only: rows are written in the order of their ids,
an interrupted run resumes to the same bytes, and times go to the progress events. A reading does not depend on what its
reader read before, so several readers of the same file share the work (libllama leaves the interpreter lock while it computes).
Rows without a verdict train language only and are not scored.

Rows of an unfinished scoring run, so that an interrupted one goes on where it stopped.

One JSONL under `database/scoring/`, named by the digest of everything that makes a number (file, template, engine,
split files). It is removed when the scores are written. A last line cut short by a power failure is dropped.
"""

import hashlib
import json
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType
from typing import Any, Self

import numpy as np

from so8t.errors import DataError
from so8t.files import atomic_dir, read_jsonl, sha256_file, sha256_json, write_json, write_jsonl
from so8t.identity import semantic_digest
from so8t.llama import Engine
from so8t.progress import Progress, database_dir
from so8t.prompts import Prompt
from so8t.scoring.reader import GgufReader, Reader, Reading

SCHEMA = "so8t.scores/1"
SPLITS = ("calibration", "valid", "test_iid", "test_cells", "test_phrases")
Work = tuple[str, dict[str, Any], Prompt]  # split, row, its prompt


@dataclass(frozen=True, slots=True)
class Job:
    """What to score: the file, the directory of prepared splits, where rows go, the system prompt, limits.

    `threads` are those of one reader; `readers` work side by side and change nothing but the time.
    """

    file: Path
    prepared: Path
    out: Path
    system: str
    n_ctx: int
    threads: int
    max_samples: int | None
    readers: int = 1


@dataclass(frozen=True, slots=True)
class Source:
    """What is read, by digest, and everything else that makes a number: both belong to a card."""

    digest: str
    settings: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How many rows were scored, how many of them now, and how fast (prompts per second in all, latency of one in seconds)."""

    rows: int
    fresh: int
    per_second: float
    p50: float
    p95: float
    unseen: int = 0  # rows with a label whose probability the reader did not see; they escalate


FLUSH_ROWS = 50  # rows between two fsyncs


class Journal:
    """Finished rows by (split, id); `append` makes one more durable."""

    def __init__(self, identity: dict[str, Any]) -> None:
        self.path = database_dir() / "scoring" / f"{sha256_json(identity)}.jsonl"
        self.rows: dict[tuple[str, str], dict[str, Any]] = {}
        self._pending = 0

    def __enter__(self) -> Self:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        whole = _read(self.path, self.rows)
        self._file = self.path.open("r+b" if self.path.exists() else "w+b")
        self._file.truncate(whole)
        self._file.seek(whole)
        return self

    def append(self, split: str, row: dict[str, Any]) -> None:
        """Keep one row."""
        self.rows[split, row["id"]] = row
        line = json.dumps({"split": split, "row": row}, ensure_ascii=False, allow_nan=False)
        self._file.write(line.encode() + b"\n")
        self._pending += 1
        if self._pending >= FLUSH_ROWS:
            self._flush()

    def _flush(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._pending = 0

    def discard(self) -> None:
        """Forget everything: the scores are written."""
        self.path.unlink(missing_ok=True)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._flush()
        self._file.close()


def _read(path: Path, rows: dict[tuple[str, str], dict[str, Any]]) -> int:
    """Fill `rows`; return how many bytes of the file are whole lines that can be read."""
    whole = 0
    try:
        lines = path.read_bytes().splitlines(keepends=True)
    except FileNotFoundError:
        return 0
    for line in lines:
        try:
            entry = json.loads(line)
            rows[entry["split"], entry["row"]["id"]] = entry["row"]
        except (ValueError, KeyError, TypeError):
            break
        if not line.endswith(b"\n"):
            del rows[entry["split"], entry["row"]["id"]]
            break
        whole += len(line)
    return whole


def score(job: Job, progress: Progress) -> Outcome:
    """Score the file and write `job.out`.

    Raises:
        ArtifactError: the file is not one of ours.
        DataError: a split is malformed, or a prompt does not fit the context.
    """
    with _readers(job) as readers:
        return score_with(
            readers, Source(semantic_digest(job.file), readers[0].engine.settings()), job, progress
        )


def score_with(readers: Sequence[Reader], source: Source, job: Job, progress: Progress) -> Outcome:
    """Score with readers of one thing, side by side: the same rows, files and journal, whatever reads them.

    Raises:
        DataError: a split is malformed, or a prompt does not fit the context.
    """
    splits = {split: sample(job.prepared / f"{split}.jsonl", job.max_samples) for split in SPLITS}
    prompts = {
        split: [_prompt(readers[0], row, job) for row in rows] for split, rows in splits.items()
    }
    meta = _meta(job, source, readers[0], {split: len(rows) for split, rows in splits.items()})
    with Journal(meta) as journal:
        began = time.perf_counter()
        seconds = _score_rows(readers, splits, prompts, journal, progress)
        elapsed = time.perf_counter() - began
        _write(job.out, splits, journal, meta)
        journal.discard()
        unseen = sum(None in row["cue"] for row in journal.rows.values())
    outcome = _outcome(sum(map(len, splits.values())), seconds, elapsed, unseen)
    progress.emit(
        "scored",
        rows=outcome.rows,
        fresh=outcome.fresh,
        prompts_per_second=round(outcome.per_second, 2),
        p50_ms=round(1e3 * outcome.p50, 3),
        p95_ms=round(1e3 * outcome.p95, 3),
    )
    return outcome


def sample(path: Path, limit: int | None) -> list[dict[str, Any]]:
    """The labelled rows of a split in the order of their ids; with a limit, those whose hashed ids come first.

    Raises:
        DataError: a line without an id or text, or an id twice.
    """
    rows: dict[str, dict[str, Any]] = {}
    for line, row in read_jsonl(path):
        where = f"{path}:{line}"
        if (
            not isinstance(row.get("id"), str)
            or not isinstance(row.get("text"), str)
            or "verdict" not in row
        ):
            raise DataError(
                "`id`, `text` or `verdict` is missing", where=where, fix="run `dvc repro prepare`"
            )
        if row["id"] in rows:
            raise DataError("an id occurs twice", where=where, fix="run `dvc repro prepare`")
        if row["verdict"] is not None:
            rows[row["id"]] = row
    chosen = sorted(rows, key=lambda name: hashlib.sha256(name.encode()).digest())[:limit]
    return [rows[name] for name in sorted(chosen)]


@contextmanager
def _readers(job: Job) -> Iterator[list[GgufReader]]:
    """The job's readers: the file is mapped once, each has its own context."""
    with ExitStack() as stack:
        engines = [
            stack.enter_context(Engine(job.file, n_ctx=job.n_ctx, threads=job.threads))
            for _ in range(job.readers)
        ]
        yield [GgufReader(engine, job.system) for engine in engines]


def _prompt(reader: Reader, row: dict[str, Any], job: Job) -> Prompt:
    """Tokenise before anything slow, so that a prompt that does not fit is found in the first second."""
    prompt = reader.prompter.prompt(row["text"])
    if (longest := reader.prompter.longest(prompt)) > job.n_ctx:
        raise DataError(
            f"{longest} tokens do not fit the context of {job.n_ctx}",
            where=row["id"],
            fix="raise scoring.n_ctx, or lower data.max_chars",
        )
    return prompt


def _meta(job: Job, source: Source, reader: Reader, counts: dict[str, int]) -> dict[str, Any]:
    files = {split: sha256_file(job.prepared / f"{split}.jsonl") for split in SPLITS}
    return {
        "schema": SCHEMA,
        "file": job.file.name,
        "semantic_digest": source.digest,
        "template_sha256": reader.prompter.digest,
        "engine": source.settings,
        "n": counts,
        "sampled": job.max_samples is not None,
        "splits_sha256": files,
    }


def _score_rows(
    readers: Sequence[Reader],
    splits: dict[str, list[dict[str, Any]]],
    prompts: dict[str, list[Prompt]],
    journal: Journal,
    progress: Progress,
) -> list[float]:
    """Read every row that the journal lacks; return the seconds each took."""
    work = [
        (split, row, prompt)
        for split in SPLITS
        for row, prompt in zip(splits[split], prompts[split], strict=True)
        if (split, row["id"]) not in journal.rows
    ]
    seconds: list[float] = []
    for (split, row, _), reading, took in progress.bar(
        _read_all(readers, work), total=len(work), what="score", unit="prompt"
    ):
        seconds.append(took)
        journal.append(
            split,
            {
                "id": row["id"],
                "group": row["group"],
                "domain": row.get("domain"),
                "verdict": row["verdict"],
                "authority": row.get("authority"),
                **reading.row(),
            },
        )
    return seconds


def _read_all(readers: Sequence[Reader], work: list[Work]) -> Iterator[tuple[Work, Reading, float]]:
    """Each piece of work in turn with its reading and its seconds; what is not begun is dropped when the caller stops."""
    free: SimpleQueue[Reader] = SimpleQueue()
    for reader in readers:
        free.put(reader)
    with ThreadPoolExecutor(len(readers)) as pool:
        readings = pool.map(lambda piece: _read_one(free, piece[2]), work)
        for piece, (reading, took) in zip(work, readings, strict=True):
            yield piece, reading, took


def _read_one(free: SimpleQueue[Reader], prompt: Prompt) -> tuple[Reading, float]:
    reader = free.get()
    try:
        began = time.perf_counter()
        return reader.read_prompt(prompt), time.perf_counter() - began
    finally:
        free.put(reader)


def _write(
    out: Path, splits: dict[str, list[dict[str, Any]]], journal: Journal, meta: dict[str, Any]
) -> None:
    with atomic_dir(out) as folder:
        for split, rows in splits.items():
            write_jsonl(folder / f"{split}.jsonl", _ordered(split, rows, journal))
        write_json(folder / "meta.json", meta)


def _ordered(split: str, rows: list[dict[str, Any]], journal: Journal) -> Iterator[dict[str, Any]]:
    for row in rows:
        yield journal.rows[split, row["id"]]


def _outcome(rows: int, seconds: list[float], elapsed: float, unseen: int) -> Outcome:
    if not seconds:
        return Outcome(rows, 0, 0.0, 0.0, 0.0, unseen)
    p50, p95 = np.percentile(seconds, [50, 95])
    return Outcome(rows, len(seconds), len(seconds) / elapsed, float(p50), float(p95), unseen)
