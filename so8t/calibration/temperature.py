"""One temperature for the verdict probabilities, by likelihood.

NLL is convex in 1/T. Never chosen by ECE (noisy and biased, research/calibration.md 3.3) and never a sampling
temperature. The founding grid of 16 points is kept as a curve for the report, scored by NLL.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray
from scipy.optimize import minimize
from scipy.special import logsumexp

from so8t.metrics import brier, ece, log_loss, softmax
from so8t.params import Temperature

SOLVERS: tuple[tuple[Any, Any], ...] = (
    ("L-BFGS-B", {"maxiter": 200, "ftol": 1e-15, "gtol": 1e-9}),
    ("SLSQP", {"maxiter": 200, "ftol": 1e-15}),
)
OPTIMAL = 1e-6  # projected gradient (nats per unit of 1/T) that counts as the optimum
LOWEST = -1e6  # logits so far below the largest have probability 0 at any temperature we allow
EDGE = 1e-3  # relative distance at which a bound counts as reached


@dataclass(frozen=True, slots=True)
class TemperatureFit:
    """The temperature, how it was found, and the founding grid."""

    temperature: float
    method: str
    nll_before: float | None
    nll_after: float | None
    at_bound: bool
    curve: tuple[dict[str, float], ...]

    def to_dict(self) -> dict[str, Any]:
        """For the card; the curve goes to the temperature report."""
        return {
            "temperature": self.temperature,
            "method": self.method,
            "nll_before": self.nll_before,
            "nll_after": self.nll_after,
            "at_bound": self.at_bound,
            "grid_best": self.grid_best,
            "grid_edge": self.grid_edge,
        }

    @property
    def grid_best(self) -> float | None:
        """Grid temperature of lowest NLL."""
        return (
            min(self.curve, key=lambda point: point["nll"])["temperature"] if self.curve else None
        )

    @property
    def grid_edge(self) -> bool:
        """Whether the best grid point is the first or the last: then the grid does not contain the optimum."""
        return bool(self.curve) and self.grid_best in (
            self.curve[0]["temperature"],
            self.curve[-1]["temperature"],
        )


def _nll(
    beta: float, logits: Float[ndarray, "n 3"], gold: Int[ndarray, " n"]
) -> tuple[float, float]:
    """Mean NLL and its derivative in beta = 1/T."""
    scaled, rows = beta * logits, np.arange(len(gold))
    total = logsumexp(scaled, axis=1)
    expected = (np.exp(scaled - total[:, None]) * logits).sum(axis=1)
    return float((total - scaled[rows, gold]).mean()), float((expected - logits[rows, gold]).mean())


def _solve(
    logits: Float[ndarray, "n 3"],
    gold: Int[ndarray, " n"],
    start: float,
    bounds: tuple[float, float],
) -> tuple[float, str]:
    """Best 1/T within bounds and the solver that reached it; the start point when none did."""
    low, high = bounds

    def value(x: Any) -> float:
        return _nll(float(x[0]), logits, gold)[0]

    def slope(x: Any) -> Any:
        return np.array([_nll(float(x[0]), logits, gold)[1]])

    for method, options in SOLVERS:
        result = minimize(
            value, np.array([start]), jac=slope, method=method, bounds=[bounds], options=options
        )
        beta = float(np.clip(result.x[0], low, high)) if np.isfinite(result.x[0]) else start
        inside = (
            float(np.clip(beta - _nll(beta, logits, gold)[1], low, high)) - beta
        )  # projected gradient step
        if abs(inside) <= OPTIMAL:
            return beta, method
    return start, "grid"


def curve(
    logits: Float[ndarray, "n 3"], gold: Int[ndarray, " n"], bounds: Temperature
) -> tuple[dict[str, float], ...]:
    """The founding grid: temperature, nll, ece, brier_score, accuracy, avg_confidence per point."""
    points = []
    for temperature in np.linspace(bounds.grid_min, bounds.grid_max, bounds.grid_steps):
        p = softmax(logits, float(temperature))
        points.append(
            {
                "temperature": float(temperature),
                "nll": log_loss(p, gold),
                "ece": ece(p, gold),
                "brier_score": brier(p, gold),
                "accuracy": float((p.argmax(axis=1) == gold).mean()),
                "avg_confidence": float(p.max(axis=1).mean()),
            }
        )
    return tuple(points)


def fit_temperature(
    logits: Float[ndarray, "n 3"], gold: Int[ndarray, " n"], bounds: Temperature
) -> TemperatureFit:
    """Minimise the NLL of softmax(logits / T); T = 1 when there is nothing to fit on.

    Rows must be finite. Starts from T = 1 or the best grid point, whichever is better.
    """
    if len(gold) == 0:
        return TemperatureFit(1.0, "none", None, None, at_bound=False, curve=())
    logits = np.asarray(logits, dtype=np.float64)
    with np.errstate(over="ignore"):  # same NLL, and beta * logits cannot overflow
        logits = np.maximum(logits - logits.max(axis=1, keepdims=True), LOWEST)
    points = curve(logits, gold, bounds)
    starts = [1.0, *(p["temperature"] for p in points)]
    starts = [float(np.clip(t, bounds.min, bounds.max)) for t in starts]
    start = min(starts, key=lambda t: _nll(1.0 / t, logits, gold)[0])
    beta, method = _solve(logits, gold, 1.0 / start, (1.0 / bounds.max, 1.0 / bounds.min))
    temperature = float(np.clip(1.0 / beta, bounds.min, bounds.max))
    at_bound = temperature <= bounds.min * (1 + EDGE) or temperature >= bounds.max * (1 - EDGE)
    return TemperatureFit(
        temperature,
        method,
        _nll(1.0, logits, gold)[0],
        _nll(1.0 / temperature, logits, gold)[0],
        at_bound=at_bound,
        curve=points,
    )


def report(
    fit: TemperatureFit, logits: Float[ndarray, "n 3"], gold: Int[ndarray, " n"]
) -> dict[str, Any]:
    """temperature_calibration_report.json: the founding keys, plus what they left unsaid."""
    chosen = ece(softmax(logits, fit.temperature), gold) if len(gold) else None
    return {
        "best_temperature": fit.temperature,
        "best_ece": chosen,
        "chosen_by": "nll",
        "n": len(gold),
        "split": "calibration",
        **fit.to_dict(),
        "all_results": list(fit.curve),
    }
