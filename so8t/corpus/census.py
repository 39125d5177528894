"""Counts of the prepared rows by everything they carry, from the files as they were written.

Covered: authority, source, licence, thinking, group sizes, factors. Not covered: verdicts by domain and drops (counted by
`prepare` itself), lengths in tokens (`so8t.corpus.lengths`). Rows that a weight above 1 repeats are counted as written.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from so8t.corpus.split import SPLITS
from so8t.files import read_jsonl

MOST_VALUES = 64  # a factor with more values is only said to have many: it is a text or a number


def census(folder: Path) -> dict[str, Any]:
    """Counts by split of each field, by verdict of each factor's values, and how large groups are.

    Returns:
        `fields` {field: {split: {value: rows}}}, `factors` {name: {value: {verdict: rows}}, or null for more than
        `MOST_VALUES` values}, `group_sizes` {split: {rows in a group: groups}}.
    """
    fields: dict[str, dict[str, Counter[str]]] = {name: {split: Counter() for split in SPLITS} for name in ("authority", "source", "license", "thinking")}
    factors: dict[str, dict[str, Counter[str]]] = defaultdict(lambda: defaultdict(Counter))
    sizes: dict[str, dict[str, int]] = {}
    for split in SPLITS:
        groups: Counter[str] = Counter()
        for _, row in read_jsonl(folder / f"{split}.jsonl"):
            groups[row["group"]] += 1
            for name in ("authority", "source", "license"):
                fields[name][split][row[name] or "none"] += 1
            fields["thinking"][split]["yes" if row["thinking"] else "no"] += 1
            _add(factors, row["factors"], row["verdict"] or "none")
        sizes[split] = {str(size): n for size, n in sorted(Counter(groups.values()).items())}
    return {"fields": {name: {split: dict(sorted(c.items())) for split, c in splits.items()} for name, splits in fields.items()},
            "factors": {name: _plain(values) for name, values in sorted(factors.items())}, "group_sizes": sizes}


def _add(factors: dict[str, dict[str, Counter[str]]], values: Mapping[str, Any], verdict: str) -> None:
    for name, value in values.items():
        if len(factors[name]) <= MOST_VALUES:
            factors[name][str(value)][verdict] += 1


def _plain(values: Mapping[str, Counter[str]]) -> dict[str, dict[str, int]] | None:
    return None if len(values) > MOST_VALUES else {value: dict(sorted(c.items())) for value, c in sorted(values.items())}
