"""One file's evaluation from start to end: score files, decisions and what running it gave in, metrics file and tables out.

Covered: which splits, what the metrics file looks like, the look written down. Not covered: decisions, which arrive as a
function because they belong to a sibling; running the file (serve); A against B (comparison).
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy import ndarray

from so8t.errors import ArtifactError
from so8t.evaluation import tables, verdicts
from so8t.evaluation.served import HEADLINE, SPLITS, Served, rounded
from so8t.evaluation.verdicts import Bootstrap, Judged
from so8t.files import write_json
from so8t.identity import semantic_digest
from so8t.metrics import Scores, read_meta, read_scores
from so8t.params import Params, Readout
from so8t.records.looks import look

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
            raise ArtifactError("the scores are of another file", where=str(scores), fix="run `dvc repro score`")
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


def write(job: Job, judged: dict[str, Judged], found: Served, params: Params, *, threshold: float, out: Path,
          plots: Path) -> str:
    """Write the metrics file and the tables; return the summary line."""
    boot = Bootstrap(params.evaluation.bootstrap, params.seed)
    splits = {name: verdicts.split_metrics(one, boot) for name, one in judged.items()}
    write_json(out, rounded({
        "schema": SCHEMA, "model": job.model, "type": job.type, "file": job.meta["file"],
        "semantic_digest": job.meta["semantic_digest"], "readout": job.readout,
        "sampled": bool(job.meta.get("sampled", False)), "file_bytes": job.file.stat().st_size,
        "splits": splits, "readouts": _readouts(job), **found.sections,
    }))
    tables.write(plots, tables.make(judged, headline=HEADLINE, threshold=threshold, delta=params.calibration.delta,
                                    latencies=found.latencies))
    return summary(splits[HEADLINE])


def _percent(rate: dict[str, Any]) -> str:
    return "none" if rate["value"] is None else f"{rate['value']:.1%}"


def summary(split: dict[str, Any]) -> str:
    """The stage's last line."""
    return (f"{HEADLINE}: false allows {split['false_allow_rate']['k']} of {split['false_allow_rate']['n']}, "
            f"allowed {_percent(split['allow_rate_on_allow'])} of true ALLOW, accuracy {_percent(split['accuracy'])}")
