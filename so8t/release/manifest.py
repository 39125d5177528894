"""release.json: what `so8t ask` and a server need beside the GGUF and its card.

Does what is in a release folder belong together? One answer for doctor, rollback and bundle.
"""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from so8t.errors import ArtifactError
from so8t.files import read_json, sha256_file, write_json

SCHEMA = "so8t.release/1"
NAME, CARD = "release.json", "card.json"
FIX = "run `dvc repro release`"


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Texts(_Part):
    """What the user reads when nothing is generated."""

    escalate: str = Field(min_length=1)
    deny: str = Field(min_length=1)


class Manifest(_Part):
    """One released file: which it is, how it is prompted, how long it may speak."""

    schema_: Literal["so8t.release/1"] = Field(alias="schema")
    model: Literal["a", "b"]
    type: str = Field(min_length=1)
    file: str = Field(min_length=1, pattern=r"^[^/\\]+$")
    name: str = Field(min_length=1)
    system: str
    format: Literal["heading", "quadruple"]
    semantic_digest: str = Field(min_length=1)
    template_sha256: str = Field(min_length=1)
    think_tokens: int = Field(ge=1)
    answer_tokens: int = Field(ge=1)
    replies: Texts


def read_manifest(folder: Path) -> Manifest:
    """Read a release's manifest.

    Raises:
        ArtifactError: missing or not of this schema.
    """
    path = folder / NAME
    try:
        return Manifest.model_validate(read_json(path, fix=FIX))
    except ValidationError as error:
        wrong = ", ".join(".".join(map(str, e["loc"])) or "(file)" for e in error.errors())
        raise ArtifactError(f"not a {SCHEMA} manifest: {wrong}", where=str(path), fix=FIX) from None


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write a release's manifest atomically."""
    write_json(folder / NAME, manifest.model_dump(by_alias=True))


SERVED_BY = "Modelfile"
FOREIGN = "put back the release of one revision: `so8t rollback REV`, or `dvc checkout release`"


def check(folder: Path) -> str:
    """File, card and manifest name the same semantic digest, and the file really has it.

    Raises:
        ArtifactError: a part is missing, damaged, or of another release.
    """
    from so8t import card as cards
    from so8t.identity import check_seal, semantic_digest

    manifest = read_manifest(folder)
    card = cards.read(folder / CARD)
    check_seal(folder / manifest.file)
    found = semantic_digest(folder / manifest.file)
    if card.semantic_digest != found:
        raise ArtifactError(
            "the card is of another file: the semantic digests differ",
            where=str(folder / CARD),
            fix=FOREIGN,
        )
    if manifest.semantic_digest != found:
        raise ArtifactError(
            "the manifest is of another file: the semantic digests differ",
            where=str(folder),
            fix=FOREIGN,
        )
    return f"{manifest.name} ({manifest.type}), digest {found[:12]}, card {card.status}"


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of what is served: file, card, Modelfile (where there is one)."""
    manifest = read_manifest(folder)
    names = [manifest.file, CARD, *([SERVED_BY] if (folder / SERVED_BY).is_file() else [])]
    return {name: sha256_file(folder / name) for name in names}
