"""What fine-tuning cost: plain text without the verdict format, under B against A, row by row.

Two numbers, on the same rows of `valid`: nats per token of ordinary answers (lower is better), and
chrF (an F-score over character n-grams) of plain answers (higher is better). Intervals resample
groups; p-values exchange A and B inside groups.

Not covered: whether A could answer at all, which each file's own metrics say
(`retention/plain/beyond_chance`).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from so8t import metrics
from so8t.errors import DataError
from so8t.files import read_jsonl
from so8t.metrics.exact import reason_for, resampled_interval
from so8t.metrics.resample import first_over_last

NOT_RUN: dict[str, Any] = {"status": "not_run"}


@dataclass(frozen=True, slots=True)
class Kind:
    """Where one of the numbers stands in the answers file.

    Attributes:
        kind: of the lines that hold it.
        value: key of what is summed.
        weight: key of what the sum is divided by; null where every row weighs the same.
    """

    kind: str
    value: str
    weight: str | None


KINDS = {
    "nll_per_token": Kind("likelihood", "nats", "tokens"),
    "plain_chrf": Kind("plain", "chrf", None),
}


@dataclass(frozen=True, slots=True)
class Weighted:
    """One row's part of a weighted mean."""

    group: str
    value: float
    weight: float


Table = dict[str, Weighted]


def retention(
    a: Path,
    b: Path,
    *,
    draws: int,
    seed: int,
) -> dict[str, Any]:
    """The section `retention` of ab.json.

    Args:
        a: answers of A, as the stage `generate` writes them.
        b: answers of B.
        draws: of the bootstrap and of the exchange test.
        seed: of both.

    Raises:
        DataError: A and B were not asked the same rows.
    """
    # No correction for two numbers: they answer two questions, and the report shows both.
    found = {}
    for name, kind in KINDS.items():
        first = read_answers(a, kind.kind)
        second = read_answers(b, kind.kind)
        if not first or not second:
            found[name] = NOT_RUN
            continue
        # Means over different rows differ for reasons that are not the model.
        if set(first) != set(second):
            raise DataError(
                "A and B did not answer the same rows",
                where=str(b),
                fix="run `dvc repro generate`",
            )
        table_a = _table(first, kind)
        table_b = _table(second, kind)
        found[name] = compare_rows(
            table_a,
            table_b,
            draws=draws,
            seed=seed,
        )
    return found


def read_answers(path: Path, kind: str) -> dict[str, dict[str, Any]]:
    """Rows of one kind by id; none where the file does not exist or was not run."""
    # Types other than F16 and the released one are not run: their file is missing or empty.
    if not path.is_file():
        return {}
    rows = {}
    for _, row in read_jsonl(path):
        if row.get("kind") == kind:
            rows[str(row["id"])] = row
    return rows


def _table(rows: dict[str, dict[str, Any]], kind: Kind) -> Table:
    table = {}
    for name, row in rows.items():
        weight = 1.0
        if kind.weight is not None:
            weight = float(row[kind.weight])
        # A row that names no group is a group by itself.
        # Ids and groups may be numbers in a user's rows.
        group = str(row["group"] or name)
        table[name] = Weighted(group, float(row[kind.value]), weight)
    return table


def _difference(sums: Float[ndarray, "draws 4"]) -> Float[ndarray, " draws"]:
    """B - A of sums and weights (A's sum, A's weight, B's sum, B's weight)."""
    return np.asarray(first_over_last(sums[:, 2:]) - first_over_last(sums[:, :2]))


def compare_rows(
    a: Table,
    b: Table,
    *,
    draws: int,
    seed: int,
) -> dict[str, Any]:
    """Compare two weighted means over the same rows.

    Returns:
        `status`, `n`, `groups`, the means `a` and `b`, `difference` (B - A), `ci95` and `p`.
    """
    # In the order of the ids, so that the draws do not depend on the order of the files.
    ids = sorted(a)
    groups = [a[name].group for name in ids]
    first = metrics.group_sums(_columns(a, ids), groups)
    second = metrics.group_sums(_columns(b, ids), groups)
    both = np.hstack([first, second])
    # Sum and weight together, because a mean of ratios would favour short answers.
    resampled = metrics.group_bootstrap(
        both,
        _difference,
        draws=draws,
        seed=seed,
    )
    interval = resampled_interval(resampled, len(first))
    return {
        "status": "run",
        "n": len(ids),
        "groups": len(first),
        "a": float(first_over_last(first.sum(axis=0)[None])[0]),
        "b": float(first_over_last(second.sum(axis=0)[None])[0]),
        "difference": float(_difference(both.sum(axis=0)[None])[0]),
        "ci95": interval,
        **reason_for(interval, len(first)),
        "p": metrics.swap_test(
            first,
            second,
            first_over_last,
            draws=draws,
            seed=seed,
        ),
    }


def _columns(table: Table, ids: list[str]) -> Float[ndarray, "n 2"]:
    """Value and weight of the rows in this order."""
    return np.array([(table[name].value, table[name].weight) for name in ids])
