"""What a GGUF file is: a bounded reader, and digests of what it holds.

The *semantic digest* covers every tensor (name, type, shape, bytes) in name order and every key that can change
behaviour; it survives a copy that re-orders tensors (Ollama's) and the writing of calibration results. The *seal* is
one key whose value covers the whole file, byte for byte, so that a damaged file is found without any other file.

Covered: GGUF version 3 (and 2), little endian, single files and split sets. A corrupt file is an ArtifactError, never
a crash: every count and length is checked against the size of the file before it is used.
Not covered: what the tensors are for (so8t.export).
"""

import hashlib
import mmap
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import gguf
from gguf import GGMLQuantizationType, GGUFValueType

from so8t.errors import ArtifactError

Value = str | int | float | bool | list[str] | list[int] | list[float] | list[bool]

MAX_KEYS, MAX_TENSORS, MAX_NAME, MAX_ALIGNMENT = 1 << 16, 1 << 18, 1 << 16, 1 << 16
CHUNK = 4 << 20  # bytes read at a time while hashing
SEAL = "so8t.seal"
BLANK_SEAL = "0" * 64
LINEAGE = (
    "so8t.version",
    "so8t.base_model",
    "so8t.base_sha256",
    "so8t.data_sha256",
    "so8t.baked_layers",
    "so8t.bake_sha256",
)
BEHAVIOUR_FREE = (
    *LINEAGE,
    SEAL,
    "so8t.safety_threshold",
    "so8t.escalation_threshold",
    "general.quantization_version",
    "general.alignment",
)
BEHAVIOUR_FREE_PREFIXES = ("so8t.calibration.", "quantize.imatrix.", "split.")

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
_SHARD = re.compile(r"^(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf$")


class KeyValue(NamedTuple):
    """A GGUF value with its type; `sub` is the item type of an array."""

    value: Value
    type: GGUFValueType
    sub: GGUFValueType | None = None


class _Field(NamedTuple):
    type: GGUFValueType
    sub: GGUFValueType | None
    start: int  # of the encoded value, after its type
    end: int


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor: numpy-order shape, absolute byte offset in its file, size in bytes."""

    name: str
    type: str
    shape: tuple[int, ...]
    offset: int
    n_bytes: int
    sha256: str | None = None


@dataclass(frozen=True, slots=True)
class Header:
    """The parsed head of one file: where each key and tensor lies."""

    path: Path
    fields: dict[str, _Field]
    tensors: list[TensorInfo]
    data_start: int
    alignment: int


class _Cursor:
    """Reads numbers and strings from a buffer and refuses to pass its end."""

    def __init__(self, data: mmap.mmap, where: str) -> None:
        self.data, self.at, self.size, self.where = data, 0, len(data), where

    def fail(self, problem: str) -> ArtifactError:
        return ArtifactError(
            f"not a valid GGUF file: {problem} (byte {self.at:,})",
            where=self.where,
            fix="build it again with `dvc repro`, or fetch it again",
        )

    def skip(self, count: int) -> int:
        if count < 0 or count > self.size - self.at:
            raise self.fail("it ends in the middle of its header")
        self.at += count
        return self.at - count

    def number(self, code: str) -> Any:
        start = self.skip(struct.calcsize(code))
        return struct.unpack_from(code, self.data, start)[0]

    def text(self, limit: int) -> str:
        length = self.number("<Q")
        if length > limit:
            raise self.fail(f"a text of {length:,} bytes where at most {limit:,} fit")
        start = self.skip(length)
        try:
            return self.data[start : start + length].decode("utf-8")
        except UnicodeDecodeError:
            raise self.fail("a text that is not UTF-8") from None

    def value_type(self) -> GGUFValueType:
        number = self.number("<I")
        try:
            return GGUFValueType(number)
        except ValueError:
            raise self.fail(f"unknown value type {number}") from None


def parse(path: Path) -> Header:
    """Read the head of one GGUF file.

    Raises:
        ArtifactError: the file is missing, truncated, corrupt or of an unknown version or type.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _parse(_Cursor(data, str(path)), path)
    except FileNotFoundError:
        raise ArtifactError(
            "file not found", where=str(path.resolve()), fix="run `dvc repro` or `dvc pull`"
        ) from None
    except ValueError:  # mmap of an empty file
        raise ArtifactError(
            "not a valid GGUF file: it is empty", where=str(path), fix="run `dvc repro`"
        ) from None


def _parse(cursor: _Cursor, path: Path) -> Header:
    if cursor.data[:4] != b"GGUF":
        raise cursor.fail("the first four bytes are not GGUF")
    cursor.skip(4)
    version, n_tensors, n_keys = cursor.number("<I"), cursor.number("<Q"), cursor.number("<Q")
    if version not in (2, 3):
        raise cursor.fail(f"version {version} (2 and 3 are known)")
    if n_tensors > MAX_TENSORS or n_keys > MAX_KEYS or 24 * n_tensors + 13 * n_keys > cursor.size:
        raise cursor.fail(f"it claims {n_tensors:,} tensors and {n_keys:,} keys")
    fields = _fields(cursor, n_keys)
    alignment = _alignment(cursor, fields)
    records = [_tensor_record(cursor) for _ in range(n_tensors)]
    data_start = _pad(cursor.at, alignment)
    _require_zeros(cursor, cursor.at, min(data_start, cursor.size))
    tensors = _layout(cursor, records, data_start, alignment)
    return Header(path, fields, tensors, data_start, alignment)


def _fields(cursor: _Cursor, count: int) -> dict[str, _Field]:
    fields: dict[str, _Field] = {}
    for _ in range(count):
        name = cursor.text(MAX_NAME)
        if not name or name in fields:
            raise cursor.fail(f"key {name!r} is empty or given twice")
        fields[name] = _field(cursor)
    return fields


def _field(cursor: _Cursor) -> _Field:
    kind = cursor.value_type()
    start, sub = cursor.at, None
    if kind == GGUFValueType.ARRAY:
        sub, length = cursor.value_type(), cursor.number("<Q")
        if sub == GGUFValueType.ARRAY:
            raise cursor.fail("an array of arrays")
        if length > cursor.size:
            raise cursor.fail(f"an array of {length:,} items")
        _skip_values(cursor, sub, length)
    else:
        _skip_values(cursor, kind, 1)
    return _Field(kind, sub, start, cursor.at)


def _skip_values(cursor: _Cursor, kind: GGUFValueType, count: int) -> None:
    if kind == GGUFValueType.STRING:
        for _ in range(count):
            cursor.skip(cursor.number("<Q"))
        return
    start = cursor.skip(count * struct.calcsize(_SCALARS[kind]))
    if kind == GGUFValueType.BOOL and set(cursor.data[start : start + count]) - {0, 1}:
        raise cursor.fail("a truth value that is neither 0 nor 1")


def _alignment(cursor: _Cursor, fields: dict[str, _Field]) -> int:
    field = fields.get("general.alignment")
    if field is None:
        return int(gguf.GGUF_DEFAULT_ALIGNMENT)
    value = _decode(cursor.data, field, cursor.where)
    if (
        field.type != GGUFValueType.UINT32
        or not isinstance(value, int)
        or not 0 < value <= MAX_ALIGNMENT
        or value & (value - 1)
    ):
        raise cursor.fail("general.alignment is not a power of two")
    return value


def _tensor_record(cursor: _Cursor) -> tuple[str, str, tuple[int, ...], int, int]:
    """Return (name, type, numpy shape, size in bytes, offset in the data section)."""
    name, n_dims = cursor.text(MAX_NAME), cursor.number("<I")
    if not 1 <= n_dims <= 4:
        raise cursor.fail(f"tensor {name!r} has {n_dims} dimensions")
    dims = [cursor.number("<Q") for _ in range(n_dims)]
    kind, offset = cursor.number("<I"), cursor.number("<Q")
    elements = 1
    for dim in dims:
        elements *= dim
    try:
        block, block_bytes = gguf.GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
    except (ValueError, KeyError):
        raise cursor.fail(f"tensor {name!r} has the unknown type {kind}") from None
    if elements == 0 or dims[0] % block or elements // block * block_bytes > cursor.size:
        raise cursor.fail(f"tensor {name!r} with shape {dims} does not fit the file")
    return (
        name,
        GGMLQuantizationType(kind).name,
        tuple(reversed(dims)),
        elements // block * block_bytes,
        offset,
    )


def _layout(
    cursor: _Cursor,
    records: list[tuple[str, str, tuple[int, ...], int, int]],
    data_start: int,
    alignment: int,
) -> list[TensorInfo]:
    tensors: list[TensorInfo] = []
    seen: set[str] = set()
    expected = 0
    for name, kind, shape, n_bytes, offset in records:
        if name in seen or offset != expected:
            raise cursor.fail(f"tensor {name!r} is given twice or lies at the wrong place")
        seen.add(name)
        tensors.append(TensorInfo(name, kind, shape, data_start + offset, n_bytes))
        expected = _pad(offset + n_bytes, alignment)
    end = tensors[-1].offset + tensors[-1].n_bytes if tensors else data_start
    if tensors and cursor.size not in (end, _pad(end - data_start, alignment) + data_start):
        raise cursor.fail(f"it has {cursor.size:,} bytes where its tensors need {end:,}")
    for left, right in zip(tensors, [*(t.offset for t in tensors[1:]), cursor.size], strict=False):
        _require_zeros(cursor, left.offset + left.n_bytes, right)
    return tensors


def _pad(value: int, alignment: int) -> int:
    return (value + alignment - 1) // alignment * alignment


def _require_zeros(cursor: _Cursor, start: int, end: int) -> None:
    if any(cursor.data[start:end]):
        raise cursor.fail(f"padding at byte {start:,} is not zero")


def _decode(data: mmap.mmap, field: _Field, where: str) -> Value:
    cursor = _Cursor(data, where)
    cursor.at = field.start
    if field.sub is None:
        return _decode_scalar(cursor, field.type)
    cursor.skip(4)
    count = cursor.number("<Q")
    if field.sub == GGUFValueType.STRING:
        return [cursor.text(cursor.size) for _ in range(count)]
    code = _SCALARS[field.sub]
    start = cursor.skip(count * struct.calcsize(code))
    numbers = struct.unpack_from(f"<{count}{code[1]}", data, start)
    return [bool(n) for n in numbers] if field.sub == GGUFValueType.BOOL else list(numbers)


def _decode_scalar(cursor: _Cursor, kind: GGUFValueType) -> str | int | float | bool:
    if kind == GGUFValueType.STRING:
        return cursor.text(cursor.size)
    number: int | float = cursor.number(_SCALARS[kind])
    return bool(number) if kind == GGUFValueType.BOOL else number


def read_typed(path: Path) -> dict[str, KeyValue]:
    """Every key of the file, in file order, with its GGUF type.

    Raises:
        ArtifactError: see `parse`; also a text that is not UTF-8.
    """
    header = parse(path)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return {
            n: KeyValue(_decode(data, f, str(path)), f.type, f.sub)
            for n, f in header.fields.items()
        }


def read_keys(path: Path) -> dict[str, object]:
    """Every key of the file, in file order, as plain Python values."""
    return {name: item.value for name, item in read_typed(path).items()}


def shards_of(path: Path) -> list[Path]:
    """All files of a split set that `path` belongs to, in order; `[path]` for a single file.

    Raises:
        ArtifactError: a file of the set is missing.
    """
    match = _SHARD.match(path.name)
    if match is None:
        return [path]
    count = int(match["count"])
    files = [
        path.with_name(f"{match['stem']}-{n:05d}-of-{count:05d}.gguf")
        for n in range(1, min(count, 99999) + 1)
    ]
    if missing := [file.name for file in files if not file.is_file()]:
        raise ArtifactError(
            f"{missing[0]} is missing from the split set",
            where=str(path),
            fix="keep all parts in one directory",
        )
    return files


def tensor_table(path: Path, *, hashes: bool = False) -> list[TensorInfo]:
    """The tensors of a file or split set, in file order; with `hashes` also the SHA-256 of each one's bytes."""
    table: list[TensorInfo] = []
    for file in shards_of(path):
        tensors = parse(file).tensors
        table += list(_hashed(file, tensors)) if hashes else tensors
    return table


def _hashed(path: Path, tensors: list[TensorInfo]) -> Iterator[TensorInfo]:
    buffer = memoryview(bytearray(CHUNK))
    with path.open("rb") as file:
        for tensor in tensors:
            digest, left = hashlib.sha256(), tensor.n_bytes
            file.seek(tensor.offset)
            while left:
                count = file.readinto(buffer[: min(left, CHUNK)])
                if not count:
                    raise ArtifactError(
                        f"tensor {tensor.name} ends early",
                        where=str(path),
                        fix="build the file again",
                    )
                digest.update(buffer[:count])
                left -= count
            yield replace(tensor, sha256=digest.hexdigest())


def changes_behaviour(key: str) -> bool:
    """Whether a key belongs to the semantic digest."""
    return key not in BEHAVIOUR_FREE and not key.startswith(BEHAVIOUR_FREE_PREFIXES)


def semantic_digest(path: Path, tensors: list[TensorInfo] | None = None) -> str:
    """SHA-256 over all tensors in name order and all keys that can change behaviour.

    Args:
        path: a file, or any part of a split set.
        tensors: all tensors with digests when they are already known; otherwise they are hashed here.
    """
    digest = hashlib.sha256(b"so8t.semantic/1\n")
    for tensor in sorted(
        tensors if tensors is not None else tensor_table(path, hashes=True), key=lambda t: t.name
    ):
        digest.update(f"{tensor.name}\0{tensor.type}\0{tensor.shape}\0{tensor.sha256}\n".encode())
    first = shards_of(path)[0]
    header = parse(first)
    with first.open("rb") as file:
        for name in sorted(filter(changes_behaviour, header.fields)):
            field = header.fields[name]
            file.seek(field.start)
            digest.update(f"{name}\0{field.type.name}\0{field.end - field.start}\0".encode())
            digest.update(file.read(field.end - field.start))
    return digest.hexdigest()


def seal_of(path: Path, tensors: list[TensorInfo] | None = None) -> tuple[str, int]:
    """The seal that a file (or split set) should carry, and the offset of its 64 characters in the first file.

    SHA-256 over the head of every part, with the seal's own characters as zeros, then each tensor's SHA-256 in file
    order. The reader requires padding to be zero, so the seal covers every byte.

    Args:
        path: a file, or any part of a split set.
        tensors: all tensors with digests when they are already known; otherwise they are hashed here.

    Raises:
        ArtifactError: the file has no seal key.
    """
    files = shards_of(path)
    field = parse(files[0]).fields.get(SEAL)
    if (
        field is None
        or field.type != GGUFValueType.STRING
        or field.end - field.start != 8 + len(BLANK_SEAL)
    ):
        raise ArtifactError(
            f"the file has no key {SEAL}",
            where=str(path),
            fix="convert it again with `so8t gguf convert`",
        )
    digest = hashlib.sha256()
    for number, file in enumerate(files):
        with file.open("rb") as handle:
            head = bytearray(handle.read(parse(file).data_start))
        if number == 0:
            head[field.start + 8 : field.end] = BLANK_SEAL.encode()
        digest.update(head)
    for tensor in tensors if tensors is not None else tensor_table(path, hashes=True):
        digest.update(bytes.fromhex(tensor.sha256 or ""))
    return digest.hexdigest(), field.start + 8


def seal(path: Path, tensors: list[TensorInfo] | None = None) -> None:
    """Write the seal into the (first) file, in place: only for a file that still has its temporary name."""
    value, offset = seal_of(path, tensors)
    with shards_of(path)[0].open("r+b") as file:
        file.seek(offset)
        file.write(value.encode())


def check_seal(path: Path) -> None:
    """Check every byte of a file or split set against its own seal.

    Raises:
        ArtifactError: no seal, or the file was changed or damaged after it was written.
    """
    value, offset = seal_of(path)
    with shards_of(path)[0].open("rb") as handle:
        handle.seek(offset)
        found = handle.read(len(BLANK_SEAL))
    if found != value.encode():
        raise ArtifactError(
            "the file does not match its seal: it was changed or damaged",
            where=str(path),
            fix="build it again with `dvc repro`, or fetch it again",
        )
