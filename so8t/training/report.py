"""What the training log says: a dozen numbers, curves thinned for plots, and the speed of a run.

The numbers are first and last losses, the best and the last validation, rotation angles,
orthogonality, and the largest gradient norms. Times are read from the progress events and go into
no cached output, because they differ between machines.
"""

import csv
import io
import json
import math
from pathlib import Path
from typing import Any

from so8t.errors import DataError
from so8t.files import csv_text, read_text

SCHEMA = "so8t.train/1"
LOSSES = ("loss", "lm", "safety", "authority", "label", "pet", "pet_raw")
NORMS = ("grad_norm_lora", "grad_norm_gate", "grad_norm_head")
# Rows kept for plots, beside the validated ones.
POINTS = 400
# First and last losses are means over this share of the run: single steps are noisy.
PARTS = 20
TRAIN_AGAIN = "run `dvc repro train`"

# One step of the log by column; None where nothing was measured.
Row = dict[str, float | None]


def read_log(path: Path) -> list[Row]:
    """Rows of the training log; an empty cell is None.

    Raises:
        DataError: missing, not UTF-8, empty, or a cell that is not a number (`where` is then
            `file:line`).
    """
    text = read_text(path, kind=DataError, fix=TRAIN_AGAIN)
    rows = []
    lines = csv.DictReader(io.StringIO(text))
    # Line 1 is the head.
    for number, line in enumerate(lines, start=2):
        rows.append(_numbers(line, f"{path}:{number}"))
    if not rows:
        raise DataError("the training log holds no step", where=str(path), fix=TRAIN_AGAIN)
    return rows


def _numbers(line: dict[str, str], where: str) -> Row:
    row: Row = {}
    try:
        for key, value in line.items():
            row[key] = float(value) if value else None
    # A TypeError is a line with more cells than the head has.
    except (ValueError, TypeError):
        raise DataError("a cell is not a number", where=where, fix=TRAIN_AGAIN) from None
    return row


def _known(rows: list[Row], key: str) -> list[float]:
    """The values of a column that were measured."""
    values = []
    for row in rows:
        value = row.get(key)
        if value is not None:
            values.append(value)
    return values


def _mean(rows: list[Row], key: str) -> float | None:
    values = _known(rows, key)
    if not values:
        return None
    # Six decimals are enough for a file that people read.
    mean = sum(values) / len(values)
    return round(mean, 6)


def _largest(rows: list[Row], key: str) -> float | None:
    finite = [value for value in _known(rows, key) if math.isfinite(value)]
    # A run that explodes still has a report: NaN and infinity cannot be written as JSON.
    return max(finite, default=None)


def _validation(row: Row) -> dict[str, Any]:
    return {
        "step": int(row["step"] or 0),
        "loss": row["valid_loss"],
        "verdict_accuracy": row["valid_verdict"],
    }


def summarise(rows: list[Row]) -> dict[str, Any]:
    """The metrics file of the `train_report` stage."""
    part = max(1, len(rows) // PARTS)
    last = rows[-1]
    best_validation = None
    last_validation = None
    validated = [row for row in rows if row.get("valid_loss") is not None]
    if validated:
        # `or` only satisfies the type checker: a loss is never exactly 0.
        best = min(validated, key=lambda row: row["valid_loss"] or math.inf)
        best_validation = _validation(best)
        last_validation = _validation(validated[-1])
    norms = {}
    for key in NORMS:
        group = key.removeprefix("grad_norm_")
        norms[group] = _largest(rows, key)
    return {
        "schema": SCHEMA,
        "steps": int(last["step"] or 0),
        "tokens": int(sum(_known(rows, "tokens"))),
        "averaged_steps": part,
        "first": {key: _mean(rows[:part], key) for key in LOSSES},
        "last": {key: _mean(rows[-part:], key) for key in LOSSES},
        "validation": {"best": best_validation, "last": last_validation},
        "rotation": {
            "max_angle": last.get("max_angle"),
            "mean_angle": last.get("mean_angle"),
            "orthogonality_max": _largest(rows, "orthogonality"),
        },
        "grad_norm_max": norms,
        "lambda_last": last.get("lambda"),
    }


def thin(rows: list[Row]) -> list[Row]:
    """About `POINTS` rows at equal distances, the first, the last and every validated one."""
    distance = max(1, len(rows) // POINTS)
    last = len(rows) - 1
    kept = []
    for index, row in enumerate(rows):
        validated = row.get("valid_loss") is not None
        if index % distance == 0 or index == last or validated:
            kept.append(row)
    return kept


def speed(events: Path) -> list[Row]:
    """Tokens per second by step, from the progress events of `train`.

    A step that was done again, after an interruption, counts as it was last done.
    """
    if not events.is_file():
        return []
    found: dict[int, float] = {}
    for line in events.read_text(encoding="utf-8").splitlines():
        try:
            event = json.loads(line)
            step = int(event["step"])
            found[step] = float(event["tokens_per_s"])
        # A killed run may leave half a line, and other events have no speed.
        except (json.JSONDecodeError, KeyError):
            continue
    rows: list[Row] = []
    for step, value in sorted(found.items()):
        rows.append({"step": float(step), "tokens_per_s": value})
    return rows


def speeds_csv(rows: list[Row]) -> str:
    """CSV of `speed`; the header alone where nothing was measured on this machine."""
    return csv_text(["step", "tokens_per_s"], rows, numbers=".8g")


def to_csv(rows: list[Row]) -> str:
    """CSV with the columns of the first row."""
    return csv_text(list(rows[0]), rows, numbers=".8g")
