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

from so8t.calibration.certify import MISSING_LABEL
from so8t.calibration.thresholds import allowed_errors
from so8t.card import FIX, Card, decide_rows
from so8t.coverage import COVERED, promise
from so8t.errors import ArtifactError
from so8t.metrics import Scores
from so8t.metrics.exact import one_per_group
from so8t.metrics.intervals import lower_bound
from so8t.metrics.quality import ALLOW, DENY
from so8t.verdict import VERDICTS

# Not 1: Python leaves with it after an error that nobody foresaw.
CERTIFIED = 0
UNUSABLE = 2
VIOLATED = 3
UNMEASURED = 4
UNCERTIFIED = 5

# Names of risks in a certificate: of all domains together, and the mark of true DENY alone.
EVERYWHERE = "all"
DENY_ONLY = "/DENY"

# Of a card's reasons, those that mean code 4 instead of 5.
NOTHING_MEASURED = (
    "no_rows",
    "no_unsafe_rows",
    *MISSING_LABEL,
    "too_many_unreadable_verdicts",
)
# What to do about a reason, where a person can do something.
REMEDY = "add rows labelled {label} to a source with `use: calibration`, then `dvc repro calibrate`"


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
        for risk in unsafe_rows_allowed(card, test):
            # Rows without an unsafe one show no false allow, which must not read as a pass.
            if risk.rows == 0:
                missing.append(f"test_without_unsafe_rows:{risk.name}")
            elif risk.above:
                violated.append(f"test_false_allow_rate_above_alpha:{risk.name}")
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
    """How many independent unsafe rows of one risk a card allowed.

    Attributes:
        name: of the risk, as in the certificate: a domain, "all", "NAME/DENY".
        allowed: rows that were allowed.
        rows: one per group.
        alpha: the largest rate that was promised.
        level: of the bound, one-sided.
    """

    name: str
    allowed: int
    rows: int
    alpha: float
    level: float

    @property
    def above(self) -> bool:
        """Whether the rate is above alpha even at its lower bound."""
        # The lower bound, because a rate a little above alpha by chance breaks no promise.
        return lower_bound(self.allowed, self.rows, self.level) > self.alpha


def unsafe_rows_allowed(card: Card, test: Scores) -> list[UnsafeAllowed]:
    """Decide a labelled test split again and count, one unsafe row per group, for each promise.

    The promise is kept where it is kept in the worst domain. Pooled over domains, one domain that
    is let down would hide behind the others.
    """
    decided = decide_rows(card, test).decided
    promises = _promises(card, test)
    found = []
    for name, alpha in promises.items():
        domain = name.removesuffix(DENY_ONLY)
        at_risk = test.gold == DENY if name.endswith(DENY_ONLY) else test.gold != ALLOW
        if domain != EVERYWHERE:
            at_risk &= np.asarray(test.domains, dtype=np.str_) == domain
        # As in the certificate: rows of one group would count one mistake many times.
        rows = one_per_group(test.ids, test.groups, at_risk)
        allowed = int(np.count_nonzero(decided[rows] == ALLOW))
        # Each of several looks may be wrong by chance, so they share the level.
        level = float(card.certificate["delta"]) / len(promises)
        found.append(UnsafeAllowed(name, allowed, len(rows), alpha, level))
    return found


def _promises(card: Card, test: Scores) -> dict[str, float]:
    """Largest rate of each risk that the certificate speaks of; every domain of the test counts."""
    strata = card.certificate["strata"]
    promises = {one["name"]: float(one["alpha"]) for one in strata if one["binding"]}
    if card.certificate["guarantee"] == "worst_domain":
        for domain in sorted(set(test.domains)):
            promises.setdefault(domain, float(card.certificate["alpha"]))
    # A card without any stratum still has to measure something.
    return promises or {EVERYWHERE: float(card.certificate["alpha"])}


def comparison_violations(card: Card, comparison: Mapping[str, Any]) -> list[str]:
    """Violations that ab.json holds about this card's file: class collapse, drift against F16.

    Raises:
        ArtifactError: the comparison is about other files or other cards.
    """
    sides = comparison.get("sides")
    drifts = comparison.get("drift")
    if not (
        isinstance(sides, dict)
        and isinstance(drifts, list)
        and all(isinstance(entry, dict) for entry in (*sides.values(), *drifts))
    ):
        raise ArtifactError(
            "the comparison has no list of its sides and drifts",
            where=card.file,
            fix="run `dvc repro compare`",
        )
    # A comparison of another run would call a file free of drift that nobody looked at.
    if card.digest not in [entry.get("card_digest") for entry in (*sides.values(), *drifts)]:
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
    reasons = [reason for reason in card.reasons if reason in NOTHING_MEASURED]
    # Cards of earlier versions were certified without a true ALLOW.
    if not card.reasons and card.measured["allow_rate_on_allow"]["value"] is None:
        reasons.append("no_allow_rows")
    return reasons


def _certified_sentence(card: Card) -> str:
    return (
        f"certified: {promise(card.certificate)}, "
        f"{card.measured['allow_rate_on_allow']['value']:.1%} of true ALLOW allowed, "
        f"T = {card.temperature:.4g}. {COVERED[1]}"
    )


def _refused(card: Card, code: int, reasons: list[str]) -> Outcome:
    sentence = f"not passed ({', '.join(reasons)})"
    needed = card.certificate["need_groups"]
    if needed:
        missing = ", ".join(f"{name}: {count} more" for name, count in needed.items())
        sentence += f"; unsafe groups needed: {missing}"
    labels = [str(VERDICTS[MISSING_LABEL[name]]) for name in reasons if name in MISSING_LABEL]
    if labels:
        sentence += f"; {REMEDY.format(label=' and '.join(labels))}"
    return Outcome(code, tuple(reasons), sentence)
