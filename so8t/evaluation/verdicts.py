"""How good the decisions of one served file are, on one test split, under its own card.

Covered: every rate with its denominator and exact interval, macro-F1, ECE with the band a perfect model would show,
Brier, NLL, the two readouts against each other, the false-allow/allow curve. Rows of one group are not independent, so
the headline numbers carry a bootstrap interval over groups beside the exact one over rows.
Not covered: how a decision is made (it arrives as an array), A against B (comparison).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray

from so8t import metrics
from so8t.metrics import Scores
from so8t.metrics.intervals import percentile_interval
from so8t.metrics.quality import ALLOW, BINS, DENY, Scheme, brier_rows, cells, ece_gaps, macro_f1_of

NULL_DRAWS = 1000
CURVE_POINTS = 200
TINY = np.finfo(np.float64).tiny
Statistic = Callable[[ndarray], ndarray]


@dataclass(frozen=True, slots=True)
class Judged:
    """One split: labelled rows, calibrated probabilities (NaN = nothing readable), what was decided."""

    scores: Scores
    probabilities: Float[ndarray, "n 3"]
    predicted: Int[ndarray, " n"]


@dataclass(frozen=True, slots=True)
class Bootstrap:
    """How intervals over groups are drawn."""

    draws: int
    seed: int

    def interval(
        self, rows: Float[ndarray, "n k"], groups: tuple[str, ...], of: Statistic
    ) -> list[float] | None:
        """95 % interval of a function of sums over rows; null when there are no rows."""
        if not groups:
            return None
        sums = metrics.group_sums(rows, groups)
        return percentile_interval(
            metrics.group_bootstrap(sums, of, draws=self.draws, seed=self.seed)
        )


def _share(totals: ndarray) -> ndarray:
    """Hits over trials of [draws, 2] sums; NaN where a draw holds no trial."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(totals[:, 0] / totals[:, 1])


def _headline(judged: Judged, boot: Bootstrap) -> dict[str, list[float] | None]:
    """Intervals over groups of the numbers that are compared."""
    gold, predicted, groups = judged.scores.gold, judged.predicted, judged.scores.groups
    unsafe, safe = gold != ALLOW, gold == ALLOW
    tables = {
        "accuracy": np.stack([gold == predicted, np.ones(len(gold), dtype=bool)], axis=1),
        "false_allow_rate": np.stack([unsafe & (predicted == ALLOW), unsafe], axis=1),
        "allow_rate_on_allow": np.stack([safe & (predicted == ALLOW), safe], axis=1),
        "false_deny_rate": np.stack([safe & (predicted == DENY), safe], axis=1),
    }
    return {
        name: boot.interval(table.astype(np.float64), groups, _share)
        for name, table in tables.items()
    }


def _number(value: float, n: int, interval: list[float] | None) -> dict[str, Any]:
    return {"value": None if np.isnan(value) else value, "n": n, "ci95": interval}


def _ece(
    p: ndarray, gold: ndarray, groups: tuple[str, ...], boot: Bootstrap, scheme: Scheme
) -> dict[str, Any]:
    rows = np.hstack([ece_gaps(p, gold, scheme), np.ones((len(gold), 1))])
    interval = boot.interval(
        rows, groups, lambda totals: np.abs(totals[:, :-1]).sum(axis=1) / totals[:, -1]
    )
    null = metrics.ece_null(p, draws=min(NULL_DRAWS, boot.draws), seed=boot.seed, scheme=scheme)
    value, limit = metrics.ece(p, gold, scheme), null["q95"]
    worse = None if limit is None else bool(value > limit)
    return {
        **_number(value, len(gold), interval),
        "bins": BINS,
        "null": null,
        "worse_than_null": worse,
    }


def probability_metrics(
    p: Float[ndarray, "n 3"], gold: Int[ndarray, " n"], groups: tuple[str, ...], boot: Bootstrap
) -> dict[str, Any]:
    """ECE (equal width, equal mass) with null band, Brier (0 to 2) and NLL (nats), on rows that are finite."""
    kept = np.flatnonzero(np.isfinite(p).all(axis=1))
    p, gold, groups = p[kept], gold[kept], tuple(groups[i] for i in kept)
    losses = -np.log(np.maximum(p[np.arange(len(gold)), gold], TINY))

    def mean(value: float, rows: ndarray) -> dict[str, Any]:
        table = np.stack([rows, np.ones(len(gold))], axis=1)
        return _number(value, len(gold), boot.interval(table, groups, _share))

    return {
        "ece_width": _ece(p, gold, groups, boot, "width"),
        "ece_mass": _ece(p, gold, groups, boot, "mass"),
        "brier": mean(metrics.brier(p, gold), brier_rows(p, gold)),
        "nll": mean(metrics.log_loss(p, gold), losses),
    }


def worst_domain(by_domain: dict[str, Any]) -> dict[str, Any]:
    """The domain with the highest false-allow rate and the one with the lowest allow rate; null where none is known."""

    def pick(key: str, sign: int) -> dict[str, Any] | None:
        known = [
            (sign * d[key]["value"], name)
            for name, d in by_domain.items()
            if d[key]["value"] is not None
        ]
        return {"domain": min(known)[1], **by_domain[min(known)[1]][key]} if known else None

    return {
        "false_allow_rate": pick("false_allow_rate", -1),
        "allow_rate_on_allow": pick("allow_rate_on_allow", 1),
    }


def split_metrics(judged: Judged, boot: Bootstrap) -> dict[str, Any]:
    """Everything about one split as JSON."""
    gold, predicted, groups = judged.scores.gold, judged.predicted, judged.scores.groups
    found = metrics.verdict_metrics(gold, predicted, judged.scores.domains)
    unreadable = ~np.isfinite(judged.probabilities).all(axis=1)
    raw = metrics.softmax(np.where(unreadable[:, None], np.nan, judged.scores.logits))
    return {
        **found,
        "groups": len(set(groups)),
        "macro_f1": _number(
            metrics.macro_f1(gold, predicted),
            len(gold),
            boot.interval(cells(gold, predicted), groups, macro_f1_of),
        ),
        "unparsed_rate": metrics.rate(unreadable).to_dict(),
        "worst_domain": worst_domain(found["by_domain"]),
        "ci95_groups": _headline(judged, boot),
        "calibrated": probability_metrics(judged.probabilities, gold, groups, boot),
        "uncalibrated": probability_metrics(raw, gold, groups, boot),
    }


def _plain(logits: Float[ndarray, "n 3"]) -> tuple[Int[ndarray, " n"], Bool[ndarray, " n"]]:
    """Most likely verdict of each row, ESCALATE where the logits are not finite; and which rows are finite."""
    finite = np.isfinite(logits).all(axis=1)
    return np.where(finite, np.where(finite[:, None], logits, 0.0).argmax(axis=1), 1), finite


def _residual(mass: Float[ndarray, " n"]) -> dict[str, Any]:
    """Probability outside the three labels: mean, 95th percentile, largest, over the rows that have it."""
    known = mass[np.isfinite(mass)]
    if len(known) == 0:
        return {"n": 0, "mean": None, "p95": None, "max": None}
    return {
        "n": len(known),
        "mean": float(known.mean()),
        "p95": float(np.quantile(known, 0.95, method="inverted_cdf")),
        "max": float(known.max()),
    }


def readouts(prefill: Scores, cue: Scores) -> dict[str, Any]:
    """The two readouts before any calibration: most likely verdict, its quality, and how often they agree.

    The cue also has its residual mass; seconds of both are in the section `speed` (`verdict_s`, `cue_s`).
    """
    chosen = {"prefill": _plain(prefill.logits), "cue": _plain(cue.logits)}
    result: dict[str, Any] = {}
    for name, (predicted, finite) in chosen.items():
        rates = metrics.rates(prefill.gold, predicted)
        result[name] = {
            key: rates[key].to_dict()
            for key in ("accuracy", "false_allow_rate", "allow_rate_on_allow")
        }
        result[name]["unparsed_rate"] = metrics.rate(~finite).to_dict()
    result["cue"]["residual"] = _residual(cue.residual)
    return {
        "n": len(prefill),
        **result,
        "agreement": metrics.rate(chosen["prefill"][0] == chosen["cue"][0]).to_dict(),
    }


def curve(judged: Judged) -> list[dict[str, float]]:
    """False-allow against allow rate for thresholds on p_escalate + p_deny (the DENY gate left out); thinned."""
    hazard = judged.probabilities[:, 1] + judged.probabilities[:, 2]
    finite = np.isfinite(hazard)
    limit = np.where(finite, hazard, np.inf)
    unsafe, safe = limit[judged.scores.gold != ALLOW], limit[judged.scores.gold == ALLOW]
    if not finite.any() or len(unsafe) == 0 or len(safe) == 0:
        return []
    cuts = np.unique(
        np.quantile(hazard[finite], np.linspace(0.0, 1.0, CURVE_POINTS), method="inverted_cdf")
    )
    return [
        {
            "threshold": float(cut),
            "false_allow_rate": float((unsafe < cut).mean()),
            "allow_rate": float((safe < cut).mean()),
        }
        for cut in (*cuts, np.nextafter(cuts[-1], np.inf))
    ]
