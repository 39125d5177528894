"""What running one file gave, as the `serve` stage hands it to `evaluate`: apart from any card, so that another risk runs no model.

Covered: the file's shape, that it is of the file it is read for. Not covered: how it was measured (serve).
"""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from so8t.errors import ArtifactError
from so8t.files import read_json, write_json

SCHEMA = "so8t.served/1"
SPLITS = ("test_iid", "test_cells", "test_phrases")
HEADLINE = SPLITS[
    0
]  # what the certificate speaks about: rows exchangeable with the calibration rows


@dataclass(frozen=True, slots=True)
class Served:
    """Sections of the metrics file, the latencies behind them in seconds, and what was said row by row.

    `answers` holds final answers and numbers only, never thinking; A and B are paired by them (comparison).
    """

    sections: dict[str, Any]
    latencies: list[float]
    answers: list[dict[str, Any]] = field(default_factory=list)


NOT_RUN = Served(
    {name: {"status": "not_run"} for name in ("generation", "stability", "retention", "speed")}, []
)


def save(found: Served, semantic_digest: str, out: Path) -> None:
    """Write what was found of the file with this digest."""
    write_json(
        out, {"schema": SCHEMA, "semantic_digest": semantic_digest, **rounded(asdict(found))}
    )


def rounded(value: Any) -> Any:
    """Floats with nine digits after the point: more than any of them carries, few enough to read."""
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(item) for item in value]
    return round(float(value), 9) if isinstance(value, float | np.floating) else value


def load(path: Path, semantic_digest: str) -> Served:
    """Read it again.

    Raises:
        ArtifactError: it is of another file.
    """
    fix = "run `dvc repro serve`"
    held = read_json(path, fix=fix)
    if held.get("schema") != SCHEMA or held.get("semantic_digest") != semantic_digest:
        raise ArtifactError("this was measured of another file", where=str(path), fix=fix)
    return Served(held["sections"], held["latencies"], held["answers"])
