"""params.yaml as frozen pydantic models: the only YAML reader, and no value lives in code.

Read as YAML 1.2 (ruamel, which is DVC's own reader): PyYAML reads `2e-4` as text. The whole file is
checked at the start of every stage, so a typo in `calibration` stops `prepare`, not the sixth hour.
"""

import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, model_validator

from so8t.errors import ParamsError
from so8t.files import read_text
from so8t.params.data import Data, Section, Source, Split, Synthesize
from so8t.params.profiles import hidden_changes, keys_set_by, resolved
from so8t.params.results import (
    Calibration,
    Compare,
    Cost,
    Evaluation,
    Quant,
    Readout,
    Release,
    Report,
    Scoring,
    Temperature,
    Verify,
)
from so8t.params.training import (
    Base,
    Gates,
    Heads,
    Loss,
    Names,
    Pet,
    RoleTokens,
    Scratch,
    Train,
    spare_row,
)

PARAMS_FILE = Path("params.yaml")

__all__ = [
    "Base",
    "Calibration",
    "Compare",
    "Cost",
    "Data",
    "Evaluation",
    "Loss",
    "Params",
    "Readout",
    "RoleTokens",
    "Scratch",
    "Source",
    "Split",
    "Temperature",
    "Train",
    "has_conflict",
    "load",
    "parse_yaml",
    "read_yaml",
    "spare_row",
]


class Profile(Section):
    """What differs on one kind of machine; `{}` where nothing does."""

    names: dict[str, Any] = Field(description="differences in names")
    base: dict[str, Any] = Field(description="differences in base")
    scratch: dict[str, Any] | None = Field(description="differences in scratch; null = none made")
    loss: dict[str, Any] = Field(description="differences in loss")
    train: dict[str, Any] = Field(description="differences in train")


class Params(Section):
    """The whole of params.yaml, with the active profile laid over its sections."""

    profile: str = Field(description="which of `profiles` is laid over the sections")
    seed: int
    names: Names
    synthesize: Synthesize
    data: Data
    base: Base
    scratch: Scratch | None
    loss: Loss
    train: Train
    pet: Pet
    gates: Gates
    heads: Heads
    quant: Quant
    scoring: Scoring
    calibration: Calibration
    evaluation: Evaluation
    compare: Compare
    verify: Verify
    release: Release
    report: Report
    profiles: dict[str, Profile]

    @model_validator(mode="before")
    @classmethod
    def _lay_profile_over(cls, raw: Any) -> Any:
        profiles = raw.get("profiles") if isinstance(raw, Mapping) else None
        if not isinstance(profiles, Mapping):
            return raw  # the fields say what is missing
        profile = raw.get("profile")
        if not isinstance(profile, str) or profile not in profiles:
            raise ValueError(f"profile {profile!r} is not one of {sorted(map(str, profiles))}")
        if not isinstance(profiles[profile], Mapping):
            return raw
        return resolved(raw, profile)

    @model_validator(mode="after")
    def _consistent(self) -> "Params":
        if (self.base.kind == "scratch") != (self.scratch is not None):
            raise ValueError(
                "base.kind scratch needs a `scratch` section, local needs `scratch: null`"
            )
        if self.gates.enabled and self.train.adapter == "oft":
            raise ValueError(
                "train.adapter: oft already rotates the inputs: set gates.enabled: false"
            )
        made = {"F16", *self.quant.types}
        missing = [kind for kind in self.scoring.types if kind not in made]
        if missing:
            raise ValueError(f"scoring.types {missing} are not in quant.types")
        if self.release.type not in self.scoring.types:
            raise ValueError(
                f"release.type {self.release.type} must be in scoring.types, "
                "or it cannot be calibrated"
            )
        return self

    @property
    def train_seed(self) -> int:
        """The seed of training."""
        own = self.train.seed
        return self.seed if own is None else own

    @property
    def active(self) -> "Params":
        """The parameters under the active profile, which is what they are."""
        return self

    def key_in_force(self, key: str) -> str:
        """The dotted key whose change takes effect: the profile's own, where it sets one."""
        profile = self.profiles[self.profile].model_dump()
        is_hidden = key in set(keys_set_by(profile))
        return f"profiles.{self.profile}.{key}" if is_hidden else key


def parse_yaml(text: str, where: str) -> Any:
    """Read YAML 1.2 text; `where` names it in errors.

    Raises:
        ParamsError: text that is not YAML.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    # YAML would fail on them too, but not say what they are.
    if has_conflict(text):
        raise ParamsError(
            "conflict: a merge left its markers (<<<<<<<, =======, >>>>>>>) in it",
            where=where,
            fix="keep one side of each, remove the markers, then git add",
        )
    try:
        return YAML(typ="safe", pure=True).load(text)
    # Beside its own errors: values that no number, date or nesting of Python's can hold.
    except (YAMLError, ValueError, ArithmeticError, TypeError, RecursionError) as error:
        raise ParamsError(
            f"not valid YAML: {error}", where=where, fix="check the indentation at that line"
        ) from None


def has_conflict(text: str) -> bool:
    """Whether a merge that git could not finish left its markers in a text."""
    return any(line.startswith(("<<<<<<< ", ">>>>>>> ")) for line in text.splitlines())


def read_yaml(path: Path) -> Any:
    """Read a YAML 1.2 file.

    Raises:
        ParamsError: a file that is missing or not UTF-8, or YAML that does not parse.
    """
    text = read_text(path, kind=ParamsError, fix="run from the project's root")
    return parse_yaml(text, str(path))


def load(path: Path = PARAMS_FILE, *, profile: str | None = None) -> Params:
    """Read and check params.yaml with every profile; return it under the active one.

    Args:
        path: the file.
        profile: return it under this profile instead.

    Raises:
        ParamsError: every wrong, missing or unknown key, all in one message.
    """
    raw = read_yaml(path)
    if not isinstance(raw, Mapping):
        raise ParamsError(
            f"expected sections, found {type(raw).__name__}",
            where=str(path),
            fix="docs/params.md lists every key",
        )
    params = _checked(raw if profile is None else {**raw, "profile": profile}, path)
    # A slip in a profile that is not active would otherwise wait until somebody switches to it.
    for other in params.profiles:
        if other != params.profile:
            _checked({**raw, "profile": other}, path)
    return params


def _checked(raw: Any, path: Path) -> Params:
    try:
        return Params.model_validate(raw)
    except ValidationError as error:
        lines = []
        for found in error.errors():
            key = ".".join(str(part) for part in found["loc"]) or "(file)"
            lines.append(f"{key}: {found['msg']}")
        raise ParamsError(
            "; ".join(lines),
            where=f"{path}{_under(raw)}",
            fix="docs/params.md lists every key; every key must be spelled",
        ) from None


def _under(raw: Any) -> str:
    """Which profile the values were checked under, where the file names one."""
    profile = raw.get("profile") if isinstance(raw, Mapping) else None
    return f" with profiles.{profile}" if profile is not None else ""


def refuse_hidden_changes(path: Path = PARAMS_FILE) -> None:
    """Stop where a value was changed that the active profile hides, as `-S train.lr=1e-4` may do.

    The file is compared with the one in git's HEAD; without git there is nothing to compare with.

    Raises:
        ParamsError: the hidden keys, and the keys that would take effect.
    """
    committed = _committed(path)
    if committed is None:
        return
    raw = read_yaml(path)
    hidden = hidden_changes(raw, committed)
    if hidden:
        profile = raw["profile"]
        meant = " ".join(f"-S profiles.{profile}.{key}=..." for key in hidden)
        raise ParamsError(
            f"changed, but profile {profile} sets another value: {', '.join(hidden)}",
            where=str(path),
            fix=f"change what is in force: {meant} (or commit {path}, if the default was meant)",
        )


def _committed(path: Path) -> Mapping[str, Any] | None:
    """params.yaml as HEAD has it; None where there is no git, no commit, or no such file in it."""
    try:
        shown = subprocess.run(
            ["git", "show", f"HEAD:./{path.name}"],
            cwd=path.absolute().parent,
            capture_output=True,
            check=False,
        )
    except OSError:
        return None
    if shown.returncode != 0:
        return None
    raw = parse_yaml(shown.stdout.decode("utf-8", "replace"), f"HEAD:{path.name}")
    return raw if isinstance(raw, Mapping) else None
