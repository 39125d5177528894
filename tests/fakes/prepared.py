"""Prepared splits of a few rows, to be scored with a tiny file, and reading back what was written."""

import json
from pathlib import Path
from typing import Any

from so8t.rows import Row, read_rows
from so8t.scoring.score import SCORED_SPLITS


def sample(number: int, **changes: Any) -> dict[str, Any]:
    text = "航空管制の仕様" * (1 + number % 4) + str(number)
    return {
        "id": f"r{number:02d}",
        "text": text,
        "verdict": ["ALLOW", "ESCALATE", "DENY"][number % 3],
        "authority": "handle",
        "domain": "general",
        "group": f"g{number // 2}",
        **changes,
    }


def write_prepared(folder: Path, rows: dict[str, list[dict[str, Any]]]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for split in SCORED_SPLITS:
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows.get(split, [])]
        (folder / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8")
    # What familiarity is judged by; never scored.
    train = json.dumps(sample(99), ensure_ascii=False) + "\n"
    (folder / "train.jsonl").write_text(train, encoding="utf-8")
    return folder


def row_of(folder: Path, **changes: Any) -> Row:
    """One row as `score` reads it."""
    write_prepared(folder, {"valid": [sample(0, **changes)]})
    return next(read_rows(folder / "valid.jsonl"))


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
