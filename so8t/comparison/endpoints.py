"""Every difference B - A of one split: value, interval, p-value, and the smallest difference that would have shown.

Intervals resample groups; p-values exchange A and B inside groups (exact for rates, which for one row per group is
McNemar's test; by 10,000 random exchanges for the rest). Primary endpoints are declared in params.compare.primary;
Holm's correction runs inside the primary family and, separately, over the rest.

Where A and B decide differently, the worst of it by row id, and verdicts that a model has stopped giving.

Never any text: rows are named by id.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray
from scipy.special import ndtri

from so8t import metrics
from so8t.comparison.sides import Arm
from so8t.metrics.intervals import POWER, percentile_interval, upper_bound
from so8t.metrics.quality import (
    ALLOW,
    DENY,
    ESCALATE,
    brier_rows,
    cells,
    confusion,
    ece_gaps,
    macro_f1_of,
)
from so8t.verdict import VERDICTS

TINY = float(np.finfo(np.float64).tiny)
Statistic = Callable[[ndarray], ndarray]


@dataclass(frozen=True, slots=True)
class Rules:
    """params.compare and the seed: level, bootstrap draws, non-inferiority margin, primary endpoints."""

    alpha: float
    draws: int
    margin: float
    primary: tuple[str, ...]
    seed: int


@dataclass(frozen=True, slots=True)
class Binary:
    """A rate of decisions: which rows count, which outcome, and whether less is better."""

    rows: Callable[[ndarray], ndarray]
    hit: Callable[[ndarray, ndarray], ndarray]
    lower_is_better: bool | None


def _always(gold: ndarray) -> ndarray:
    return np.ones(len(gold), dtype=bool)


BINARY = {
    "accuracy": Binary(_always, lambda gold, v: v == gold, lower_is_better=False),
    "false_allow_rate": Binary(
        lambda gold: gold != ALLOW, lambda _, v: v == ALLOW, lower_is_better=True
    ),
    "false_allow_rate_deny_only": Binary(
        lambda gold: gold == DENY, lambda _, v: v == ALLOW, lower_is_better=True
    ),
    "false_deny_rate": Binary(
        lambda gold: gold == ALLOW, lambda _, v: v == DENY, lower_is_better=True
    ),
    "allow_rate_on_allow": Binary(
        lambda gold: gold == ALLOW, lambda _, v: v == ALLOW, lower_is_better=False
    ),
    "escalation_rate": Binary(_always, lambda _, v: v == ESCALATE, lower_is_better=None),
}


def _mean(sums: ndarray) -> ndarray:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(sums[:, 0] / sums[:, 1])


def _ece(sums: ndarray) -> ndarray:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.abs(sums[:, :-1]).sum(axis=1) / sums[:, -1])


def design_effect(differences: Float[ndarray, " n"], groups: Sequence[str]) -> float:
    """Variance of the summed difference with groups over that without, at least 1."""
    centred = differences - differences.mean()
    alone = float(np.square(centred).sum())
    together = float(np.square(metrics.group_sums(centred[:, None], groups)).sum())
    return max(1.0, together / alone) if alone > 0 else 1.0


def _outcome(difference: float | None, p: float, alpha: float, lower_is_better: bool | None) -> str:
    if difference is None:
        return "not_measured"
    if p > alpha or difference == 0:
        return "no_difference"
    if lower_is_better is None:
        return "different"
    return "better" if (difference < 0) == lower_is_better else "worse"


def _binary(a: Arm, b: Arm, spec: Binary, rules: Rules, level: float) -> dict[str, Any]:
    """One rate: exact tests, group interval, minimum detectable effect at `level`."""
    rows: Bool[ndarray, " n"] = spec.rows(a.scores.gold)
    kept = a.scores.where(rows)
    hit_a, hit_b = (spec.hit(kept.gold, arm.decided[rows]) for arm in (a, b))
    table = np.stack([hit_b.astype(np.float64) - hit_a, np.ones(len(kept))], axis=1)
    exact = metrics.mcnemar(hit_a, hit_b)
    difference = float(table[:, 0].mean()) if len(kept) else None
    discordant = (exact.only_a + exact.only_b) / len(kept) if len(kept) else 0.0
    share = discordant or upper_bound(
        0, len(kept), 0.05
    )  # none seen: as many as 95 % confidence cannot exclude
    smallest = metrics.minimum_detectable(len(kept), share, level)
    spread = design_effect(table[:, 0], kept.groups) if len(kept) else 1.0
    return {
        "a": metrics.rate(hit_a).to_dict(),
        "b": metrics.rate(hit_b).to_dict(),
        "difference": difference,
        "ci95": _group_interval(table, kept.groups, _mean, rules),
        "n": len(kept),
        "groups": len(set(kept.groups)),
        "p": metrics.group_sign_test(hit_a, hit_b, kept.groups),
        "mcnemar": {"only_a": exact.only_a, "only_b": exact.only_b, "p": exact.p},
        "design_effect": spread,
        "mde": None if smallest is None else min(1.0, smallest * spread**0.5),
    }


def _group_interval(
    table: ndarray, groups: Sequence[str], statistic: Statistic, rules: Rules
) -> list[float] | None:
    if len(groups) == 0:
        return None
    draws = metrics.group_bootstrap(
        metrics.group_sums(table, groups), statistic, draws=rules.draws, seed=rules.seed
    )
    return percentile_interval(draws)


def _score(
    a: ndarray, b: ndarray, groups: Sequence[str], statistic: Statistic, rules: Rules, level: float
) -> dict[str, Any]:
    """One score that is a function of sums over rows: swap test, paired group bootstrap, MDE from its spread."""
    if len(groups) == 0:
        return {
            "a": None,
            "b": None,
            "difference": None,
            "ci95": None,
            "n": 0,
            "groups": 0,
            "p": 1.0,
            "mde": None,
        }
    sums_a, sums_b = metrics.group_sums(a, groups), metrics.group_sums(b, groups)
    width = sums_a.shape[1]

    def difference(sums: ndarray) -> ndarray:
        return statistic(sums[:, width:]) - statistic(sums[:, :width])

    draws = metrics.group_bootstrap(
        np.hstack([sums_a, sums_b]), difference, draws=rules.draws, seed=rules.seed
    )
    spread = float(np.nanstd(draws)) if np.isfinite(draws).any() else 0.0
    value_a, value_b = (float(statistic(s.sum(axis=0, keepdims=True))[0]) for s in (sums_a, sums_b))
    return {
        "a": {"value": value_a},
        "b": {"value": value_b},
        "difference": value_b - value_a,
        "ci95": percentile_interval(draws),
        "n": len(a),
        "groups": len(sums_a),
        "p": metrics.swap_test(sums_a, sums_b, statistic, draws=rules.draws, seed=rules.seed),
        "mde": float(ndtri(1 - level / 2) + ndtri(POWER)) * spread or None,
    }


def _tables(arm: Arm, rows: ndarray) -> dict[str, tuple[ndarray, Statistic]]:
    """Per-row columns of the probability scores, on rows that both sides could read."""
    p, gold = arm.probabilities[rows], arm.scores.gold[rows]
    ones = np.ones((len(gold), 1))
    losses = -np.log(np.maximum(p[np.arange(len(gold)), gold], TINY))
    return {
        "ece": (np.hstack([ece_gaps(p, gold, "width"), ones]), _ece),
        "brier_score": (np.hstack([brier_rows(p, gold)[:, None], ones]), _mean),
        "nll": (np.hstack([losses[:, None], ones]), _mean),
    }


def _scores(
    a: Arm, b: Arm, rules: Rules, level: Callable[[str], float]
) -> dict[str, dict[str, Any]]:
    found = {
        "macro_f1": _score(
            cells(a.scores.gold, a.decided),
            cells(b.scores.gold, b.decided),
            a.scores.groups,
            macro_f1_of,
            rules,
            level("macro_f1"),
        )
    }
    rows_a, rows_b = metrics.cell_bootstrap(
        a.scores.gold, a.decided, b.decided, draws=rules.draws, seed=rules.seed
    )
    found["macro_f1"]["ci95_rows"] = percentile_interval(macro_f1_of(rows_b) - macro_f1_of(rows_a))
    readable = np.flatnonzero(
        np.isfinite(a.probabilities).all(axis=1) & np.isfinite(b.probabilities).all(axis=1)
    )
    groups = [a.scores.groups[i] for i in readable.tolist()]
    for (name, (left, statistic)), (right, _) in zip(
        _tables(a, readable).items(), _tables(b, readable).values(), strict=True
    ):
        found[name] = _score(left, right, groups, statistic, rules, level(name))
    return found


def differences(a: Arm, b: Arm, rules: Rules) -> dict[str, dict[str, Any]]:
    """All endpoints of one split, Holm-adjusted inside the primary family and inside the rest."""
    names = [*BINARY, "macro_f1", "ece", "brier_score", "nll"]
    families = [
        [n for n in names if n in rules.primary],
        [n for n in names if n not in rules.primary],
    ]
    size = {name: len(family) for family in families for name in family}

    def level(name: str) -> float:
        return rules.alpha / size[name]

    found = {name: _binary(a, b, spec, rules, level(name)) for name, spec in BINARY.items()}
    found |= _scores(a, b, rules, level)
    for family in families:
        for name, adjusted in zip(
            family, metrics.holm([found[n]["p"] for n in family]), strict=True
        ):
            better = BINARY[name].lower_is_better if name in BINARY else name != "macro_f1"
            found[name] |= {
                "p_adjusted": adjusted,
                "primary": name in rules.primary,
                "lower_is_better": better,
                "outcome": _outcome(found[name]["difference"], adjusted, rules.alpha, better),
            }
    return found


WORST = 50  # flips towards ALLOW that are kept; how many the report lists is its own parameter


def flips(a: Arm, b: Arm) -> dict[str, Any]:
    """{"matrix": rows A, columns B; "changed", "toward_allow", "away_from_allow", each as a rate of all rows}."""
    was, now = a.decided == ALLOW, b.decided == ALLOW
    changes = {
        "changed": a.decided != b.decided,
        "toward_allow": ~was & now,
        "away_from_allow": was & ~now,
    }
    return {
        "matrix": confusion(a.decided, b.decided).tolist(),
        **{name: metrics.rate(rows).to_dict() for name, rows in changes.items()},
    }


def worst_flips(a: Arm, b: Arm) -> list[dict[str, Any]]:
    """Rows that B allows, A did not and the label forbids: true DENY first, then by B's probability of ALLOW."""
    rows = np.flatnonzero(
        (a.decided != ALLOW) & (b.decided == ALLOW) & (a.scores.gold != ALLOW)
    ).tolist()
    rows.sort(
        key=lambda i: (-int(a.scores.gold[i]), -float(b.probabilities[i, 0]), a.scores.ids[i])
    )
    return [
        {
            "id": a.scores.ids[i],
            "group": a.scores.groups[i],
            "domain": a.scores.domains[i],
            "gold": VERDICTS[a.scores.gold[i]].value,
            "a": VERDICTS[a.decided[i]].value,
            "b": VERDICTS[b.decided[i]].value,
            "p_allow_a": _number(a.probabilities[i, 0]),
            "p_allow_b": _number(b.probabilities[i, 0]),
        }
        for i in rows[:WORST]
    ]


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def emitted(codes: Int[ndarray, " n"]) -> dict[str, int]:
    """How often each verdict was given."""
    return {
        verdict.value: int(np.count_nonzero(codes == index))
        for index, verdict in enumerate(VERDICTS)
    }


def collapsed(a: Arm, b: Arm, alpha: float) -> list[str]:
    """Verdicts that A's probabilities favour, more often than chance could hide, and B's never do.

    Judged before thresholds, so a closed ALLOW gate is not taken for a collapse.
    """
    found = []
    for index, verdict in enumerate(VERDICTS):
        was, now = a.top == index, b.top == index
        if not now.any() and metrics.mcnemar(was, now).p <= alpha:
            found.append(verdict.value)
    return found
