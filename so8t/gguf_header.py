"""The head of one GGUF file: where each key and each tensor lies. Its parser trusts nothing.

gguf's own `GGUFReader` believes what a file claims. Here every count and length is checked against
the size of the file before it is used, so a corrupt file is an ArtifactError, never a crash and
never a huge allocation.

A file holds, in this order: the magic number with a version and two counts, the keys, one record
per tensor, zeros up to the alignment, and the tensors' bytes, each padded with zeros.

Covered: GGUF versions 2 and 3, little endian. Not covered: big endian files; values of several
keys at once, and models cut into several files (so8t.gguf_file).
"""

import mmap
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
from gguf import GGMLQuantizationType, GGUFValueType

from so8t.errors import ArtifactError

Value = str | int | float | bool | list[str] | list[int] | list[float] | list[bool]

# Far above any real model (a few hundred keys, a few thousand tensors), and low enough that
# a file which lies about its counts is refused before anything is allocated for them.
MAX_KEYS = 1 << 16
MAX_TENSORS = 1 << 18
MAX_NAME = 1 << 16  # bytes
MAX_ALIGNMENT = 1 << 16  # bytes
MAX_DIMENSIONS = 4  # GGML_MAX_DIMS of llama.cpp

# The smallest record of each kind, in bytes. A tensor has the length of its name (8), its
# number of dimensions (4), its type (4) and its offset (8); a key has the length of its name
# (8), its type (4) and a value of one byte.
MIN_TENSOR_RECORD = 24
MIN_KEY_RECORD = 13

_SCALARS: dict[GGUFValueType, str] = {
    GGUFValueType.UINT8: "<B",
    GGUFValueType.INT8: "<b",
    GGUFValueType.UINT16: "<H",
    GGUFValueType.INT16: "<h",
    GGUFValueType.UINT32: "<I",
    GGUFValueType.INT32: "<i",
    GGUFValueType.FLOAT32: "<f",
    GGUFValueType.BOOL: "<B",
    GGUFValueType.UINT64: "<Q",
    GGUFValueType.INT64: "<q",
    GGUFValueType.FLOAT64: "<d",
}


@dataclass(frozen=True, slots=True)
class Field:
    """Where one key's value lies: bytes `start` to `end` of the file, without the value's type."""

    type: GGUFValueType
    sub: GGUFValueType | None
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor of a file.

    Attributes:
        name: unique within the file.
        type: name of its ggml type, e.g. F16 or Q4_K.
        shape: numpy order, the fastest-running dimension last.
        offset: byte of its file at which it begins.
        n_bytes: its size, without padding.
        sha256: of its bytes, in hexadecimal; None until they were read.
    """

    name: str
    type: str
    shape: tuple[int, ...]
    offset: int
    n_bytes: int
    sha256: str | None = None


@dataclass(frozen=True, slots=True)
class Header:
    """The parsed head of one file: where each key and tensor lies.

    Attributes:
        path: the file.
        fields: by key name, in file order.
        tensors: in file order.
        data_start: byte at which the first tensor lies.
        alignment: bytes to whose multiples the tensors are padded.
    """

    path: Path
    fields: dict[str, Field]
    tensors: list[TensorInfo]
    data_start: int
    alignment: int


@dataclass(frozen=True, slots=True)
class _Record:
    """A tensor as its record states it; `offset` counts from the start of the data section."""

    name: str
    type: str
    shape: tuple[int, ...]
    n_bytes: int
    offset: int


class _Cursor:
    """Reads numbers and strings from a buffer and refuses to pass its end."""

    def __init__(self, data: mmap.mmap, where: str) -> None:
        self.data = data
        self.at = 0
        self.size = len(data)
        self.where = where

    def fail(self, problem: str) -> ArtifactError:
        """The error to raise, with the byte at which reading stopped."""
        return ArtifactError(
            f"not a valid GGUF file: {problem} (byte {self.at:,})",
            where=self.where,
            fix="build it again with `dvc repro`, or fetch it again",
        )

    def skip(self, count: int) -> int:
        """Move on by `count` bytes; return where they began."""
        if count < 0 or count > self.size - self.at:
            raise self.fail("it ends in the middle of its header")
        start = self.at
        self.at += count
        return start

    def number(self, code: str) -> Any:
        """Read one number; `code` is a format of the `struct` module."""
        start = self.skip(struct.calcsize(code))
        return struct.unpack_from(code, self.data, start)[0]

    def text(self, limit: int) -> str:
        """Read a text of at most `limit` bytes."""
        length = self.number("<Q")
        if length > limit:
            raise self.fail(f"a text of {length:,} bytes where at most {limit:,} fit")
        start = self.skip(length)
        try:
            return self.data[start : start + length].decode("utf-8")
        except UnicodeDecodeError:
            raise self.fail("a text that is not UTF-8") from None

    def value_type(self) -> GGUFValueType:
        """Read the number that names the type of a value."""
        number = self.number("<I")
        try:
            return GGUFValueType(number)
        except ValueError:
            raise self.fail(f"unknown value type {number}") from None


# -- the head of one file ---------------------------------------------------------------------


def parse(path: Path) -> Header:
    """Read the head of one GGUF file.

    Args:
        path: the file; of a split set, one part.

    Returns:
        Where its keys and tensors lie. Nothing of it is decoded but the alignment.

    Raises:
        ArtifactError: the file is missing, truncated, corrupt or of an unknown version or type.
    """
    try:
        with mapped(path) as data:
            return _parse_header(_Cursor(data, str(path)), path)
    except FileNotFoundError:
        raise ArtifactError(
            "file not found",
            where=str(path.resolve()),
            fix="run `dvc repro` or `dvc pull`",
        ) from None
    except IsADirectoryError:
        raise ArtifactError(
            "a directory, not a GGUF file",
            where=str(path),
            fix="name a file in it; `so8t gguf convert DIRECTORY FILE` makes one of a model folder",
        ) from None
    # mmap refuses an empty file with this error, before a byte of it is looked at.
    except ValueError:
        raise ArtifactError(
            "not a valid GGUF file: it is empty",
            where=str(path),
            fix="run `dvc repro`",
        ) from None


@contextmanager
def mapped(path: Path) -> Iterator[mmap.mmap]:
    """The file's bytes, mapped into memory: only the pages that are looked at are read."""
    with (
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
    ):
        yield data


def _parse_header(cursor: _Cursor, path: Path) -> Header:
    """Read everything up to the tensors' bytes."""
    if cursor.data[:4] != b"GGUF":
        raise cursor.fail("the first four bytes are not GGUF")
    cursor.skip(4)
    # Version 1 had 32-bit counts and is older than any file this project can meet.
    version = cursor.number("<I")
    n_tensors = cursor.number("<Q")
    n_keys = cursor.number("<Q")
    if version not in (2, 3):
        raise cursor.fail(f"version {version} (2 and 3 are known)")
    # A list of a million entries is refused here, before one of them is read.
    least_bytes = MIN_TENSOR_RECORD * n_tensors + MIN_KEY_RECORD * n_keys
    if n_tensors > MAX_TENSORS or n_keys > MAX_KEYS or least_bytes > cursor.size:
        raise cursor.fail(f"it claims {n_tensors:,} tensors and {n_keys:,} keys")
    fields = _parse_fields(cursor, n_keys)
    alignment = _alignment(cursor, fields)
    records = [_parse_record(cursor) for _ in range(n_tensors)]
    data_start = _pad(cursor.at, alignment)
    _require_zeros(cursor, cursor.at, min(data_start, cursor.size))
    tensors = _place_tensors(cursor, records, data_start, alignment)
    return Header(path, fields, tensors, data_start, alignment)


def _parse_fields(cursor: _Cursor, count: int) -> dict[str, Field]:
    """Read all keys; their values are skipped and stay in the file."""
    fields: dict[str, Field] = {}
    for _ in range(count):
        name = cursor.text(MAX_NAME)
        # Readers differ in which of two equal keys they believe.
        if not name or name in fields:
            raise cursor.fail(f"key {name!r} is empty or given twice")
        fields[name] = _parse_field(cursor)
    return fields


def _parse_field(cursor: _Cursor) -> Field:
    """Read the type of one value and skip it."""
    kind = cursor.value_type()
    start = cursor.at
    if kind != GGUFValueType.ARRAY:
        _skip_values(cursor, kind, 1)
        return Field(kind, None, start, cursor.at)
    sub = cursor.value_type()
    length = cursor.number("<Q")
    # The format allows it, nobody writes it, and nesting is how a parser is made to overflow.
    if sub == GGUFValueType.ARRAY:
        raise cursor.fail("an array of arrays")
    # Every item has a byte at least, so a longer array cannot be in the file.
    if length > cursor.size:
        raise cursor.fail(f"an array of {length:,} items")
    _skip_values(cursor, sub, length)
    return Field(kind, sub, start, cursor.at)


def _skip_values(cursor: _Cursor, kind: GGUFValueType, count: int) -> None:
    """Move on past `count` values of one type, checking only what could mislead a reader."""
    if kind == GGUFValueType.STRING:
        for _ in range(count):
            cursor.skip(cursor.number("<Q"))
        return
    start = cursor.skip(count * struct.calcsize(_SCALARS[kind]))
    # Readers differ in what a byte of 2 means, and a file must mean one thing.
    if kind == GGUFValueType.BOOL:
        other_bytes = set(cursor.data[start : start + count]) - {0, 1}
        if other_bytes:
            raise cursor.fail("a truth value that is neither 0 nor 1")


def _alignment(cursor: _Cursor, fields: dict[str, Field]) -> int:
    """Bytes to whose multiples the tensors are padded."""
    field = fields.get("general.alignment")
    if field is None:
        return int(gguf.GGUF_DEFAULT_ALIGNMENT)
    value = decode(cursor.data, field, cursor.where)
    if not isinstance(value, int) or field.type != GGUFValueType.UINT32 or not _is_alignment(value):
        raise cursor.fail("general.alignment is not a power of two")
    return value


def _is_alignment(value: int) -> bool:
    """Whether it is a power of two of a sensible size."""
    is_power_of_two = value & (value - 1) == 0
    return 0 < value <= MAX_ALIGNMENT and is_power_of_two


def _parse_record(cursor: _Cursor) -> _Record:
    """Read one entry of the tensor table."""
    name = cursor.text(MAX_NAME)
    n_dims = cursor.number("<I")
    if not 1 <= n_dims <= MAX_DIMENSIONS:
        raise cursor.fail(f"tensor {name!r} has {n_dims} dimensions")
    dims = [cursor.number("<Q") for _ in range(n_dims)]
    kind = cursor.number("<I")
    offset = cursor.number("<Q")
    # Python's integers do not overflow, as numpy's would for dimensions that a file invents.
    elements = 1
    for dim in dims:
        elements *= dim
    try:
        block, block_bytes = gguf.GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
    except (ValueError, KeyError):
        raise cursor.fail(f"tensor {name!r} has the unknown type {kind}") from None
    n_bytes = elements // block * block_bytes
    if elements == 0 or dims[0] % block or n_bytes > cursor.size:
        raise cursor.fail(f"tensor {name!r} with shape {dims} does not fit the file")
    # GGUF writes the fastest-running dimension first, numpy last.
    shape = tuple(reversed(dims))
    return _Record(name, GGMLQuantizationType(kind).name, shape, n_bytes, offset)


def _place_tensors(
    cursor: _Cursor, records: list[_Record], data_start: int, alignment: int
) -> list[TensorInfo]:
    """Check that the tensors lie one after another, with zeros between, to the file's end."""
    tensors: list[TensorInfo] = []
    seen: set[str] = set()
    expected = 0
    for record in records:
        # The format allows gaps and any order; nobody writes them, and a gap could hide anything.
        if record.name in seen or record.offset != expected:
            raise cursor.fail(f"tensor {record.name!r} is given twice or lies at the wrong place")
        seen.add(record.name)
        offset = data_start + record.offset
        tensors.append(TensorInfo(record.name, record.type, record.shape, offset, record.n_bytes))
        expected = _pad(record.offset + record.n_bytes, alignment)
    if not tensors:
        return tensors
    end = tensors[-1].offset + tensors[-1].n_bytes
    # Some writers pad after the last tensor, some do not.
    padded_end = data_start + _pad(end - data_start, alignment)
    if cursor.size not in (end, padded_end):
        raise cursor.fail(f"it has {cursor.size:,} bytes where its tensors need {end:,}")
    next_starts = [tensor.offset for tensor in tensors[1:]]
    next_starts.append(cursor.size)
    for tensor, next_start in zip(tensors, next_starts, strict=True):
        _require_zeros(cursor, tensor.offset + tensor.n_bytes, next_start)
    return tensors


def _pad(value: int, alignment: int) -> int:
    """The next multiple of `alignment`."""
    return (value + alignment - 1) // alignment * alignment


def _require_zeros(cursor: _Cursor, start: int, end: int) -> None:
    """Refuse padding with something in it: the seal covers no padding, so it must be known."""
    if any(cursor.data[start:end]):
        raise cursor.fail(f"padding at byte {start:,} is not zero")


# -- keys -------------------------------------------------------------------------------------


def decode(data: mmap.mmap, field: Field, where: str) -> Value:
    """The value of one key, as plain Python.

    Args:
        data: the whole file, from `mapped`.
        field: where the value lies, from `parse`.
        where: the file's name, for the error.

    Raises:
        ArtifactError: a text that is not UTF-8.
    """
    cursor = _Cursor(data, where)
    cursor.at = field.start
    if field.sub is None:
        return _decode_scalar(cursor, field.type)
    cursor.skip(4)  # the item type, which the field already has
    count = cursor.number("<Q")
    if field.sub == GGUFValueType.STRING:
        return [cursor.text(cursor.size) for _ in range(count)]
    code = _SCALARS[field.sub]
    start = cursor.skip(count * struct.calcsize(code))
    numbers = struct.unpack_from(f"<{count}{code[1]}", data, start)
    if field.sub == GGUFValueType.BOOL:
        return [bool(number) for number in numbers]
    return list(numbers)


def _decode_scalar(cursor: _Cursor, kind: GGUFValueType) -> str | int | float | bool:
    """One value that is no array."""
    if kind == GGUFValueType.STRING:
        return cursor.text(cursor.size)
    number: int | float = cursor.number(_SCALARS[kind])
    if kind == GGUFValueType.BOOL:
        return bool(number)
    return number
