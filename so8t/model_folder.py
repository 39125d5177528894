"""A Hugging Face model folder: its weight files, and what their headers say. The only reader of it.

Nothing is loaded. A safetensors file is an 8-byte length, a JSON header that says where each tensor
lies, and the tensors' bytes (https://huggingface.co/docs/safetensors).

Which files hold the weights is transformers' own choice (`_get_resolved_checkpoint_files` in its
`modeling_utils.py`): `model.safetensors` if there is one, else the files that the index lists.
Not covered: pickles, which are never read.
"""

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from so8t.errors import ArtifactError
from so8t.files import read_json
from so8t.params import Base

Json = dict[str, Any]  # a JSON object

MANIFEST = "so8t_base.json"
CONFIG = "config.json"
SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
# Names that transformers gives to the files of a model that is cut into several.
SHARD = re.compile(r"model-\d{5}-of-\d{5}\.safetensors")

# Bytes of a number, of the types that are read. Others, e.g. of quantised models, are refused.
ITEM_BYTES = {"F32": 4, "F16": 2, "BF16": 2}
MAX_HEADER = 256 << 20  # bytes; a larger safetensors header is not one
LENGTH_BYTES = 8  # of the header's length, at the start of a file
# What git leaves in a folder that was cloned without git-lfs.
LFS_MARK = b"version https://git-lfs"

FETCH_AGAIN = "fetch the model again"
FETCH_LFS = "run `git lfs pull` in that folder, or fetch the file itself"
SAVE_SAFELY = "pickled weights are never read; save the model with safe_serialization=True"


# --- where the base model lies ---


def weights_dir(base: Base, linked: Path) -> Path:
    """The directory that holds the base's weights.

    Args:
        base: the `base` section of params.yaml.
        linked: models/base. It holds the weights itself (kind: scratch), or only describes the
            local directory that does (kind: local).

    Raises:
        ArtifactError: a file of the local directory is gone or has another size than described.
    """
    if base.kind == "scratch":
        return linked
    folder = Path(base.path or "")
    manifest = read_json(linked / MANIFEST, fix="dvc repro base")
    # Sizes only: digests would read gigabytes at the start of every stage.
    for name, fact in manifest["files"].items():
        file = folder / name
        if not file.is_file() or file.stat().st_size != fact["bytes"]:
            raise ArtifactError(
                "the base model changed since it was verified",
                where=str(file),
                fix="dvc repro base",
            )
    return folder


# --- small files ---


def read_object(folder: Path, name: str = CONFIG, *, required: bool = True) -> Json:
    """Read a JSON object of a model folder.

    Args:
        folder: a Hugging Face model directory.
        name: the file in it.
        required: whether its absence is an error; otherwise an absent file is `{}`.

    Raises:
        ArtifactError: the file is missing although required, stands for one that git-lfs has not
            fetched, or is not a JSON object.
    """
    path = folder / name
    if not path.is_file():
        if not required:
            return {}
        raise ArtifactError(
            f"{name} not found",
            where=str(folder),
            fix="give a complete Hugging Face model directory",
        )
    refuse_pointer(path)
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ArtifactError(f"not valid JSON ({error})", where=str(path), fix=FETCH_AGAIN) from None
    if not isinstance(value, dict):
        raise ArtifactError("not a JSON object", where=str(path), fix=FETCH_AGAIN)
    return value


def refuse_pointer(path: Path) -> None:
    """Refuse a text of three lines that stands for a file which git-lfs has not fetched.

    Raises:
        ArtifactError: the file is one.
    """
    with path.open("rb") as file:
        beginning = file.read(len(LFS_MARK))
    if beginning == LFS_MARK:
        raise ArtifactError(
            "a git-lfs pointer, not the file itself", where=str(path), fix=FETCH_LFS
        )


# --- weight files ---


def weight_files(folder: Path) -> list[Path]:
    """The files that hold the weights, in name order.

    Raises:
        ArtifactError: there are none, files of the index are missing, or the index is damaged.
    """
    single = folder / SINGLE
    if single.is_file():
        return [single]
    if (folder / INDEX).is_file():
        return _listed_files(folder)
    raise _no_weights(folder)


def weight_map(folder: Path) -> dict[str, str]:
    """Which file each tensor is in, as the index says; empty where the index is not used.

    Raises:
        ArtifactError: the index is not one, or it names a file outside its directory.
    """
    # A merged single file may lie beside the index of the shards that it was made from.
    if (folder / SINGLE).is_file() or not (folder / INDEX).is_file():
        return {}
    listed = read_object(folder, INDEX).get("weight_map")
    if not isinstance(listed, dict) or not listed:
        raise ArtifactError(
            "the index has no weight_map", where=str(folder / INDEX), fix=FETCH_AGAIN
        )
    # The index was downloaded with the model: it must not lead us out of the directory.
    for name in listed.values():
        if not isinstance(name, str) or "/" in name or "\\" in name or name.startswith("."):
            raise _refusal("the index names a file outside its directory", folder)
    return dict(listed)


def _listed_files(folder: Path) -> list[Path]:
    """The shards that the index lists."""
    names = sorted(set(weight_map(folder).values()))
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise ArtifactError(
            f"missing weight files {missing[:3]}",
            where=str(folder),
            fix="fetch the missing safetensors files (pickled .bin weights are never read)",
        )
    return [folder / name for name in names]


def _no_weights(folder: Path) -> ArtifactError:
    """The error for a folder without weights that are read, which says what lies there instead."""
    shards = _shards_on_disk(folder)
    if shards:
        return ArtifactError(
            f"{len(shards)} weight files ({shards[0]}, ...) and no {INDEX}",
            where=str(folder),
            fix="fetch the index, too; it says which tensor is in which file",
        )
    others = sorted(path.name for path in folder.glob("*.safetensors"))
    seen = f"; found {', '.join(others[:3])}" if others else ""
    return ArtifactError(f"no {SINGLE}{seen}", where=str(folder), fix=SAVE_SAFELY)


def _shards_on_disk(folder: Path) -> list[str]:
    names = sorted(path.name for path in folder.glob("*.safetensors"))
    return [name for name in names if SHARD.fullmatch(name)]


def refuse_two_sets(folder: Path) -> None:
    """Refuse a folder in which two sets of weights lie, one of which nobody would notice.

    Raises:
        ArtifactError: there are a single file and shards.
    """
    # An index alone tells of no other weights: merging tools leave it behind.
    shards = _shards_on_disk(folder)
    listed = read_object(folder, INDEX, required=False).get("weight_map")
    if isinstance(listed, dict):
        others = {str(name) for name in listed.values()} - {SINGLE, *shards}
        shards += sorted(name for name in others if (folder / name).is_file())
    if (folder / SINGLE).is_file() and shards:
        raise ArtifactError(
            f"two sets of weights: {SINGLE}, and {len(shards)} shards ({shards[0]}, ...)",
            where=str(folder),
            fix=f"remove the older ones, or {SINGLE}, which would be used",
        )


# --- tensors ---


@dataclass(frozen=True, slots=True)
class StoredTensor:
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


def stored_tensors(folder: Path) -> dict[str, StoredTensor]:
    """All tensors of a model folder by Hugging Face name, in shard order; only headers are read.

    Raises:
        ArtifactError: weights are missing, damaged, of an unknown type, or not those of the index.
    """
    found: dict[str, StoredTensor] = {}
    for file in weight_files(folder):
        for tensor in tensors_in(file):
            if tensor.name in found:
                raise ArtifactError(
                    f"tensor {tensor.name} is in two shards", where=str(file), fix=FETCH_AGAIN
                )
            found[tensor.name] = tensor
    listed = set(weight_map(folder))
    difference = sorted(listed ^ set(found))
    if listed and difference:
        problem = f"the index and the weight files disagree about {difference[:3]}"
        raise _refusal(problem, folder)
    return found


def _refusal(problem: str, folder: Path) -> ArtifactError:
    """The error for a directory whose files do not fit together."""
    return ArtifactError(problem, where=str(folder), fix=FETCH_AGAIN)


def tensors_in(path: Path) -> Iterator[StoredTensor]:
    """The tensors that one safetensors file lists, in its order.

    Raises:
        ArtifactError: not such a file, cut short, or a type that is not read.
    """
    header, data_start = _read_header(path)
    end = data_start
    for name, entry in header.items():
        # Free text about the file, no tensor.
        if name == "__metadata__":
            continue
        tensor = _tensor(name, entry, path, data_start)
        end = max(end, tensor.offset + tensor.n_bytes)
        yield tensor
    # The format allows no bytes after the last tensor; safetensors itself refuses such a file.
    if end != path.stat().st_size:
        raise _not_safetensors(path, "bytes follow its last tensor")


def _read_header(path: Path) -> tuple[Json, int]:
    """The header of a safetensors file, and the byte at which the data begins."""
    refuse_pointer(path)
    size = path.stat().st_size
    with path.open("rb") as file:
        # A file that is too short for a length gets one that is too large.
        encoded_length = file.read(LENGTH_BYTES).ljust(LENGTH_BYTES, b"\xff")
        length = int.from_bytes(encoded_length, "little")
        if length > min(size - LENGTH_BYTES, MAX_HEADER):
            raise _not_safetensors(path, "it has no header")
        try:
            header = json.loads(file.read(length))
        except (json.JSONDecodeError, UnicodeDecodeError):
            raise _not_safetensors(path, "its header is not JSON") from None
    if not isinstance(header, dict):
        raise _not_safetensors(path, "its header is no JSON object")
    return header, LENGTH_BYTES + length


def _not_safetensors(path: Path, reason: str) -> ArtifactError:
    return ArtifactError(f"not a safetensors file: {reason}", where=str(path), fix=FETCH_AGAIN)


def _tensor(name: str, entry: Any, path: Path, data_start: int) -> StoredTensor:
    """One entry of a header, checked against the size of the file."""
    try:
        dtype, stated = entry["dtype"], tuple(int(size) for size in entry["shape"])
        low, high = (int(place) for place in entry["data_offsets"])
    except (TypeError, KeyError, ValueError):
        raise _not_safetensors(path, f"its entry for {name} is malformed") from None
    if dtype not in ITEM_BYTES:
        raise ArtifactError(
            f"tensor {name} has type {dtype}; {', '.join(ITEM_BYTES)} are known",
            where=str(path),
            fix="convert from the unquantised model",
        )
    # A scalar has the shape [], and GGUF knows no such tensor: it becomes one number in a row.
    tensor = StoredTensor(name, dtype, stated or (1,), path, data_start + low)
    end = tensor.offset + tensor.n_bytes
    fits = tensor.n_bytes == high - low and low >= 0 and end <= path.stat().st_size
    if not fits or min(tensor.shape) < 0:
        raise ArtifactError(
            f"tensor {name} does not fit the file", where=str(path), fix=FETCH_AGAIN
        )
    return tensor
