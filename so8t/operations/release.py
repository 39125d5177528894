"""Does what is in a release folder belong together? One answer for doctor, rollback and bundle."""

from pathlib import Path

from so8t.errors import ArtifactError
from so8t.files import sha256_file
from so8t.release.manifest import CARD, read_manifest

SERVED_BY = "Modelfile"
FOREIGN = "put back the release of one revision: `so8t rollback REV`, or `dvc checkout release`"


def check(folder: Path) -> str:
    """File, card and manifest name the same semantic digest, and the file really has it.

    Raises:
        ArtifactError: a part is missing, damaged, or of another release.
    """
    from so8t.calibration import card as cards
    from so8t.identity import check_seal, semantic_digest

    manifest = read_manifest(folder)
    card = cards.read(folder / CARD)
    check_seal(folder / manifest.file)
    found = semantic_digest(folder / manifest.file)
    if card.semantic_digest != found:
        raise ArtifactError("the card is of another file: the semantic digests differ", where=str(folder / CARD), fix=FOREIGN)
    if manifest.semantic_digest != found:
        raise ArtifactError("the manifest is of another file: the semantic digests differ", where=str(folder), fix=FOREIGN)
    return f"{manifest.name} ({manifest.type}), digest {found[:12]}, card {card.status}"


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of what is served: file, card, Modelfile (where there is one)."""
    manifest = read_manifest(folder)
    names = [manifest.file, CARD, *([SERVED_BY] if (folder / SERVED_BY).is_file() else [])]
    return {name: sha256_file(folder / name) for name in names}
