"""params.yaml as frozen pydantic models: the only YAML reader, and no value lives in code.

Read as YAML 1.2 (ruamel, DVC's own reader): PyYAML reads `2e-4` as text. The whole file is checked at the start
of every stage, so a typo in `calibration` stops `prepare`, not the sixth hour.
"""

from pathlib import Path
from typing import Any

from pydantic import ValidationError, model_validator

from so8t.errors import ParamsError
from so8t.params.sections import (
    Base,
    Calibration,
    Compare,
    Cost,
    Data,
    Evaluation,
    Gates,
    Heads,
    Loss,
    Pet,
    Profile,
    Quant,
    Readout,
    Release,
    Report,
    RoleTokens,
    Scoring,
    Scratch,
    Section,
    Source,
    Split,
    Synthesize,
    Temperature,
    Train,
    Verify,
    spare_row,
)

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
    "load",
    "parse_yaml",
    "read_yaml",
    "spare_row",
]


class Params(Section):
    """The whole of params.yaml."""

    profile: str
    seed: int
    synthesize: Synthesize
    data: Data
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

    @model_validator(mode="after")
    def _consistent(self) -> "Params":
        if self.profile not in self.profiles:
            raise ValueError(f"profile {self.profile!r} is not one of {sorted(self.profiles)}")
        if self.gates.enabled and self.active.train.adapter == "oft":
            raise ValueError(
                "train.adapter: oft already rotates the inputs: set gates.enabled: false"
            )
        made = {"F16", *self.quant.types}
        if missing := [t for t in self.scoring.types if t not in made]:
            raise ValueError(f"scoring.types {missing} are not in quant.types")
        if self.release.type not in self.scoring.types:
            raise ValueError(
                f"release.type {self.release.type} must be in scoring.types, or it cannot be calibrated"
            )
        return self

    @property
    def train_seed(self) -> int:
        """The seed of training."""
        own = self.active.train.seed
        return self.seed if own is None else own

    @property
    def active(self) -> Profile:
        """The chosen profile."""
        return self.profiles[self.profile]


def parse_yaml(text: str, where: str) -> Any:
    """Read YAML 1.2 text; `where` names it in errors.

    Raises:
        ParamsError: text that is not YAML.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        return YAML(typ="safe", pure=True).load(text)
    except YAMLError as error:
        raise ParamsError(
            f"not valid YAML: {error}", where=where, fix="check the indentation at that line"
        ) from None


def read_yaml(path: Path) -> Any:
    """Read a YAML 1.2 file.

    Raises:
        ParamsError: missing file or YAML that does not parse.
    """
    try:
        return parse_yaml(path.read_text(encoding="utf-8"), str(path))
    except FileNotFoundError:
        raise ParamsError(
            "file not found", where=str(path.resolve()), fix="run from the project's root"
        ) from None


def load(path: Path = Path("params.yaml")) -> Params:
    """Read and check params.yaml.

    Raises:
        ParamsError: every wrong, missing or unknown key, all in one message.
    """
    try:
        return Params.model_validate(read_yaml(path))
    except ValidationError as error:
        lines = [
            f"{'.'.join(str(p) for p in e['loc']) or '(file)'}: {e['msg']}" for e in error.errors()
        ]
        raise ParamsError(
            "; ".join(lines),
            where=str(path),
            fix="docs/params.md lists every key; every key must be spelled",
        ) from None
