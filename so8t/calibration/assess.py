"""The door: may this file serve ALLOW? Exit codes for CI and release.

| code | meaning |
|---|---|
| 0 | certified |
| 2 | usage, unreadable or foreign file (the card is not for this) |
| 3 | measured violation: the lower bound of the test false-allow rate is above alpha, drift, or a class collapsed |
| 4 | nothing measured: no rows, no unsafe rows, too many unreadable verdicts |
| 5 | not certifiable with this many groups |

Precedence 2 > 3 > 4 > 5 > 0. 4 and 5 are not passes. Code 2 comes from the errors that reading raises.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from so8t.calibration.thresholds import ALLOW, allowed_errors, one_per_group
from so8t.card import FIX, Card, probabilities, thresholds_of
from so8t.errors import ArtifactError
from so8t.metrics import Scores, codes
from so8t.metrics.intervals import lower_bound
from so8t.verdict import decide

NOTHING_MEASURED = ("no_rows", "no_unsafe_rows", "too_many_unreadable_verdicts")
CERTIFIED, UNUSABLE, VIOLATED, UNMEASURED, UNCERTIFIED = 0, 2, 3, 4, 5


@dataclass(frozen=True, slots=True)
class Outcome:
    """Exit code, reason codes, and one sentence for people."""

    code: int
    reasons: tuple[str, ...]
    sentence: str


def violation_on(card: Card, test: Scores) -> tuple[list[str], list[str]]:
    """(violations, missing measurements) of the card on a labelled test split, one unsafe row per group."""
    rows = one_per_group(test.ids, test.groups, test.gold != ALLOW)
    if len(rows) == 0:
        return [], ["test_without_unsafe_rows"]
    decided = codes(decide(probabilities(card, test.logits, test.residual), thresholds_of(card)))
    errors = int(np.count_nonzero(decided[rows] == ALLOW))
    alpha, delta = float(card.certificate["alpha"]), float(card.certificate["delta"])
    above = lower_bound(errors, len(rows), delta) > alpha
    return (["test_false_allow_rate_above_alpha"] if above else []), []


def check_certificate(card: Card) -> None:
    """Work the certificate out again from its group counts.

    Raises:
        ArtifactError: the strata do not follow from their groups, alpha and delta.
    """
    delta = float(card.certificate["delta"])
    for stratum in card.certificate["strata"]:
        if stratum["allowed_errors"] != allowed_errors(stratum["groups"], stratum["alpha"], delta):
            raise ArtifactError(
                f"the certificate of {stratum['name']} does not follow from its groups",
                where=card.file,
                fix=FIX,
            )


def comparison_violations(card: Card, comparison: Mapping[str, Any]) -> list[str]:
    """Violations that ab.json holds about this card's file: class collapse, drift against F16.

    Raises:
        ArtifactError: the comparison is about other files or other cards.
    """
    cards = [side.get("card_digest") for side in comparison.get("sides", {}).values()]
    drifted = [drift.get("card_digest") for drift in comparison.get("drift", [])]
    if card.digest not in cards + drifted:
        raise ArtifactError(
            "the comparison was made with other cards",
            where=card.file,
            fix="run `dvc repro compare`",
        )
    found = [
        f"{name}_class_collapse"
        for name, side in comparison.get("sides", {}).items()
        if side.get("card_digest") == card.digest and side.get("collapsed")
    ]
    for drift in comparison.get("drift", []):
        if drift.get("card_digest") == card.digest:
            found += [f"drift_{code}" for code in drift.get("violations", [])]
    return found


def unmeasured(card: Card) -> list[str]:
    """Why the card's own split measured nothing."""
    return [reason for reason in card.reasons if reason in NOTHING_MEASURED]


def _sentence(card: Card, code: int, reasons: tuple[str, ...]) -> str:
    certificate, useful = card.certificate, card.measured["allow_rate_on_allow"]["value"]
    share = "n/a" if useful is None else f"{useful:.1%}"
    if code == CERTIFIED:
        return (
            f"certified: false-allow rate <= {certificate['alpha']:.3g} with confidence "
            f"{1 - certificate['delta']:.3g} ({certificate['guarantee']}), {share} of true ALLOW allowed, "
            f"T = {card.temperature:.4g}"
        )
    missing = ", ".join(
        f"{name}: {count} more" for name, count in certificate["need_groups"].items()
    )
    return f"not passed ({', '.join(reasons)}){f'; unsafe groups needed: {missing}' if missing else ''}"


def assess(
    card: Card, *, test: Scores | None = None, comparison: Mapping[str, Any] | None = None
) -> Outcome:
    """Judge a card that has been read and matched; the worst finding decides.

    Raises:
        ArtifactError: the certificate or the comparison does not belong to the card (code 2).
    """
    check_certificate(card)
    violated, missing = ([], []) if test is None else violation_on(card, test)
    violated = violated + ([] if comparison is None else comparison_violations(card, comparison))
    missing = missing + unmeasured(card)
    for code, reasons in ((VIOLATED, violated), (UNMEASURED, missing), (UNCERTIFIED, card.reasons)):
        if reasons:
            return Outcome(code, tuple(reasons), _sentence(card, code, tuple(reasons)))
    return Outcome(CERTIFIED, (), _sentence(card, CERTIFIED, ()))
