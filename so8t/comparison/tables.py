"""Tables behind the comparison's DVC plots: verdict flips and the forest of differences on the primary split.

The report draws its own figures from ab.json; these say the same for `dvc plots`. Not covered: drawing.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from so8t.files import atomic_dir, csv_text
from so8t.verdict import VERDICTS


def flips(matrix: list[list[int]]) -> list[dict[str, Any]]:
    """One line per row of the split: what A decided and what B decided."""
    return [{"a": was.value, "b": now.value} for was, counts in zip(VERDICTS, matrix, strict=True)
            for now, count in zip(VERDICTS, counts, strict=True) for _ in range(count)]


def forest(differences: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Three lines per endpoint (low, difference, high), for those that have an interval."""
    return [{"endpoint": name, "part": part, "difference": round(float(value), 6)} for name, one in differences.items() if one["ci95"]
            for part, value in (("low", one["ci95"][0]), ("difference", one["difference"]), ("high", one["ci95"][1]))]


def write(folder: Path, split: Mapping[str, Any]) -> None:
    """Replace `folder` by flips.csv and forest.csv of one split of ab.json."""
    tables = {"flips": (("a", "b"), flips(split["flips"]["matrix"])), "forest": (("endpoint", "part", "difference"), forest(split["differences"]))}
    with atomic_dir(folder) as temporary:
        for name, (columns, rows) in tables.items():
            (temporary / f"{name}.csv").write_text(csv_text(columns, rows), encoding="utf-8", newline="\n")
