"""What running one file gave, as the `serve` stage hands it to `evaluate`.

The hand-over file knows no card, so a new card (another risk, new labels) runs no model again.

Covered: the file's shape, that it is of the file it is read for. Not covered: how it was measured
(`so8t.generation`).
"""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from so8t.errors import ArtifactError
from so8t.files import read_json, write_json

SCHEMA = "so8t.served/1"
SPLITS = ("test_iid", "test_cells", "test_phrases")
# What the certificate speaks about: rows exchangeable with the calibration rows.
HEADLINE = SPLITS[0]
# More digits after the point than any of these numbers carries, few enough to read.
DIGITS = 9


@dataclass(frozen=True, slots=True)
class Served:
    """What running one file gave.

    Attributes:
        sections: of the metrics file, by name.
        latencies: seconds per verdict, behind the section `speed`.
        answers: final answers and numbers row by row, never thinking; A and B are paired by them
            (`so8t.comparison`).
    """

    sections: dict[str, Any]
    latencies: list[float]
    answers: list[dict[str, Any]] = field(default_factory=list)


NOT_RUN = Served(
    sections={
        "generation": {"status": "not_run"},
        "stability": {"status": "not_run"},
        "retention": {"status": "not_run"},
        "speed": {"status": "not_run"},
    },
    latencies=[],
)


def save(served: Served, semantic_digest: str, out: Path) -> None:
    """Write what was found of the file with this digest."""
    content = {
        "schema": SCHEMA,
        "semantic_digest": semantic_digest,
        **rounded(asdict(served)),
    }
    write_json(out, content)


def rounded(value: Any) -> Any:
    """The same JSON with `DIGITS` digits after the point; numpy's floats become Python's."""
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(item) for item in value]
    # numpy's float32 is no float, and json would refuse it.
    if isinstance(value, float | np.floating):
        return round(float(value), DIGITS)
    return value


def load(path: Path, semantic_digest: str) -> Served:
    """Read it again.

    Args:
        path: written by `save`.
        semantic_digest: of the file that it must be of.

    Raises:
        ArtifactError: it is missing, or of another file.
    """
    fix = "run `dvc repro serve`"
    held = read_json(path, fix=fix)
    # The digest is compared although DVC orders the stages: a person may run this one by hand.
    if held.get("schema") != SCHEMA or held.get("semantic_digest") != semantic_digest:
        raise ArtifactError("this was measured of another file", where=str(path), fix=fix)
    return Served(held["sections"], held["latencies"], held["answers"])
