"""A Hugging Face directory, read lazily: JSON files, and rows of safetensors tensors without loading a tensor.

Covered: one or many shards, F32, F16 and BF16. Not covered: pickles (never read) and quantised checkpoints (refused).
"""

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from so8t.errors import ArtifactError
from so8t.params import Base

ITEM_BYTES = {"F32": 4, "F16": 2, "BF16": 2}
MAX_HEADER = 256 << 20  # bytes; a larger safetensors header is not one


@dataclass(frozen=True, slots=True)
class SourceTensor:
    """Where one tensor lies: `offset` bytes into `file`."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path
    offset: int

    @property
    def row_bytes(self) -> int:
        """Bytes of one row (one element of the first dimension)."""
        return int(np.prod(self.shape[1:], dtype=np.int64)) * ITEM_BYTES[self.dtype]

    @property
    def n_bytes(self) -> int:
        """Bytes of the whole tensor."""
        return self.shape[0] * self.row_bytes


def read_config(
    directory: Path, name: str = "config.json", *, required: bool = True
) -> dict[str, Any]:
    """Read a JSON object of the model directory; `{}` when it is absent and not required.

    Raises:
        ArtifactError: the file is missing although required, or is not a JSON object.
    """
    path = directory / name
    if not path.is_file():
        if required:
            raise ArtifactError(
                f"{name} not found",
                where=str(directory),
                fix="give a complete Hugging Face model directory",
            )
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ArtifactError(
            f"not valid JSON ({error})", where=str(path), fix="fetch the model again"
        ) from None
    if not isinstance(value, dict):
        raise ArtifactError("not a JSON object", where=str(path), fix="fetch the model again")
    return value


def weights_dir(base: Base, linked: Path) -> Path:
    """The directory with the base model's weights: `linked` itself when it was made from scratch, else `base.path`,
    whose files must still have the sizes that the base stage recorded.

    Raises:
        ArtifactError: a file is missing or changed.
    """
    if base.kind == "scratch" or base.path is None:
        return linked
    folder = Path(base.path)
    for name, fact in read_config(linked, "so8t_base.json")["files"].items():
        if not (folder / name).is_file() or (folder / name).stat().st_size != fact["bytes"]:
            raise ArtifactError(
                "the base model changed since it was verified",
                where=str(folder / name),
                fix="dvc repro base",
            )
    return folder


class Source:
    """All tensors of a directory, by Hugging Face name, in shard order."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.tensors: dict[str, SourceTensor] = {}
        for file in self._files():
            for tensor in _read_header(file):
                if tensor.name in self.tensors:
                    raise ArtifactError(
                        f"tensor {tensor.name} is in two shards",
                        where=str(file),
                        fix="fetch the model again",
                    )
                self.tensors[tensor.name] = tensor
        self._check_index()

    def _weight_map(self) -> dict[str, str]:
        return dict(
            read_config(self.directory, "model.safetensors.index.json", required=False).get(
                "weight_map"
            )
            or {}
        )

    def _files(self) -> list[Path]:
        listed = sorted(set(self._weight_map().values()))
        single = self.directory / "model.safetensors"
        if single.is_file():
            return [single]
        if any("/" in name or "\\" in name or name.startswith(".") for name in listed):
            raise ArtifactError(
                "the index names a file outside its directory",
                where=str(self.directory),
                fix="fetch the model again",
            )
        files = [self.directory / name for name in listed]
        if missing := [f.name for f in files if not f.is_file()]:
            raise ArtifactError(
                f"missing weight files {missing}",
                where=str(self.directory),
                fix="fetch the model again",
            )
        if not files:
            raise ArtifactError(
                "no model.safetensors",
                where=str(self.directory),
                fix="pickled weights are never read; save the model with safe_serialization=True",
            )
        return files

    def _check_index(self) -> None:
        listed = set(self._weight_map())
        if (
            listed
            and (self.directory / "model.safetensors").is_file()
            and listed != set(self.tensors)
        ):
            return  # a merged single file beside the index of the original shards
        if listed and (difference := sorted(listed ^ set(self.tensors))):
            raise ArtifactError(
                f"the index and the weight files disagree about {difference[:3]}",
                where=str(self.directory),
                fix="fetch the model again",
            )

    def chunks(self, tensor: SourceTensor, rows: int) -> Iterator[NDArray[Any]]:
        """Yield the tensor's rows, at most `rows` at a time, as uint16 (BF16), float16 or float32 arrays."""
        kind: np.dtype[Any] = np.dtype({"BF16": "<u2", "F16": "<f2", "F32": "<f4"}[tensor.dtype])
        with tensor.file.open("rb", buffering=0) as file:
            file.seek(tensor.offset)
            for low in range(0, tensor.shape[0], rows):
                count = min(rows, tensor.shape[0] - low)
                array = np.empty((count, *tensor.shape[1:]), dtype=kind)
                _fill(file, array.reshape(-1).view(np.uint8).data, tensor)
                yield array


def _fill(file: BinaryIO, view: memoryview, tensor: SourceTensor) -> None:
    at = 0
    while at < len(view):
        count = file.readinto(view[at:])  # type: ignore[attr-defined]
        if not count:
            raise ArtifactError(
                f"tensor {tensor.name} ends early",
                where=str(tensor.file),
                fix="fetch the model again",
            )
        at += count


def _read_header(path: Path) -> list[SourceTensor]:
    size = path.stat().st_size
    with path.open("rb") as file:
        length = struct.unpack("<Q", file.read(8).ljust(8, b"\xff"))[0]
        if length > min(size - 8, MAX_HEADER):
            raise ArtifactError(
                "not a safetensors file", where=str(path), fix="fetch the model again"
            )
        try:
            header = json.loads(file.read(length))
        except (json.JSONDecodeError, UnicodeDecodeError):
            raise ArtifactError(
                "not a safetensors file: its header is not JSON",
                where=str(path),
                fix="fetch the model again",
            ) from None
    return [
        _tensor(name, entry, path, 8 + length, size)
        for name, entry in header.items()
        if name != "__metadata__"
    ]


def _tensor(
    name: str, entry: dict[str, Any], path: Path, data_start: int, size: int
) -> SourceTensor:
    dtype = entry.get("dtype")
    if dtype not in ITEM_BYTES:
        raise ArtifactError(
            f"tensor {name} has type {dtype}; F32, F16 and BF16 are known",
            where=str(path),
            fix="convert from the unquantised model",
        )
    low, high = entry["data_offsets"]
    tensor = SourceTensor(name, dtype, tuple(entry["shape"]) or (1,), path, data_start + low)
    if tensor.n_bytes != high - low or tensor.offset + tensor.n_bytes > size:
        raise ArtifactError(
            f"tensor {name} does not fit the file", where=str(path), fix="fetch the model again"
        )
    return tensor


def to_float32(array: NDArray[Any]) -> NDArray[np.float32]:
    """BF16 bits (uint16) or float16 to float32; float32 as it is."""
    if array.dtype == np.uint16:
        wide = array.astype(np.uint32)
        wide <<= 16
        return wide.view(np.float32)
    return array.astype(np.float32, copy=False)
