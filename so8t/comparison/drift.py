"""What quantisation changed: a quantised file against its F16 file on the same rows.

Under the *reference* card both are decided alike, so any flip is quantisation (findings). Under its *own* card each is
as it would be served, so more false allows there are a regression (violations, which the gate reads).
Symmetric noise is invisible to McNemar, and nearly harmless; KL and |difference of p_allow| show it.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from so8t import metrics
from so8t.comparison.endpoints import Rules, collapsed, emitted, flips, worst_flips
from so8t.comparison.sides import SPLITS, Arm, Side, arm_of, describe, require_paired
from so8t.metrics import Scores
from so8t.metrics.quality import ALLOW

TINY = float(np.finfo(np.float64).tiny)


@dataclass(frozen=True, slots=True)
class Pair:
    """Reference and quantised file, each decided by the reference card, and each by its own."""

    reference: Arm
    quantised: Arm
    quantised_own: Arm


def join(arms: list[Arm]) -> Arm:
    """All splits of one side as one arm; ids are made distinct by their split."""
    ids = tuple(
        f"{split}/{name}"
        for split, arm in zip(SPLITS, arms, strict=True)
        for name in arm.scores.ids
    )
    parts = [arm.scores for arm in arms]
    groups, domains = (
        tuple(value for part in parts for value in getattr(part, key))
        for key in ("groups", "domains")
    )
    scores = Scores(
        ids,
        groups,
        domains,
        np.concatenate([part.gold for part in parts]),
        np.concatenate([part.logits for part in parts]),
        np.concatenate([part.residual for part in parts]),
    )
    return Arm(
        scores,
        np.concatenate([arm.probabilities for arm in arms]),
        np.concatenate([arm.decided for arm in arms]),
    )


def distances(a: Float[ndarray, "n 3"], b: Float[ndarray, "n 3"]) -> dict[str, Any]:
    """Mean KL(reference || quantised) in nats and |difference of p_allow| over rows both could read."""
    rows = np.isfinite(a).all(axis=1) & np.isfinite(b).all(axis=1)
    p, q = np.maximum(a[rows], TINY), np.maximum(b[rows], TINY)
    if len(p) == 0:
        return {"n": 0, "kl_mean": None, "kl_max": None, "p_allow_mean": None, "p_allow_max": None}
    kl, moved = np.maximum((p * np.log(p / q)).sum(axis=1), 0.0), np.abs(p[:, 0] - q[:, 0])
    return {
        "n": len(p),
        "kl_mean": float(kl.mean()),
        "kl_max": float(kl.max()),
        "p_allow_mean": float(moved.mean()),
        "p_allow_max": float(moved.max()),
    }


def _test(a: Arm, b: Arm, rows: ndarray) -> dict[str, Any]:
    """Two-sided exact tests of ALLOW against not ALLOW on some rows, by row and by group, and the direction."""
    was, now = a.decided[rows] == ALLOW, b.decided[rows] == ALLOW
    exact = metrics.mcnemar(was, now)
    groups = [a.scores.groups[i] for i in np.flatnonzero(rows).tolist()]
    return {
        "n": int(np.count_nonzero(rows)),
        "only_reference": exact.only_a,
        "only_quantised": exact.only_b,
        "p_rows": exact.p,
        "p": metrics.group_sign_test(was, now, groups),
    }


def measure(pair: Pair, rules: Rules) -> dict[str, Any]:
    """All numbers of one pair; significance is judged later, over all pairs together."""
    everything = np.ones(len(pair.reference.scores), dtype=bool)
    unsafe = pair.reference.scores.gold != ALLOW
    return {
        "n": len(everything),
        "flips": flips(pair.reference, pair.quantised),
        "allow": _test(pair.reference, pair.quantised, everything),
        "false_allow": _test(pair.reference, pair.quantised, unsafe),
        "false_allow_own_cards": _test(pair.reference, pair.quantised_own, unsafe),
        "distance": distances(pair.reference.probabilities, pair.quantised.probabilities),
        "emitted": {
            "reference": emitted(pair.reference.top),
            "quantised": emitted(pair.quantised.top),
        },
        "collapsed": collapsed(pair.reference, pair.quantised, rules.alpha),
        "worst_flips": worst_flips(pair.reference, pair.quantised),
    }


def judge(entries: list[dict[str, Any]], alpha: float) -> list[dict[str, Any]]:
    """Add findings and violations, Holm-adjusted over the pairs; the same file twice must not differ at all."""
    for test, code in (
        ("allow", "bias"),
        ("false_allow", "false_allow_bias"),
        ("false_allow_own_cards", "regression"),
    ):
        for entry, p in zip(entries, metrics.holm([e[test]["p"] for e in entries]), strict=True):
            entry[test]["p_adjusted"] = p
            toward = entry[test]["only_quantised"] > entry[test]["only_reference"]
            if p <= alpha:
                entry.setdefault("found", []).append(
                    f"{code}_{'toward' if toward else 'away_from'}_allow"
                )
    for entry in entries:
        found = entry.pop("found", [])
        entry["findings"] = [code for code in found if not code.startswith("regression")]
        entry["violations"] = (
            ["false_allow_regression"] if "regression_toward_allow" in found else []
        )
        entry["violations"] += ["class_collapse"] if entry["collapsed"] else []
        entry["violations"] += (
            ["canary_flips"] if entry["same_file"] and entry["flips"]["changed"]["k"] else []
        )
    return entries


def drift(pairs: list[tuple[Side, Side]], rules: Rules) -> list[dict[str, Any]]:
    """Drift of every (reference, quantised) pair over the three test splits together."""
    entries = []
    for reference, quantised in pairs:
        facts, others = describe(quantised), describe(reference)
        arms: list[list[Arm]] = [[], [], []]
        for split in SPLITS:
            first, own = arm_of(reference, split), arm_of(quantised, split)
            require_paired(first, own, f"{quantised.folder}/{split}.jsonl")
            for kept, arm in zip(arms, (first, own.judged_by(reference.judge), own), strict=True):
                kept.append(arm)
        names = {
            "reference": others["file"],
            "file": facts["file"],
            "semantic_digest": facts["semantic_digest"],
            "card_digest": facts["card_digest"],
            "status": facts["status"],
            "same_file": facts["semantic_digest"] == others["semantic_digest"],
        }
        entries.append({**names, **measure(Pair(*map(join, arms)), rules)})
    return judge(entries, rules.alpha)
