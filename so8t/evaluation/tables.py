"""The CSV tables behind one file's figures; `dvc plots` and the report both draw from them.

Covered: reliability before and after the temperature, confusion, the false-allow/allow curve with
the decided point, false-allow rate per domain, familiarity, verdict times; how a table is written.
Not covered: drawing (`so8t.report`).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from so8t import metrics
from so8t.card import DecidedRows
from so8t.evaluation.verdicts import curve
from so8t.files import atomic_dir, csv_text
from so8t.metrics import Scores
from so8t.metrics.intervals import upper_bound
from so8t.verdict import VERDICTS

# Test splits by name.
Splits = Mapping[str, DecidedRows]
Table = list[dict[str, Any]]

# Named here, not taken from the first row: an empty table still gets its head.
COLUMNS = {
    "reliability": ("kind", "bin", "n", "confidence", "accuracy"),
    "confusion": ("actual", "predicted"),
    "far_allow": ("kind", "threshold", "false_allow_rate", "allow_rate"),
    "domains": ("split", "domain", "n", "false_allow_rate", "upper"),
    "familiarity": ("split", "signal", "strangeness", "share"),
    "latency": ("seconds", "share"),
}


def make_tables(
    decided: Splits,
    *,
    headline: str,
    threshold: float,
    delta: float,
    others: Mapping[str, Scores] | None = None,
) -> dict[str, Table]:
    """All tables of one file that hold no times.

    Args:
        decided: test splits by name.
        headline: the split that reliability, confusion and curve show.
        threshold: the card's `escalate`.
        delta: level of the one-sided upper limit per domain.
        others: splits beside the test splits whose familiarity is shown.
    """
    # Figures show the split that the certificate speaks about; domains show all of them.
    rows = decided[headline]
    scored = {name: one.scores for name, one in decided.items()}
    return {
        "reliability": _reliability(rows),
        "confusion": _confusion(rows),
        "far_allow": _far_allow(rows, threshold),
        "domains": _domains(decided, delta),
        "familiarity": _familiarity({**scored, **(others or {})}),
    }


def _reliability(rows: DecidedRows) -> Table:
    """Confidence against accuracy per bin, before and after the temperature."""
    gold = rows.scores.gold[rows.readable]
    # The same rows before and after, or the two curves could not be compared.
    before = metrics.softmax(rows.scores.logits)[rows.readable]
    after = rows.probabilities[rows.readable]
    table: Table = []
    for kind, p in (("before", before), ("after", after)):
        for line in metrics.reliability(p, gold):
            table.append({"kind": kind, **line})
    return table


def _confusion(rows: DecidedRows) -> Table:
    """One line per row: `dvc plots` counts them itself."""
    # Names, not codes: the CSV is also opened in a spreadsheet.
    table = []
    for gold, decided in zip(rows.scores.gold, rows.decided, strict=True):
        line = {"actual": VERDICTS[gold].value, "predicted": VERDICTS[decided].value}
        table.append(line)
    return table


def _far_allow(rows: DecidedRows, threshold: float) -> Table:
    """The false-allow/allow curve, and on it the point that was decided."""
    table: Table = [{"kind": "curve", **point} for point in curve(rows)]
    rates = metrics.rates(rows.scores.gold, rows.decided)
    decided = {
        "kind": "decided",
        "threshold": threshold,
        "false_allow_rate": rates["false_allow_rate"].value,
        "allow_rate": rates["allow_rate_on_allow"].value,
    }
    return [*table, decided]


def _domains(decided: Splits, delta: float) -> Table:
    """False-allow rate of every domain of every split, with its one-sided upper limit."""
    table = []
    for split, rows in decided.items():
        scores = rows.scores
        found = metrics.verdict_metrics(scores.gold, rows.decided, scores.domains)
        for domain, numbers in found["by_domain"].items():
            # One-sided: the question is how bad the domain may be, not how good.
            rate = numbers["false_allow_rate"]
            line = {
                "split": split,
                "domain": domain,
                "n": rate["n"],
                "false_allow_rate": rate["value"],
                "upper": upper_bound(rate["k"], rate["n"], delta),
            }
            table.append(line)
    return table


def _familiarity(splits: Mapping[str, Scores]) -> Table:
    """Of each split and signal, the cumulative share of rows that are at most so strange."""
    table: Table = []
    for split, scores in splits.items():
        for signal, values in scores.strangeness.items():
            # One line per different number: most rows of a split share a few of them.
            numbers, counts = np.unique(values[np.isfinite(values)], return_counts=True)
            # Of all rows: those without a number are strange, and reach no share.
            shares = np.cumsum(counts) / len(values)
            for number, share in zip(numbers.tolist(), shares.tolist(), strict=True):
                line = {"split": split, "signal": signal, "strangeness": number, "share": share}
                table.append(line)
    return table


def latency(seconds: Sequence[float]) -> Table:
    """The cumulative share of verdicts that took at most so many seconds.

    Args:
        seconds: per verdict; empty when the file was not run.
    """
    table = []
    # Drawn as a step curve, which needs one point per verdict and no bins.
    for place, value in enumerate(sorted(seconds), start=1):
        table.append({"seconds": value, "share": place / len(seconds)})
    return table


def to_csv(columns: Sequence[str], table: Table) -> str:
    """CSV text; floats with six digits after the point, null as an empty cell."""
    lines = []
    for line in table:
        lines.append({name: _six_digits(value) for name, value in line.items()})
    return csv_text(columns, lines)


def _six_digits(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 6)
    return value


def write_tables(folder: Path, tables: Mapping[str, Table]) -> None:
    """Replace `folder` by one CSV file per table."""
    # All or none: the figures of one file must come from one run.
    with atomic_dir(folder) as temporary:
        for name, table in tables.items():
            path = temporary / f"{name}.csv"
            path.write_text(to_csv(COLUMNS[name], table), encoding="utf-8", newline="\n")
