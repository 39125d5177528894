"""Whether two GGUF files are the same model, and whether one is whole: semantic digest and seal.

The *semantic digest* covers every tensor (name, type, shape, bytes) in name order and every key
that can change behaviour. Two files with the same digest answer alike, whatever the order of their
tensors (Ollama re-orders them when it copies a file) and whatever calibration results were written
into them afterwards.

The *seal* is the key `so8t.seal`: a SHA-256 over the whole file, with the seal's own characters as
zeros. With it a damaged file is found without any other file to compare it with.
"""

import hashlib
from pathlib import Path
from typing import NamedTuple

from gguf import GGUFValueType

from so8t.errors import ArtifactError
from so8t.gguf_file import shards_of, tensor_table
from so8t.gguf_header import Field, TensorInfo, parse

SEAL = "so8t.seal"
BLANK_SEAL = "0" * 64  # what the seal is while it is computed: as long as a SHA-256 in hexadecimal
TEXT_LENGTH_BYTES = 8  # GGUF writes a text's length before the text

# Where a file comes from: it changes with every training, and says nothing to llama.cpp.
LINEAGE = (
    "so8t.version",
    "so8t.base_model",
    "so8t.base_sha256",
    "so8t.data_sha256",
    "so8t.baked_layers",
    "so8t.bake_sha256",
)

# Keys outside the semantic digest. The thresholds are written by `release`, after the file was
# calibrated: were they counted, the calibrated file and the released one would be two models.
BEHAVIOUR_FREE = (
    *LINEAGE,
    SEAL,
    "so8t.safety_threshold",
    "so8t.escalation_threshold",
    "general.quantization_version",
    "general.alignment",
)
BEHAVIOUR_FREE_PREFIXES = ("so8t.calibration.", "quantize.imatrix.", "split.")


class Seal(NamedTuple):
    """The seal that a file should carry; `offset` is the byte of the first file where it begins."""

    value: str
    offset: int


def changes_behaviour(key: str) -> bool:
    """Whether a key belongs to the semantic digest."""
    return key not in BEHAVIOUR_FREE and not key.startswith(BEHAVIOUR_FREE_PREFIXES)


def semantic_digest(path: Path, tensors: list[TensorInfo] | None = None) -> str:
    """SHA-256 over all tensors in name order and all keys that can change behaviour.

    Args:
        path: a file, or any part of a split set.
        tensors: all tensors with their digests, when they are known; otherwise they are hashed.

    Returns:
        64 hexadecimal characters.
    """
    if tensors is None:
        tensors = tensor_table(path, hashes=True)
    # The first line names the format, so that a later one cannot give the same digest by chance.
    digest = hashlib.sha256(b"so8t.semantic/1\n")
    for tensor in sorted(tensors, key=lambda tensor: tensor.name):
        line = f"{tensor.name}\0{tensor.type}\0{tensor.shape}\0{tensor.sha256}\n"
        digest.update(line.encode())
    first = shards_of(path)[0]
    header = parse(first)
    counted = sorted(filter(changes_behaviour, header.fields))
    with first.open("rb") as file:
        for name in counted:
            field = header.fields[name]
            n_bytes = field.end - field.start
            file.seek(field.start)
            # The length goes in too, so that no value can pose as the end of another.
            digest.update(f"{name}\0{field.type.name}\0{n_bytes}\0".encode())
            digest.update(file.read(n_bytes))
    return digest.hexdigest()


def seal_of(path: Path, tensors: list[TensorInfo] | None = None) -> Seal:
    """The seal that a file (or split set) should carry, and where it is in the first file.

    SHA-256 over the head of every part, with the seal's own characters as zeros, then each tensor's
    SHA-256 in file order. The reader requires padding to be zero, so the seal covers every byte.

    Args:
        path: a file, or any part of a split set.
        tensors: all tensors with their digests, when they are known; otherwise they are hashed.

    Raises:
        ArtifactError: the file has no seal key.
    """
    # Before anything is hashed: an unsealed file is refused at once.
    field = _seal_field(path)
    digest = hashlib.sha256()
    text_start = field.start + TEXT_LENGTH_BYTES
    for number, file in enumerate(shards_of(path)):
        with file.open("rb") as handle:
            head = bytearray(handle.read(parse(file).data_start))
        if number == 0:
            head[text_start : field.end] = BLANK_SEAL.encode()
        digest.update(head)
    if tensors is None:
        tensors = tensor_table(path, hashes=True)
    for tensor in tensors:
        digest.update(bytes.fromhex(tensor.sha256 or ""))
    return Seal(digest.hexdigest(), text_start)


def _seal_field(path: Path) -> Field:
    """Where the seal lies in the first file."""
    field = parse(shards_of(path)[0]).fields.get(SEAL)
    wanted_bytes = TEXT_LENGTH_BYTES + len(BLANK_SEAL)
    if (
        field is None
        or field.type != GGUFValueType.STRING
        or field.end - field.start != wanted_bytes
    ):
        raise ArtifactError(
            f"the file has no key {SEAL}",
            where=str(path),
            fix="convert it again with `so8t gguf convert`",
        )
    return field


def seal(path: Path, tensors: list[TensorInfo] | None = None) -> None:
    """Write the seal into the (first) file, in place.

    Only for a file that still has its temporary name: a crash in the middle leaves it unsealed.
    """
    wanted = seal_of(path, tensors)
    with shards_of(path)[0].open("r+b") as file:
        file.seek(wanted.offset)
        file.write(wanted.value.encode())


def check_seal(path: Path) -> None:
    """Check every byte of a file or split set against its own seal.

    Raises:
        ArtifactError: no seal, or the file was changed or damaged after it was written.
    """
    wanted = seal_of(path)
    with shards_of(path)[0].open("rb") as handle:
        handle.seek(wanted.offset)
        found = handle.read(len(BLANK_SEAL))
    if found != wanted.value.encode():
        raise ArtifactError(
            "the file does not match its seal: it was changed or damaged",
            where=str(path),
            fix="build it again with `dvc repro`, or fetch it again",
        )
