"""What running one file gave, as the `generate` stage hands it to `evaluate`.

Two hand-over files: what the model wrote, which is the same on every machine, and how long it took,
which never is. Neither knows a card, so a new card (another risk, new labels) runs no model again.

Covered: the files' shapes, that they are of the file they are read for. Not covered: how it was
measured (`so8t.generation`).
"""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from so8t.errors import ArtifactError
from so8t.files import read_object, write_json

SCHEMA = "so8t.generated/1"
TIMINGS_SCHEMA = "so8t.timings/1"
# Schema -> what a file holds, by key.
CONTENT = {
    SCHEMA: {"sections": dict, "answers": list},
    TIMINGS_SCHEMA: {"speed": dict, "latencies": list},
}
SPLITS = ("test_iid", "test_cells", "test_phrases")
# What the certificate speaks about: rows exchangeable with the calibration rows.
HEADLINE = SPLITS[0]
# More digits after the point than any of these numbers carries, few enough to read.
DIGITS = 9
FIX = "run `dvc repro generate`"


@dataclass(frozen=True, slots=True)
class Generated:
    """What running one file gave, without any time.

    Attributes:
        sections: of the metrics file, by name.
        answers: final answers and numbers row by row, never thinking; A and B are paired by them
            (`so8t.comparison`).
    """

    sections: dict[str, Any]
    answers: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Timings:
    """How long running one file took on this machine, and how much memory.

    Attributes:
        speed: distributions in seconds and tokens per second, peak memory in bytes.
        latencies: seconds of each verdict, behind `speed`.
    """

    speed: dict[str, Any]
    latencies: list[float] = field(default_factory=list)


NOT_RUN = Generated(
    sections={
        "generation": {"status": "not_run"},
        "stability": {"status": "not_run"},
        "retention": {"status": "not_run"},
    },
)
NOT_TIMED = Timings(speed={"status": "not_run"})


def save(generated: Generated, semantic_digest: str, out: Path) -> None:
    """Write what was found of the file with this digest."""
    _write(out, SCHEMA, semantic_digest, asdict(generated))


def save_timings(timings: Timings, semantic_digest: str, out: Path) -> None:
    """Write how long the file with this digest took."""
    _write(out, TIMINGS_SCHEMA, semantic_digest, asdict(timings))


def _write(out: Path, schema: str, semantic_digest: str, content: dict[str, Any]) -> None:
    head = {"schema": schema, "semantic_digest": semantic_digest}
    write_json(out, {**head, **rounded(content)})


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


def load(path: Path, semantic_digest: str) -> Generated:
    """Read again what a file gave.

    Args:
        path: written by `save`.
        semantic_digest: of the file that it must be of.

    Raises:
        ArtifactError: it is missing, or of another file.
    """
    held = _read(path, SCHEMA, semantic_digest)
    return Generated(held["sections"], held["answers"])


def load_timings(path: Path, semantic_digest: str) -> Timings:
    """Read again how long a file took.

    Args:
        path: written by `save_timings`.
        semantic_digest: of the file that it must be of.

    Raises:
        ArtifactError: it is missing, or of another file.
    """
    held = _read(path, TIMINGS_SCHEMA, semantic_digest)
    return Timings(held["speed"], held["latencies"])


def _read(path: Path, schema: str, semantic_digest: str) -> dict[str, Any]:
    held = read_object(path, fix=FIX)
    # The digest is compared although DVC orders the stages: a person may run this one by hand.
    if held.get("schema") != schema or held.get("semantic_digest") != semantic_digest:
        raise ArtifactError("this was measured of another file", where=str(path), fix=FIX)
    for name, kind in CONTENT[schema].items():
        if not isinstance(held.get(name), kind):
            raise ArtifactError(f"`{name}` is missing or damaged", where=str(path), fix=FIX)
    return held
