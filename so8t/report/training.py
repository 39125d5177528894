"""What a training log says in a dozen numbers, and its curves thinned for plots.

Covered: first and last losses (means over a twentieth of the run), the best and the last validation, rotation angles,
orthogonality, largest gradient norms. Times are in the progress events alone
(`speed`): no cached output holds one.
"""

import contextlib
import csv
import io
import json
import math
from pathlib import Path
from typing import Any

from so8t.errors import DataError
from so8t.files import csv_text

SCHEMA = "so8t.train/1"
LOSSES = ("loss", "lm", "safety", "authority", "label", "pet", "pet_raw")
NORMS = ("grad_norm_lora", "grad_norm_gate", "grad_norm_head")
POINTS = 400  # rows kept for plots; validated rows are always kept
Row = dict[str, float | None]


def read_log(path: Path) -> list[Row]:
    """Rows of the training log; an empty cell is null.

    Raises:
        DataError: missing, empty, or a cell that is not a number; `where` is `file:line`.
    """
    try:
        lines = list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))))
    except FileNotFoundError:
        raise DataError("file not found", where=str(path), fix="run `dvc repro train`") from None
    if not lines:
        raise DataError(
            "the training log holds no step", where=str(path), fix="run `dvc repro train`"
        )
    return [_numbers(line, f"{path}:{number}") for number, line in enumerate(lines, start=2)]


def _numbers(line: dict[str, str], where: str) -> Row:
    try:
        return {key: float(value) if value else None for key, value in line.items()}
    except (ValueError, TypeError):
        raise DataError(
            "a cell is not a number", where=where, fix="run `dvc repro train`"
        ) from None


def _mean(rows: list[Row], key: str) -> float | None:
    values = [value for row in rows if (value := row.get(key)) is not None]
    return round(sum(values) / len(values), 6) if values else None


def _largest(rows: list[Row], key: str) -> float | None:
    values = [value for row in rows if (value := row.get(key)) is not None and math.isfinite(value)]
    return max(values) if values else None


def _validation(row: Row | None) -> dict[str, Any] | None:
    if row is None:
        return None
    return {
        "step": int(row["step"] or 0),
        "loss": row["valid_loss"],
        "verdict_accuracy": row["valid_verdict"],
    }


def summarise(rows: list[Row]) -> dict[str, Any]:
    """The metrics file of the `train_report` stage."""
    part = max(1, len(rows) // 20)
    validated = [row for row in rows if row.get("valid_loss") is not None]
    best = min(validated, key=lambda row: row["valid_loss"] or math.inf) if validated else None
    return {
        "schema": SCHEMA,
        "steps": int(rows[-1]["step"] or 0),
        "tokens": int(sum(row.get("tokens") or 0 for row in rows)),
        "averaged_steps": part,
        "first": {key: _mean(rows[:part], key) for key in LOSSES},
        "last": {key: _mean(rows[-part:], key) for key in LOSSES},
        "validation": {
            "best": _validation(best),
            "last": _validation(validated[-1] if validated else None),
        },
        "rotation": {
            "max_angle": rows[-1].get("max_angle"),
            "mean_angle": rows[-1].get("mean_angle"),
            "orthogonality_max": _largest(rows, "orthogonality"),
        },
        "grad_norm_max": {key.removeprefix("grad_norm_"): _largest(rows, key) for key in NORMS},
        "lambda_last": rows[-1].get("lambda"),
    }


def thin(rows: list[Row]) -> list[Row]:
    """At most `POINTS` rows at equal distances, beside the first, the last and every validated one."""
    step = max(1, len(rows) // POINTS)
    last = len(rows) - 1
    return [
        row
        for i, row in enumerate(rows)
        if i % step == 0 or i == last or row.get("valid_loss") is not None
    ]


def speed(events: Path) -> list[Row]:
    """Tokens per second by step, from the progress events of `train`; a step that was done again counts as it was last done."""
    found: dict[int, float] = {}
    for line in events.read_text(encoding="utf-8").splitlines() if events.is_file() else []:
        with contextlib.suppress(
            json.JSONDecodeError, KeyError
        ):  # a killed run may leave half a line; other events have no speed
            event = json.loads(line)
            found[int(event["step"])] = float(event["tokens_per_s"])
    return [{"step": float(step), "tokens_per_s": value} for step, value in sorted(found.items())]


def to_csv(rows: list[Row]) -> str:
    """CSV with the log's own columns."""
    return csv_text(list(rows[0]), rows, numbers=".8g")
