"""The data of a GGUF file: each tensor read, converted, hashed and written, in chunks.

Memory is bounded by a few chunks, whatever the model. While one chunk is converted, the one before
it is hashed and written by a thread: conversion runs in numpy, which leaves the interpreter free.
"""

import hashlib
import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter
from gguf.quants import quantize
from numpy.typing import NDArray

from so8t.errors import ArtifactError
from so8t.gguf.convert.source import Array, Source, to_float32
from so8t.gguf.convert.tensor_plan import Planned

CHUNK_ELEMENTS = 2 << 20  # numbers converted at a time: 8 MiB as float32
IN_FLIGHT = 2  # chunks that wait to be hashed and written

# A number is NaN or infinite exactly when all bits of its exponent are ones.
FLOAT16_EXPONENT = 0x7C00
BFLOAT16_EXPONENT = 0x7F80


@dataclass(frozen=True, slots=True)
class Target:
    """A tensor to write, with the type and the size in bytes it will have in the file."""

    planned: Planned
    type: GGMLQuantizationType
    n_bytes: int


@dataclass(frozen=True, slots=True)
class Written:
    """One tensor is in the file.

    Attributes:
        index: its number, from 0.
        planned: what was to be written.
        type: name of its type.
        n_bytes: its size, without padding.
        sha256: of its bytes, in hexadecimal.
        milliseconds: reading, converting and writing it.
        done_bytes: size of all tensors that are written.
        total_bytes: size of all tensors.
    """

    index: int
    planned: Planned
    type: str
    n_bytes: int
    sha256: str
    milliseconds: float
    done_bytes: int
    total_bytes: int


Report = Callable[[Written], None]
Parts = list[list[Written]]  # the tensors of each file, in order


def write_file(
    writer: GGUFWriter, path: Path, source: Source, targets: list[Target], report: Report | None
) -> Parts:
    """Write the head that `writer` laid out, then all tensors.

    Args:
        writer: has all keys and the tensor table; it decides how the tensors are cut into files.
        path: the file; gguf derives the names of several files from it.
        source: where the tensors are read.
        targets: every tensor of the table.
        report: called after each tensor.

    Returns:
        The tensors of each file, in order.
    """
    by_name = {target.planned.name: target for target in targets}
    total = sum(target.n_bytes for target in targets)
    done = 0
    index = 0
    parts: Parts = []
    _write_heads(writer, path)
    # One thread, so that writes keep their order.
    try:
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="write") as pool:
            for file, table in zip(writer.fout or [], writer.tensors, strict=True):
                writer.write_padding(file, file.tell())
                part: list[Written] = []
                for name in table:
                    target = by_name[name]
                    began = time.perf_counter()
                    sha256 = _write_tensor(file, source, target, pool)
                    milliseconds = (time.perf_counter() - began) * 1000
                    writer.write_padding(file, target.n_bytes)
                    done += target.n_bytes
                    written = Written(
                        index=index,
                        planned=target.planned,
                        type=target.type.name,
                        n_bytes=target.n_bytes,
                        sha256=sha256,
                        milliseconds=milliseconds,
                        done_bytes=done,
                        total_bytes=total,
                    )
                    part.append(written)
                    index += 1
                    if report:
                        report(written)
                parts.append(part)
    finally:
        writer.close()
    return parts


def _write_heads(writer: GGUFWriter, path: Path) -> None:
    """Write what comes before the tensors, into every file."""
    writer.write_header_to_file(path)
    writer.write_kv_data_to_file()
    # The vocabulary is on the disk now; its hundreds of thousands of texts need not stay in memory.
    for keys in writer.kv_data:
        keys.clear()
    writer.write_ti_data_to_file()


def _write_tensor(file: IO[bytes], source: Source, target: Target, pool: ThreadPoolExecutor) -> str:
    """Write one tensor; return the SHA-256 of its bytes."""
    digest = hashlib.sha256()

    def put(data: memoryview) -> None:
        digest.update(data)
        file.write(data)

    # Chunks are counted in numbers, so that wide and narrow tensors need the same memory.
    columns = math.prod(target.planned.shape[1:])
    rows = max(1, CHUNK_ELEMENTS // columns)
    # The pool has one thread, so chunks are written in the order in which they were submitted.
    waiting: list[Future[None]] = []
    for chunk in chunks_of(source, target.planned, rows):
        encoded = encode(chunk, target)
        waiting.append(pool.submit(put, encoded))
        if len(waiting) >= IN_FLIGHT:
            waiting.pop(0).result()
    # `result` raises here what went wrong in the thread, e.g. a full disk.
    for future in waiting:
        future.result()
    return digest.hexdigest()


def chunks_of(source: Source, item: Planned, rows: int) -> Iterator[Array]:
    """Yield a tensor in the file's row order, about `rows` rows at a time.

    Where rows are permuted, chunks are whole heads: llama.cpp rotates pairs of neighbouring rows of
    a Llama query or key head, Hugging Face pairs a row of the first half with one of the second.

    Args:
        source: where it is read.
        item: the tensor.
        rows: what bounds the memory.

    Yields:
        uint16 (bits of BF16), float16 or float32 arrays, [rows, *item.shape[1:]].
    """
    if item.source is None:
        if item.values is not None:
            yield item.values
        else:
            yield np.empty(item.shape, np.float32)
        return
    if not item.heads:
        yield from source.chunks(item.source, rows)
        return
    head_rows = item.shape[0] // item.heads
    whole_heads = max(1, rows // head_rows) * head_rows
    for array in source.chunks(item.source, whole_heads):
        # [heads, half, row of the half, ...] to [heads, row of the half, half, ...]
        halves = array.reshape(-1, 2, head_rows // 2, *array.shape[1:])
        interleaved = np.ascontiguousarray(halves.swapaxes(1, 2))
        yield interleaved.reshape(array.shape)


def encode(array: Array, target: Target) -> memoryview:
    """Convert a chunk to the target's type.

    Args:
        array: uint16 (bits of BF16), float16 or float32 rows.
        target: the tensor that they are of.

    Returns:
        The bytes to write.

    Raises:
        ArtifactError: a number that is not finite, or does not fit float16.
    """
    encoded = _cast(array, target.type)
    # Only float16 has a smaller range than its source; elsewhere the source itself is looked at.
    checked = encoded if target.type == GGMLQuantizationType.F16 else array
    if not _all_finite(checked):
        origin = target.planned.source
        name = target.planned.name if origin is None else origin.name
        if _all_finite(array):
            raise ArtifactError(
                f"{name} overflows float16",
                where=name,
                fix="convert to BF16 or F32",
            )
        raise ArtifactError(
            f"{name} holds NaN or infinity",
            where=name,
            fix="the model is damaged: train or fetch it again",
        )
    return np.ascontiguousarray(encoded).reshape(-1).view(np.uint8).data


def _cast(array: Array, kind: GGMLQuantizationType) -> Array:
    """Convert to the target type. Nothing is checked: numbers may come out infinite."""
    is_bfloat16 = array.dtype == np.uint16
    if kind == GGMLQuantizationType.F32:
        return to_float32(array)
    if kind == GGMLQuantizationType.F16:
        if is_bfloat16:
            # numpy checks indices unless told to wrap, and 16 bits cannot leave the table.
            return np.asarray(np.take(_float16_of_bfloat16(), array, mode="wrap"))
        if array.dtype == np.float16:
            return array
        # Overflow becomes infinity here, and `encode` says which tensor it was.
        with np.errstate(over="ignore", invalid="ignore"):
            return to_float32(array).astype(np.float16)
    if kind == GGMLQuantizationType.BF16 and is_bfloat16:
        return array
    return quantize(to_float32(array), kind)


@cache
def _float16_of_bfloat16() -> NDArray[np.float16]:
    """float16 of each of the 65,536 BF16 bit patterns.

    Looking up is 2.7 times faster than rounding (measured with bench/convert.py).
    """
    every_pattern = np.arange(1 << 16, dtype=np.uint16)
    with np.errstate(over="ignore", invalid="ignore"):
        return to_float32(every_pattern).astype(np.float16)


def _all_finite(array: Array) -> bool:
    """Whether no number is NaN or infinite."""
    if array.dtype == np.float32:
        return bool(np.isfinite(array).all())
    # On the bits, because numpy's own test on float16 is slow and BF16 is no type of numpy's.
    exponent = FLOAT16_EXPONENT if array.dtype == np.float16 else BFLOAT16_EXPONENT
    largest = (array.view(np.uint16) & np.uint16(exponent)).max(initial=0)
    return int(largest) != exponent
