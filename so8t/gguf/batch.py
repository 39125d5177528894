"""Several models and types in parallel processes.

One failure stops nothing else, and finished work is not done again. A job is finished when its file
exists, its seal holds, and the note beside it names the same source, type and recipe.
"""

import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from so8t import identity
from so8t.errors import ParamsError, So8tError
from so8t.files import read_json, sha256_json, write_json
from so8t.gguf.convert.write import FILE_TYPES, FileType, Recipe, convert
from so8t.gguf.quantize.quantize import TYPES, quantize
from so8t.gguf_file import read_keys
from so8t.params import read_yaml
from so8t.records.ledger import conversion

NOTES = ".so8t-batch"  # folder with a note per finished file
# Types that are converted; every other is quantised from one of them.
BASE_TYPES: dict[str, FileType] = {"F16": "F16", "BF16": "BF16", "F32": "F32"}
State = Literal["made", "kept", "failed"]


class BatchModel(BaseModel):
    """One entry of models.yaml."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: str = Field(description="Hugging Face directory")
    name: str = Field(description="name of the files and of the model")
    types: list[str] = Field(min_length=1, description="F32, F16, BF16 or a quantised type")
    context_profile: Literal["short", "stock"]


class Batch(BaseModel):
    """models.yaml."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    out: str
    models: list[BatchModel] = Field(min_length=1)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one file ended.

    Attributes:
        model: name of the model.
        type: type of the file.
        state: made, kept (finished earlier) or failed.
        detail: its size, or the error, as one line.
    """

    model: str
    type: str
    state: State
    detail: str


@dataclass(frozen=True, slots=True)
class _Job:
    """One file to make; `base` is the file it is quantised from, None for a converted one."""

    model: BatchModel
    type: str
    path: Path
    base: Path | None


def read_batch(path: Path) -> Batch:
    """Read models.yaml.

    Args:
        path: the file; what it may hold is `Batch`.

    Raises:
        ParamsError: every mistake at once.
    """
    try:
        batch = Batch.model_validate(read_yaml(path))
    except ValidationError as error:
        lines = []
        for mistake in error.errors():
            place = ".".join(str(part) for part in mistake["loc"])
            lines.append(f"{place}: {mistake['msg']}")
        raise ParamsError(
            "; ".join(lines), where=str(path), fix="see examples in docs/gguf.md"
        ) from None
    # Found now, not after an hour in the process that would make the file.
    wanted = {kind for model in batch.models for kind in model.types}
    unknown = sorted(wanted - {*FILE_TYPES, *TYPES})
    names = [model.name for model in batch.models]
    # Files are named after their model, so two of one name would overwrite each other.
    has_duplicates = len(set(names)) < len(names)
    if unknown or has_duplicates:
        raise ParamsError(
            f"unknown types {unknown}" if unknown else "two models have the same name",
            where=str(path),
            fix=f"types: {', '.join(TYPES)}",
        )
    return batch


def run_batch(batch: Batch, *, jobs: int, threads: int) -> Iterator[Outcome]:
    """Make all files; one process per model.

    Args:
        batch: what to make.
        jobs: processes at a time.
        threads: of libllama, in each.

    Yields:
        An outcome per file, as they end.
    """
    out = Path(batch.out)
    # Spawned, not forked: a fork copies the locks of libraries whose threads it does not copy.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max_workers=jobs, mp_context=context) as pool:
        # A model's files share their unquantised one, so a model is one process's work.
        futures = {pool.submit(run_model, model, out, threads): model for model in batch.models}
        for future in as_completed(futures):
            error = future.exception()
            if error is None:
                yield from future.result()
                continue
            # `run_model` reports its own errors, so the process itself died (killed, no memory).
            model = futures[future]
            for kind in model.types:
                yield Outcome(model.name, kind, "failed", f"its process ended: {error}")


def run_model(model: BatchModel, out: Path, threads: int) -> list[Outcome]:
    """All files of one model: the unquantised one first, then each type from it.

    Args:
        model: what to make.
        out: directory of the files.
        threads: of libllama.

    Returns:
        An outcome per file, the unquantised one first; it is made even where it is not asked for.
    """
    base_type = next((kind for kind in model.types if kind in BASE_TYPES), "F16")
    base_path = out / f"{model.name}-{base_type}.gguf"
    base = _run_job(_Job(model, base_type, base_path, None), threads)
    outcomes = [base]
    for kind in model.types:
        if kind == base_type:
            continue
        if base.state == "failed":
            outcomes.append(Outcome(model.name, kind, "failed", f"{base_type} is missing"))
            continue
        path = out / f"{model.name}-{kind}.gguf"
        outcomes.append(_run_job(_Job(model, kind, path, base_path), threads))
    return outcomes


def _run_job(job: _Job, threads: int) -> Outcome:
    """Make one file, or keep it; what goes wrong becomes an outcome, not an exception."""
    try:
        state = _make_or_keep(job, threads)
    except So8tError as error:
        # An outcome is one line of a table.
        detail = str(error).replace("\n", " ")
        return Outcome(job.model.name, job.type, "failed", detail)
    n_bytes = job.path.stat().st_size
    return Outcome(job.model.name, job.type, state, f"{n_bytes:,} bytes")


def _make_or_keep(job: _Job, threads: int) -> Literal["made", "kept"]:
    """Do the work, in a session of the conversion ledger, unless it was done before."""
    note = job.path.parent / NOTES / f"{job.path.name}.json"
    digest = _job_digest(job)
    if _is_finished(job.path, note, digest):
        return "kept"
    source = Path(job.model.source)
    with conversion(job.model.name, job.type, source, job.path):
        if job.base is None:
            file_type = BASE_TYPES[job.type]
            recipe = Recipe(file_type, job.model.name, job.model.context_profile)
            convert(source, job.path, recipe)
        else:
            quantize(job.base, job.path, job.type, threads=threads)
    # Last, so that a job that was killed is done again.
    write_json(note, {"job": digest, "seal": _seal_in(job.path)})
    return "made"


def _job_digest(job: _Job) -> str:
    """Digest of what makes the file: its sources by name, size and time of change, and the recipe.

    Not by content: a source may have 100 GB, and this is looked at before anything is done.
    """
    if job.base is not None:
        inputs = [job.base]
    else:
        entries = sorted(Path(job.model.source).glob("*"))
        inputs = [entry for entry in entries if entry.is_file()]
    facts = []
    for file in inputs:
        if file.exists():
            stat = file.stat()
            facts.append((file.name, stat.st_size, stat.st_mtime_ns))
    return sha256_json(
        {
            "inputs": facts,
            "type": job.type,
            "name": job.model.name,
            "profile": job.model.context_profile,
        }
    )


def _is_finished(path: Path, note: Path, digest: str) -> bool:
    """Whether the file is there, undamaged, and made from what it would be made from now."""
    if not path.is_file() or not note.is_file():
        return False
    # The seal is in the note, too: the file may be a later one of the same name.
    known = read_json(note)
    try:
        identity.check_seal(path)
    except So8tError:
        return False
    return bool(known == {"job": digest, "seal": _seal_in(path)})


def _seal_in(path: Path) -> str:
    """The seal that the file carries."""
    return str(read_keys(path)[identity.SEAL])
