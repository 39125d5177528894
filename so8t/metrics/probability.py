"""Quality of probabilities: NLL, Brier, ECE with the value a perfect model would show, reliability tables.

Binned ECE is biased upwards: a perfectly calibrated model shows about 0.08 at 100 rows. So `ece_null` gives the mean
and the 95 % quantile under perfect calibration, and an ECE is only worth a remark above that quantile.
Rows must be finite; the caller counts the others as unparsed.
"""

from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

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
    return float(-np.log(np.maximum(probabilities[np.arange(len(gold)), gold], np.finfo(np.float64).tiny)).mean())


def brier_rows(probabilities: Float[ndarray, "n k"], gold: Int[ndarray, " n"]) -> Float[ndarray, " n"]:
    """Squared distance of each row from its one-hot gold, 0 to 2."""
    return np.asarray(np.square(probabilities - np.eye(probabilities.shape[1])[gold]).sum(axis=1))


def brier(probabilities: Float[ndarray, "n k"], gold: Int[ndarray, " n"]) -> float:
    """Multiclass Brier score on the scale 0 to 2 (scikit-learn's `scale_by_half=False`)."""
    return float(brier_rows(probabilities, gold).mean()) if len(gold) else float("nan")


def bin_index(confidence: Float[ndarray, " n"], scheme: Scheme, bins: int = BINS) -> Int[ndarray, " n"]:
    """Bin of each confidence: (0, 1/bins], ... for `width`; equally filled in order of confidence for `mass`."""
    if scheme == "width":
        return np.asarray(np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1))
    index = np.empty(len(confidence), dtype=np.int64)
    index[np.argsort(confidence, kind="stable")] = np.arange(len(confidence)) * bins // max(len(confidence), 1)
    return index


def ece_gaps(probabilities: Float[ndarray, "n k"], gold: Int[ndarray, " n"], scheme: Scheme,
             bins: int = BINS) -> Float[ndarray, "n bins"]:
    """(correct - confidence) of each row in the column of its bin; ECE = sum |column sums| / n."""
    confidence, correct = probabilities.max(axis=1), probabilities.argmax(axis=1) == gold
    gaps = np.zeros((len(gold), bins))
    gaps[np.arange(len(gold)), bin_index(confidence, scheme, bins)] = correct - confidence
    return gaps


def ece(probabilities: Float[ndarray, "n k"], gold: Int[ndarray, " n"], scheme: Scheme = "width",
        bins: int = BINS) -> float:
    """Expected calibration error of the top class; equal-width bins unless `mass`."""
    if len(gold) == 0:
        return float("nan")
    return float(np.abs(ece_gaps(probabilities, gold, scheme, bins).sum(axis=0)).sum() / len(gold))


def ece_null(probabilities: Float[ndarray, "n k"], *, draws: int, seed: int, scheme: Scheme = "width",
             bins: int = BINS) -> dict[str, float | None]:
    """ECE of a model that is perfectly calibrated with these probabilities: mean and 95 % quantile over draws."""
    if len(probabilities) == 0:
        return {"mean": None, "q95": None}
    rng, confidence = np.random.default_rng(seed), probabilities.max(axis=1)
    members = np.zeros((len(confidence), bins))
    members[np.arange(len(confidence)), bin_index(confidence, scheme, bins)] = 1.0
    values = [float(np.abs(((rng.random(len(confidence)) < confidence) - confidence) @ members).sum() / len(confidence))
              for _ in range(draws)]
    return {"mean": float(np.mean(values)), "q95": float(np.quantile(values, 0.95))}


def reliability(probabilities: Float[ndarray, "n k"], gold: Int[ndarray, " n"], scheme: Scheme = "mass",
                bins: int = BINS) -> list[dict[str, Any]]:
    """Rows of a reliability diagram: {"bin", "n", "confidence", "accuracy"}, empty bins left out."""
    confidence, correct = probabilities.max(axis=1), probabilities.argmax(axis=1) == gold
    index, table = bin_index(confidence, scheme, bins), []
    for number in range(bins):
        inside = index == number
        if inside.any():
            table.append({"bin": number, "n": int(inside.sum()), "confidence": float(confidence[inside].mean()),
                          "accuracy": float(correct[inside].mean())})
    return table
