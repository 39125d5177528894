"""Make a card: fit on one split, certify on one row per group, measure on the same rows and say so.

The temperature is fitted on the rows that are certified. In simulation that costs nothing, and
tests/property/test_coverage.py repeats the simulation with the fit included.

Not certified is an outcome, not an error: the card is written with the ALLOW gate closed, and
numbers that carry no guarantee appear only under `advisory`.
"""

from typing import Any

import numpy as np

from so8t.calibration.certify import (
    Fitted,
    certified_limit,
    choose,
    false_deny_certificate,
    fit,
    reasons_of,
    strata_of,
)
from so8t.calibration.measure import founding_metrics, founding_rule, headline_rates, measure
from so8t.calibration.thresholds import ABOVE_ALL, Stratum, best_alpha
from so8t.card import Card, build, decided_codes, familiar_rows
from so8t.coverage import LIMITS
from so8t.familiarity import Index, limits_of
from so8t.metrics import Scores
from so8t.metrics.exact import one_per_group
from so8t.metrics.quality import ALLOW
from so8t.params import Calibration
from so8t.verdict import Thresholds

# Written into the card: a reader must know which guarantee the numbers carry.
METHOD = "learn-then-test, fixed sequence, exact binomial p-values, one row per group"


def certificate_of(
    scores: Scores,
    strata: list[Stratum],
    fitted: Fitted,
    chosen: Thresholds,
    limits: Calibration,
) -> dict[str, Any]:
    """What is promised, from how many groups, with how many errors seen at the chosen threshold."""
    rows = one_per_group(scores.ids, scores.groups, scores.gold != ALLOW)
    false_allows = fitted.hazards[rows] < chosen.escalate
    binding = [one for one in strata if one.binding]
    # The binding domain with the fewest groups limits what alpha could be promised.
    fewest = min((one.groups for one in binding), default=0)
    return {
        "alpha": limits.alpha,
        "delta": limits.delta,
        "alpha_deny": limits.alpha_deny,
        "guarantee": limits.guarantee,
        "method": METHOD,
        "unit": "group",
        "strata": [one.to_dict() for one in strata],
        "groups": len(rows),
        "false_allows": int(np.count_nonzero(false_allows)),
        "need_groups": {one.name: one.need_groups for one in binding if one.need_groups},
        "best_alpha": best_alpha(fewest, limits.delta),
        # Said in the card because it is unusual, and harmless only as the simulation shows.
        "temperature_on_same_rows": True,
    }


def advisory_of(
    scores: Scores,
    fitted: Fitted,
    strata: list[Stratum],
    limits: Calibration,
) -> dict[str, Any]:
    """What the pooled rows would suggest, for a card that is not certified.

    It carries no guarantee and is never applied; it shows what more rows might bring.
    """
    pooled = next(one.threshold for one in strata if one.name == "all")
    limit = ABOVE_ALL if pooled is None else pooled
    escalate = min(1.0 - limits.floor_allow, limit)
    # The highest deny threshold, so that the rates are those of the ALLOW gate alone.
    predicted = decided_codes(fitted.probabilities, Thresholds(deny=1.0, escalate=escalate))
    return {
        "certified": False,
        "escalate": escalate,
        "pooled_certified": pooled is not None,
        **headline_rates(scores.gold, predicted),
    }


def data_of(
    scores: Scores,
    fitted: Fitted,
    meta: dict[str, Any],
    limits: Calibration,
) -> dict[str, Any]:
    """What the card was made of."""
    # Rows and groups both: the guarantee counts groups, a person counts rows.
    unsafe = scores.where(scores.gold != ALLOW)
    residual = scores.residual[np.isfinite(scores.residual)]
    unparsed = int(np.count_nonzero(~fitted.usable))
    return {
        "split": "calibration",
        "sha256": meta.get("splits_sha256", {}).get("calibration"),
        "n": len(scores),
        "groups": len(set(scores.groups)),
        "n_unsafe": len(unsafe),
        "n_unsafe_groups": len(set(unsafe.groups)),
        "unlabelled": scores.unlabelled,
        "not_finite": int(np.count_nonzero(~fitted.finite)),
        "over_residual": int(np.count_nonzero(fitted.finite & ~fitted.usable)),
        "unfamiliar": int(np.count_nonzero(~fitted.familiar)),
        "unparsed": unparsed,
        "unparsed_rate": unparsed / len(scores) if len(scores) else None,
        "unparsed_max": limits.unparsed_max,
        "residual_p95": float(np.quantile(residual, 0.95)) if residual.size else None,
    }


def binding_of(meta: dict[str, Any], readout: str, limits: Calibration) -> dict[str, Any]:
    """What the card holds for: file, template, engine, readout."""
    return {
        "file": meta["file"],
        "semantic_digest": meta["semantic_digest"],
        "template_sha256": meta["template_sha256"],
        "engine": meta["engine"],
        "readout": readout,
        "sampled": bool(meta.get("sampled", False)),
        "residual": {"applies": readout == "cue", "max": limits.residual_mass_max},
    }


def make_card(
    scores: Scores,
    meta: dict[str, Any],
    limits: Calibration,
    index: Index,
    *,
    readout: str,
    seed: int,
    previous: str | None = None,
    review: dict[str, Any] | None = None,
) -> tuple[Card, Fitted]:
    """Calibrate one file from its calibration rows.

    Args:
        scores: labelled rows of the calibration split, read with `readout`.
        meta: meta.json of the scores directory (digests, engine, sampled).
        limits: params.calibration.
        index: what familiarity is judged by, made from these rows.
        readout: "prefill" or "cue".
        seed: of the bootstrap and the ECE null band.
        previous: digest of the card that this one replaces, for `so8t recalibrate`.
        review: who changed which labels, for `so8t recalibrate --labels`; goes into `data`.
    """
    # The order matters: hazards need the temperature, strata need hazards, thresholds need strata.
    gate = limits_of(index)
    familiar = familiar_rows(gate, scores.strangeness, len(scores))
    fitted = fit(scores, limits, readout, familiar)
    strata = strata_of(scores, fitted.hazards, limits)
    reasons = reasons_of(scores, fitted, strata, limits)
    false_deny = false_deny_certificate(scores, fitted, limits)
    limit = certified_limit(strata, reasons)
    chosen = choose(
        scores,
        fitted,
        limits,
        limit,
        false_deny["lowest_deny"],
    )
    measured = measure(
        scores,
        fitted.probabilities,
        chosen,
        limits,
        seed,
    )
    status = "certified"
    allow: float | None = 1.0 - chosen.escalate
    advisory = None
    # Nothing may be allowed without a certificate, so the card says so in each place.
    if reasons:
        status = "not_certified"
        allow = None
        advisory = advisory_of(scores, fitted, strata, limits)
    data = data_of(scores, fitted, meta, limits)
    if review is not None:
        data["review"] = review
    body = {
        **binding_of(meta, readout, limits),
        "familiarity": {
            "budget": index.budget,
            "budget_kept": index.keeps_budget,
            "limits": gate,
            "index": index.digest,
        },
        "status": status,
        "reasons": reasons,
        "temperature": fitted.temperature.temperature,
        "thresholds": {"deny": chosen.deny, "escalate": chosen.escalate, "allow": allow},
        "metrics": founding_metrics(measured),
        "measured": measured,
        "certificate": certificate_of(
            scores,
            strata,
            fitted,
            chosen,
            limits,
        ),
        "false_deny": false_deny,
        "temperature_fit": fitted.temperature.to_dict(),
        "founding": founding_rule(scores, fitted.probabilities),
        "advisory": advisory,
        "data": data,
        "limits": list(LIMITS),
        "previous": previous,
    }
    return build(body), fitted
