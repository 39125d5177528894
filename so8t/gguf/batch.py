"""Several models and types in parallel processes: one failure stops nothing else, finished work is not done again.

A job is finished when its file exists, its seal holds, and the note beside it names the same source, type and recipe.
"""

import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from so8t import gguf_file, identity
from so8t.errors import ParamsError, So8tError
from so8t.files import read_json, sha256_json, write_json
from so8t.gguf.convert.write import FILE_TYPES, Recipe, convert
from so8t.gguf.quantize.quantize import TYPES, quantize
from so8t.params import read_yaml
from so8t.records.ledger import conversion

NOTES = ".so8t-batch"


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
    """How one file ended: made, kept (finished earlier) or failed."""

    model: str
    type: str
    state: Literal["made", "kept", "failed"]
    detail: str


def read_batch(path: Path) -> Batch:
    """Read models.yaml.

    Raises:
        ParamsError: every mistake at once.
    """
    try:
        batch = Batch.model_validate(read_yaml(path))
    except ValidationError as error:
        lines = [f"{'.'.join(str(p) for p in e['loc'])}: {e['msg']}" for e in error.errors()]
        raise ParamsError(
            "; ".join(lines), where=str(path), fix="see examples in docs/gguf.md"
        ) from None
    unknown = sorted({t for model in batch.models for t in model.types} - {*FILE_TYPES, *TYPES})
    names = [model.name for model in batch.models]
    if unknown or len(set(names)) < len(names):
        raise ParamsError(
            f"unknown types {unknown}" if unknown else "two models have the same name",
            where=str(path),
            fix=f"types: {', '.join(TYPES)}",
        )
    return batch


def run_batch(batch: Batch, *, jobs: int, threads: int) -> Iterator[Outcome]:
    """Yield an outcome per file, as they end; one process per model, `jobs` at a time."""
    with ProcessPoolExecutor(
        max_workers=jobs, mp_context=multiprocessing.get_context("spawn")
    ) as pool:
        futures = {
            pool.submit(run_model, model, Path(batch.out), threads): model for model in batch.models
        }
        for future in as_completed(futures):
            error = future.exception()
            if error is not None:  # the process itself died (killed, out of memory)
                yield from (
                    Outcome(futures[future].name, kind, "failed", f"its process ended: {error}")
                    for kind in futures[future].types
                )
            else:
                yield from future.result()


def run_model(model: BatchModel, out: Path, threads: int) -> list[Outcome]:
    """All files of one model: the unquantised one first, then each type from it."""
    outcomes = []
    base = next((kind for kind in model.types if kind in ("F16", "BF16", "F32")), "F16")
    wanted = [base, *(kind for kind in model.types if kind != base)]
    for kind in wanted:
        path = out / f"{model.name}-{kind}.gguf"
        try:
            state = _one_file(model, kind, path, out / f"{model.name}-{base}.gguf", threads)
        except So8tError as error:
            outcomes.append(Outcome(model.name, kind, "failed", str(error).replace("\n", " ")))
            if kind == base:
                outcomes += [
                    Outcome(model.name, other, "failed", f"{base} is missing")
                    for other in wanted[1:]
                ]
                break
        else:
            outcomes.append(Outcome(model.name, kind, state, f"{path.stat().st_size:,} bytes"))
    return outcomes


def _one_file(
    model: BatchModel, kind: str, path: Path, base: Path, threads: int
) -> Literal["made", "kept"]:
    note, digest = (
        path.parent / NOTES / f"{path.name}.json",
        _job_digest(model, kind, base if path != base else None),
    )
    if _is_finished(path, note, digest):
        return "kept"
    with conversion(model.name, kind, Path(model.source), path):
        if path == base:
            convert(Path(model.source), path, Recipe(kind, model.name, model.context_profile))  # type: ignore[arg-type]
        else:
            quantize(base, path, kind, threads=threads)
    write_json(note, {"job": digest, "seal": _seal_of(path)})
    return "made"


def _job_digest(model: BatchModel, kind: str, base: Path | None) -> str:
    """Digest of what makes the file: the source's files by name, size and time of change, and the recipe."""
    inputs = [base] if base else sorted(p for p in Path(model.source).glob("*") if p.is_file())
    stats = [(p.name, p.stat().st_size, p.stat().st_mtime_ns) for p in inputs if p.exists()]
    return sha256_json(
        {"inputs": stats, "type": kind, "name": model.name, "profile": model.context_profile}
    )


def _is_finished(path: Path, note: Path, digest: str) -> bool:
    if not (path.is_file() and note.is_file()):
        return False
    known = read_json(note)
    try:
        identity.check_seal(path)
    except So8tError:
        return False
    return bool(known == {"job": digest, "seal": _seal_of(path)})


def _seal_of(path: Path) -> str:
    return str(gguf_file.read_keys(path)[identity.SEAL])
