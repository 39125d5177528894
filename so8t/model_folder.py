"""Where the base model's weights lie: in the base stage's output, or in the user's folder."""

from pathlib import Path

from so8t.errors import ArtifactError
from so8t.files import read_json
from so8t.params import Base

MANIFEST = "so8t_base.json"


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
