"""What changed between two versions of the prepared data: rows added, removed, moved to another split, relabelled, reworded.

Memory holds a digest per row, not its text. Covered: directories made by `prepare`, or single JSONL files.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from so8t.errors import DataError
from so8t.files import read_jsonl, sha256_json

LISTED = 20  # ids shown of each kind of change


class Seen(NamedTuple):
    """What is compared of one row."""

    split: str
    verdict: str | None
    group: str | None
    text: bytes
    rest: bytes


def _digest(value: Any) -> bytes:
    return hashlib.sha256(sha256_json(value).encode()).digest()[:12]


def _rows(path: Path) -> Iterator[tuple[str, Seen]]:
    files = sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
    if not files:
        raise DataError("no .jsonl file found", where=str(path), fix="give a directory made by `prepare`, or a file")
    for file in files:
        for number, row in read_jsonl(file):
            if "id" not in row or "text" not in row:
                raise DataError("a row without id or text", where=f"{file}:{number}", fix="compare files made by `prepare` or `synthesize`")
            rest = {key: value for key, value in row.items() if key not in ("id", "text", "verdict", "group")}
            yield row["id"], Seen(file.stem, row.get("verdict"), row.get("group"), _digest(row["text"]), _digest(rest))


def diff(before: Path, after: Path) -> dict[str, Any]:
    """Counts and the first ids of every kind of change; `same` is True when there is none.

    Raises:
        DataError: a path holds no comparable rows.
    """
    old, new = dict(_rows(before)), dict(_rows(after))
    common = [key for key in old if key in new]
    changes = {
        "added": sorted(new.keys() - old.keys()), "removed": sorted(old.keys() - new.keys()),
        "moved": sorted(k for k in common if old[k].split != new[k].split), "relabelled": sorted(k for k in common if old[k].verdict != new[k].verdict),
        "regrouped": sorted(k for k in common if old[k].group != new[k].group), "reworded": sorted(k for k in common if old[k].text != new[k].text),
        "other": sorted(k for k in common if old[k].rest != new[k].rest),
    }
    return {"same": not any(changes.values()), "rows": {"before": len(old), "after": len(new)}, "counts": {kind: len(ids) for kind, ids in changes.items()},
            "ids": {kind: ids[:LISTED] for kind, ids in changes.items()},
            "verdicts": {"before": _verdicts(old), "after": _verdicts(new)}, "moves": _moves(old, new, changes["moved"])}


def _verdicts(rows: dict[str, Seen]) -> dict[str, int]:
    return dict(sorted(Counter(f"{r.split}/{r.verdict}" for r in rows.values()).items()))


def _moves(old: dict[str, Seen], new: dict[str, Seen], moved: list[str]) -> dict[str, int]:
    return dict(sorted(Counter(f"{old[k].split} -> {new[k].split}" for k in moved).items()))


def describe(found: dict[str, Any]) -> str:
    """The result for people."""
    lines = [f"rows: {found['rows']['before']} -> {found['rows']['after']}"]
    lines += [f"{kind}: {n}" + (f" ({', '.join(found['ids'][kind][:5])}{' ...' if n > 5 else ''})" if n else "") for kind, n in found["counts"].items()]
    lines += [f"moved {move}: {n}" for move, n in found["moves"].items()]
    keys = sorted({*found["verdicts"]["before"], *found["verdicts"]["after"]})
    before, after = found["verdicts"]["before"], found["verdicts"]["after"]
    lines += [f"{key}: {before.get(key, 0)} -> {after.get(key, 0)}" for key in keys if before.get(key, 0) != after.get(key, 0)]
    return "\n".join(lines)
