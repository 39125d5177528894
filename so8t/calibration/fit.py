"""Make a card: fit on one split, certify on one row per group, measure on the same rows and say so.

The temperature is fitted on the rows that are certified; in simulation that costs nothing (research/calibration.md
3.5), and the coverage test of this package repeats it with the fit included. Not certified is an outcome: the card is
written with the ALLOW gate closed, and numbers that carry no guarantee appear only under `advisory`.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray

from so8t import metrics
from so8t.calibration import thresholds as lt
from so8t.calibration.measure import decided, founding_metrics, founding_rule, measure
from so8t.calibration.temperature import TemperatureFit, fit_temperature
from so8t.card import Card, build
from so8t.metrics import Scores
from so8t.params import Calibration
from so8t.verdict import Thresholds

METHOD = "learn-then-test, fixed sequence, exact binomial p-values, one row per group"
LIMITS = [
    "exchangeable_inputs_only",  # holds for requests like the calibration groups, every group counted once
    "no_new_phrasings_or_domains",  # a shift is measured on test_phrases and test_cells, not certified
    "no_attackers",
    "labels_are_policy",  # as good as the labels
    "one_use_of_calibration_rows",  # choosing among models on these rows breaks delta
    "this_file_template_and_engine_only",
]


@dataclass(frozen=True, slots=True)
class Fitted:
    """Intermediate results: temperature, probabilities (NaN where not decidable), hazards, which rows counted."""

    temperature: TemperatureFit
    probabilities: Float[ndarray, "n 3"]
    finite: Bool[ndarray, " n"]
    usable: Bool[ndarray, " n"]

    @property
    def hazards(self) -> Float[ndarray, " n"]:
        """p_escalate + p_deny, the very sum `decide` compares; infinite for rows that can never be allowed."""
        return np.where(self.usable, self.probabilities[:, 1] + self.probabilities[:, 2], np.inf)


def fit(scores: Scores, limits: Calibration, readout: str) -> Fitted:
    """Temperature and probabilities; rows beyond the residual limit (cue only) or not finite are not usable."""
    finite = np.isfinite(scores.logits).all(axis=1)
    usable = finite.copy()
    if readout == "cue":
        with np.errstate(invalid="ignore"):
            usable &= scores.residual <= limits.residual_mass_max
    temperature = fit_temperature(scores.logits[usable], scores.gold[usable], limits.temperature)
    p = metrics.softmax(np.where(usable[:, None], scores.logits, np.nan), temperature.temperature)
    return Fitted(temperature, p, finite, usable)


def strata_of(
    scores: Scores, hazards: Float[ndarray, " n"], limits: Calibration
) -> list[lt.Stratum]:
    """Every risk that is certified: each domain (or all rows), and DENY alone where a stricter alpha is set."""
    unsafe, domain = scores.gold != lt.ALLOW, np.asarray(scores.domains, dtype=np.str_)
    by_domain = limits.guarantee == "worst_domain"
    masks = [("all", np.ones(len(scores), dtype=bool), not by_domain)]
    if by_domain:
        masks += [(name, domain == name, True) for name in sorted(set(scores.domains))]

    def certify(name: str, mask: Bool[ndarray, " n"], alpha: float, binding: bool) -> lt.Stratum:
        rows = lt.one_per_group(scores.ids, scores.groups, mask)
        return lt.stratum(name, hazards[rows], alpha, limits.delta, binding=binding)

    strata = [certify(name, mask & unsafe, limits.alpha, binding) for name, mask, binding in masks]
    if limits.alpha_deny is not None:
        strata += [
            certify(f"{name}/DENY", mask & (scores.gold == lt.DENY), limits.alpha_deny, binding)
            for name, mask, binding in masks
        ]
    return strata


def reasons_of(
    scores: Scores, fitted: Fitted, strata: list[lt.Stratum], limits: Calibration
) -> list[str]:
    """Why no certificate can be given; empty when it can.

    Unreadable rows are never allowed, so they would pass any test; too many of them mean that nothing was measured.
    """
    if len(scores) == 0:
        return ["no_rows"]
    if not (scores.gold != lt.ALLOW).any():
        return ["no_unsafe_rows"]
    if np.count_nonzero(~fitted.usable) > limits.unparsed_max * len(scores):
        return ["too_many_unreadable_verdicts"]
    return (
        ["too_few_unsafe_groups"] if any(s.binding and s.threshold is None for s in strata) else []
    )


def allow_limit(
    scores: Scores, hazards: Float[ndarray, " n"], certified: float, limits: Calibration
) -> float:
    """The hazard below which requests are allowed: certified, above the floor, cheaper if a cost is set."""
    limit = min(certified, 1.0 - limits.floor_allow)
    return (
        limit
        if limits.cost is None
        else lt.cheapest_threshold(hazards, scores.gold, limit, limits.cost)
    )


def false_deny_certificate(scores: Scores, fitted: Fitted, limits: Calibration) -> dict[str, Any]:
    """The lowest deny threshold that denies at most alpha of true ALLOW, over all domains together."""
    rows = lt.one_per_group(scores.ids, scores.groups, scores.gold == lt.ALLOW)
    p_deny = fitted.probabilities[rows, lt.DENY]
    lowest = lt.lowest_deny(p_deny, limits.alpha, limits.delta)
    return {
        "status": "not_certified" if lowest is None else "certified",
        "alpha": limits.alpha,
        "delta": limits.delta,
        "groups": len(rows),
        "allowed_errors": lt.allowed_errors(len(rows), limits.alpha, limits.delta),
        "lowest_deny": lowest,
        "need_groups": max(0, lt.groups_needed(limits.alpha, limits.delta) - len(rows)),
    }


def choose(
    scores: Scores, fitted: Fitted, limits: Calibration, certified: float, lowest_deny: float | None
) -> Thresholds:
    """Thresholds for a certified hazard limit; deny >= escalate, so the two gates never overlap."""
    escalate = allow_limit(scores, fitted.hazards, certified, limits)
    weight = 1.0 if limits.cost is None else max(1.0, limits.cost.false_deny)
    lowest = max(escalate, lowest_deny or 0.0)
    return Thresholds(
        lt.deny_threshold(fitted.probabilities[:, lt.DENY], scores.gold, lowest, weight), escalate
    )


def certificate_of(
    scores: Scores,
    strata: list[lt.Stratum],
    fitted: Fitted,
    decided: Thresholds,
    limits: Calibration,
) -> dict[str, Any]:
    """What is promised, from how many groups, with how many errors seen at the chosen threshold."""
    rows = lt.one_per_group(scores.ids, scores.groups, scores.gold != lt.ALLOW)
    fewest = min((s.groups for s in strata if s.binding), default=0)
    return {
        "alpha": limits.alpha,
        "delta": limits.delta,
        "alpha_deny": limits.alpha_deny,
        "guarantee": limits.guarantee,
        "method": METHOD,
        "unit": "group",
        "strata": [s.to_dict() for s in strata],
        "groups": len(rows),
        "false_allows": int(np.count_nonzero(fitted.hazards[rows] < decided.escalate)),
        "need_groups": {s.name: s.need_groups for s in strata if s.binding and s.need_groups},
        "best_alpha": lt.best_alpha(fewest, limits.delta),
        "temperature_on_same_rows": True,
    }


def advisory_of(
    scores: Scores, fitted: Fitted, strata: list[lt.Stratum], limits: Calibration
) -> dict[str, Any]:
    """What the pooled rows would suggest: no guarantee, never applied, there to show what more rows might bring."""
    pooled = next(s for s in strata if s.name == "all").threshold
    escalate = min(1.0 - limits.floor_allow, lt.ABOVE_ALL if pooled is None else pooled)
    values = metrics.rates(
        scores.gold, decided(fitted.probabilities, Thresholds(deny=1.0, escalate=escalate))
    )
    return {
        "certified": False,
        "escalate": escalate,
        "pooled_certified": pooled is not None,
        **{key: values[key].to_dict() for key in ("false_allow_rate", "allow_rate_on_allow")},
    }


def data_of(
    scores: Scores, fitted: Fitted, meta: dict[str, Any], limits: Calibration
) -> dict[str, Any]:
    """What the card was made of."""
    unsafe = scores.gold != lt.ALLOW
    outside = scores.residual[np.isfinite(scores.residual)]
    unparsed = int(np.count_nonzero(~fitted.usable))
    return {
        "split": "calibration",
        "sha256": meta.get("splits_sha256", {}).get("calibration"),
        "n": len(scores),
        "groups": len(set(scores.groups)),
        "n_unsafe": int(unsafe.sum()),
        "n_unsafe_groups": len({g for g, u in zip(scores.groups, unsafe, strict=True) if u}),
        "unlabelled": scores.unlabelled,
        "not_finite": int(np.count_nonzero(~fitted.finite)),
        "over_residual": int(np.count_nonzero(fitted.finite & ~fitted.usable)),
        "unparsed": unparsed,
        "unparsed_rate": unparsed / len(scores) if len(scores) else None,
        "unparsed_max": limits.unparsed_max,
        "residual_p95": float(np.quantile(outside, 0.95)) if outside.size else None,
    }


def binding_of(meta: dict[str, Any], readout: str, limits: Calibration) -> dict[str, Any]:
    """What the card holds for."""
    return {
        **{key: meta[key] for key in ("file", "semantic_digest", "template_sha256", "engine")},
        "readout": readout,
        "sampled": bool(meta.get("sampled", False)),
        "residual": {"applies": readout == "cue", "max": limits.residual_mass_max},
    }


def make_card(
    scores: Scores,
    meta: dict[str, Any],
    limits: Calibration,
    *,
    readout: str,
    seed: int,
    previous: str | None = None,
) -> tuple[Card, Fitted]:
    """Calibrate one file from its calibration rows.

    Args:
        scores: labelled rows of the calibration split, read with `readout`.
        meta: meta.json of the scores directory (digests, engine, sampled).
        limits: params.calibration.
        readout: "prefill" or "cue".
        seed: of the bootstrap and the ECE null band.
        previous: digest of the card that this one replaces, for `so8t recalibrate`.
    """
    fitted = fit(scores, limits, readout)
    strata = strata_of(scores, fitted.hazards, limits)
    reasons = reasons_of(scores, fitted, strata, limits)
    limit = (
        0.0
        if reasons
        else min(s.threshold for s in strata if s.binding and s.threshold is not None)
    )
    false_deny = false_deny_certificate(scores, fitted, limits)
    chosen = choose(scores, fitted, limits, limit, false_deny["lowest_deny"])
    measured = measure(scores, fitted.probabilities, chosen, limits, seed)
    allow = None if reasons else 1.0 - chosen.escalate
    return build(
        {
            **binding_of(meta, readout, limits),
            "status": "not_certified" if reasons else "certified",
            "reasons": reasons,
            "temperature": fitted.temperature.temperature,
            "thresholds": {"deny": chosen.deny, "escalate": chosen.escalate, "allow": allow},
            "metrics": founding_metrics(measured),
            "measured": measured,
            "certificate": certificate_of(scores, strata, fitted, chosen, limits),
            "false_deny": false_deny,
            "temperature_fit": fitted.temperature.to_dict(),
            "founding": founding_rule(scores, fitted.probabilities),
            "advisory": advisory_of(scores, fitted, strata, limits) if reasons else None,
            "data": data_of(scores, fitted, meta, limits),
            "limits": LIMITS,
            "previous": previous,
        }
    ), fitted
