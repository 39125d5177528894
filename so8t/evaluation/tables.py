"""Tables behind the figures of one file, as CSV files that `dvc plots` and the report both read.

One fact per row; numbers keep six digits. Covered: reliability before and after the temperature, confusion, the
false-allow/allow curve with the decided point, false-allow rate per domain, latency. Not covered: drawing.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from so8t import metrics
from so8t.evaluation.verdicts import Judged, curve
from so8t.files import atomic_dir, csv_text
from so8t.metrics.intervals import upper_bound
from so8t.verdict import VERDICTS

Table = list[dict[str, Any]]
COLUMNS = {
    "reliability": ("kind", "bin", "n", "confidence", "accuracy"),
    "confusion": ("actual", "predicted"),
    "far_allow": ("kind", "threshold", "false_allow_rate", "allow_rate"),
    "domains": ("split", "domain", "n", "false_allow_rate", "upper"),
    "latency": ("seconds", "share"),
}


def _reliability(judged: Judged) -> Table:
    usable = np.isfinite(judged.probabilities).all(axis=1)
    rows: Table = []
    for kind, p in (("before", metrics.softmax(judged.scores.logits)), ("after", judged.probabilities)):
        rows += [{"kind": kind, **row} for row in metrics.reliability(p[usable], judged.scores.gold[usable])]
    return rows


def _confusion(judged: Judged) -> Table:
    return [{"actual": VERDICTS[gold].value, "predicted": VERDICTS[got].value}
            for gold, got in zip(judged.scores.gold, judged.predicted, strict=True)]


def _far_allow(judged: Judged, threshold: float) -> Table:
    found = metrics.rates(judged.scores.gold, judged.predicted)
    decided = {"kind": "decided", "threshold": threshold, "false_allow_rate": found["false_allow_rate"].value,
               "allow_rate": found["allow_rate_on_allow"].value}
    return [*({"kind": "curve", **point} for point in curve(judged)), decided]


def _domains(judged: dict[str, Judged], delta: float) -> Table:
    rows: Table = []
    for split, one in judged.items():
        found = metrics.verdict_metrics(one.scores.gold, one.predicted, one.scores.domains)["by_domain"]
        for domain, numbers in found.items():
            far = numbers["false_allow_rate"]
            rows.append({"split": split, "domain": domain, "n": far["n"], "false_allow_rate": far["value"],
                         "upper": upper_bound(far["k"], far["n"], delta)})
    return rows


def _latency(seconds: Sequence[float]) -> Table:
    return [{"seconds": value, "share": (i + 1) / len(seconds)} for i, value in enumerate(sorted(seconds))]


def make(judged: dict[str, Judged], *, headline: str, threshold: float, delta: float,
         latencies: Sequence[float]) -> dict[str, Table]:
    """All tables of one file.

    Args:
        judged: test splits by name.
        headline: the split that reliability, confusion and curve show.
        threshold: the card's `escalate`.
        delta: level of the one-sided upper limit per domain.
        latencies: seconds per verdict; empty when the file was not run.
    """
    one = judged[headline]
    return {"reliability": _reliability(one), "confusion": _confusion(one), "far_allow": _far_allow(one, threshold),
            "domains": _domains(judged, delta), "latency": _latency(latencies)}


def to_csv(columns: Sequence[str], rows: Table) -> str:
    """CSV text; floats with six significant digits after the point, null as an empty cell."""
    return csv_text(columns, ({k: round(v, 6) if isinstance(v, float) else v for k, v in row.items()} for row in rows))


def write(folder: Path, tables: dict[str, Table]) -> None:
    """Replace `folder` by one CSV file per table."""
    with atomic_dir(folder) as temporary:
        for name, rows in tables.items():
            (temporary / f"{name}.csv").write_text(to_csv(COLUMNS[name], rows), encoding="utf-8", newline="\n")
