"""Fit the probabilities of the calibration rows and certify each risk by itself.

A risk is the false-allow rate over some of the rows: one domain, or all of them together. It is
certified on one row per group (`so8t.calibration.thresholds` has the mathematics), and the shared
threshold is the smallest that any of them allows.

Covered: the fit, the risks, why none can be certified, the thresholds that follow. Not covered:
what the card says about them (`so8t.calibration.fit`).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray

from so8t import metrics
from so8t.calibration.temperature import TemperatureFit, fit_temperature
from so8t.calibration.thresholds import (
    Stratum,
    allowed_errors,
    cheapest_threshold,
    deny_threshold,
    lowest_deny,
    stratum,
)
from so8t.card import Probabilities
from so8t.metrics import Scores
from so8t.metrics.exact import one_per_group
from so8t.metrics.intervals import groups_needed
from so8t.metrics.quality import ALLOW, DENY, ESCALATE
from so8t.params import Calibration
from so8t.verdict import Thresholds

# Why there is no certificate without rows of a label.
MISSING_LABEL = {"no_allow_rows": ALLOW, "no_escalate_rows": ESCALATE, "no_deny_rows": DENY}

Mask = Bool[ndarray, " n"]
Hazards = Float[ndarray, " n"]


@dataclass(frozen=True, slots=True)
class Fitted:
    """Intermediate results of one calibration.

    Attributes:
        temperature: the fit.
        probabilities: [n, 3], NaN where a row is not usable or not familiar.
        finite: rows whose three logits are finite.
        usable: rows that can be read: finite, and within the residual limit (cue readout).
        familiar: rows that the familiarity gate lets through; the others escalate.
    """

    temperature: TemperatureFit
    probabilities: Probabilities
    finite: Mask
    usable: Mask
    familiar: Mask

    @property
    def hazards(self) -> Hazards:
        """p_escalate + p_deny, the very sum `decide` compares.

        Infinite for rows that can never be allowed.
        """
        hazards = self.probabilities[:, ESCALATE] + self.probabilities[:, DENY]
        return np.where(self.usable & self.familiar, hazards, np.inf)


def fit(scores: Scores, limits: Calibration, readout: str, familiar: Mask) -> Fitted:
    """Temperature and calibrated probabilities of the rows that can be read and are familiar."""
    # A row that was not readable is kept out of the fit: a NaN in one row is a NaN in the loss.
    finite = np.isfinite(scores.logits).all(axis=1)
    usable = finite.copy()
    if readout == "cue":
        # A residual that is NaN compares as false, so its row is not usable.
        with np.errstate(invalid="ignore"):
            usable &= scores.residual <= limits.residual_mass_max
    decided = usable & familiar
    fitted = fit_temperature(scores.logits[decided], scores.gold[decided], limits.temperature)
    logits = np.where(decided[:, None], scores.logits, np.nan)
    p = metrics.softmax(logits, fitted.temperature)
    return Fitted(fitted, p, finite, usable, familiar)


@dataclass(frozen=True, slots=True)
class _Part:
    """Rows that are certified together, and whether the shared threshold must keep their risk."""

    name: str
    rows: Mask
    binding: bool


def strata_of(scores: Scores, hazards: Hazards, limits: Calibration) -> list[Stratum]:
    """Every risk that is certified, each by itself.

    That is each domain (or all rows, where the guarantee is pooled), and the same over true DENY
    alone where params.yaml sets a stricter alpha for it. "all" is always there, because the
    advisory numbers need it.
    """
    # A pooled guarantee may hold while one small domain is let down.
    by_domain = limits.guarantee == "worst_domain"
    parts = [_Part("all", np.ones(len(scores), dtype=bool), binding=not by_domain)]
    if by_domain:
        domains = np.asarray(scores.domains, dtype=np.str_)
        # Sorted, so that the card does not depend on the order of the rows.
        for name in sorted(set(scores.domains)):
            parts.append(_Part(name, domains == name, binding=True))

    def certify(part: _Part, name: str, at_risk: Mask, alpha: float) -> Stratum:
        rows = one_per_group(scores.ids, scores.groups, part.rows & at_risk)
        return stratum(name, hazards[rows], alpha, limits.delta, binding=part.binding)

    unsafe = scores.gold != ALLOW
    strata = [certify(part, part.name, unsafe, limits.alpha) for part in parts]
    if limits.alpha_deny is not None:
        # An allowed DENY is worse than an allowed ESCALATE, so it may have a limit of its own.
        deny = scores.gold == DENY
        for part in parts:
            strata.append(certify(part, f"{part.name}/DENY", deny, limits.alpha_deny))
    return strata


def reasons_of(
    scores: Scores,
    fitted: Fitted,
    strata: list[Stratum],
    limits: Calibration,
) -> list[str]:
    """Why no certificate can be given; empty when it can."""
    # Each of these is "nothing measured", which no number of further groups would mend.
    if len(scores) == 0:
        return ["no_rows"]
    if not (scores.gold != ALLOW).any():
        return ["no_unsafe_rows"]
    # Without one of the labels, nobody knows whether the card is useful (ALLOW), or safe against
    # what is missing.
    missing = [reason for reason, code in MISSING_LABEL.items() if not (scores.gold == code).any()]
    if missing:
        return missing
    # Unreadable rows are never allowed, so they pass any test; too many of them mean that nothing
    # was measured.
    unreadable = np.count_nonzero(~fitted.usable)
    if unreadable > limits.unparsed_max * len(scores):
        return ["too_many_unreadable_verdicts"]
    if any(one.binding and one.threshold is None for one in strata):
        return ["too_few_unsafe_groups"]
    return []


def certified_limit(strata: list[Stratum], reasons: list[str]) -> float:
    """The hazard limit that keeps every binding risk; 0, which allows nothing, for any reason."""
    # `allow iff hazard < 0` is never true.
    if reasons:
        return 0.0
    return min(one.threshold for one in strata if one.binding and one.threshold is not None)


def allow_limit(
    scores: Scores,
    hazards: Hazards,
    certified: float,
    limits: Calibration,
) -> float:
    """The hazard below which requests are allowed.

    It is certified, it keeps ALLOW above the floor of params.yaml, and where costs are set it is
    the cheapest such limit.
    """
    # Lower than what is certified is certified too; p_allow >= floor is hazard <= 1 - floor.
    limit = min(certified, 1.0 - limits.floor_allow)
    if limits.cost is None:
        return limit
    return cheapest_threshold(hazards, scores.gold, limit, limits.cost)


def false_deny_certificate(scores: Scores, fitted: Fitted, limits: Calibration) -> dict[str, Any]:
    """The lowest deny threshold that denies at most alpha of true ALLOW, all domains together."""
    rows = one_per_group(scores.ids, scores.groups, scores.gold == ALLOW)
    p_deny = fitted.probabilities[rows, DENY]
    lowest = lowest_deny(p_deny, limits.alpha, limits.delta)
    return {
        "status": "not_certified" if lowest is None else "certified",
        "alpha": limits.alpha,
        "delta": limits.delta,
        "groups": len(rows),
        "allowed_errors": allowed_errors(len(rows), limits.alpha, limits.delta),
        "lowest_deny": lowest,
        "need_groups": max(0, groups_needed(limits.alpha, limits.delta) - len(rows)),
    }


def choose(
    scores: Scores,
    fitted: Fitted,
    limits: Calibration,
    certified: float,
    deny_from: float | None,
) -> Thresholds:
    """Thresholds for a certified hazard limit.

    Args:
        scores: labelled rows.
        fitted: their probabilities.
        limits: params.calibration.
        certified: the hazard limit that is certified; 0 when none is.
        deny_from: the lowest deny threshold that is certified, or null.
    """
    escalate = allow_limit(scores, fitted.hazards, certified, limits)
    # Without costs in params.yaml, every wrong denial weighs one.
    # Denying a true ALLOW loses at least as much as denying a true ESCALATE.
    false_deny = 1.0
    if limits.cost is not None:
        false_deny = max(1.0, limits.cost.false_deny)
    # deny >= escalate, so no row can be on both sides.
    lowest = max(escalate, deny_from or 0.0)
    deny = deny_threshold(fitted.probabilities[:, DENY], scores.gold, lowest, false_deny)
    return Thresholds(deny=deny, escalate=escalate)
