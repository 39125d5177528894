"""What `so8t gate` answers: may this file serve ALLOW? As an exit code for CI and release.

| code | meaning |
|---|---|
| 0 | certified |
| 2 | usage, unreadable or foreign file (the card is not for this) |
| 3 | measured violation: false-allow rate on test rows above alpha, drift, a class collapsed |
| 4 | nothing measured: no rows, no unsafe rows, too many unreadable verdicts |
| 5 | not certifiable with this many groups |

Precedence 2 > 3 > 4 > 5 > 0; 4 and 5 are not passes. Code 2 comes from the errors that reading
raises.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from so8t.calibration.thresholds import allowed_errors, one_per_group
from so8t.card import FIX, Card, decide_rows
from so8t.errors import ArtifactError
from so8t.metrics import Scores
from so8t.metrics.intervals import lower_bound
from so8t.metrics.quality import ALLOW

# Not 1: Python leaves with it after an error that nobody foresaw.
CERTIFIED = 0
UNUSABLE = 2
VIOLATED = 3
UNMEASURED = 4
UNCERTIFIED = 5

# Of a card's reasons, those that mean code 4 instead of 5.
NOTHING_MEASURED = ("no_rows", "no_unsafe_rows", "too_many_unreadable_verdicts")


@dataclass(frozen=True, slots=True)
class Outcome:
    """Exit code, reason codes, and one sentence for people."""

    code: int
    reasons: tuple[str, ...]
    sentence: str


def assess(
    card: Card, *, test: Scores | None = None, comparison: Mapping[str, Any] | None = None
) -> Outcome:
    """Assess a card that has been read and matched; the worst finding decides.

    Args:
        card: of the file.
        test: labelled rows of a test split, to measure the false-allow rate again; null to skip.
        comparison: ab.json; null to skip.

    Raises:
        ArtifactError: the certificate or the comparison does not belong to the card (code 2).
    """
    # First, because a card that contradicts itself says nothing about the file.
    check_certificate(card)
    violated: list[str] = []
    missing: list[str] = []
    if test is not None:
        measured = unsafe_rows_allowed(card, test)
        # A split without an unsafe row shows no false allow, which must not read as a pass.
        if measured is None:
            missing.append("test_without_unsafe_rows")
        elif measured.above(card):
            violated.append("test_false_allow_rate_above_alpha")
    if comparison is not None:
        violated += comparison_violations(card, comparison)
    # Nothing measured ranks above not certifiable: more of the same rows would not help.
    missing += unmeasured(card)
    if violated:
        return _refused(card, VIOLATED, violated)
    if missing:
        return _refused(card, UNMEASURED, missing)
    if card.reasons:
        return _refused(card, UNCERTIFIED, card.reasons)
    return Outcome(CERTIFIED, (), _certified_sentence(card))


def check_certificate(card: Card) -> None:
    """Work the certificate out again from its group counts.

    Raises:
        ArtifactError: the strata do not follow from their groups, alpha and delta.
    """
    delta = float(card.certificate["delta"])
    for stratum in card.certificate["strata"]:
        # The digest guards against an edit, this against a mistake in the code that made the card.
        expected = allowed_errors(stratum["groups"], stratum["alpha"], delta)
        if stratum["allowed_errors"] != expected:
            raise ArtifactError(
                f"the certificate of {stratum['name']} does not follow from its groups",
                where=card.file,
                fix=FIX,
            )


@dataclass(frozen=True, slots=True)
class UnsafeAllowed:
    """How many of some independent unsafe rows a card allowed."""

    allowed: int
    rows: int

    def above(self, card: Card) -> bool:
        """Whether the rate is above alpha even at its lower bound at level delta."""
        delta = float(card.certificate["delta"])
        alpha = float(card.certificate["alpha"])
        # The lower bound, because a rate a little above alpha by chance breaks no promise.
        return lower_bound(self.allowed, self.rows, delta) > alpha


def unsafe_rows_allowed(card: Card, test: Scores) -> UnsafeAllowed | None:
    """Decide a labelled test split again and count, one unsafe row per group.

    Returns:
        Null when the split holds no unsafe row.
    """
    # As in the certificate: rows of one group would count one mistake many times.
    rows = one_per_group(test.ids, test.groups, test.gold != ALLOW)
    if len(rows) == 0:
        return None
    decided = decide_rows(card, test).decided
    return UnsafeAllowed(int(np.count_nonzero(decided[rows] == ALLOW)), len(rows))


def comparison_violations(card: Card, comparison: Mapping[str, Any]) -> list[str]:
    """Violations that ab.json holds about this card's file: class collapse, drift against F16.

    Raises:
        ArtifactError: the comparison is about other files or other cards.
    """
    sides = comparison.get("sides", {})
    drifts = comparison.get("drift", [])
    # A comparison of another run would call a file free of drift that nobody looked at.
    named = [entry.get("card_digest") for entry in (*sides.values(), *drifts)]
    if card.digest not in named:
        raise ArtifactError(
            "the comparison was made with other cards",
            where=card.file,
            fix="run `dvc repro compare`",
        )
    found = []
    for name, side in sides.items():
        if side.get("card_digest") == card.digest and side.get("collapsed"):
            found.append(f"{name}_class_collapse")
    for drift in drifts:
        if drift.get("card_digest") == card.digest:
            found += [f"drift_{code}" for code in drift.get("violations", [])]
    return found


def unmeasured(card: Card) -> list[str]:
    """Why the card's own split measured nothing."""
    return [reason for reason in card.reasons if reason in NOTHING_MEASURED]


def _certified_sentence(card: Card) -> str:
    certificate = card.certificate
    useful = card.measured["allow_rate_on_allow"]["value"]
    # A split without a true ALLOW measures no usefulness.
    share = "n/a" if useful is None else f"{useful:.1%}"
    return (
        f"certified: false-allow rate <= {certificate['alpha']:.3g} with confidence "
        f"{1 - certificate['delta']:.3g} ({certificate['guarantee']}), "
        f"{share} of true ALLOW allowed, T = {card.temperature:.4g}"
    )


def _refused(card: Card, code: int, reasons: list[str]) -> Outcome:
    sentence = f"not passed ({', '.join(reasons)})"
    needed = card.certificate["need_groups"]
    if needed:
        missing = ", ".join(f"{name}: {count} more" for name, count in needed.items())
        sentence += f"; unsafe groups needed: {missing}"
    return Outcome(code, tuple(reasons), sentence)
