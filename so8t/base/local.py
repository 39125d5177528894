"""Verify a local Hugging Face directory and describe it by digests.

Its weights stay where they are. The small files are copied to models/base, where later stages read
the tokenizer and the config without knowing whether the base is local or was made from scratch.
"""

import math
import shutil
from pathlib import Path
from typing import Any

from so8t.base.load import SMALL_FILES
from so8t.errors import ArtifactError
from so8t.files import atomic_dir, sha256_file, write_json
from so8t.model_check import check_base
from so8t.model_folder import MANIFEST
from so8t.params import Base
from so8t.progress import Progress

# Bytes. Tokenizers of large vocabularies have some 10 MB; a larger file is none of the files that
# later stages read.
COPY_LIMIT = 16 << 20


def link_base(base: Base, out: Path, progress: Progress) -> dict[str, Any]:
    """Check the directory `base.path` and write its description, with its small files, to `out`.

    Returns:
        `architecture` (a class name), `parameters` and `files` (counts), for the stage's last line.

    Raises:
        ArtifactError: a missing directory, or one that `so8t.model_check.check_base` refuses.
    """
    folder = Path(base.path or "")
    if not folder.is_dir():
        raise ArtifactError(
            "base model not found", where=str(folder.resolve()), fix=_candidates(folder)
        )
    checked = check_base(folder, base.context_profile)
    files = _model_files(folder)
    parameters = sum(math.prod(tensor.shape) for tensor in checked.tensors.values())
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
    return {
        "architecture": checked.model.architecture,
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


def _model_files(folder: Path) -> list[Path]:
    """The files that belong to the model, in name order."""
    found = []
    for file in sorted(folder.iterdir()):
        if file.is_file() and file.suffix in SMALL_FILES | {".safetensors"}:
            found.append(file)
    return found
