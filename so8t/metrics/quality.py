"""How good probabilities and three-way decisions are; every rate names its denominator.

False-allow rate = P(decide ALLOW | the truth is ESCALATE or DENY). Dividing by all rows instead
would hide it behind the many rows that may be allowed.

Verdicts are codes in order of severity, as in `so8t.verdict.VERDICTS`: ALLOW 0, ESCALATE 1, DENY 2.
"""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray

from so8t.metrics.intervals import Rate, rate
from so8t.verdict import VERDICTS, Verdict

# Bins of confidence in calibration errors and reliability diagrams.
BINS = 15
# How bins are cut: of equal width, or holding equally many rows.
Scheme = Literal["width", "mass"]
# A verdict code for each row.
Codes = Int[ndarray, " n"]
# A distribution over k classes for each row.
Probabilities = Float[ndarray, "n k"]
# One number for each row.
PerRow = Float[ndarray, " n"]
# Codes in the order of VERDICTS.
ALLOW, ESCALATE, DENY = range(3)
# Rates that are also reported for each domain.
PER_DOMAIN = ("false_allow_rate", "allow_rate_on_allow", "accuracy")


def softmax(logits: Probabilities, temperature: float = 1.0) -> Probabilities:
    """softmax(logits / temperature) in float64; a row that is not finite becomes NaN.

    This is the only softmax of verdicts: thresholds are observed values, so that calibrating and
    serving must agree to the bit.
    """
    rows = np.asarray(logits, dtype=np.float64)
    finite = np.isfinite(rows).all(axis=-1, keepdims=True)
    # Zeros in place of such rows, so that no warning comes of them; NaN follows at the end.
    rows = np.where(finite, rows, 0.0)
    # A difference beyond float64 becomes -inf, whose exponential is 0: that is right.
    with np.errstate(over="ignore"):
        below_largest = rows - rows.max(axis=-1, keepdims=True)
        raised = np.exp(below_largest / temperature)
    total = raised.sum(axis=-1, keepdims=True)
    return np.where(finite, raised / total, np.nan)


def log_loss(probabilities: Probabilities, gold: Codes) -> float:
    """Mean negative log-likelihood of the gold class, in nats; NaN for no rows.

    A probability of 0 counts as the smallest normal float64, so that one row cannot make the mean
    infinite.
    """
    if len(gold) == 0:
        return float("nan")
    every = np.arange(len(gold))
    smallest = np.finfo(np.float64).tiny
    of_gold = np.maximum(probabilities[every, gold], smallest)
    return float(-np.log(of_gold).mean())


def brier_rows(probabilities: Probabilities, gold: Codes) -> PerRow:
    """Squared distance of each row from its one-hot gold class, 0 to 2."""
    one_hot = np.eye(probabilities.shape[1])[gold]
    distance = np.square(probabilities - one_hot)
    return np.asarray(distance.sum(axis=1))


def brier(probabilities: Probabilities, gold: Codes) -> float:
    """Multiclass Brier score on the scale 0 to 2 (Brier 1950); NaN for no rows.

    It is scikit-learn's `brier_score_loss` with `scale_by_half=False`.
    """
    if len(gold) == 0:
        return float("nan")
    return float(brier_rows(probabilities, gold).mean())


def bin_index(
    confidence: PerRow,
    scheme: Scheme,
    bins: int = BINS,
) -> Codes:
    """Bin of each confidence, from 0.

    `width` cuts (0, 1/bins], (1/bins, 2/bins] and so on; `mass` fills bins equally in order of
    confidence. Rows of equal confidence share the bin of the middle one, so that the order of the
    rows makes no difference.
    """
    if scheme == "width":
        index = np.ceil(confidence * bins).astype(np.int64) - 1
        return np.asarray(np.clip(index, 0, bins - 1))
    count = len(confidence)
    ascending = np.sort(confidence)
    first = np.searchsorted(ascending, confidence, side="left")
    last = np.searchsorted(ascending, confidence, side="right") - 1
    # The middle rank times bins over count, in integers.
    return np.asarray((first + last) * bins // max(2 * count, 1))


def _top(probabilities: Probabilities, gold: Codes) -> tuple[PerRow, Bool[ndarray, " n"]]:
    """Confidence of each row's most likely class, and whether that class is the gold one."""
    return probabilities.max(axis=1), probabilities.argmax(axis=1) == gold


def ece_gaps(
    probabilities: Probabilities,
    gold: Codes,
    scheme: Scheme,
    bins: int = BINS,
) -> Float[ndarray, "n bins"]:
    """(correct - confidence) of each row, in the column of its bin.

    The expected calibration error is sum |column sums| / n; in this form it can be bootstrapped.

    Args:
        probabilities: of each class.
        gold: code of the right class.
        scheme: how bins are cut.
        bins: how many.
    """
    confidence, correct = _top(probabilities, gold)
    gaps = np.zeros((len(gold), bins))
    every = np.arange(len(gold))
    index = bin_index(confidence, scheme, bins)
    gaps[every, index] = correct - confidence
    return gaps


def ece(
    probabilities: Probabilities,
    gold: Codes,
    scheme: Scheme = "width",
    bins: int = BINS,
) -> float:
    """Expected calibration error of the top class (Guo et al. 2017, arXiv 1706.04599).

    It is the mean, over bins of confidence and weighted by their rows, of how far the share of
    right rows is from the mean confidence; 0 to 1, and NaN for no rows.
    """
    if len(gold) == 0:
        return float("nan")
    by_bin = ece_gaps(probabilities, gold, scheme, bins).sum(axis=0)
    return float(np.abs(by_bin).sum() / len(gold))


def ece_null(
    probabilities: Probabilities,
    *,
    draws: int,
    seed: int,
    scheme: Scheme = "width",
    bins: int = BINS,
) -> dict[str, float | None]:
    """ECE of a perfectly calibrated model with these probabilities.

    It is not 0, because a finite sample never fits exactly; a measured ECE means something only
    above it.

    Args:
        probabilities: of the model that is judged.
        draws: how often gold classes are drawn from them.
        seed: of the random generator.
        scheme: how bins are cut.
        bins: how many.

    Returns:
        `mean` and `q95` (the 95 % quantile) over draws of the gold classes; None for no rows.
    """
    count = len(probabilities)
    if count == 0:
        return {"mean": None, "q95": None}
    rng = np.random.default_rng(seed)
    confidence = probabilities.max(axis=1)
    # Which row is in which bin does not change between draws; only what is right does.
    members = np.zeros((count, bins))
    every = np.arange(count)
    index = bin_index(confidence, scheme, bins)
    members[every, index] = 1.0
    values = []
    for _ in range(draws):
        correct = rng.random(count) < confidence
        by_bin = (correct - confidence) @ members
        error = np.abs(by_bin).sum() / count
        values.append(float(error))
    return {
        "mean": float(np.mean(values)),
        "q95": float(np.quantile(values, 0.95)),
    }


def reliability(
    probabilities: Probabilities,
    gold: Codes,
    scheme: Scheme = "mass",
    bins: int = BINS,
) -> list[dict[str, Any]]:
    """Rows of a reliability diagram: {"bin", "n", "confidence", "accuracy"}, without empty bins."""
    confidence, correct = _top(probabilities, gold)
    index = bin_index(confidence, scheme, bins)
    table = []
    for number in range(bins):
        inside = index == number
        # An empty bin has no mean.
        if not inside.any():
            continue
        table.append(
            {
                "bin": number,
                "n": int(inside.sum()),
                "confidence": float(confidence[inside].mean()),
                "accuracy": float(correct[inside].mean()),
            }
        )
    return table


def codes(verdicts: Sequence[Verdict]) -> Codes:
    """Verdicts as integers in order of severity."""
    return np.asarray([VERDICTS.index(verdict) for verdict in verdicts], dtype=np.int64)


def _cell_numbers(gold: Codes, predicted: Codes) -> Codes:
    """Place of each row in the flattened confusion matrix, gold-major."""
    # int64: an empty list would otherwise become float64, which cannot index.
    wide = np.asarray(gold, dtype=np.int64)
    return np.asarray(wide * 3 + predicted)


def cells(gold: Codes, predicted: Codes) -> Float[ndarray, "n 9"]:
    """One-hot of (gold, predicted) per row, gold-major; column sums are the confusion matrix."""
    one_hot = np.eye(9)[_cell_numbers(gold, predicted)]
    return np.asarray(one_hot.reshape(-1, 9))


def confusion(gold: Codes, predicted: Codes) -> Int[ndarray, "3 3"]:
    """Counts, rows = gold, columns = predicted."""
    return np.bincount(_cell_numbers(gold, predicted), minlength=9).reshape(3, 3)


def accuracy(gold: Codes, predicted: Codes) -> Rate:
    """Share of rows decided as labelled."""
    return rate(np.asarray(gold) == np.asarray(predicted))


def macro_f1_of(counts: Float[ndarray, "draws 9"]) -> Float[ndarray, " draws"]:
    """Macro-F1 of flattened confusion matrices, gold-major.

    The mean is over the classes that occur in gold or predicted; NaN when none does.
    """
    matrix = np.asarray(counts, dtype=np.float64).reshape(-1, 3, 3)
    hits = np.einsum("kii->ki", matrix)
    # F1 = 2 hits / (gold + predicted).
    total = matrix.sum(axis=1) + matrix.sum(axis=2)
    with np.errstate(invalid="ignore", divide="ignore"):
        occurs = total > 0
        f1 = np.where(occurs, 2.0 * hits / total, 0.0)
        classes = occurs.sum(axis=1)
        return np.asarray(f1.sum(axis=1) / classes)


def macro_f1(gold: Codes, predicted: Codes) -> float:
    """Mean F1 over the classes that occur; NaN for no rows."""
    counts = confusion(gold, predicted).reshape(1, 9)
    values = macro_f1_of(counts.astype(np.float64))
    return float(values[0])


def per_class(gold: Codes, predicted: Codes) -> dict[str, dict[str, Any]]:
    """Precision, recall and F1 of each verdict, with numerators, denominators and intervals."""
    matrix = confusion(gold, predicted)
    table = {}
    for index, verdict in enumerate(VERDICTS):
        is_gold = gold == index
        is_predicted = predicted == index
        hits = int(matrix[index, index])
        of_gold = matrix[index].sum()
        of_predicted = matrix[:, index].sum()
        total = int(of_gold + of_predicted)
        table[verdict.value] = {
            "precision": rate(is_gold[is_predicted]).to_dict(),
            "recall": rate(is_predicted[is_gold]).to_dict(),
            "f1": 2.0 * hits / total if total else None,
        }
    return table


def rates(gold: Codes, predicted: Codes) -> dict[str, Rate]:
    """Every rate of a decision; the condition is in the comment above it."""
    allow = predicted == ALLOW
    deny = predicted == DENY
    safe = gold == ALLOW
    return {
        "accuracy": accuracy(gold, predicted),
        # Decided ALLOW, given gold ESCALATE or DENY.
        "false_allow_rate": rate(allow[~safe]),
        # Decided ALLOW, given gold DENY.
        "false_allow_rate_deny_only": rate(allow[gold == DENY]),
        # Decided DENY, given gold ALLOW.
        "false_deny_rate": rate(deny[safe]),
        # Decided ALLOW, given gold ALLOW: how useful the model is.
        "allow_rate_on_allow": rate(allow[safe]),
        # Decided ESCALATE, of all rows.
        "escalation_rate": rate(predicted == ESCALATE),
    }


def verdict_metrics(
    gold: Codes,
    predicted: Codes,
    domains: Sequence[str],
) -> dict[str, Any]:
    """All decision metrics of one set of rows as JSON, with the main rates of each domain.

    Args:
        gold: codes of the labels.
        predicted: codes of the decisions.
        domains: domain of each row.
    """
    names = np.asarray(domains, dtype=np.str_)
    by_domain: dict[str, Any] = {}
    for name in sorted(set(domains)):
        inside = names == name
        found = rates(gold[inside], predicted[inside])
        by_domain[name] = {key: found[key].to_dict() for key in PER_DOMAIN}
    f1 = macro_f1(gold, predicted)
    # NaN is no JSON: without rows macro-F1 becomes null.
    overall = {}
    for key, value in rates(gold, predicted).items():
        overall[key] = value.to_dict()
    return {
        "n": len(gold),
        **overall,
        "macro_f1": None if np.isnan(f1) else f1,
        "per_class": per_class(gold, predicted),
        "confusion": confusion(gold, predicted).tolist(),
        "by_domain": by_domain,
    }
