"""What the card says about the calibration split itself: in-sample numbers, labelled as such, with intervals.

The numbers that count are those of the test splits (evaluate). These show whether the fit is sane.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from so8t import metrics
from so8t.metrics import Scores
from so8t.metrics.intervals import group_bootstrap, group_sums, percentile_interval
from so8t.metrics.quality import BINS, Codes, brier_rows, cells, ece_gaps, macro_f1_of
from so8t.params import Calibration
from so8t.verdict import Thresholds, decide

FOUNDING = Thresholds(
    deny=0.5, escalate=0.7
)  # thresholds of the founding documents, for comparison only
NULL_DRAWS = 500  # draws of the ECE null band


def decided(p: Float[ndarray, "n 3"], thresholds: Thresholds) -> Codes:
    """Verdict codes of probabilities; NaN rows escalate."""
    return metrics.codes(decide(p, thresholds))


def _interval(
    rows: Float[ndarray, "n k"],
    groups: tuple[str, ...],
    statistic: Callable[[ndarray], ndarray],
    limits: Calibration,
    seed: int,
) -> list[float] | None:
    sums = group_sums(rows, groups)
    return percentile_interval(group_bootstrap(sums, statistic, draws=limits.bootstrap, seed=seed))


def _mean(sums: ndarray) -> ndarray:
    return np.asarray(sums[:, 0] / sums[:, -1])


def _ece(sums: ndarray) -> ndarray:
    return np.asarray(np.abs(sums[:, :-1]).sum(axis=1) / sums[:, -1])


def _f1(sums: ndarray) -> ndarray:
    return macro_f1_of(sums[:, :9])


def probability_metrics(
    scores: Scores, p: Float[ndarray, "n 3"], limits: Calibration, seed: int
) -> dict[str, Any]:
    """ECE (equal width and equal mass, with null band), Brier and NLL on the rows that could be read."""
    readable = np.isfinite(p).all(axis=1)
    kept, q = scores.where(readable), p[readable]
    if len(kept) == 0:
        return {"n": 0, **dict.fromkeys(("ece", "ece_mass", "brier_score", "nll"))}
    ones = np.ones((len(kept), 1))
    losses = -np.log(np.maximum(q[np.arange(len(kept)), kept.gold], np.finfo(np.float64).tiny))
    columns: dict[str, tuple[ndarray, Callable[[ndarray], ndarray]]] = {
        "ece": (ece_gaps(q, kept.gold, "width"), _ece),
        "ece_mass": (ece_gaps(q, kept.gold, "mass"), _ece),
        "brier_score": (brier_rows(q, kept.gold)[:, None], _mean),
        "nll": (losses[:, None], _mean),
    }
    values: dict[str, Any] = {"n": len(kept), "ece_bins": BINS}
    for name, (rows, statistic) in columns.items():
        table = np.hstack([rows, ones])
        values[name] = {
            "value": float(statistic(table.sum(axis=0, keepdims=True))[0]),
            "n": len(kept),
            "ci95": _interval(table, kept.groups, statistic, limits, seed),
        }
    values["ece"]["null"] = metrics.ece_null(q, draws=NULL_DRAWS, seed=seed)
    values["ece_mass"]["null"] = metrics.ece_null(q, draws=NULL_DRAWS, seed=seed, scheme="mass")
    return values


def measure(
    scores: Scores, p: Float[ndarray, "n 3"], thresholds: Thresholds, limits: Calibration, seed: int
) -> dict[str, Any]:
    """Decision and probability metrics of the calibration rows at the chosen thresholds."""
    predicted = decided(p, thresholds)
    readable = np.isfinite(p).all(axis=1)
    top = np.where(readable, np.nan_to_num(p).argmax(axis=1), 1)
    values = {
        "split": "calibration",
        "in_sample": True,
        "groups": len(set(scores.groups)),
        **metrics.verdict_metrics(scores.gold, predicted, scores.domains),
        "argmax_accuracy": metrics.accuracy(scores.gold, top).to_dict(),
        "probability": probability_metrics(scores, p, limits, seed),
    }
    interval = (
        _interval(cells(scores.gold, predicted), scores.groups, _f1, limits, seed)
        if len(scores)
        else None
    )
    values["macro_f1"] = {"value": values["macro_f1"], "n": len(scores), "ci95": interval}
    return values


def founding_metrics(measured: dict[str, Any]) -> dict[str, float | None]:
    """The four founding keys of `metrics`."""
    sources = {
        "ece": measured["probability"]["ece"],
        "brier_score": measured["probability"]["brier_score"],
        "macro_f1": measured["macro_f1"],
        "false_allow_rate": measured["false_allow_rate"],
    }
    return {name: None if source is None else source["value"] for name, source in sources.items()}


def founding_rule(scores: Scores, p: Float[ndarray, "n 3"]) -> dict[str, Any]:
    """The founding thresholds 0.5 / 0.7, under the founding rule (ALLOW as fall-through) and under ours."""
    through = np.where(p[:, 2] >= FOUNDING.deny, 2, np.where(p[:, 1] >= FOUNDING.escalate, 1, 0))
    result: dict[str, Any] = {"deny": FOUNDING.deny, "escalate": FOUNDING.escalate}
    for name, predicted in (("founding_rule", through), ("fail_closed_rule", decided(p, FOUNDING))):
        values = metrics.rates(scores.gold, predicted)
        result[name] = {
            key: values[key].to_dict() for key in ("false_allow_rate", "allow_rate_on_allow")
        }
    return result
