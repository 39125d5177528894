"""A stock Hugging Face directory to a GGUF file, streamed: memory is bounded by a chunk, whatever the model.

The head (keys and tensor table) is laid out by gguf's `GGUFWriter`; the tensors are then read, converted, hashed and
written chunk by chunk, two chunks in flight. The file appears under its name only when it is whole and sealed.

Covered: F32, F16, BF16, Q8_0; sharded input; one or several output files. Not covered: the other quantised types
(`so8t.gguf.quantize.quantize`, through libllama).

One conversion or quantisation with everything around it: progress, ledger session, one-line summary.
"""

import hashlib
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import IO, Any, Literal

import gguf
import numpy as np
from gguf import GGMLQuantizationType, GGUFValueType, GGUFWriter, LlamaFileType
from gguf.quants import quant_shape_to_byte_shape, quantize
from numpy.typing import NDArray

from so8t import identity
from so8t.errors import ArtifactError, ResourceError
from so8t.files import clear_left, disk_error, fsync_path, sha256_file, temporary_of
from so8t.gguf.convert import arch as architectures
from so8t.gguf.convert.arch import ContextProfile, Planned
from so8t.gguf.convert.source import Source, read_config, to_float32
from so8t.gguf.convert.vocab import Vocabulary, read_vocabulary
from so8t.gguf_file import KeyValue
from so8t.gguf_header import TensorInfo
from so8t.progress import Progress
from so8t.records.ledger import Session, TensorRow, conversion

FileType = Literal["F32", "F16", "BF16", "Q8_0"]
FILE_TYPES: dict[str, tuple[LlamaFileType, GGMLQuantizationType]] = {
    "F32": (LlamaFileType.ALL_F32, GGMLQuantizationType.F32),
    "F16": (LlamaFileType.MOSTLY_F16, GGMLQuantizationType.F16),
    "BF16": (LlamaFileType.MOSTLY_BF16, GGMLQuantizationType.BF16),
    "Q8_0": (LlamaFileType.MOSTLY_Q8_0, GGMLQuantizationType.Q8_0),
}
CHUNK_ELEMENTS = 2 << 20  # numbers converted at a time: 8 MiB as float32
IN_FLIGHT = 2  # chunks that wait to be hashed and written
FREE_SPACE_MARGIN = 64 << 20  # bytes left on the disk after writing


@dataclass(frozen=True, slots=True)
class Recipe:
    """What to make of a model: its type, its name, our keys, and how it is cut."""

    ftype: FileType
    name: str
    context_profile: ContextProfile
    keys: dict[str, KeyValue] = field(default_factory=dict)
    split_bytes: int = 0  # 0 = one file


@dataclass(frozen=True, slots=True)
class Written:
    """One tensor is in the file."""

    index: int
    planned: Planned
    type: str
    n_bytes: int
    sha256: str
    milliseconds: float
    done_bytes: int
    total_bytes: int


Report = Callable[[Written], None]


@dataclass(slots=True)
class _Work:
    """A tensor with its target type and size."""

    planned: Planned
    type: GGMLQuantizationType
    n_bytes: int


def convert(
    source: Path, out: Path, recipe: Recipe, *, report: Report | None = None
) -> dict[str, Any]:
    """Convert a model; the output appears whole and sealed, or not at all.

    Args:
        source: Hugging Face directory (config.json, safetensors, tokenizer files).
        out: the GGUF file; with `split_bytes`, parts named `<stem>-00001-of-0000N.gguf` beside it.
        recipe: see `Recipe`.
        report: called after each tensor.

    Returns:
        The manifest: files, and for each tensor its source name, shape, type, bytes and SHA-256. No times, no paths.

    Raises:
        ArtifactError: the model is unknown, incomplete, not finite, or overflows float16.
        ResourceError: the disk is too small.
    """
    config = read_config(source)
    model = architectures.read_model(config, source)
    vocabulary = read_vocabulary(source, int(config["vocab_size"]), architecture=model.architecture)
    tensors = Source(source)
    plan = architectures.plan_tensors(model, tensors, recipe.context_profile)
    works = [_work(item, FILE_TYPES[recipe.ftype][1]) for item in plan]
    writer = _writer(model, vocabulary, recipe, works)
    del vocabulary
    _require_space(out, sum(work.n_bytes for work in works))
    with _staging(out) as folder:
        records = _write(writer, folder / out.name, tensors, works, report)
        files = sorted(folder.iterdir())
        identity.seal(files[0], _infos(records))
        return _manifest(
            [out.with_name(f.name) for f in files],
            records,
            identity.semantic_digest(files[0], _infos(records)),
        )


def general_name(name: str, vocabulary: Vocabulary) -> str:
    """The name to write: llama.cpp strips whitespace after special tokens exactly when it contains `phi-3` or `phi3`,
    which is right for Phi-3's SentencePiece vocabulary and wrong for every other one."""
    named_phi3 = any(mark in name.lower() for mark in ("phi-3", "phi3"))
    if vocabulary.is_phi3_sentencepiece:
        return name if named_phi3 else f"{name} phi-3"
    for mark, other in (
        ("phi-3", "phi 3"),
        ("Phi-3", "Phi 3"),
        ("PHI-3", "PHI 3"),
        ("phi3", "phi 3"),
        ("Phi3", "Phi 3"),
    ):
        name = name.replace(mark, other)
    if any(mark in name.lower() for mark in ("phi-3", "phi3")):
        raise ArtifactError(
            f"the name {name!r} would switch on llama.cpp's Phi-3 whitespace rule",
            fix="choose another name",
        )
    return name


def _work(item: Planned, wanted: GGMLQuantizationType) -> _Work:
    kind = GGMLQuantizationType.F32 if item.always_float32 else wanted
    if kind == GGMLQuantizationType.Q8_0 and item.shape[-1] % gguf.GGML_QUANT_SIZES[kind][0]:
        kind = GGMLQuantizationType.F16
    return _Work(
        item, kind, int(np.prod(quant_shape_to_byte_shape(item.shape, kind), dtype=np.int64))
    )


def _writer(
    model: architectures.Model, vocabulary: Vocabulary, recipe: Recipe, works: list[_Work]
) -> GGUFWriter:
    writer = GGUFWriter(None, model.prefix, split_max_size=recipe.split_bytes)
    for work in works:
        shape = work.planned.shape
        if work.type in (GGMLQuantizationType.F32, GGMLQuantizationType.F16):
            dtype = np.dtype(np.float32 if work.type == GGMLQuantizationType.F32 else np.float16)
            writer.add_tensor_info(work.planned.name, shape, dtype, work.n_bytes)
        else:
            writer.add_tensor_info(
                work.planned.name,
                quant_shape_to_byte_shape(shape, work.type),
                np.dtype(np.uint8),
                work.n_bytes,
                raw_dtype=work.type,
            )
    total, shared, expert, experts = writer.get_total_parameter_count()
    general = {
        "general.type": KeyValue("model", GGUFValueType.STRING),
        "general.name": KeyValue(general_name(recipe.name, vocabulary), GGUFValueType.STRING),
        "general.size_label": KeyValue(
            gguf.size_label(total, shared, expert, experts), GGUFValueType.STRING
        ),
        "general.file_type": KeyValue(int(FILE_TYPES[recipe.ftype][0]), GGUFValueType.UINT32),
        "general.quantization_version": KeyValue(gguf.GGML_QUANT_VERSION, GGUFValueType.UINT32),
    }
    seal = {identity.SEAL: KeyValue(identity.BLANK_SEAL, GGUFValueType.STRING)}
    keys = (
        general
        | architectures.hyper_keys(model, recipe.context_profile)
        | vocabulary.keys
        | recipe.keys
        | seal
    )
    for name, item in keys.items():
        writer.add_key_value(name, item.value, item.type, item.sub)
    return writer


def _require_space(out: Path, n_bytes: int) -> None:
    folder = next(parent for parent in out.absolute().parents if parent.is_dir())
    free = shutil.disk_usage(folder).free
    if free < n_bytes + FREE_SPACE_MARGIN:
        raise ResourceError(
            f"{n_bytes / 1e9:.2f} GB are needed and {free / 1e9:.2f} GB are free",
            where=str(folder),
            fix="free some space, or write to another disk",
        )


@contextmanager
def _staging(out: Path) -> Iterator[Path]:
    """A temporary directory beside `out`; on success its files move to `out`'s directory, each atomically."""
    folder = temporary_of(out)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        clear_left(out)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        yield folder
        for file in sorted(folder.iterdir()):
            fsync_path(file)
            file.replace(out.with_name(file.name))
        fsync_path(out.parent)
    except OSError as error:
        raise disk_error(error, out) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _write(
    writer: GGUFWriter, path: Path, source: Source, works: list[_Work], report: Report | None
) -> list[list[Written]]:
    """Write all parts; return the tensors of each."""
    by_name = {work.planned.name: work for work in works}
    total, done, index = sum(work.n_bytes for work in works), 0, 0
    records: list[list[Written]] = []
    writer.write_header_to_file(path)
    writer.write_kv_data_to_file()
    for keys in writer.kv_data:
        keys.clear()  # the vocabulary is on the disk; its hundreds of thousands of texts need not stay
    writer.write_ti_data_to_file()
    try:
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="write") as pool:
            for file, table in zip(writer.fout or [], writer.tensors, strict=True):
                writer.write_padding(file, file.tell())
                records.append([])
                for name in table:
                    written = _write_tensor(file, source, by_name[name], pool, (index, done, total))
                    writer.write_padding(file, written.n_bytes)
                    records[-1].append(written)
                    done, index = written.done_bytes, index + 1
                    if report:
                        report(written)
    finally:
        writer.close()
    return records


def _write_tensor(
    file: IO[bytes], source: Source, work: _Work, pool: ThreadPoolExecutor, at: tuple[int, int, int]
) -> Written:
    """Convert one tensor; hashing and writing run beside the conversion of the next chunk."""
    began, digest = time.perf_counter(), hashlib.sha256()
    index, done, total = at

    def put(data: memoryview) -> None:
        digest.update(data)
        file.write(data)

    waiting: list[Future[None]] = []
    columns = int(np.prod(work.planned.shape[1:], dtype=np.int64))
    for chunk in chunks_of(source, work.planned, max(1, CHUNK_ELEMENTS // columns)):
        waiting.append(pool.submit(put, _encode(chunk, work)))
        if len(waiting) >= IN_FLIGHT:
            waiting.pop(0).result()
    for future in waiting:
        future.result()
    return Written(
        index,
        work.planned,
        work.type.name,
        work.n_bytes,
        digest.hexdigest(),
        (time.perf_counter() - began) * 1000,
        done + work.n_bytes,
        total,
    )


def chunks_of(source: Source, item: Planned, rows: int) -> Iterator[NDArray[Any]]:
    """Yield a tensor in the file's row order, about `rows` rows at a time (whole heads where rows are permuted)."""
    if item.source is None:
        yield item.values if item.values is not None else np.empty(item.shape, np.float32)
        return
    if not item.heads:
        yield from source.chunks(item.source, rows)
        return
    head_rows = item.shape[0] // item.heads
    for array in source.chunks(item.source, max(1, rows // head_rows) * head_rows):
        halves = array.reshape(
            -1, 2, head_rows // 2, *array.shape[1:]
        )  # rope halves to llama.cpp's interleaved pairs
        yield np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(array.shape)


def _encode(array: NDArray[Any], work: _Work) -> memoryview:
    """Convert a chunk to the target type and refuse what is not a number."""
    encoded = _cast(array, work.type)
    checked = encoded if work.type == GGMLQuantizationType.F16 else array
    if not _all_finite(checked):
        hf_name = work.planned.source.name if work.planned.source else work.planned.name
        if _all_finite(array):
            raise ArtifactError(
                f"{hf_name} overflows float16", where=hf_name, fix="convert to BF16 or F32"
            )
        raise ArtifactError(
            f"{hf_name} holds NaN or infinity",
            where=hf_name,
            fix="the model is damaged: train or fetch it again",
        )
    return np.ascontiguousarray(encoded).reshape(-1).view(np.uint8).data


def _cast(array: NDArray[Any], kind: GGMLQuantizationType) -> NDArray[Any]:
    if kind == GGMLQuantizationType.F32:
        return to_float32(array)
    if kind == GGMLQuantizationType.F16 and array.dtype == np.uint16:
        return np.asarray(np.take(_float16_of_bfloat16(), array, mode="wrap"))
    if kind == GGMLQuantizationType.F16:
        with np.errstate(over="ignore", invalid="ignore"):
            return array if array.dtype == np.float16 else to_float32(array).astype(np.float16)
    if kind == GGMLQuantizationType.BF16 and array.dtype == np.uint16:
        return array
    return quantize(to_float32(array), kind)


@cache
def _float16_of_bfloat16() -> NDArray[np.float16]:
    """float16 of each of the 65,536 BF16 bit patterns: looking up is 2.7 times faster than rounding (bench/convert.py)."""
    with np.errstate(over="ignore", invalid="ignore"):
        return to_float32(np.arange(1 << 16, dtype=np.uint16)).astype(np.float16)


def _all_finite(array: NDArray[Any]) -> bool:
    """Whether no exponent is all ones; on the bits, because numpy's own test on float16 is slow."""
    if array.dtype == np.float32:
        return bool(np.isfinite(array).all())
    mask = np.uint16(0x7C00 if array.dtype == np.float16 else 0x7F80)
    return int((array.view(np.uint16) & mask).max(initial=0)) != int(mask)


def _infos(parts: list[list[Written]]) -> list[TensorInfo]:
    return [
        TensorInfo(w.planned.name, w.type, w.planned.shape, 0, w.n_bytes, w.sha256)
        for part in parts
        for w in part
    ]


def _manifest(files: list[Path], parts: list[list[Written]], digest: str) -> dict[str, Any]:
    rows = [
        {
            "name": w.planned.name,
            "source": w.planned.source.name if w.planned.source else None,
            "shape": list(w.planned.shape),
            "type": w.type,
            "bytes": w.n_bytes,
            "sha256": w.sha256,
        }
        for part in parts
        for w in part
    ]
    return {
        "schema": "so8t.manifest/1",
        "files": [f.name for f in files],
        "semantic_digest": digest,
        "tensors": rows,
    }


def convert_recorded(
    source: Path,
    out: Path,
    *,
    keys: dict[str, KeyValue],
    name: str,
    context_profile: ContextProfile,
    progress: Progress,
    ftype: FileType = "F16",
) -> str:
    """Convert `source` to `out` within a ledger session; return what to say about it."""
    architecture = str((read_config(source).get("architectures") or ["?"])[0])
    with conversion(name, architecture, source, out) as session:
        recipe = Recipe(ftype, name, context_profile, keys)
        manifest = convert(
            source, out, recipe, report=lambda written: _record(written, session, progress)
        )
        session.digests = {
            "output_sha256": sha256_file(out),
            "semantic_digest": manifest["semantic_digest"],
        }
        if lineage := keys.get("so8t.bake_sha256") or keys.get("so8t.base_sha256"):
            session.digests["source_sha256"] = str(lineage.value)
        session.ledger.log_metadata(session.id, {key: item.value for key, item in keys.items()})
        session.ledger.log_parameters(session.id, {key: item.value for key, item in keys.items()})
    size = out.stat().st_size
    return f"{architecture} to {ftype}, {len(manifest['tensors'])} tensors, {size / 1e6:.1f} MB, digest {manifest['semantic_digest'][:12]}"


def _record(written: Written, session: Session, progress: Progress) -> None:
    source = written.planned.source
    session.tensor(
        TensorRow(
            written.planned.name,
            source.name if source else "(made)",
            written.planned.shape,
            source.dtype if source else "F32",
            written.type,
            written.milliseconds,
            written.n_bytes / 1e6,
            written.sha256,
        )
    )
    progress.emit(
        "tensor",
        name=written.planned.name,
        done=written.done_bytes,
        total=written.total_bytes,
        unit="B",
    )
