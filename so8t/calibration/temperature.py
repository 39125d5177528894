"""One temperature for the verdict probabilities, by likelihood.

The negative log-likelihood (NLL) of softmax(logits / T) is convex in 1/T, so there is one optimum.
The temperature is never chosen by ECE, which is noisy and biased upwards on few rows, and it is not
a sampling temperature.

The project's founding documents asked for a grid of 16 temperatures. It is kept, scored by NLL, as
a curve for the report and as a start for the solver.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from scipy.optimize import minimize
from scipy.special import logsumexp

from so8t.metrics import brier, ece, log_loss, softmax
from so8t.metrics.quality import Codes
from so8t.params import Temperature

Logits = Float[ndarray, "n 3"]
Point = dict[str, float]

# Tried in this order; the second is for the rare fits where the first stops early.
SOLVERS: tuple[tuple[str, dict[str, float]], ...] = (
    ("L-BFGS-B", {"maxiter": 200, "ftol": 1e-15, "gtol": 1e-9}),
    ("SLSQP", {"maxiter": 200, "ftol": 1e-15}),
)
OPTIMAL = 1e-6  # projected gradient (nats per unit of 1/T) that counts as the optimum
LOWEST = -1e6  # logits so far below the largest have probability 0 at any temperature we allow
EDGE = 1e-3  # relative distance at which a bound counts as reached


@dataclass(frozen=True, slots=True)
class TemperatureFit:
    """The temperature, how it was found, and the founding grid.

    Attributes:
        temperature: T of softmax(logits / T).
        method: the solver; "grid" when no solver reached the optimum, "none" without rows.
        nll_before: mean NLL at T = 1, nats.
        nll_after: mean NLL at the temperature, nats.
        at_bound: whether the optimum lies at a bound, so that a wider one might do better.
        curve: the points of the grid.
    """

    temperature: float
    method: str
    nll_before: float | None
    nll_after: float | None
    at_bound: bool
    curve: tuple[Point, ...]

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
        # There is no grid where there were no rows.
        if not self.curve:
            return None
        best = min(self.curve, key=lambda point: point["nll"])
        return best["temperature"]

    @property
    def grid_edge(self) -> bool:
        """Whether the best grid point is the first or the last.

        Then the optimum may lie outside the grid.
        """
        if not self.curve:
            return False
        ends = (self.curve[0]["temperature"], self.curve[-1]["temperature"])
        return self.grid_best in ends


def _nll(beta: float, logits: Logits, gold: Codes) -> tuple[float, float]:
    """Mean NLL in nats at beta = 1/T, and its derivative in beta."""
    rows = np.arange(len(gold))
    scaled = beta * logits
    total = logsumexp(scaled, axis=1)
    p = np.exp(scaled - total[:, None])
    # d/dbeta of -log softmax(beta * z)[gold] is E[z] - z[gold].
    expected = (p * logits).sum(axis=1)
    value = (total - scaled[rows, gold]).mean()
    slope = (expected - logits[rows, gold]).mean()
    return float(value), float(slope)


def _solve(
    logits: Logits,
    gold: Codes,
    start: float,
    bounds: tuple[float, float],
) -> tuple[float, str]:
    """Best 1/T within bounds and the solver that reached it; the start point when none did."""
    low, high = bounds

    def value(x: ndarray) -> float:
        return _nll(float(x[0]), logits, gold)[0]

    def slope(x: ndarray) -> ndarray:
        return np.array([_nll(float(x[0]), logits, gold)[1]])

    for method, options in SOLVERS:
        result = minimize(
            value,
            np.array([start]),
            jac=slope,
            method=method,
            bounds=[bounds],
            options=options,
        )
        beta = start
        if np.isfinite(result.x[0]):
            beta = float(np.clip(result.x[0], low, high))
        # A solver may report success where it only stopped moving, so the slope is asked. At a
        # bound a slope that points outwards is no way to go, hence the projected step.
        _, gradient = _nll(beta, logits, gold)
        stepped = float(np.clip(beta - gradient, low, high))
        if abs(stepped - beta) <= OPTIMAL:
            return beta, method
    return start, "grid"


def curve(logits: Logits, gold: Codes, bounds: Temperature) -> tuple[Point, ...]:
    """The founding grid: temperature, nll, ece, brier_score, accuracy, avg_confidence per point."""
    points = []
    for step in np.linspace(bounds.grid_min, bounds.grid_max, bounds.grid_steps):
        temperature = float(step)
        p = softmax(logits, temperature)
        point = {
            "temperature": temperature,
            "nll": log_loss(p, gold),
            "ece": ece(p, gold),
            "brier_score": brier(p, gold),
            "accuracy": float((p.argmax(axis=1) == gold).mean()),
            "avg_confidence": float(p.max(axis=1).mean()),
        }
        points.append(point)
    return tuple(points)


def fit_temperature(logits: Logits, gold: Codes, bounds: Temperature) -> TemperatureFit:
    """Minimise the NLL of softmax(logits / T).

    Starts from T = 1 or the best grid point, whichever is better.

    Args:
        logits: finite, [n, 3].
        gold: codes, [n].
        bounds: of T and of the grid.

    Returns:
        T = 1 when there is nothing to fit on.
    """
    # T = 1 leaves the probabilities as they are; the card will not be certified anyway.
    if len(gold) == 0:
        return TemperatureFit(
            1.0,
            "none",
            None,
            None,
            at_bound=False,
            curve=(),
        )
    logits = np.asarray(logits, dtype=np.float64)
    # The NLL stays the same when a row is shifted, and beta * logits can no longer overflow.
    with np.errstate(over="ignore"):
        logits = np.maximum(logits - logits.max(axis=1, keepdims=True), LOWEST)
    points = curve(logits, gold, bounds)
    start = _best_start(logits, gold, points, bounds)
    beta, method = _solve(
        logits,
        gold,
        1.0 / start,
        (1.0 / bounds.max, 1.0 / bounds.min),
    )
    # Inverting twice may leave the bounds by one bit, and params.yaml promises them.
    temperature = float(np.clip(1.0 / beta, bounds.min, bounds.max))
    at_lowest = temperature <= bounds.min * (1 + EDGE)
    at_highest = temperature >= bounds.max * (1 - EDGE)
    before, _ = _nll(1.0, logits, gold)
    after, _ = _nll(1.0 / temperature, logits, gold)
    return TemperatureFit(
        temperature,
        method,
        nll_before=before,
        nll_after=after,
        at_bound=at_lowest or at_highest,
        curve=points,
    )


def _best_start(
    logits: Logits,
    gold: Codes,
    points: tuple[Point, ...],
    bounds: Temperature,
) -> float:
    """T = 1 or a grid point, within bounds, whichever has the lowest NLL."""
    # T = 1 need not be a point of the grid, and a file that needs no calibration should start
    # there.
    starts = [1.0, *(point["temperature"] for point in points)]
    inside = [float(np.clip(start, bounds.min, bounds.max)) for start in starts]
    return min(inside, key=lambda start: _nll(1.0 / start, logits, gold)[0])


def report(fit: TemperatureFit, logits: Logits, gold: Codes) -> dict[str, Any]:
    """The temperature report: the keys that the founding documents name, and what they left out.

    Args:
        fit: the result.
        logits: the rows it was fitted on.
        gold: their codes.
    """
    chosen = None
    if len(gold):
        chosen = ece(softmax(logits, fit.temperature), gold)
    return {
        "best_temperature": fit.temperature,
        "best_ece": chosen,
        "chosen_by": "nll",
        "n": len(gold),
        "split": "calibration",
        **fit.to_dict(),
        "all_results": list(fit.curve),
    }
