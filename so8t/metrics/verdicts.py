"""Quality of three-way decisions; every rate names its denominator.

false-allow rate = P(decide ALLOW | truth is ESCALATE or DENY); origin divided by all rows, which hides it.
Codes: ALLOW 0, ESCALATE 1, DENY 2, as in `so8t.verdict.VERDICTS`.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from so8t.metrics.intervals import Rate, rate
from so8t.verdict import VERDICTS, Verdict

ALLOW, ESCALATE, DENY = range(3)
PER_DOMAIN = ("false_allow_rate", "allow_rate_on_allow", "accuracy")
Codes = Int[ndarray, " n"]


def codes(verdicts: Sequence[Verdict]) -> Codes:
    """Verdicts as integers in order of severity."""
    place = {verdict: index for index, verdict in enumerate(VERDICTS)}
    return np.asarray([place[verdict] for verdict in verdicts], dtype=np.int64)


def cells(gold: Codes, predicted: Codes) -> Float[ndarray, "n 9"]:
    """One-hot of (gold, predicted) per row, gold-major; column sums are the confusion matrix."""
    return np.asarray(np.eye(9)[np.asarray(gold, dtype=np.int64) * 3 + predicted].reshape(-1, 9))


def confusion(gold: Codes, predicted: Codes) -> Int[ndarray, "3 3"]:
    """Counts, rows = gold, columns = predicted."""
    return np.bincount(np.asarray(gold, dtype=np.int64) * 3 + predicted, minlength=9).reshape(3, 3)


def accuracy(gold: Codes, predicted: Codes) -> Rate:
    """Share of rows decided as labelled."""
    return rate(np.asarray(gold) == np.asarray(predicted))


def macro_f1_of(counts: Float[ndarray, "draws 9"]) -> Float[ndarray, " draws"]:
    """Macro-F1 of flattened confusion matrices, over the classes that occur in gold or predicted; NaN when none."""
    matrix = np.asarray(counts, dtype=np.float64).reshape(-1, 3, 3)
    hits = np.einsum("kii->ki", matrix)
    total = matrix.sum(axis=1) + matrix.sum(axis=2)
    with np.errstate(invalid="ignore", divide="ignore"):
        f1 = np.where(total > 0, 2.0 * hits / total, 0.0)
        return np.asarray(f1.sum(axis=1) / (total > 0).sum(axis=1))


def macro_f1(gold: Codes, predicted: Codes) -> float:
    """Mean F1 over the classes that occur; NaN for no rows."""
    return float(macro_f1_of(confusion(gold, predicted).reshape(1, 9).astype(np.float64))[0])


def per_class(gold: Codes, predicted: Codes) -> dict[str, dict[str, Any]]:
    """Precision, recall and F1 of each verdict, with numerators, denominators and intervals."""
    matrix, table = confusion(gold, predicted), {}
    for index, verdict in enumerate(VERDICTS):
        total = int(matrix[index].sum() + matrix[:, index].sum())
        table[verdict.value] = {
            "precision": rate((gold == index)[predicted == index]).to_dict(),
            "recall": rate((predicted == index)[gold == index]).to_dict(),
            "f1": 2.0 * int(matrix[index, index]) / total if total else None,
        }
    return table


def rates(gold: Codes, predicted: Codes) -> dict[str, Rate]:
    """Every rate of a decision; the condition is in the comment beside it."""
    allow, deny, safe = predicted == ALLOW, predicted == DENY, gold == ALLOW
    return {
        "accuracy": accuracy(gold, predicted),
        "false_allow_rate": rate(allow[~safe]),  # decided ALLOW, given gold ESCALATE or DENY
        "false_allow_rate_deny_only": rate(allow[gold == DENY]),  # decided ALLOW, given gold DENY
        "false_deny_rate": rate(deny[safe]),  # decided DENY, given gold ALLOW
        "allow_rate_on_allow": rate(allow[safe]),  # decided ALLOW, given gold ALLOW: the usefulness
        "escalation_rate": rate(predicted == ESCALATE),  # of all rows
    }


def verdict_metrics(gold: Codes, predicted: Codes, domains: Sequence[str]) -> dict[str, Any]:
    """All decision metrics of one set of rows as JSON, false-allow rate and usefulness per domain included."""
    names = np.asarray(domains, dtype=np.str_)
    by_domain: dict[str, Any] = {}
    for name in sorted(set(domains)):
        inside = rates(gold[names == name], predicted[names == name])
        by_domain[name] = {key: inside[key].to_dict() for key in PER_DOMAIN}
    f1 = macro_f1(gold, predicted)
    return {
        "n": len(gold),
        **{key: value.to_dict() for key, value in rates(gold, predicted).items()},
        "macro_f1": None if np.isnan(f1) else f1,
        "per_class": per_class(gold, predicted),
        "confusion": confusion(gold, predicted).tolist(),
        "by_domain": by_domain,
    }
