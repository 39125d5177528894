"""One file's evaluation from start to end.

Score files, the card and what running the file gave come in; the metrics file and its CSV tables go
out. They are the same on every machine: times are written apart (`so8t.evaluation.speed`).

Covered: which splits, the look written down (`so8t.records.looks`), what the metrics file looks
like.

Not covered: the numbers themselves (`so8t.evaluation.verdicts`), the tables
(`so8t.evaluation.tables`), running the file (`so8t.generation`), A against B (`so8t.comparison`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from so8t.card import Card, DecidedRows, decide_rows, require_match
from so8t.errors import ArtifactError
from so8t.evaluation.tables import Splits, make_tables, write_tables
from so8t.evaluation.unfamiliar import unfamiliar
from so8t.evaluation.verdicts import Bootstrap, readouts, split_metrics
from so8t.files import write_json
from so8t.generated import HEADLINE, SPLITS, Generated, rounded
from so8t.identity import semantic_digest
from so8t.metrics import Scores, read_meta, read_scores
from so8t.metrics.quality import ALLOW
from so8t.params import Params
from so8t.records.looks import look

SCHEMA = "so8t.evaluate/1"
# Beside the test splits: what the familiarity limit was made of, and what it must stop.
FAMILIARITY_SPLITS = ("calibration", "test_foreign")


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
    def identity(self) -> dict[str, Any]:
        """What every metrics file says first: which file it is about."""
        return {
            "model": self.model,
            "type": self.type,
            "file": self.meta["file"],
            "semantic_digest": self.meta["semantic_digest"],
        }

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
    generated: Generated,
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
        generated: what running the file gave.
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
        **job.identity,
        "readout": job.card.readout,
        "sampled": bool(job.meta.get("sampled", False)),
        "file_bytes": job.file.stat().st_size,
        "splits": splits,
        "readouts": _both_readouts(job),
        "familiar": _familiar(decided),
        "unfamiliar": unfamiliar(job.card, job.scores, prepared),
        **generated.sections,
    }
    # The card keeps every bit, because its numbers are applied; these are only read.
    write_json(out, rounded(content))
    tables = make_tables(
        decided,
        headline=HEADLINE,
        threshold=job.card.thresholds.escalate,
        delta=params.calibration.delta,
        others=_compared_familiarity(job),
    )
    write_tables(plots, tables)
    return summary(splits[HEADLINE])


def _compared_familiarity(job: Job) -> dict[str, Scores]:
    """Rows whose strangeness is drawn beside that of the test splits."""
    found = {}
    for split in FAMILIARITY_SPLITS:
        path = job.scores / f"{split}.jsonl"
        found[split] = read_scores(path, job.card.readout)
        # `unfamiliar` has written down the look at test_foreign. No label of these rows is used,
        # but they were read.
        if split == "calibration":
            look("evaluate", split, path)
    return found


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
