"""release.json, the manifest: what `so8t ask` and a server need beside the GGUF and its card.

Covered: its form. Not covered: whether file, card and manifest of a release belong together, and
who made them (so8t.released).
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


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Texts(_Part):
    """What the user reads when nothing is generated."""

    escalate: str = Field(min_length=1)
    deny: str = Field(min_length=1)


class Manifest(_Part):
    """One released file: which it is, how it is prompted, how long it may speak."""

    schema_: Literal["so8t.release/1"] = Field(alias="schema")
    # Which of the pair: A is the base, B the retrained model.
    model: Literal["a", "b"]
    type: str = Field(min_length=1)
    # A name in the release folder; a path could lead out of it.
    file: str = Field(min_length=1, pattern=r"^[^/\\]+$")
    name: str = Field(min_length=1)
    system: str
    format: Literal["heading", "quadruple"]
    # What binds the three together; `check` compares it with the file itself.
    semantic_digest: str = Field(min_length=1)
    template_sha256: str = Field(min_length=1)
    # Most tokens of each part of an answer, so that no request holds the machine for ever.
    think_tokens: int = Field(ge=1)
    answer_tokens: int = Field(ge=1)
    replies: Texts


def read_manifest(folder: Path) -> Manifest:
    """Read a release's manifest.

    Raises:
        ArtifactError: missing or not of this schema.

    Args:
        folder: of the release.
    """
    path = folder / NAME
    try:
        return Manifest.model_validate(read_json(path, fix=FIX))
    except ValidationError as error:
        # Fields only: the whole message of pydantic would hide them.
        wrong = ", ".join(_field_of(problem["loc"]) for problem in error.errors())
        raise ArtifactError(f"not a {SCHEMA} manifest: {wrong}", where=str(path), fix=FIX) from None


def _field_of(location: tuple[int | str, ...]) -> str:
    """Where in the file a problem is, such as `replies.deny`.

    Args:
        location: keys and places, as pydantic names them.
    """
    return ".".join(map(str, location)) or "(file)"


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write a release's manifest atomically.

    Args:
        folder: of the release.
        manifest: what is written.
    """
    write_json(folder / NAME, manifest.model_dump(by_alias=True))


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of what is served: file, card, familiarity index and Modelfile.

    Args:
        folder: of the release.

    Returns:
        SHA-256 by file name.
    """
    manifest = read_manifest(folder)
    names = [manifest.file, CARD]
    # Ollama cannot carry every prompt, so a release may have no Modelfile; releases from before the
    # familiarity gate have no index, and a rollback may pass by them.
    names += [name for name in (FAMILIARITY, MODELFILE) if (folder / name).is_file()]
    return {name: sha256_file(folder / name) for name in names}
