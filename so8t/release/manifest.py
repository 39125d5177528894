"""release.json, the manifest: what `so8t ask` and a server need beside the GGUF and its card.

`check` answers whether file, card and manifest of a release folder belong together; doctor,
rollback and bundle ask it.
"""

from pathlib import Path
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from so8t.errors import ArtifactError
from so8t.files import read_json, sha256_file, write_json

SCHEMA: Final = "so8t.release/1"
NAME = "release.json"
CARD = "card.json"
FAMILIARITY = "familiarity.json"
MODELFILE = "Modelfile"
FIX = "run `dvc repro release`"
FOREIGN = "put back the release of one revision: `so8t rollback REV`, or `dvc checkout release`"


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
    # A name in the release folder; a path could lead out of it.
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
        wrong = ", ".join(_field_of(problem["loc"]) for problem in error.errors())
        raise ArtifactError(f"not a {SCHEMA} manifest: {wrong}", where=str(path), fix=FIX) from None


def _field_of(location: tuple[int | str, ...]) -> str:
    """Where in the file a problem is, such as `replies.deny`."""
    return ".".join(map(str, location)) or "(file)"


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write a release's manifest atomically."""
    write_json(folder / NAME, manifest.model_dump(by_alias=True))


def check(folder: Path) -> str:
    """File, card and manifest name the same semantic digest, and the file really has it.

    The semantic digest covers what changes a model's behaviour (tensors, tokenizer, template), not
    how the file stores it.

    Returns:
        One line about the release.

    Raises:
        ArtifactError: a part is missing, damaged, or of another release.
    """
    # These bring numpy and the GGUF reader, which a reader of manifests does not need.
    from so8t.card import read as read_card
    from so8t.identity import check_seal, semantic_digest

    manifest = read_manifest(folder)
    card = read_card(folder / CARD)
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
    names = [manifest.file, CARD]
    if (folder / MODELFILE).is_file():
        names.append(MODELFILE)
    return {name: sha256_file(folder / name) for name in names}
