"""release.json: what `so8t ask` and a server need beside the GGUF and its card."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from so8t.errors import ArtifactError
from so8t.files import read_json, write_json

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
