"""Rows of an unfinished scoring run, so that an interrupted one goes on where it stopped.

One JSONL under `database/scoring/`, named by the digest of everything that makes a number (file, template, engine,
split files). It is removed when the scores are written. A last line cut short by a power failure is dropped.
"""

import json
import os
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from so8t.files import sha256_json
from so8t.progress import database_dir

FLUSH_ROWS = 50  # rows between two fsyncs


class Journal:
    """Finished rows by (split, id); `append` makes one more durable."""

    def __init__(self, identity: dict[str, Any]) -> None:
        self.path = database_dir() / "scoring" / f"{sha256_json(identity)}.jsonl"
        self.rows: dict[tuple[str, str], dict[str, Any]] = {}
        self._pending = 0

    def __enter__(self) -> Self:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        whole = _read(self.path, self.rows)
        self._file = self.path.open("r+b" if self.path.exists() else "w+b")
        self._file.truncate(whole)
        self._file.seek(whole)
        return self

    def append(self, split: str, row: dict[str, Any]) -> None:
        """Keep one row."""
        self.rows[split, row["id"]] = row
        line = json.dumps({"split": split, "row": row}, ensure_ascii=False, allow_nan=False)
        self._file.write(line.encode() + b"\n")
        self._pending += 1
        if self._pending >= FLUSH_ROWS:
            self._flush()

    def _flush(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._pending = 0

    def discard(self) -> None:
        """Forget everything: the scores are written."""
        self.path.unlink(missing_ok=True)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self._flush()
        self._file.close()


def _read(path: Path, rows: dict[tuple[str, str], dict[str, Any]]) -> int:
    """Fill `rows`; return how many bytes of the file are whole lines that can be read."""
    whole = 0
    try:
        lines = path.read_bytes().splitlines(keepends=True)
    except FileNotFoundError:
        return 0
    for line in lines:
        try:
            entry = json.loads(line)
            rows[entry["split"], entry["row"]["id"]] = entry["row"]
        except (ValueError, KeyError, TypeError):
            break
        if not line.endswith(b"\n"):
            del rows[entry["split"], entry["row"]["id"]]
            break
        whole += len(line)
    return whole
