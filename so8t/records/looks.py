"""Clean hands: every look at calibration or test rows is written down, with the digest of the file looked at.

A certificate is honest only if the rows behind it were not used to choose the model. This record says how often they
were read. It is a side record: if it cannot be written, the stage goes on and the log says so.
"""

import json
import logging
import time
from pathlib import Path
from typing import Any

from so8t.files import sha256_file
from so8t.progress import database_dir

log = logging.getLogger(__name__)


def looks_path() -> Path:
    """database/looks.jsonl."""
    return database_dir() / "looks.jsonl"


def look(stage: str, split: str, path: Path) -> None:
    """Append one look: {"t", "stage", "split", "path", "sha256"}."""
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
        with target.open("a", encoding="utf-8") as out:
            out.write(json.dumps(entry, ensure_ascii=False) + "\n")
    except OSError as error:
        log.warning("look not recorded: %s", error)


def count() -> dict[str, dict[str, Any]]:
    """Per split: {"looks": how many, "files": distinct digests, "stages": {name: looks}}; broken lines are left out."""
    summary: dict[str, dict[str, Any]] = {}
    seen: dict[str, set[str]] = {}
    for entry in _entries():
        split = summary.setdefault(entry["split"], {"looks": 0, "files": 0, "stages": {}})
        split["looks"] += 1
        split["stages"][entry["stage"]] = split["stages"].get(entry["stage"], 0) + 1
        seen.setdefault(entry["split"], set()).add(entry["sha256"])
        split["files"] = len(seen[entry["split"]])
    return dict(sorted(summary.items()))


def _entries() -> list[dict[str, str]]:
    try:
        lines = looks_path().read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    entries = []
    for line in lines:
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            continue  # a line cut by a power failure
        if isinstance(entry, dict) and all(
            isinstance(entry.get(key), str) for key in ("stage", "split", "sha256")
        ):
            entries.append(entry)
    return entries
