"""What fine-tuning cost: format-free text under B against A, row by row.

Two numbers, on the same rows of `valid`: nats per token of ordinary answers (lower is better), and chrF of plain
answers (higher is better). Intervals resample groups; p-values exchange A and B inside groups. Not covered: whether A
could answer at all, which each file's own metrics say (`retention/plain/beyond_chance`).
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy import ndarray

from so8t import metrics
from so8t.errors import DataError
from so8t.files import read_jsonl
from so8t.metrics.intervals import percentile_interval

NOT_RUN: dict[str, Any] = {"status": "not_run"}
KINDS = {"nll_per_token": ("likelihood", "nats", "tokens"), "plain_chrf": ("plain", "chrf", "")}
Table = dict[str, tuple[str, float, float]]  # id -> (group, sum, weight)


def read_answers(path: Path, kind: str) -> dict[str, dict[str, Any]]:
    """Rows of one kind by id; none where the file does not exist or was not run."""
    if not path.is_file():
        return {}
    return {str(row["id"]): row for _, row in read_jsonl(path) if row.get("kind") == kind}


def _ratio(totals: ndarray) -> ndarray:
    """Sum over weight of [draws, 2] sums."""
    return np.asarray(totals[:, 0] / totals[:, 1])


def _difference(totals: ndarray) -> ndarray:
    """B - A of [draws, 4] sums (A's sum and weight, B's sum and weight)."""
    return np.asarray(_ratio(totals[:, 2:]) - _ratio(totals[:, :2]))


def _table(rows: dict[str, dict[str, Any]], value: str, weight: str) -> Table:
    return {
        name: (str(row["group"] or name), float(row[value]), float(row[weight]) if weight else 1.0)
        for name, row in rows.items()
    }


def compare_rows(a: Table, b: Table, *, draws: int, seed: int) -> dict[str, Any]:
    """{"status", "n", "groups", "a", "b", "difference", "ci95", "p"}; every number is B - A or of one side."""
    ids = sorted(a)
    groups = [a[name][0] for name in ids]
    first, second = (
        metrics.group_sums(np.array([side[name][1:] for name in ids]), groups) for side in (a, b)
    )
    both = np.hstack([first, second])
    interval = percentile_interval(
        metrics.group_bootstrap(both, _difference, draws=draws, seed=seed)
    )
    statistic: Callable[[ndarray], ndarray] = _ratio
    return {
        "status": "run",
        "n": len(ids),
        "groups": len(first),
        "a": float(_ratio(first.sum(axis=0)[None])[0]),
        "b": float(_ratio(second.sum(axis=0)[None])[0]),
        "difference": float(_difference(both.sum(axis=0)[None])[0]),
        "ci95": interval,
        "p": metrics.swap_test(first, second, statistic, draws=draws, seed=seed),
    }


def retention(a: Path, b: Path, *, draws: int, seed: int) -> dict[str, Any]:
    """The section `retention` of ab.json.

    Args:
        a: answers of A, as the stage `serve` writes them.
        b: answers of B.
        draws: of the bootstrap and of the exchange test.
        seed: of both.

    Raises:
        DataError: A and B were not asked the same rows.
    """
    found = {}
    for name, (kind, value, weight) in KINDS.items():
        first, second = read_answers(a, kind), read_answers(b, kind)
        if set(first) != set(second) and first and second:
            raise DataError(
                "A and B did not answer the same rows", where=str(b), fix="run `dvc repro serve`"
            )
        rows = (_table(side, value, weight) for side in (first, second))
        found[name] = compare_rows(*rows, draws=draws, seed=seed) if first and second else NOT_RUN
    return found
