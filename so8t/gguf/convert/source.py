"""A Hugging Face directory, read lazily: its JSON files, and rows of its safetensors tensors.

No tensor is ever loaded whole, so that a model larger than the memory can be converted. A
safetensors file is an 8-byte length, a JSON header that says where each tensor lies, and the
tensors' bytes (https://huggingface.co/docs/safetensors).

Covered: one or many files (*shards*), F32, F16 and BF16. Not covered: pickles (never read) and
quantised checkpoints (refused).
"""

import json
import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from so8t.errors import ArtifactError

Json = dict[str, Any]  # a JSON object
Array = NDArray[Any]  # uint16 (the bits of BF16), float16 or float32
Floats = NDArray[np.float32]

# Bytes of a number, of the types that are read. Others, e.g. of quantised models, are refused.
ITEM_BYTES = {"F32": 4, "F16": 2, "BF16": 2}
NUMPY_TYPES = {"BF16": "<u2", "F16": "<f2", "F32": "<f4"}  # numpy has no BF16: its bits
MAX_HEADER = 256 << 20  # bytes; a larger safetensors header is not one
LENGTH_BYTES = 8  # of the header's length, at the start of a file
FETCH_AGAIN = "fetch the model again"


@dataclass(frozen=True, slots=True)
class SourceTensor:
    """Where one tensor lies.

    Attributes:
        name: Hugging Face name.
        dtype: F32, F16 or BF16.
        shape: numpy order.
        file: the safetensors file.
        offset: byte of it at which the tensor begins.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path
    offset: int

    @property
    def row_bytes(self) -> int:
        """Bytes of one row (one element of the first dimension)."""
        row_elements = math.prod(self.shape[1:])
        return row_elements * ITEM_BYTES[self.dtype]

    @property
    def n_bytes(self) -> int:
        """Bytes of the whole tensor."""
        return self.shape[0] * self.row_bytes


def read_config(directory: Path, name: str = "config.json", *, required: bool = True) -> Json:
    """Read a JSON object of the model directory.

    Args:
        directory: a Hugging Face model directory.
        name: the file in it.
        required: whether its absence is an error; otherwise an absent file is `{}`.

    Raises:
        ArtifactError: the file is missing although required, or is not a JSON object.
    """
    path = directory / name
    if not path.is_file():
        if not required:
            return {}
        raise ArtifactError(
            f"{name} not found",
            where=str(directory),
            fix="give a complete Hugging Face model directory",
        )
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ArtifactError(f"not valid JSON ({error})", where=str(path), fix=FETCH_AGAIN) from None
    if not isinstance(value, dict):
        raise ArtifactError("not a JSON object", where=str(path), fix=FETCH_AGAIN)
    return value


class Source:
    """All tensors of a directory, by Hugging Face name, in shard order.

    Raises:
        ArtifactError: weights are missing, damaged, of an unknown type, or not those of the index.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.tensors: dict[str, SourceTensor] = {}
        # The index of a sharded model: which file each tensor is in.
        index = read_config(directory, "model.safetensors.index.json", required=False)
        self._weight_map: dict[str, str] = dict(index.get("weight_map") or {})
        self._single = directory / "model.safetensors"
        for file in self._files():
            for tensor in _read_header(file):
                if tensor.name in self.tensors:
                    raise ArtifactError(
                        f"tensor {tensor.name} is in two shards",
                        where=str(file),
                        fix=FETCH_AGAIN,
                    )
                self.tensors[tensor.name] = tensor
        self._check_index()

    def _files(self) -> list[Path]:
        """The weight files: the single one, or else the shards that the index lists."""
        if self._single.is_file():
            return [self._single]
        listed = sorted(set(self._weight_map.values()))
        # The index was downloaded with the model: it must not lead us out of the directory.
        if any("/" in name or "\\" in name or name.startswith(".") for name in listed):
            raise self._refusal("the index names a file outside its directory")
        files = [self.directory / name for name in listed]
        missing = [file.name for file in files if not file.is_file()]
        if missing:
            raise self._refusal(f"missing weight files {missing}")
        if not files:
            raise ArtifactError(
                "no model.safetensors",
                where=str(self.directory),
                fix="pickled weights are never read; save the model with safe_serialization=True",
            )
        return files

    def _check_index(self) -> None:
        """Refuse shards that hold other tensors than their index says."""
        listed = set(self._weight_map)
        difference = sorted(listed ^ set(self.tensors))
        if not listed or not difference:
            return
        # A merged single file may lie beside the index of the shards it was made from.
        if self._single.is_file():
            return
        raise self._refusal(f"the index and the weight files disagree about {difference[:3]}")

    def _refusal(self, problem: str) -> ArtifactError:
        """The error for a directory whose files do not fit together."""
        return ArtifactError(problem, where=str(self.directory), fix=FETCH_AGAIN)

    def chunks(self, tensor: SourceTensor, rows: int) -> Iterator[Array]:
        """Yield the tensor's rows, at most `rows` at a time.

        Args:
            tensor: one of `self.tensors`.
            rows: what bounds the memory.

        Yields:
            uint16 (the bits of BF16), float16 or float32 arrays, [rows, *tensor.shape[1:]].
        """
        kind = np.dtype(NUMPY_TYPES[tensor.dtype])
        # Unbuffered: chunks are large, and Python's buffer would only copy them once more.
        with tensor.file.open("rb", buffering=0) as file:
            file.seek(tensor.offset)
            for low in range(0, tensor.shape[0], rows):
                count = min(rows, tensor.shape[0] - low)
                array = np.empty((count, *tensor.shape[1:]), dtype=kind)
                as_bytes = array.reshape(-1).view(np.uint8)
                _fill(file, as_bytes.data, tensor)
                yield array


def _fill(file: FileIO, view: memoryview, tensor: SourceTensor) -> None:
    """Read until `view` is full."""
    # An unbuffered read may return less than was asked for.
    at = 0
    while at < len(view):
        count = file.readinto(view[at:])
        if not count:
            raise ArtifactError(
                f"tensor {tensor.name} ends early",
                where=str(tensor.file),
                fix=FETCH_AGAIN,
            )
        at += count


def _read_header(path: Path) -> list[SourceTensor]:
    """The tensors that one safetensors file lists."""
    size = path.stat().st_size
    with path.open("rb") as file:
        # A file that is too short for a length gets one that is too large.
        encoded_length = file.read(LENGTH_BYTES).ljust(LENGTH_BYTES, b"\xff")
        length = struct.unpack("<Q", encoded_length)[0]
        if length > min(size - LENGTH_BYTES, MAX_HEADER):
            raise ArtifactError("not a safetensors file", where=str(path), fix=FETCH_AGAIN)
        try:
            header = json.loads(file.read(length))
        except (json.JSONDecodeError, UnicodeDecodeError):
            raise ArtifactError(
                "not a safetensors file: its header is not JSON",
                where=str(path),
                fix=FETCH_AGAIN,
            ) from None
    header.pop("__metadata__", None)
    data_start = LENGTH_BYTES + length
    tensors = []
    for name, entry in header.items():
        tensors.append(_tensor(name, entry, path, data_start))
    return tensors


def _tensor(name: str, entry: Json, path: Path, data_start: int) -> SourceTensor:
    """One entry of a header, checked against the size of the file."""
    dtype = entry.get("dtype")
    if dtype not in ITEM_BYTES:
        raise ArtifactError(
            f"tensor {name} has type {dtype}; F32, F16 and BF16 are known",
            where=str(path),
            fix="convert from the unquantised model",
        )
    low, high = entry["data_offsets"]
    # A scalar has the shape [], and GGUF knows no such tensor: it becomes one number in a row.
    shape = tuple(entry["shape"]) or (1,)
    tensor = SourceTensor(name, dtype, shape, path, data_start + low)
    end = tensor.offset + tensor.n_bytes
    if tensor.n_bytes != high - low or end > path.stat().st_size:
        raise ArtifactError(
            f"tensor {name} does not fit the file", where=str(path), fix=FETCH_AGAIN
        )
    return tensor


def to_float32(array: Array) -> Floats:
    """Any of the read types to float32, without loss.

    Args:
        array: uint16 (bits of BF16), float16 or float32, of any shape.

    Returns:
        The same shape; float32 as it is, without a copy.
    """
    if array.dtype == np.uint16:
        # BF16 is the upper half of a float32.
        wide = array.astype(np.uint32)
        wide <<= 16
        return wide.view(np.float32)
    return array.astype(np.float32, copy=False)
