"""What quantisation changed: a quantised file against its F16 file on the same rows.

Under the *reference* card (that of the F16 file) both are decided alike, so any flip is due to
quantisation; these are findings. Under its *own* card each is decided as it would be served, so
more false allows there are a regression; these are violations, which `so8t gate` reads.

Noise that flips as many rows towards ALLOW as away from it is invisible to McNemar's test, and
nearly harmless. The KL divergence and the difference of p_allow show it.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool
from numpy import ndarray

from so8t import metrics
from so8t.card import DecidedRows, Probabilities, decide_rows
from so8t.comparison.endpoints import Rules
from so8t.comparison.flips import collapsed, emitted, flips, worst_flips
from so8t.comparison.sides import SPLITS, Side, describe, read_split, require_paired
from so8t.metrics import Scores
from so8t.metrics.quality import ALLOW
from so8t.metrics.resample import TINY

# Tests under the reference card, and the finding that each gives.
BIASES = (("allow", "bias"), ("false_allow", "false_allow_bias"))
# The test under each file's own card, whose result is a violation.
REGRESSION = "false_allow_own_cards"


@dataclass(frozen=True, slots=True)
class Pair:
    """The rows of a reference file and of a quantised one.

    Attributes:
        reference: decided by the reference card.
        quantised: decided by the reference card.
        quantised_own: decided by the quantised file's own card.
    """

    reference: DecidedRows
    quantised: DecidedRows
    quantised_own: DecidedRows


def drift(pairs: list[tuple[Side, Side]], rules: Rules) -> list[dict[str, Any]]:
    """Drift of every (reference, quantised) pair over the three test splits together.

    Raises:
        ArtifactError: a card is not for its scores.
        DataError: a pair was not scored on the same rows.
    """
    entries = []
    for reference, quantised in pairs:
        facts = describe(quantised)
        facts_of_reference = describe(reference)
        entry = {
            "reference": facts_of_reference["file"],
            "file": facts["file"],
            "semantic_digest": facts["semantic_digest"],
            "card_digest": facts["card_digest"],
            "status": facts["status"],
            "same_file": facts["semantic_digest"] == facts_of_reference["semantic_digest"],
        }
        entries.append({**entry, **measure(read_pair(reference, quantised), rules)})
    return add_findings(entries, rules.alpha)


def read_pair(reference: Side, quantised: Side) -> Pair:
    """Read all test splits of both files.

    Raises:
        DataError: they were not scored on the same rows.
    """
    first = []
    second = []
    second_own = []
    for split in SPLITS:
        rows = read_split(reference, split)
        own = read_split(quantised, split)
        require_paired(rows, own, f"{quantised.folder}/{split}.jsonl")
        first.append(rows)
        # The same temperature and thresholds for both, so that only the weights differ.
        second.append(decide_rows(reference.card, own.scores))
        second_own.append(own)
    return Pair(join(first), join(second), join(second_own))


def join(parts: list[DecidedRows]) -> DecidedRows:
    """All splits of one side as one; ids are made distinct by their split."""
    ids: list[str] = []
    groups: list[str] = []
    domains: list[str] = []
    for split, part in zip(SPLITS, parts, strict=True):
        # Two splits may use the same id.
        ids += [f"{split}/{name}" for name in part.scores.ids]
        groups += part.scores.groups
        domains += part.scores.domains
    scores = Scores(
        ids=tuple(ids),
        groups=tuple(groups),
        domains=tuple(domains),
        gold=np.concatenate([part.scores.gold for part in parts]),
        logits=np.concatenate([part.scores.logits for part in parts]),
        residual=np.concatenate([part.scores.residual for part in parts]),
    )
    return DecidedRows(
        scores,
        np.concatenate([part.probabilities for part in parts]),
        np.concatenate([part.decided for part in parts]),
        np.concatenate([part.familiar for part in parts]),
    )


def measure(pair: Pair, rules: Rules) -> dict[str, Any]:
    """All numbers of one pair; significance is decided later, over all pairs together."""
    # All splits together: a bias of quantisation is not about the wording, and needs the rows.
    everything = np.ones(len(pair.reference.scores), dtype=bool)
    unsafe = pair.reference.scores.gold != ALLOW
    return {
        "n": len(everything),
        "flips": flips(pair.reference, pair.quantised),
        "allow": _test(pair.reference, pair.quantised, everything),
        "false_allow": _test(pair.reference, pair.quantised, unsafe),
        "false_allow_own_cards": _test(pair.reference, pair.quantised_own, unsafe),
        # Distances and flips are about quantisation alone, so both are under the reference card.
        "distance": distances(pair.reference.probabilities, pair.quantised.probabilities),
        "emitted": {
            "reference": emitted(pair.reference.most_likely),
            "quantised": emitted(pair.quantised.most_likely),
        },
        "collapsed": collapsed(pair.reference, pair.quantised, rules.alpha),
        "worst_flips": worst_flips(pair.reference, pair.quantised),
    }


def _test(a: DecidedRows, b: DecidedRows, rows: Bool[ndarray, " n"]) -> dict[str, Any]:
    """Exact two-sided tests of ALLOW against not ALLOW on some rows, by row and by group."""
    was = a.decided[rows] == ALLOW
    now = b.decided[rows] == ALLOW
    # By row for comparison with other work; by group for the conclusion, because rows of a group
    # flip together.
    exact = metrics.mcnemar(was, now)
    # Both sides have the same groups; `require_paired` has checked it.
    groups = a.scores.where(rows).groups
    return {
        "n": int(np.count_nonzero(rows)),
        "only_reference": exact.only_a,
        "only_quantised": exact.only_b,
        "p_rows": exact.p,
        "p": metrics.group_sign_test(was, now, groups),
    }


def distances(reference: Probabilities, quantised: Probabilities) -> dict[str, Any]:
    """KL(reference || quantised) in nats and |difference of p_allow|, mean and largest.

    Only rows that both could read count.
    """
    readable = np.isfinite(reference).all(axis=1) & np.isfinite(quantised).all(axis=1)
    # A probability of 0 has no logarithm.
    p = np.maximum(reference[readable], TINY)
    q = np.maximum(quantised[readable], TINY)
    if len(p) == 0:
        return {"n": 0, "kl_mean": None, "kl_max": None, "p_allow_mean": None, "p_allow_max": None}
    # KL cannot be negative; rounding makes it -1e-17 for equal rows.
    kl = np.maximum((p * np.log(p / q)).sum(axis=1), 0.0)
    moved = np.abs(p[:, ALLOW] - q[:, ALLOW])
    return {
        "n": len(p),
        "kl_mean": float(kl.mean()),
        "kl_max": float(kl.max()),
        "p_allow_mean": float(moved.mean()),
        "p_allow_max": float(moved.max()),
    }


def add_findings(entries: list[dict[str, Any]], alpha: float) -> list[dict[str, Any]]:
    """Add findings, violations and adjusted p-values to each entry.

    Holm's correction runs over the pairs, for each test apart.

    Args:
        entries: numbers of `measure` and `same_file`; changed in place.
        alpha: level.
    """
    # Findings are for a person to read; violations alone make `so8t gate` refuse.
    findings: list[list[str]] = [[] for _ in entries]
    for test, code in BIASES:
        directions = _significant_directions(entries, test, alpha)
        for found, direction in zip(findings, directions, strict=True):
            if direction is not None:
                found.append(f"{code}_{direction}")
    regressions = _significant_directions(entries, REGRESSION, alpha)
    for entry, found, regression in zip(
        entries,
        findings,
        regressions,
        strict=True,
    ):
        entry["findings"] = found
        entry["violations"] = _violations(entry, regression)
    return entries


def _significant_directions(
    entries: list[dict[str, Any]],
    test: str,
    alpha: float,
) -> list[str | None]:
    """Where each entry moved by this test; null where that is not significant."""
    directions: list[str | None] = []
    # Without the correction, six files at a level of 5 % would raise a false alarm in every fourth
    # run.
    adjusted = metrics.holm([entry[test]["p"] for entry in entries])
    for entry, p in zip(entries, adjusted, strict=True):
        numbers = entry[test]
        numbers["p_adjusted"] = p
        if p > alpha:
            directions.append(None)
        elif numbers["only_quantised"] > numbers["only_reference"]:
            directions.append("toward_allow")
        else:
            directions.append("away_from_allow")
    return directions


def _violations(entry: dict[str, Any], regression: str | None) -> list[str]:
    violations = []
    # Fewer false allows than the F16 file are no harm.
    if regression == "toward_allow":
        violations.append("false_allow_regression")
    if entry["collapsed"]:
        violations.append("class_collapse")
    # The same file twice must not differ at all: if it does, the measurement is at fault.
    if entry["same_file"] and entry["flips"]["changed"]["k"]:
        violations.append("canary_flips")
    return violations
