"""What the card says about the calibration rows themselves, with intervals.

These numbers are in-sample: the temperature and the thresholds were chosen on the same rows, and
the card labels them so. They show whether the fit is sane. The numbers that count are those of the
test splits (`so8t.evaluation`).
"""

from typing import Any

import numpy as np
from numpy import ndarray

from so8t import metrics
from so8t.card import Probabilities, decided_codes, most_likely
from so8t.metrics import Scores
from so8t.metrics.exact import reason_for
from so8t.metrics.quality import ALLOW, BINS, DENY, ESCALATE, Codes, cells, macro_f1_of
from so8t.metrics.resample import Statistic, brier_score, ece_score, group_interval, nll_score
from so8t.params import Calibration
from so8t.verdict import Thresholds

# The project's founding documents fixed these two; they are measured for comparison, never applied.
FOUNDING = Thresholds(deny=0.5, escalate=0.7)
# Fewer than the 1,000 of evaluation: these numbers are for a glance.
NULL_DRAWS = 500  # draws of the ECE null band
HEADLINE_RATES = ("false_allow_rate", "allow_rate_on_allow")


def _interval(
    table: ndarray,
    groups: tuple[str, ...],
    statistic: Statistic,
    limits: Calibration,
    seed: int,
) -> list[float] | None:
    return group_interval(
        table,
        groups,
        statistic,
        draws=limits.bootstrap,
        seed=seed,
    )


def probability_metrics(
    scores: Scores,
    p: Probabilities,
    limits: Calibration,
    seed: int,
) -> dict[str, Any]:
    """ECE, Brier and NLL on the rows that could be read, each with its interval over groups.

    ECE is given with bins of equal width and of equal mass, each beside the null band that a
    perfectly calibrated model would show. Every value is null when no row could be read.
    """
    # Rows that escalate unread have no probability to score; they count in the decision metrics.
    readable = np.isfinite(p).all(axis=1)
    kept = scores.where(readable)
    read = p[readable]
    # A mean over no rows would be NaN, which JSON does not have.
    if len(kept) == 0:
        return {"n": 0, "ece": None, "ece_mass": None, "brier_score": None, "nll": None}
    resampled = {
        "ece": ece_score(read, kept.gold, "width"),
        "ece_mass": ece_score(read, kept.gold, "mass"),
        "brier_score": brier_score(read, kept.gold),
        "nll": nll_score(read, kept.gold),
    }
    values: dict[str, Any] = {"n": len(kept), "ece_bins": BINS}
    for name, score in resampled.items():
        interval = _interval(
            score.table,
            kept.groups,
            score.statistic,
            limits,
            seed,
        )
        values[name] = {
            "value": score.value,
            "n": len(kept),
            "ci95": interval,
            **reason_for(interval, len(set(kept.groups))),
        }
    values["ece"]["null"] = metrics.ece_null(read, draws=NULL_DRAWS, seed=seed)
    values["ece_mass"]["null"] = metrics.ece_null(read, draws=NULL_DRAWS, seed=seed, scheme="mass")
    return values


def measure(
    scores: Scores,
    p: Probabilities,
    thresholds: Thresholds,
    limits: Calibration,
    seed: int,
) -> dict[str, Any]:
    """Decision and probability metrics of the calibration rows at the chosen thresholds."""
    predicted = decided_codes(p, thresholds)
    values = {
        "split": "calibration",
        "in_sample": True,
        "groups": len(set(scores.groups)),
        **metrics.verdict_metrics(scores.gold, predicted, scores.domains),
        "argmax_accuracy": metrics.accuracy(scores.gold, most_likely(p)).to_dict(),
        "probability": probability_metrics(scores, p, limits, seed),
    }
    # Every other rate carries an interval of its own; macro-F1 is no rate, so it is resampled.
    counted = cells(scores.gold, predicted)
    interval = _interval(
        counted,
        scores.groups,
        macro_f1_of,
        limits,
        seed,
    )
    values["macro_f1"] = {
        "value": values["macro_f1"],
        "n": len(scores),
        "ci95": interval,
        **reason_for(interval, len(set(scores.groups))),
    }
    return values


def founding_metrics(measured: dict[str, Any]) -> dict[str, float | None]:
    """The four keys of `metrics` that the founding documents name."""
    sources = {
        "ece": measured["probability"]["ece"],
        "brier_score": measured["probability"]["brier_score"],
        "macro_f1": measured["macro_f1"],
        "false_allow_rate": measured["false_allow_rate"],
    }
    values = {}
    for name, source in sources.items():
        values[name] = source["value"] if source else None
    return values


def founding_rule(scores: Scores, p: Probabilities) -> dict[str, Any]:
    """The founding thresholds under the founding rule and under ours.

    The founding rule asks each class by itself and falls through to ALLOW, so what it cannot read
    is allowed. Ours allows only what is likely enough to be ALLOW.
    """
    # The later assignment wins, so DENY is asked first, as the founding rule asks it.
    fallen_through = np.full(len(p), ALLOW)
    fallen_through[p[:, ESCALATE] >= FOUNDING.escalate] = ESCALATE
    fallen_through[p[:, DENY] >= FOUNDING.deny] = DENY
    return {
        "deny": FOUNDING.deny,
        "escalate": FOUNDING.escalate,
        "founding_rule": headline_rates(scores.gold, fallen_through),
        "fail_closed_rule": headline_rates(scores.gold, decided_codes(p, FOUNDING)),
    }


def headline_rates(gold: Codes, predicted: Codes) -> dict[str, Any]:
    """False-allow rate and the share of true ALLOW that is allowed, as JSON."""
    values = metrics.rates(gold, predicted)
    return {name: values[name].to_dict() for name in HEADLINE_RATES}
