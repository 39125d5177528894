"""Verify a local Hugging Face directory and describe it by digests.

Its weights stay where they are. The small files are copied to models/base, where later stages read
the tokenizer and the config without knowing whether the base is local or was made from scratch.
"""

import math
import shutil
from pathlib import Path
from typing import Any

from so8t.base.load import SMALL_FILES, shard_names
from so8t.errors import ArtifactError
from so8t.files import atomic_dir, read_json, sha256_file, write_json
from so8t.model_folder import MANIFEST
from so8t.params import Base
from so8t.progress import Progress

NEEDED = ("config.json", "tokenizer.json", "tokenizer_config.json")
# Bytes. Tokenizers of large vocabularies have some 10 MB; a larger file is none of the files that
# later stages read.
COPY_LIMIT = 16 << 20


def link_base(base: Base, out: Path, progress: Progress) -> dict[str, Any]:
    """Check the directory `base.path` and write its description, with its small files, to `out`.

    Returns:
        `architecture` (a class name), `parameters` and `files` (counts), for the stage's last line.

    Raises:
        ArtifactError: a missing directory or file, a shard that the index names and the disk lacks,
            a cut-off shard.
    """
    folder = Path(base.path or "")
    if not folder.is_dir():
        raise ArtifactError(
            "base model not found", where=str(folder.resolve()), fix=_candidates(folder)
        )
    _require_small_files(folder)
    files = _model_files(folder)
    parameters = sum(_check_shard(shard) for shard in _shards(folder))
    facts = {}
    for file in progress.bar(files, what="digest", unit="file"):
        # Later stages compare the size only; the digest identifies the weights in reports.
        facts[file.name] = {
            "bytes": file.stat().st_size,
            "sha256": sha256_file(file),
        }
    with atomic_dir(out) as temporary:
        for file in files:
            if file.suffix != ".safetensors" and file.stat().st_size < COPY_LIMIT:
                shutil.copyfile(file, temporary / file.name)
        write_json(temporary / MANIFEST, {"schema": "so8t.base/1", "files": facts})
    config = read_json(folder / "config.json")
    architectures = config.get("architectures") or ["?"]
    return {
        "architecture": architectures[0],
        "parameters": parameters,
        "files": len(facts),
    }


def _candidates(folder: Path) -> str:
    """What to do about a missing directory, with the models that lie beside it."""
    near = []
    if folder.parent.is_dir():
        configs = folder.parent.glob("*/config.json")
        near = sorted(config.parent.as_posix() for config in configs)
    hint = ""
    if near:
        hint = f"; beside it there are {near[:3]}"
    return f"set profiles.<profile>.base.path to a local Hugging Face directory{hint}"


def _require_small_files(folder: Path) -> None:
    for name in NEEDED:
        if not (folder / name).is_file():
            raise ArtifactError(
                "file not found in the base model",
                where=str(folder / name),
                fix="copy the whole Hugging Face directory",
            )


def _model_files(folder: Path) -> list[Path]:
    """The files that belong to the model, in name order."""
    found = []
    for file in sorted(folder.iterdir()):
        if file.is_file() and file.suffix in SMALL_FILES | {".safetensors"}:
            found.append(file)
    return found


def _shards(folder: Path) -> list[Path]:
    """The files that hold the weights."""
    names = shard_names(folder)
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise ArtifactError(
            f"weights not found: {missing[:3]}",
            where=str(folder),
            fix="fetch the missing safetensors files (pickled .bin weights are never read)",
        )
    return [folder / name for name in names]


def _check_shard(path: Path) -> int:
    """Open a safetensors file, whose header must match its size, and count its numbers."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as shard:
            numbers = 0
            for name in shard.keys():  # noqa: SIM118 (not a dict)
                # A slice knows its shape without its numbers being read.
                shape = shard.get_slice(name).get_shape()
                numbers += math.prod(shape)
            return numbers
    except SafetensorError as error:
        raise ArtifactError(
            f"broken safetensors file ({error})",
            where=str(path),
            fix="fetch this file again; it is cut off or damaged",
        ) from None
