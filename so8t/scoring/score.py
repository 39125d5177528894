"""Score every labelled row of the prepared splits with one model file.

The outputs depend on the file, the prompts and the engine's settings only. Rows are written in the
order of their ids, and times go to the progress events. A reading does not depend on what its
reader read before, so several readers of the same file share the work (libllama leaves Python's
interpreter lock while it computes). Rows without a verdict train language only and are not scored.

An interrupted run goes on where it stopped and ends with the same bytes (so8t.scoring.journal).
"""

import hashlib
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np

from so8t.errors import DataError
from so8t.familiarity import Reference, reference_texts, text_strangeness
from so8t.files import atomic_dir, sha256_file, write_json, write_jsonl
from so8t.identity import semantic_digest
from so8t.llama import Engine
from so8t.progress import Progress
from so8t.prompts import Prompt
from so8t.request import Request, request_of
from so8t.rows import PREPARE_AGAIN, SPLITS, Row, read_rows
from so8t.scoring.journal import Journal
from so8t.scoring.reader import UNREAD, GgufReader, Reader, RequestReading, prompts_of, read_prompts

SCHEMA = "so8t.scores/2"

# In the order in which they are scored and listed in meta.json. `train` is never scored.
SCORED_SPLITS = tuple(split for split in SPLITS if split != "train")


@dataclass(frozen=True, slots=True)
class Job:
    """What to score, and with what.

    Args:
        file: the model.
        prepared: directory of the prepared splits.
        out: directory that is written.
        system: the system prompt.
        n_ctx: context in tokens.
        threads: CPU threads of one reader.
        max_samples: most rows of a split; None for all.
        readers: how many work side by side; changes nothing but the time.
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
    """How many rows were scored, and how fast.

    `fresh` of the `rows` were read in this run. `per_second` is prompts a second over all readers;
    `p50` and `p95` are seconds of one prompt. `unseen` rows have a label whose probability the
    reader did not see; they escalate.
    """

    rows: int
    fresh: int
    per_second: float
    p50: float
    p95: float
    unseen: int = 0


@dataclass(frozen=True, slots=True)
class _Task:
    """One row to be read."""

    split: str
    row: Row
    request: Request
    prompts: list[Prompt]
    strangeness: dict[str, float]


@dataclass(frozen=True, slots=True)
class _Timed:
    """A reading and the seconds that it took."""

    reading: RequestReading
    seconds: float


def score(job: Job, progress: Progress) -> Outcome:
    """Score a GGUF file and write `job.out`.

    Raises:
        ArtifactError: the file is not one of ours.
        DataError: a split is malformed, or a prompt does not fit the context.
    """
    with _open_readers(job) as readers:
        source = Source(semantic_digest(job.file), readers[0].engine.settings())
        return score_with(readers, source, job, progress)


def score_with(readers: Sequence[Reader], source: Source, job: Job, progress: Progress) -> Outcome:
    """Score with readers of one thing, side by side.

    The files and the journal are the same whatever reads.

    Raises:
        DataError: a split is malformed, or a prompt does not fit the context.
    """
    splits: dict[str, list[Row]] = {}
    for split in SCORED_SPLITS:
        path = job.prepared / f"{split}.jsonl"
        splits[split] = sample(path, job.max_samples)
    reference = Reference.of(reference_texts(job.prepared / "train.jsonl"))
    tasks = _tasks(readers[0], splits, job, reference)
    meta = _meta(job, source, readers[0], splits)
    with Journal(meta) as journal:
        began = time.perf_counter()
        seconds = _score_tasks(readers, tasks, journal, progress)
        elapsed = time.perf_counter() - began
        _write(job.out, splits, journal, meta)
        # Only now: until the scores are on the disk, the journal is all there is of them.
        journal.discard()
        unseen = sum(None in row.cue for row in journal.rows.values())
    outcome = _outcome(len(tasks), seconds, elapsed, unseen)
    # Times go here and not into the scores, whose bytes must be the same in every run.
    progress.emit(
        "scored",
        rows=outcome.rows,
        fresh=outcome.fresh,
        prompts_per_second=round(outcome.per_second, 2),
        p50_ms=round(1e3 * outcome.p50, 3),
        p95_ms=round(1e3 * outcome.p95, 3),
    )
    return outcome


def sample(path: Path, limit: int | None) -> list[Row]:
    """The labelled rows of a split in the order of their ids.

    Args:
        path: the prepared split.
        limit: take so many rows, those whose hashed ids come first; None for all.

    Raises:
        DataError: a malformed line, or an id twice.
    """
    labelled: dict[str, Row] = {}
    for row in read_rows(path):
        if row.id in labelled:
            raise DataError("an id occurs twice", where=f"{path}: row {row.id}", fix=PREPARE_AGAIN)
        # Language-only rows have nothing to compare a verdict with.
        if row.verdict is not None:
            labelled[row.id] = row
    # By hash, so that the choice depends on no order and a larger limit keeps the same rows.
    by_hash = sorted(labelled, key=_hash_of)
    chosen = by_hash[:limit]
    chosen.sort()
    return [labelled[name] for name in chosen]


def _hash_of(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()


@contextmanager
def _open_readers(job: Job) -> Iterator[list[GgufReader]]:
    """The job's readers. The file is mapped into memory once; each reader has its own context."""
    with ExitStack() as stack:
        engines: list[Engine] = []
        for _ in range(job.readers):
            engine = Engine(job.file, n_ctx=job.n_ctx, threads=job.threads)
            engines.append(stack.enter_context(engine))
        yield [GgufReader(engine, job.system) for engine in engines]


def _tasks(
    reader: Reader, splits: dict[str, list[Row]], job: Job, reference: Reference
) -> list[_Task]:
    """Tokenise all before anything slow: a prompt that does not fit is found in seconds."""
    tasks: list[_Task] = []
    for split, rows in splits.items():
        for row in rows:
            request = request_of(row.text)
            prompts = []
            # Nobody asks the model about a request that is refused as it stands.
            if request.refusal is None:
                prompts = _prompts(reader, request, row, job)
            task = _Task(split, row, request, prompts, text_strangeness(request.text, reference))
            tasks.append(task)
    return tasks


def _prompts(reader: Reader, request: Request, row: Row, job: Job) -> list[Prompt]:
    prompts = prompts_of(reader, request)
    # A part is never longer than the whole.
    longest = reader.prompter.longest(prompts[0])
    if longest > job.n_ctx:
        raise DataError(
            f"{longest} tokens do not fit the context of {job.n_ctx}",
            where=row.id,
            fix="raise scoring.n_ctx, or lower data.max_chars",
        )
    return prompts


def _meta(job: Job, source: Source, reader: Reader, splits: dict[str, list[Row]]) -> dict[str, Any]:
    """The content of meta.json: what made the numbers."""
    # No time and no path: they would make another journal, and other bytes, of the same scores.
    files = {split: sha256_file(job.prepared / f"{split}.jsonl") for split in splits}
    return {
        "schema": SCHEMA,
        "file": job.file.name,
        "semantic_digest": source.digest,
        "template_sha256": reader.prompter.digest,
        "engine": source.settings,
        "n": {split: len(rows) for split, rows in splits.items()},
        "sampled": job.max_samples is not None,
        "splits_sha256": files,
        # What the familiarity numbers were made with.
        "reference_sha256": sha256_file(job.prepared / "train.jsonl"),
    }


def _score_tasks(
    readers: Sequence[Reader], tasks: list[_Task], journal: Journal, progress: Progress
) -> list[float]:
    """Read every row that the journal lacks; return the seconds each took."""
    missing: list[_Task] = []
    for task in tasks:
        # Ids are unique within a split only.
        if (task.split, task.row.id) not in journal.rows:
            missing.append(task)
    seconds: list[float] = []
    results = _read_all(readers, missing)
    bar = progress.bar(results, total=len(missing), what="score", unit="prompt")
    for task, timed in bar:
        seconds.append(timed.seconds)
        journal.append(task.split, timed.reading.scored(task.row, task.strangeness))
    return seconds


def _read_all(readers: Sequence[Reader], tasks: list[_Task]) -> Iterator[tuple[_Task, _Timed]]:
    """Each task in turn with its result; what is not begun is dropped when the caller stops."""
    # A reader serves one thread at a time: its engine has one cache.
    free: SimpleQueue[Reader] = SimpleQueue()
    for reader in readers:
        free.put(reader)
    with ThreadPoolExecutor(len(readers)) as pool:
        # `map` gives the results in the order of the tasks, whichever ends first.
        results = pool.map(lambda task: _read_one(free, task), tasks)
        yield from zip(tasks, results, strict=True)


def _read_one(free: SimpleQueue[Reader], task: _Task) -> _Timed:
    reader = free.get()
    try:
        began = time.perf_counter()
        if task.request.refusal is not None:
            reading = RequestReading(UNREAD, UNREAD, 0, task.request.refusal)
        else:
            reading = read_prompts(reader, task.prompts)
        return _Timed(reading, time.perf_counter() - began)
    finally:
        free.put(reader)


def _write(out: Path, splits: dict[str, list[Row]], journal: Journal, meta: dict[str, Any]) -> None:
    # All or nothing: scores of some splits beside old ones of others would pass for a whole.
    with atomic_dir(out) as folder:
        for split, rows in splits.items():
            # The journal may hold them in another order, if a run was interrupted.
            objects: list[dict[str, Any]] = []
            for row in rows:
                scored = journal.rows[split, row.id]
                objects.append(scored.to_json())
            write_jsonl(folder / f"{split}.jsonl", objects)
        write_json(folder / "meta.json", meta)


def _outcome(rows: int, seconds: list[float], elapsed: float, unseen: int) -> Outcome:
    # An interrupted run may have had nothing left to do but writing.
    if not seconds:
        return Outcome(
            rows=rows,
            fresh=0,
            per_second=0.0,
            p50=0.0,
            p95=0.0,
            unseen=unseen,
        )
    fresh = len(seconds)
    p50, p95 = np.percentile(seconds, [50, 95])
    return Outcome(
        rows=rows,
        fresh=fresh,
        # Over the time of the whole run: readers side by side overlap.
        per_second=fresh / elapsed,
        p50=float(p50),
        p95=float(p95),
        unseen=unseen,
    )
