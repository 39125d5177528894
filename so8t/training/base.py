"""Verify a local Hugging Face directory and describe it by digests; its weights stay where they are."""

import shutil
from pathlib import Path
from typing import Any

from so8t.errors import ArtifactError
from so8t.files import atomic_dir, read_json, sha256_file, write_json
from so8t.params import Base
from so8t.progress import Progress
from so8t.training.load import MANIFEST

NEEDED = ("config.json", "tokenizer.json", "tokenizer_config.json")
SMALL = 16 << 20  # bytes; tokenizer and config files are copied, weights are not


def link_base(base: Base, out: Path, progress: Progress) -> dict[str, Any]:
    """Check the directory `base.path` and write its description, with copies of its small files, to `out`.

    Raises:
        ArtifactError: a missing directory or file, a shard that the index names and the disk lacks, a cut-off shard.
    """
    folder = Path(base.path or "")
    if not folder.is_dir():
        raise ArtifactError(
            "base model not found", where=str(folder.resolve()), fix=_candidates(folder)
        )
    for name in NEEDED:
        if not (folder / name).is_file():
            raise ArtifactError(
                "file not found in the base model",
                where=str(folder / name),
                fix="copy the whole Hugging Face directory",
            )
    files = [
        p
        for p in sorted(folder.iterdir())
        if p.is_file() and p.suffix in {".json", ".safetensors", ".model", ".jinja", ".txt"}
    ]
    parameters = sum(_check_shard(p) for p in _shards(folder))
    facts = {
        p.name: {"bytes": p.stat().st_size, "sha256": sha256_file(p)}
        for p in progress.bar(files, what="digest", unit="file")
    }
    with atomic_dir(out) as temporary:
        for file in files:
            if file.suffix != ".safetensors" and file.stat().st_size < SMALL:
                shutil.copyfile(file, temporary / file.name)
        write_json(temporary / MANIFEST, {"schema": "so8t.base/1", "files": facts})
    config = read_json(folder / "config.json")
    return {
        "architecture": (config.get("architectures") or ["?"])[0],
        "parameters": parameters,
        "files": len(facts),
    }


def _candidates(folder: Path) -> str:
    near = (
        sorted(p.parent.as_posix() for p in folder.parent.glob("*/config.json"))
        if folder.parent.is_dir()
        else []
    )
    hint = f"; beside it there are {near[:3]}" if near else ""
    return f"set profiles.<profile>.base.path to a local Hugging Face directory{hint}"


def _shards(folder: Path) -> list[Path]:
    index = folder / "model.safetensors.index.json"
    names = (
        sorted(set(read_json(index)["weight_map"].values()))
        if index.is_file()
        else ["model.safetensors"]
    )
    if missing := [name for name in names if not (folder / name).is_file()]:
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
            return sum(_count(shard.get_slice(name).get_shape()) for name in shard.keys())  # noqa: SIM118 (not a dict)
    except SafetensorError as error:
        raise ArtifactError(
            f"broken safetensors file ({error})",
            where=str(path),
            fix="fetch this file again; it is cut off or damaged",
        ) from None


def _count(shape: list[int]) -> int:
    total = 1
    for size in shape:
        total *= size
    return total
