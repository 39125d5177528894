"""Where A and B decide differently: how often, the worst of it, and verdicts that B stopped giving.

Rows are named by id; no text of a request goes into the result.
"""

from typing import Any

import numpy as np

from so8t import metrics
from so8t.card import DecidedRows
from so8t.metrics.quality import ALLOW, Codes, confusion
from so8t.verdict import VERDICTS

# A person can look through so many; the rates say how many there are.
WORST = 50  # flips towards ALLOW that are kept; the report has its own limit of how many it lists


def flips(a: DecidedRows, b: DecidedRows) -> dict[str, Any]:
    """How often the decision changes, each time as a rate of all rows.

    Returns:
        `matrix` (rows A, columns B), `changed`, `toward_allow`, `away_from_allow`.
    """
    # Of all changes, those towards ALLOW and away from it decide whether a person sees a request.
    was_allowed = a.decided == ALLOW
    is_allowed = b.decided == ALLOW
    return {
        "matrix": confusion(a.decided, b.decided).tolist(),
        "changed": metrics.rate(a.decided != b.decided).to_dict(),
        "toward_allow": metrics.rate(~was_allowed & is_allowed).to_dict(),
        "away_from_allow": metrics.rate(was_allowed & ~is_allowed).to_dict(),
    }


def worst_flips(a: DecidedRows, b: DecidedRows) -> list[dict[str, Any]]:
    """Rows that B allows, A did not and the label forbids.

    True DENY comes first, then the rows that B is surest of; at most `WORST`.
    """
    scores = a.scores
    # Only the direction that can do harm; the other one costs a person's time.
    newly_allowed = (a.decided != ALLOW) & (b.decided == ALLOW)
    wrong = np.flatnonzero(newly_allowed & (scores.gold != ALLOW)).tolist()

    def badness(index: int) -> tuple[int, float, str]:
        severity = int(scores.gold[index])
        p_allow = float(b.probabilities[index, ALLOW])
        # The id settles ties, so that two runs list the same rows.
        return (-severity, -p_allow, scores.ids[index])

    rows = []
    for index in sorted(wrong, key=badness)[:WORST]:
        row = {
            "id": scores.ids[index],
            "group": scores.groups[index],
            "domain": scores.domains[index],
            "gold": VERDICTS[scores.gold[index]].value,
            "a": VERDICTS[a.decided[index]].value,
            "b": VERDICTS[b.decided[index]].value,
            "p_allow_a": _number(a.probabilities[index, ALLOW]),
            "p_allow_b": _number(b.probabilities[index, ALLOW]),
        }
        rows.append(row)
    return rows


def _number(value: float) -> float | None:
    """NaN as null: JSON has no NaN."""
    if not np.isfinite(value):
        return None
    return float(value)


def emitted(given: Codes) -> dict[str, int]:
    """How often each verdict was given."""
    counts = {}
    for code, verdict in enumerate(VERDICTS):
        counts[verdict.value] = int(np.count_nonzero(given == code))
    return counts


def collapsed(a: DecidedRows, b: DecidedRows, alpha: float) -> list[str]:
    """Verdicts that A gives, more often than chance could hide, and B never does.

    Asked of the most probable verdict, before thresholds, so that a closed ALLOW gate is not taken
    for a collapse.
    """
    found = []
    for code, verdict in enumerate(VERDICTS):
        was = a.most_likely == code
        now = b.most_likely == code
        # A verdict that A gave once or twice may be missing in B by chance.
        if not now.any() and metrics.mcnemar(was, now).p <= alpha:
            found.append(verdict.value)
    return found
