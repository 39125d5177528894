"""Every difference B - A of one split, with its interval, p-value and minimum detectable effect.

An endpoint is one number of a model on a split, such as its false-allow rate. Intervals resample
groups where there are enough of them; those of rates are exact otherwise, and the others are left
out (`so8t.metrics.exact`). p-values exchange A and B inside groups: exactly for rates (for one row
per group this is McNemar's test), by 10,000 random exchanges for the rest.

Primary endpoints are declared in params.compare.primary. Holm's correction runs inside the primary
family and, separately, over the rest.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray
from scipy.special import ndtri

from so8t import metrics
from so8t.card import DecidedRows
from so8t.metrics.exact import (
    difference_interval,
    exact_difference,
    reason_for,
    resampled_interval,
)
from so8t.metrics.intervals import POWER, McNemar, upper_bound
from so8t.metrics.quality import ALLOW, DENY, ESCALATE, Codes, cells, macro_f1_of
from so8t.metrics.resample import (
    Resampled,
    brier_score,
    ece_score,
    nll_score,
)

# An endpoint as it goes into ab.json.
Endpoint = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Rules:
    """params.compare and the seed.

    Attributes:
        alpha: two-sided level of each family of endpoints.
        draws: of the bootstrap and of the exchange test.
        margin: increase of the false-allow rate that still counts as not worse.
        primary: names of the primary endpoints.
        seed: of both draws.
    """

    alpha: float
    draws: int
    margin: float
    primary: tuple[str, ...]
    seed: int


EVERYTHING = (ALLOW, ESCALATE, DENY)
# ESCALATE too: allowing it means that nobody saw a request which a person should have seen.
UNSAFE = (ESCALATE, DENY)


@dataclass(frozen=True, slots=True)
class DecisionRate:
    """A rate of decisions.

    Attributes:
        given: gold codes of the rows that count.
        decided: the decision whose share is taken; null means the gold one.
        lower_is_better: null where neither direction is.
    """

    given: tuple[int, ...]
    decided: int | None
    lower_is_better: bool | None

    def rows(self, gold: Codes) -> Bool[ndarray, " n"]:
        """The rows that count."""
        return np.isin(gold, self.given)

    def hits(self, gold: Codes, decided: Codes) -> Bool[ndarray, " n"]:
        """Among those rows, the ones that were decided so."""
        wanted = gold if self.decided is None else self.decided
        return np.asarray(decided == wanted)


RATES = {
    "accuracy": DecisionRate(EVERYTHING, None, lower_is_better=False),
    "false_allow_rate": DecisionRate(UNSAFE, ALLOW, lower_is_better=True),
    "false_allow_rate_deny_only": DecisionRate((DENY,), ALLOW, lower_is_better=True),
    "false_deny_rate": DecisionRate((ALLOW,), DENY, lower_is_better=True),
    "allow_rate_on_allow": DecisionRate((ALLOW,), ALLOW, lower_is_better=False),
    # Escalating more is safer and costs more people's time; which is better is not ours to say.
    "escalation_rate": DecisionRate(EVERYTHING, ESCALATE, lower_is_better=None),
}
SCORES = ("macro_f1", "ece", "brier_score", "nll")


def _lower_is_better(name: str) -> bool | None:
    if name in RATES:
        return RATES[name].lower_is_better
    # Of the scores, the other three are losses.
    return name != "macro_f1"


def differences(a: DecidedRows, b: DecidedRows, rules: Rules) -> dict[str, Endpoint]:
    """All endpoints of one split.

    Args:
        a: rows of A.
        b: the same rows of B.
        rules: params.compare.

    Returns:
        By name; p-values are Holm-adjusted inside the primary family and inside the rest.
    """
    names = [*RATES, *SCORES]
    primary = [name for name in names if name in rules.primary]
    rest = [name for name in names if name not in rules.primary]
    levels = {}
    for family in (primary, rest):
        for name in family:
            # What would be detected is said at Bonferroni's level, the strictest of Holm's steps.
            levels[name] = rules.alpha / len(family)
    found = {}
    # Every endpoint is measured; which ones count was declared before the data was seen.
    for name, rate in RATES.items():
        found[name] = _compare_rate(
            a,
            b,
            rate,
            rules,
            levels[name],
        )
    found |= _compare_scores(
        a,
        b,
        rules,
        levels,
    )
    for family in (primary, rest):
        p_values = [found[name]["p"] for name in family]
        for name, adjusted in zip(family, metrics.holm(p_values), strict=True):
            lower_is_better = _lower_is_better(name)
            difference = found[name]["difference"]
            outcome = _outcome(
                difference,
                adjusted,
                rules.alpha,
                lower_is_better,
            )
            found[name] |= {
                "p_adjusted": adjusted,
                "primary": name in rules.primary,
                "lower_is_better": lower_is_better,
                "outcome": outcome,
            }
    return found


def _outcome(
    difference: float | None,
    p: float,
    alpha: float,
    lower_is_better: bool | None,
) -> str:
    # A split without, say, a true ALLOW has no allow rate.
    if difference is None:
        return "not_measured"
    if p > alpha or difference == 0:
        return "no_difference"
    if lower_is_better is None:
        return "different"
    lower = difference < 0
    return "better" if lower == lower_is_better else "worse"


def _compare_rate(
    a: DecidedRows,
    b: DecidedRows,
    rate: DecisionRate,
    rules: Rules,
    level: float,
) -> Endpoint:
    """One rate: exact tests, group interval, minimum detectable effect at `level`."""
    rows = rate.rows(a.scores.gold)
    kept = a.scores.where(rows)
    hits_a = rate.hits(kept.gold, a.decided[rows])
    hits_b = rate.hits(kept.gold, b.decided[rows])
    changes = hits_b.astype(np.float64) - hits_a
    exact = metrics.mcnemar(hits_a, hits_b)
    difference = None
    spread = 1.0
    if len(kept):
        difference = float(changes.mean())
        spread = design_effect(changes, kept.groups)
    return {
        "a": metrics.rate(hits_a).to_dict(),
        "b": metrics.rate(hits_b).to_dict(),
        "difference": difference,
        "ci95": difference_interval(
            hits_a,
            hits_b,
            kept.ids,
            kept.groups,
            draws=rules.draws,
            seed=rules.seed,
        ),
        "ci95_exact": exact_difference(hits_a, hits_b, kept.ids, kept.groups),
        "n": len(kept),
        "groups": len(set(kept.groups)),
        "p": metrics.group_sign_test(hits_a, hits_b, kept.groups),
        "mcnemar": {"only_a": exact.only_a, "only_b": exact.only_b, "p": exact.p},
        "design_effect": spread,
        "mde": _detectable_rate(
            exact,
            len(kept),
            spread,
            level,
        ),
    }


def _detectable_rate(
    exact: McNemar,
    n: int,
    spread: float,
    level: float,
) -> float | None:
    """Smallest difference of rates that would have shown, given how often A and B disagree.

    Args:
        exact: the rows that only one side has.
        n: pairs of rows.
        spread: design effect of the groups.
        level: two-sided.
    """
    discordant = exact.only_a + exact.only_b
    # Where no disagreement was seen, take as much as 95 % confidence cannot exclude.
    share = discordant / n if discordant else upper_bound(0, n, 0.05)
    smallest = metrics.minimum_detectable(n, share, level)
    if smallest is None:
        return None
    # The standard error grows with the root of the variance. `math.sqrt` differs from `** 0.5` in
    # the last bit of some results, so it would change recorded files.
    effect: float = smallest * spread**0.5
    return min(1.0, effect)


def design_effect(differences: Float[ndarray, " n"], groups: Sequence[str]) -> float:
    """Variance of the summed difference with groups over that without, at least 1.

    Rows of one group tend to change together, so there is less to learn from them than from as many
    independent rows.
    """
    # The mean is not of interest here, only how far groups move together.
    centred = differences - differences.mean()
    alone = float(np.square(centred).sum())
    together = float(np.square(metrics.group_sums(centred[:, None], groups)).sum())
    if alone <= 0:
        return 1.0
    return max(1.0, together / alone)


def _compare_scores(
    a: DecidedRows,
    b: DecidedRows,
    rules: Rules,
    levels: Mapping[str, float],
) -> dict[str, Endpoint]:
    """Macro-F1 on all rows; ECE, Brier and NLL on the rows that both sides could read."""
    f1_a = Resampled(cells(a.scores.gold, a.decided), macro_f1_of)
    f1_b = Resampled(cells(b.scores.gold, b.decided), macro_f1_of)
    macro_f1 = _compare_score(
        f1_a,
        f1_b,
        a.scores.groups,
        rules,
        levels["macro_f1"],
    )
    # Two intervals: the difference between them shows how much the groups matter.
    macro_f1["ci95_rows"] = _macro_f1_interval_over_rows(a, b, rules)
    found = {"macro_f1": macro_f1}

    # A row that one side could not read has no pair.
    readable = a.readable & b.readable
    groups = a.scores.where(readable).groups
    scores_a = _probability_scores(a, readable)
    scores_b = _probability_scores(b, readable)
    for name, score_a in scores_a.items():
        found[name] = _compare_score(
            score_a,
            scores_b[name],
            groups,
            rules,
            levels[name],
        )
    return found


def _probability_scores(side: DecidedRows, rows: Bool[ndarray, " n"]) -> dict[str, Resampled]:
    p = side.probabilities[rows]
    gold = side.scores.gold[rows]
    return {
        "ece": ece_score(p, gold, "width"),
        "brier_score": brier_score(p, gold),
        "nll": nll_score(p, gold),
    }


def _macro_f1_interval_over_rows(
    a: DecidedRows, b: DecidedRows, rules: Rules
) -> list[float] | None:
    """The interval that independent rows would give, beside the one over groups."""
    counts_a, counts_b = metrics.cell_bootstrap(
        a.scores.gold,
        a.decided,
        b.decided,
        draws=rules.draws,
        seed=rules.seed,
    )
    drawn = macro_f1_of(counts_b) - macro_f1_of(counts_a)
    return resampled_interval(drawn, len(a.scores))


def _compare_score(
    a: Resampled,
    b: Resampled,
    groups: Sequence[str],
    rules: Rules,
    level: float,
) -> Endpoint:
    """One score that is a function of sums over rows.

    p by exchanging A and B inside groups, the interval by drawing groups, and the minimum
    detectable effect from the spread of those draws.
    """
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
    statistic = a.statistic
    sums_a = metrics.group_sums(a.table, groups)
    sums_b = metrics.group_sums(b.table, groups)
    width = sums_a.shape[1]

    def difference(sums: ndarray) -> ndarray:
        return statistic(sums[:, width:]) - statistic(sums[:, :width])

    # Both sides are drawn together: the same groups, so that the pairing is kept.
    draws = metrics.group_bootstrap(
        np.hstack([sums_a, sums_b]),
        difference,
        draws=rules.draws,
        seed=rules.seed,
    )
    spread = 0.0
    if np.isfinite(draws).any():
        spread = float(np.nanstd(draws))
    value_a = float(statistic(sums_a.sum(axis=0, keepdims=True))[0])
    value_b = float(statistic(sums_b.sum(axis=0, keepdims=True))[0])
    p = metrics.swap_test(
        sums_a,
        sums_b,
        statistic,
        draws=rules.draws,
        seed=rules.seed,
    )
    interval = resampled_interval(draws, len(sums_a))
    # The effect at which a two-sided z-test at `level` has that power.
    detectable = float(ndtri(1 - level / 2) + ndtri(POWER)) * spread
    return {
        "a": {"value": value_a},
        "b": {"value": value_b},
        "difference": value_b - value_a,
        "ci95": interval,
        **reason_for(interval, len(sums_a)),
        "n": len(a.table),
        "groups": len(sums_a),
        "p": p,
        # A spread of 0 says that nothing could be drawn, not that any difference would show.
        "mde": detectable or None,
    }
