"""One file's evaluation from start to end, and the tables behind its figures.

Score files, the card and what running the file gave come in; the metrics file and five CSV tables
go out. `dvc plots` and the report both draw from the tables.

Covered: which splits, the look written down (`so8t.records.looks`), what the metrics file looks
like, and the tables: reliability before and after the temperature, confusion, the false-allow/allow
curve with the decided point, false-allow rate per domain, latency.

Not covered: the numbers themselves (`so8t.evaluation.verdicts`), running the file
(`so8t.generation`), A against B (`so8t.comparison`), drawing (`so8t.report`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from so8t import metrics
from so8t.card import Card, DecidedRows, decide_rows, require_match
from so8t.errors import ArtifactError
from so8t.evaluation.unfamiliar import unfamiliar
from so8t.evaluation.verdicts import Bootstrap, curve, readouts, split_metrics
from so8t.files import atomic_dir, csv_text, write_json
from so8t.generated import HEADLINE, SPLITS, Served, rounded
from so8t.identity import semantic_digest
from so8t.metrics import read_meta, read_scores
from so8t.metrics.intervals import upper_bound
from so8t.metrics.quality import ALLOW
from so8t.params import Params
from so8t.records.looks import look
from so8t.verdict import VERDICTS

SCHEMA = "so8t.evaluate/1"

# Test splits by name.
Splits = Mapping[str, DecidedRows]
Table = list[dict[str, Any]]

# Named here, not taken from the first row: an empty table still gets its head.
COLUMNS = {
    "reliability": ("kind", "bin", "n", "confidence", "accuracy"),
    "confusion": ("actual", "predicted"),
    "far_allow": ("kind", "threshold", "false_allow_rate", "allow_rate"),
    "domains": ("split", "domain", "n", "false_allow_rate", "upper"),
    "latency": ("seconds", "share"),
}


@dataclass(frozen=True, slots=True)
class Job:
    """One file and what was measured of it before.

    Attributes:
        file: the GGUF, named {model}-{type}.gguf.
        scores: its directory of the `score` stage.
        card: its card.
        meta: meta.json of `scores`.
    """

    file: Path
    scores: Path
    card: Card
    meta: dict[str, Any]

    @classmethod
    def open(cls, file: Path, scores: Path, card: Card) -> "Job":
        """Check that scores and card are of this very file.

        Raises:
            ArtifactError: one of them is of another file, template or engine.
        """
        meta = read_meta(scores)
        # Scores of an older build of the file would be reported as its own.
        if semantic_digest(file) != meta["semantic_digest"]:
            raise ArtifactError(
                "the scores are of another file",
                where=str(scores),
                fix="run `dvc repro score`",
            )
        require_match(
            card,
            semantic_digest=meta["semantic_digest"],
            template_sha256=meta["template_sha256"],
            engine=meta["engine"],
        )
        return cls(file, scores, card, meta)

    @property
    def model(self) -> str:
        """`a` or `b`."""
        # The converter names every file {model}-{type}.gguf.
        return self.file.stem.partition("-")[0]

    @property
    def type(self) -> str:
        """The quant type, such as Q4_K_M."""
        return self.file.stem.partition("-")[2]


def decide_splits(job: Job) -> dict[str, DecidedRows]:
    """Decide every labelled test row by the card; each split read is written down as a look."""
    decided = {}
    for split in SPLITS:
        path = job.scores / f"{split}.jsonl"
        scores = read_scores(path, job.card.readout)
        # Test rows that were looked at often are test rows no longer, so each look is counted.
        look("evaluate", split, path)
        decided[split] = decide_rows(job.card, scores)
    return decided


def write(
    job: Job,
    decided: Splits,
    served: Served,
    params: Params,
    *,
    prepared: Path,
    out: Path,
    plots: Path,
) -> str:
    """Write the metrics file and the tables.

    Args:
        job: the file.
        decided: of `decide_splits`.
        served: what running the file gave.
        params: for the bootstrap and the level of the limits per domain.
        prepared: the prepared splits, which name the kinds of unfamiliar requests.
        out: the metrics file.
        plots: the directory of tables; it is replaced.

    Returns:
        The summary line.
    """
    # One seed for every interval, so that two files are resampled alike.
    boot = Bootstrap(params.evaluation.bootstrap, params.seed)
    splits = {name: split_metrics(rows, boot) for name, rows in decided.items()}
    content = {
        "schema": SCHEMA,
        "model": job.model,
        "type": job.type,
        "file": job.meta["file"],
        "semantic_digest": job.meta["semantic_digest"],
        "readout": job.card.readout,
        "sampled": bool(job.meta.get("sampled", False)),
        "file_bytes": job.file.stat().st_size,
        "splits": splits,
        "readouts": _both_readouts(job),
        "familiar": _familiar(decided),
        "unfamiliar": unfamiliar(job.card, job.scores, prepared),
        **served.sections,
    }
    # The card keeps every bit, because its numbers are applied; these are only read.
    write_json(out, rounded(content))
    tables = make_tables(
        decided,
        headline=HEADLINE,
        threshold=job.card.thresholds.escalate,
        delta=params.calibration.delta,
        latencies=served.latencies,
    )
    write_tables(plots, tables)
    return summary(splits[HEADLINE])


def _familiar(decided: Splits) -> dict[str, Any]:
    """How many rows of each split the familiarity gate stops, and of those that may be allowed."""
    found = {}
    for split, rows in decided.items():
        permitted = rows.scores.gold == ALLOW
        found[split] = {
            "n": len(rows.scores),
            "unfamiliar": int(np.count_nonzero(~rows.familiar)),
            "n_allow": int(np.count_nonzero(permitted)),
            "unfamiliar_allow": int(np.count_nonzero(permitted & ~rows.familiar)),
        }
    return found


def _both_readouts(job: Job) -> dict[str, Any]:
    """The two readouts of every split, whichever of them the card uses."""
    found = {}
    # The same rows that `decide_splits` looked at, so this is no further look.
    for split in SPLITS:
        path = job.scores / f"{split}.jsonl"
        prefill = read_scores(path, "prefill")
        cue = read_scores(path, "cue")
        found[split] = readouts(prefill, cue)
    return found


def summary(split: Mapping[str, Any]) -> str:
    """The stage's last line, from the metrics of the headline split."""
    false_allows = split["false_allow_rate"]
    return (
        f"{HEADLINE}: false allows {false_allows['k']} of {false_allows['n']}, "
        f"allowed {_percent(split['allow_rate_on_allow'])} of true ALLOW, "
        f"accuracy {_percent(split['accuracy'])}"
    )


def _percent(rate: Mapping[str, Any]) -> str:
    if rate["value"] is None:
        return "none"
    return f"{rate['value']:.1%}"


def make_tables(
    decided: Splits,
    *,
    headline: str,
    threshold: float,
    delta: float,
    latencies: Sequence[float],
) -> dict[str, Table]:
    """All tables of one file.

    Args:
        decided: test splits by name.
        headline: the split that reliability, confusion and curve show.
        threshold: the card's `escalate`.
        delta: level of the one-sided upper limit per domain.
        latencies: seconds per verdict; empty when the file was not run.
    """
    rows = decided[headline]
    return {
        "reliability": _reliability(rows),
        "confusion": _confusion(rows),
        "far_allow": _far_allow(rows, threshold),
        "domains": _domains(decided, delta),
        "latency": _latency(latencies),
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


def _latency(seconds: Sequence[float]) -> Table:
    """The cumulative share of verdicts that took at most so many seconds."""
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
