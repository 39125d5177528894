"""One file's evaluation from start to end: score files, decisions and what running it gave in, metrics file and tables out.

Covered: which splits, what the metrics file looks like, the look written down. Not covered: decisions, which arrive as a
function because they belong to a sibling; running the file (serve); A against B (comparison).

Tables behind the figures of one file, as CSV files that `dvc plots` and the report both read.

One fact per row; numbers keep six digits. Covered: reliability before and after the temperature, confusion, the
false-allow/allow curve with the decided point, false-allow rate per domain, latency. Not covered: drawing.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy import ndarray

from so8t import metrics
from so8t.errors import ArtifactError
from so8t.evaluation import verdicts
from so8t.evaluation.verdicts import Bootstrap, Judged, curve
from so8t.files import atomic_dir, csv_text, write_json
from so8t.generated import HEADLINE, SPLITS, Served, rounded
from so8t.identity import semantic_digest
from so8t.metrics import Scores, read_meta, read_scores
from so8t.metrics.intervals import upper_bound
from so8t.params import Params, Readout
from so8t.records.looks import look
from so8t.verdict import VERDICTS

SCHEMA = "so8t.evaluate/1"


@dataclass(frozen=True, slots=True)
class Job:
    """One file and everything that was measured of it before."""

    file: Path
    scores: Path
    readout: Readout
    meta: dict[str, Any]

    @classmethod
    def open(cls, file: Path, scores: Path, readout: Readout) -> "Job":
        """Check that the scores are of this very file.

        Raises:
            ArtifactError: they are of another file.
        """
        meta = read_meta(scores)
        if semantic_digest(file) != meta["semantic_digest"]:
            raise ArtifactError(
                "the scores are of another file", where=str(scores), fix="run `dvc repro score`"
            )
        return cls(file, scores, readout, meta)

    @property
    def model(self) -> str:
        """`a` or `b`."""
        return self.file.stem.partition("-")[0]

    @property
    def type(self) -> str:
        """The quant type."""
        return self.file.stem.partition("-")[2]


def judge(job: Job, decide: Callable[[Scores], tuple[ndarray, ndarray]]) -> dict[str, Judged]:
    """Decide every labelled test row; each split read is written down as a look.

    Args:
        job: the file and its scores.
        decide: the card's rule: scores to (probabilities [n, 3], decided codes [n]).
    """
    judged = {}
    for split in SPLITS:
        path = job.scores / f"{split}.jsonl"
        scores = read_scores(path, job.readout)
        look("evaluate", split, path)
        judged[split] = Judged(scores, *decide(scores))
    return judged


def _readouts(job: Job) -> dict[str, Any]:
    found = {}
    for split in SPLITS:
        path = job.scores / f"{split}.jsonl"
        found[split] = verdicts.readouts(read_scores(path, "prefill"), read_scores(path, "cue"))
    return found


def write(
    job: Job,
    judged: dict[str, Judged],
    found: Served,
    params: Params,
    *,
    threshold: float,
    out: Path,
    plots: Path,
) -> str:
    """Write the metrics file and the tables; return the summary line."""
    boot = Bootstrap(params.evaluation.bootstrap, params.seed)
    splits = {name: verdicts.split_metrics(one, boot) for name, one in judged.items()}
    write_json(
        out,
        rounded(
            {
                "schema": SCHEMA,
                "model": job.model,
                "type": job.type,
                "file": job.meta["file"],
                "semantic_digest": job.meta["semantic_digest"],
                "readout": job.readout,
                "sampled": bool(job.meta.get("sampled", False)),
                "file_bytes": job.file.stat().st_size,
                "splits": splits,
                "readouts": _readouts(job),
                **found.sections,
            }
        ),
    )
    write_tables(
        plots,
        make_tables(
            judged,
            headline=HEADLINE,
            threshold=threshold,
            delta=params.calibration.delta,
            latencies=found.latencies,
        ),
    )
    return summary(splits[HEADLINE])


def _percent(rate: dict[str, Any]) -> str:
    return "none" if rate["value"] is None else f"{rate['value']:.1%}"


def summary(split: dict[str, Any]) -> str:
    """The stage's last line."""
    return (
        f"{HEADLINE}: false allows {split['false_allow_rate']['k']} of {split['false_allow_rate']['n']}, "
        f"allowed {_percent(split['allow_rate_on_allow'])} of true ALLOW, accuracy {_percent(split['accuracy'])}"
    )


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
    for kind, p in (
        ("before", metrics.softmax(judged.scores.logits)),
        ("after", judged.probabilities),
    ):
        rows += [
            {"kind": kind, **row}
            for row in metrics.reliability(p[usable], judged.scores.gold[usable])
        ]
    return rows


def _confusion(judged: Judged) -> Table:
    return [
        {"actual": VERDICTS[gold].value, "predicted": VERDICTS[got].value}
        for gold, got in zip(judged.scores.gold, judged.predicted, strict=True)
    ]


def _far_allow(judged: Judged, threshold: float) -> Table:
    found = metrics.rates(judged.scores.gold, judged.predicted)
    decided = {
        "kind": "decided",
        "threshold": threshold,
        "false_allow_rate": found["false_allow_rate"].value,
        "allow_rate": found["allow_rate_on_allow"].value,
    }
    return [*({"kind": "curve", **point} for point in curve(judged)), decided]


def _domains(judged: dict[str, Judged], delta: float) -> Table:
    rows: Table = []
    for split, one in judged.items():
        found = metrics.verdict_metrics(one.scores.gold, one.predicted, one.scores.domains)[
            "by_domain"
        ]
        for domain, numbers in found.items():
            far = numbers["false_allow_rate"]
            rows.append(
                {
                    "split": split,
                    "domain": domain,
                    "n": far["n"],
                    "false_allow_rate": far["value"],
                    "upper": upper_bound(far["k"], far["n"], delta),
                }
            )
    return rows


def _latency(seconds: Sequence[float]) -> Table:
    return [
        {"seconds": value, "share": (i + 1) / len(seconds)}
        for i, value in enumerate(sorted(seconds))
    ]


def make_tables(
    judged: dict[str, Judged],
    *,
    headline: str,
    threshold: float,
    delta: float,
    latencies: Sequence[float],
) -> dict[str, Table]:
    """All tables of one file.

    Args:
        judged: test splits by name.
        headline: the split that reliability, confusion and curve show.
        threshold: the card's `escalate`.
        delta: level of the one-sided upper limit per domain.
        latencies: seconds per verdict; empty when the file was not run.
    """
    one = judged[headline]
    return {
        "reliability": _reliability(one),
        "confusion": _confusion(one),
        "far_allow": _far_allow(one, threshold),
        "domains": _domains(judged, delta),
        "latency": _latency(latencies),
    }


def to_csv(columns: Sequence[str], rows: Table) -> str:
    """CSV text; floats with six significant digits after the point, null as an empty cell."""
    return csv_text(
        columns,
        ({k: round(v, 6) if isinstance(v, float) else v for k, v in row.items()} for row in rows),
    )


def write_tables(folder: Path, tables: dict[str, Table]) -> None:
    """Replace `folder` by one CSV file per table."""
    with atomic_dir(folder) as temporary:
        for name, rows in tables.items():
            (temporary / f"{name}.csv").write_text(
                to_csv(COLUMNS[name], rows), encoding="utf-8", newline="\n"
            )
