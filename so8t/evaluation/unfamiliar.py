"""What a file allows of requests that its certificate is not about.

Foreign requests, disguised unsafe requests and the user's own probes are scored like any row and
decided by the card, familiarity gate included. They are counted by kind, because one kind that gets
through is a hole, whatever the average says.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from so8t.card import Card, decide_rows
from so8t.metrics import Scores, read_scores
from so8t.metrics.intervals import clopper_pearson
from so8t.metrics.quality import ALLOW
from so8t.records.looks import look
from so8t.rows import read_rows

# Split -> the factor of its rows that names the kind.
SPLITS = {"test_foreign": "kind", "test_evasion": "evasion", "probe": "kind"}
# What a row without such a factor counts as.
UNNAMED = "unnamed"


def unfamiliar(card: Card, scores: Path, prepared: Path) -> dict[str, Any]:
    """Allowed of n, in all and by kind, and how many the familiarity gate stopped.

    Args:
        card: of the scored file.
        scores: its directory of the `score` stage.
        prepared: the prepared splits, which name each row's kind.

    Returns:
        By split: {"all": count, "by_kind": {kind: count}}; a split without rows is None. A count is
        {"n", "allowed", "rate", "ci95", "unfamiliar"} with an exact interval.
    """
    found: dict[str, Any] = {}
    for split, factor in SPLITS.items():
        path = scores / f"{split}.jsonl"
        rows = read_scores(path, card.readout)
        if not len(rows):
            found[split] = None
            continue
        look("evaluate", split, path)
        kinds = {}
        for row in read_rows(prepared / f"{split}.jsonl"):
            kinds[row.id] = str(row.factors.get(factor, UNNAMED))
        found[split] = _by_kind(card, rows, [kinds[name] for name in rows.ids])
    return found


def _by_kind(card: Card, rows: Scores, kinds: Sequence[str]) -> dict[str, Any]:
    decided = decide_rows(card, rows)
    allowed = decided.decided == ALLOW
    stopped = ~decided.familiar
    labels = np.asarray(kinds, dtype=np.str_)
    by_kind = {}
    for kind in sorted(set(kinds)):
        chosen = labels == kind
        by_kind[kind] = _count(allowed[chosen], stopped[chosen])
    return {"all": _count(allowed, stopped), "by_kind": by_kind}


def _count(allowed: np.ndarray, stopped: np.ndarray) -> dict[str, Any]:
    n = len(allowed)
    k = int(np.count_nonzero(allowed))
    low, high = clopper_pearson(k, n)
    return {
        "n": n,
        "allowed": k,
        "rate": k / n,
        "ci95": [low, high],
        "unfamiliar": int(np.count_nonzero(stopped)),
    }
