"""What a GGUF file holds: its keys with their types, and the table of its tensors.

A model may be cut into several files, a *split set*, named `<stem>-00001-of-0000N.gguf`; all its
keys are in the first. The functions for tensors take any file of a set and look at all of them.

Not covered: how a file is laid out and which damage is found (so8t.gguf_header), whether two files
are the same model (so8t.identity), and what the keys and tensors are for (so8t.gguf).
"""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from gguf import GGUFValueType

from so8t.errors import ArtifactError
from so8t.gguf_header import TensorInfo, Value, decode, mapped, parse

HASH_CHUNK = 4 << 20  # bytes read at a time while hashing
MAX_SHARDS = 99_999  # the part number in a file name has five digits
_SHARD = re.compile(r"^(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf$")


class KeyValue(NamedTuple):
    """A GGUF value with its type; `sub` is the item type of an array."""

    value: Value
    type: GGUFValueType
    sub: GGUFValueType | None = None


Keys = dict[str, KeyValue]  # by name, in the order of the file


def uint32(value: int) -> KeyValue:
    """A whole number as llama.cpp reads sizes, counts and token ids."""
    return KeyValue(value, GGUFValueType.UINT32)


def float32(value: float) -> KeyValue:
    """A fraction as llama.cpp reads hyper-parameters."""
    return KeyValue(value, GGUFValueType.FLOAT32)


def boolean(value: bool) -> KeyValue:
    """A truth value."""
    return KeyValue(value, GGUFValueType.BOOL)


def string(value: str) -> KeyValue:
    """A text."""
    return KeyValue(value, GGUFValueType.STRING)


def array(values: list[str] | list[int] | list[float], sub: GGUFValueType) -> KeyValue:
    """A list of values of the type `sub`."""
    return KeyValue(values, GGUFValueType.ARRAY, sub)


def read_typed(path: Path) -> Keys:
    """Every key of the file, in file order, with its GGUF type.

    Args:
        path: a file; of a split set the first, where all keys are.

    Raises:
        ArtifactError: see `parse`; also a text that is not UTF-8.
    """
    header = parse(path)
    keys: Keys = {}
    with mapped(path) as data:
        for name, field in header.fields.items():
            value = decode(data, field, str(path))
            keys[name] = KeyValue(value, field.type, field.sub)
    return keys


def read_keys(path: Path) -> dict[str, object]:
    """Every key of the file, in file order, as plain Python values."""
    return {name: item.value for name, item in read_typed(path).items()}


def shards_of(path: Path) -> list[Path]:
    """All files of a split set that `path` belongs to, in order; `[path]` for a single file.

    Raises:
        ArtifactError: a file of the set is missing.
    """
    # The name decides; the `split.*` keys inside would have to be read first.
    match = _SHARD.match(path.name)
    if match is None:
        return [path]
    count = int(match["count"])
    # Files are named from the count, not found by listing: a missing one must be noticed.
    files = []
    for number in range(1, min(count, MAX_SHARDS) + 1):
        files.append(path.with_name(f"{match['stem']}-{number:05d}-of-{count:05d}.gguf"))
    for file in files:
        if not file.is_file():
            raise ArtifactError(
                f"{file.name} is missing from the split set",
                where=str(path),
                fix="keep all parts in one directory",
            )
    return files


def tensor_table(path: Path, *, hashes: bool = False) -> list[TensorInfo]:
    """The tensors of a file or split set, in file order.

    Args:
        path: a file, or any part of a split set.
        hashes: also read every tensor and give the SHA-256 of its bytes.

    Raises:
        ArtifactError: a file is corrupt or missing.
    """
    table: list[TensorInfo] = []
    for file in shards_of(path):
        tensors = parse(file).tensors
        if hashes:
            table += _hashed(file, tensors)
        else:
            table += tensors
    return table


def _hashed(path: Path, tensors: list[TensorInfo]) -> Iterator[TensorInfo]:
    """The same tensors with the SHA-256 of their bytes, read in chunks."""
    # One buffer for all tensors: a tensor of a large model can be bigger than the memory.
    buffer = memoryview(bytearray(HASH_CHUNK))
    with path.open("rb") as file:
        for tensor in tensors:
            digest = hashlib.sha256()
            left = tensor.n_bytes
            file.seek(tensor.offset)
            while left:
                count = file.readinto(buffer[: min(left, HASH_CHUNK)])
                if not count:
                    raise ArtifactError(
                        f"tensor {tensor.name} ends early",
                        where=str(path),
                        fix="build the file again",
                    )
                digest.update(buffer[:count])
                left -= count
            yield replace(tensor, sha256=digest.hexdigest())
