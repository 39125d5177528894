"""Every look at calibration or test rows is written down, with the digest of the file looked at.

A certificate is honest only if the rows behind it were not used to choose the model. This record
says how often they were read. It is a side record: if it cannot be written, the stage goes on and
the log says so.
"""

import json
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from so8t.files import sha256_file
from so8t.progress import database_dir

log = logging.getLogger(__name__)


def looks_path() -> Path:
    """database/looks.jsonl."""
    return database_dir() / "looks.jsonl"


def look(stage: str, split: str, path: Path) -> None:
    """Append one look: {"t", "stage", "split", "path", "sha256"}.

    Args:
        stage: the stage that reads the rows.
        split: calibration or a test split.
        path: the file that is read.
    """
    try:
        entry = {
            "t": round(time.time(), 3),
            "stage": stage,
            "split": split,
            "path": path.as_posix(),
            "sha256": sha256_file(path),
        }
        target = looks_path()
        target.parent.mkdir(parents=True, exist_ok=True)
        # One short line, appended: stages beside each other do not mix theirs.
        with target.open("a", encoding="utf-8") as out:
            out.write(json.dumps(entry, ensure_ascii=False) + "\n")
    except OSError as error:
        log.warning("look not recorded: %s", error)


def count() -> dict[str, dict[str, Any]]:
    """How often each split was looked at.

    Returns:
        By split, in alphabetical order: {"looks": how many, "files": distinct digests,
        "stages": {name: looks}}.
    """
    summary: dict[str, dict[str, Any]] = {}
    digests: dict[str, set[str]] = {}
    for entry in _entries():
        name = entry["split"]
        split = summary.setdefault(name, {"looks": 0, "files": 0, "stages": {}})
        split["looks"] += 1
        stages = split["stages"]
        stages[entry["stage"]] = stages.get(entry["stage"], 0) + 1
        # Rows that were made again have another digest: old looks say nothing about them.
        seen = digests.setdefault(name, set())
        seen.add(entry["sha256"])
        split["files"] = len(seen)
    return dict(sorted(summary.items()))


def _entries() -> Iterator[dict[str, str]]:
    """The looks that can be read; broken lines are left out."""
    try:
        lines = looks_path().read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return
    for line in lines:
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            # A line that was cut by a power failure.
            continue
        if _is_look(entry):
            yield entry


def _is_look(entry: object) -> bool:
    # The rest of a cut line may still be JSON, such as a number.
    if not isinstance(entry, dict):
        return False
    return all(isinstance(entry.get(key), str) for key in ("stage", "split", "sha256"))
