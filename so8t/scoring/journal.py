"""Rows of an unfinished scoring run, so that an interrupted one goes on where it stopped.

The journal is one JSONL file under `database/scoring/`, named by the digest of everything that
makes a number (file, template, engine, split files), so that it is never used for another run. It
is removed when the scores are written.
"""

import json
import os
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

from so8t.files import sha256_json
from so8t.progress import database_dir
from so8t.rows import Scored
from so8t.verdict import Authority, Verdict

# Rows between two fsyncs: a power failure costs at most so many readings.
FLUSH_ROWS = 50


class Journal:
    """Finished rows by (split, id). Use as a context manager.

    Args:
        identity: everything that makes a number; another identity is another journal.
    """

    def __init__(self, identity: dict[str, Any]) -> None:
        name = sha256_json(identity)
        self.path = database_dir() / "scoring" / f"{name}.jsonl"
        self.rows: dict[tuple[str, str], Scored] = {}
        self._pending = 0

    def __enter__(self) -> Self:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        whole = self._load()
        mode = "r+b" if self.path.exists() else "w+b"
        self._file = self.path.open(mode)
        # A power failure can cut the last line short. What is written now must not join it.
        self._file.truncate(whole)
        self._file.seek(whole)
        return self

    def append(self, split: str, row: Scored) -> None:
        """Keep one row."""
        self.rows[split, row.id] = row
        entry = {"split": split, "row": row.to_json()}
        line = json.dumps(entry, ensure_ascii=False, allow_nan=False)
        self._file.write(line.encode() + b"\n")
        # An fsync waits for the disk, so it is not made for every row.
        self._pending += 1
        if self._pending >= FLUSH_ROWS:
            self._flush()

    def discard(self) -> None:
        """Forget everything: the scores are written."""
        self.path.unlink(missing_ok=True)

    def _flush(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._pending = 0

    def _load(self) -> int:
        """Read what an earlier run left; return how many bytes of the file are whole lines."""
        try:
            lines = self.path.read_bytes().splitlines(keepends=True)
        except FileNotFoundError:
            return 0
        whole = 0
        for line in lines:
            # A line can be cut off behind its last brace: valid JSON, but not all was written.
            if not line.endswith(b"\n"):
                break
            try:
                split, row = _entry(line)
            except (ValueError, KeyError, TypeError):
                break
            self.rows[split, row.id] = row
            whole += len(line)
        return whole

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._flush()
        self._file.close()


def _entry(line: bytes) -> tuple[str, Scored]:
    """Split and row of a journal's line."""
    found = json.loads(line)
    row = Scored(**found["row"])
    # JSON gives the labels as plain text.
    verdict = Verdict(row.verdict)
    authority = None
    if row.authority is not None:
        authority = Authority(row.authority)
    return found["split"], replace(row, verdict=verdict, authority=authority)
