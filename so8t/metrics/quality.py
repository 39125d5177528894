"""Quality of probabilities: NLL, Brier, ECE with the value a perfect model would show, reliability tables.

Binned ECE is biased upwards: a perfectly calibrated model shows about 0.08 at 100 rows. So `ece_null` gives the mean
and the 95 % quantile under perfect calibration, and an ECE is only worth a remark above that quantile.
Rows must be finite; the caller counts the others as unparsed.

Quality of three-way decisions; every rate names its denominator.

false-allow rate = P(decide ALLOW | truth is ESCALATE or DENY); origin divided by all rows, which hides it.
Codes: ALLOW 0, ESCALATE 1, DENY 2, as in `so8t.verdict.VERDICTS`.
"""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from so8t.metrics.intervals import Rate, rate
from so8t.verdict import VERDICTS, Verdict

BINS = 15
Scheme = Literal["width", "mass"]


def softmax(logits: Float[ndarray, "n k"], temperature: float = 1.0) -> Float[ndarray, "n k"]:
    """softmax(logits / temperature) in float64; a row that is not finite becomes NaN, any other has probabilities.

    The only softmax of verdicts: thresholds are observed values, so calibrating and serving must agree to the bit.
    """
    rows = np.asarray(logits, dtype=np.float64)
    finite = np.isfinite(rows).all(axis=-1, keepdims=True)
    rows = np.where(finite, rows, 0.0)
    with np.errstate(over="ignore"):  # a difference beyond float64 is -inf, whose exponential is 0
        raised = np.exp((rows - rows.max(axis=-1, keepdims=True)) / temperature)
    return np.where(finite, raised / raised.sum(axis=-1, keepdims=True), np.nan)


def log_loss(probabilities: Float[ndarray, "n k"], gold: Int[ndarray, " n"]) -> float:
    """Mean negative log-likelihood of the gold class, in nats (a probability of 0 counts as the smallest float)."""
    if len(gold) == 0:
        return float("nan")
    return float(
        -np.log(
            np.maximum(probabilities[np.arange(len(gold)), gold], np.finfo(np.float64).tiny)
        ).mean()
    )


def brier_rows(
    probabilities: Float[ndarray, "n k"], gold: Int[ndarray, " n"]
) -> Float[ndarray, " n"]:
    """Squared distance of each row from its one-hot gold, 0 to 2."""
    return np.asarray(np.square(probabilities - np.eye(probabilities.shape[1])[gold]).sum(axis=1))


def brier(probabilities: Float[ndarray, "n k"], gold: Int[ndarray, " n"]) -> float:
    """Multiclass Brier score on the scale 0 to 2 (scikit-learn's `scale_by_half=False`)."""
    return float(brier_rows(probabilities, gold).mean()) if len(gold) else float("nan")


def bin_index(
    confidence: Float[ndarray, " n"], scheme: Scheme, bins: int = BINS
) -> Int[ndarray, " n"]:
    """Bin of each confidence: (0, 1/bins], ... for `width`; equally filled in order of confidence for `mass`."""
    if scheme == "width":
        return np.asarray(np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1))
    index = np.empty(len(confidence), dtype=np.int64)
    index[np.argsort(confidence, kind="stable")] = (
        np.arange(len(confidence)) * bins // max(len(confidence), 1)
    )
    return index


def ece_gaps(
    probabilities: Float[ndarray, "n k"], gold: Int[ndarray, " n"], scheme: Scheme, bins: int = BINS
) -> Float[ndarray, "n bins"]:
    """(correct - confidence) of each row in the column of its bin; ECE = sum |column sums| / n."""
    confidence, correct = probabilities.max(axis=1), probabilities.argmax(axis=1) == gold
    gaps = np.zeros((len(gold), bins))
    gaps[np.arange(len(gold)), bin_index(confidence, scheme, bins)] = correct - confidence
    return gaps


def ece(
    probabilities: Float[ndarray, "n k"],
    gold: Int[ndarray, " n"],
    scheme: Scheme = "width",
    bins: int = BINS,
) -> float:
    """Expected calibration error of the top class; equal-width bins unless `mass`."""
    if len(gold) == 0:
        return float("nan")
    return float(np.abs(ece_gaps(probabilities, gold, scheme, bins).sum(axis=0)).sum() / len(gold))


def ece_null(
    probabilities: Float[ndarray, "n k"],
    *,
    draws: int,
    seed: int,
    scheme: Scheme = "width",
    bins: int = BINS,
) -> dict[str, float | None]:
    """ECE of a model that is perfectly calibrated with these probabilities: mean and 95 % quantile over draws."""
    if len(probabilities) == 0:
        return {"mean": None, "q95": None}
    rng, confidence = np.random.default_rng(seed), probabilities.max(axis=1)
    members = np.zeros((len(confidence), bins))
    members[np.arange(len(confidence)), bin_index(confidence, scheme, bins)] = 1.0
    values = [
        float(
            np.abs(((rng.random(len(confidence)) < confidence) - confidence) @ members).sum()
            / len(confidence)
        )
        for _ in range(draws)
    ]
    return {"mean": float(np.mean(values)), "q95": float(np.quantile(values, 0.95))}


def reliability(
    probabilities: Float[ndarray, "n k"],
    gold: Int[ndarray, " n"],
    scheme: Scheme = "mass",
    bins: int = BINS,
) -> list[dict[str, Any]]:
    """Rows of a reliability diagram: {"bin", "n", "confidence", "accuracy"}, empty bins left out."""
    confidence, correct = probabilities.max(axis=1), probabilities.argmax(axis=1) == gold
    index, table = bin_index(confidence, scheme, bins), []
    for number in range(bins):
        inside = index == number
        if inside.any():
            table.append(
                {
                    "bin": number,
                    "n": int(inside.sum()),
                    "confidence": float(confidence[inside].mean()),
                    "accuracy": float(correct[inside].mean()),
                }
            )
    return table


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
