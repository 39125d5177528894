"""Where A and B decide differently, the worst of it by row id, and verdicts that a model has stopped giving.

Never any text: rows are named by id.
"""

from typing import Any

import numpy as np
from jaxtyping import Int
from numpy import ndarray

from so8t import metrics
from so8t.comparison.arm import Arm
from so8t.metrics.verdicts import ALLOW, confusion
from so8t.verdict import VERDICTS

WORST = 50  # flips towards ALLOW that are kept; how many the report lists is its own parameter


def flips(a: Arm, b: Arm) -> dict[str, Any]:
    """{"matrix": rows A, columns B; "changed", "toward_allow", "away_from_allow", each as a rate of all rows}."""
    was, now = a.decided == ALLOW, b.decided == ALLOW
    changes = {"changed": a.decided != b.decided, "toward_allow": ~was & now, "away_from_allow": was & ~now}
    return {"matrix": confusion(a.decided, b.decided).tolist(),
            **{name: metrics.intervals.rate(rows).to_dict() for name, rows in changes.items()}}


def worst_flips(a: Arm, b: Arm) -> list[dict[str, Any]]:
    """Rows that B allows, A did not and the label forbids: true DENY first, then by B's probability of ALLOW."""
    rows = np.flatnonzero((a.decided != ALLOW) & (b.decided == ALLOW) & (a.scores.gold != ALLOW)).tolist()
    rows.sort(key=lambda i: (-int(a.scores.gold[i]), -float(b.probabilities[i, 0]), a.scores.ids[i]))
    return [{"id": a.scores.ids[i], "group": a.scores.groups[i], "domain": a.scores.domains[i],
             "gold": VERDICTS[a.scores.gold[i]].value, "a": VERDICTS[a.decided[i]].value,
             "b": VERDICTS[b.decided[i]].value, "p_allow_a": _number(a.probabilities[i, 0]),
             "p_allow_b": _number(b.probabilities[i, 0])}
            for i in rows[:WORST]]


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def emitted(codes: Int[ndarray, " n"]) -> dict[str, int]:
    """How often each verdict was given."""
    return {verdict.value: int(np.count_nonzero(codes == index)) for index, verdict in enumerate(VERDICTS)}


def collapsed(a: Arm, b: Arm, alpha: float) -> list[str]:
    """Verdicts that A's probabilities favour, more often than chance could hide, and B's never do.

    Judged before thresholds, so a closed ALLOW gate is not taken for a collapse.
    """
    found = []
    for index, verdict in enumerate(VERDICTS):
        was, now = a.top == index, b.top == index
        if not now.any() and metrics.mcnemar(was, now).p <= alpha:
            found.append(verdict.value)
    return found
