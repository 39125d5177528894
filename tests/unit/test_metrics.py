"""Metrics against scipy, scikit-learn and brute force."""

from itertools import pairwise, product

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import brier_score_loss, f1_score
from sklearn.metrics import log_loss as sklearn_log_loss

from so8t import metrics
from so8t.metrics.exact import paired_difference
from so8t.metrics.intervals import binomial_two_sided, lower_bound, percentile_interval, upper_bound
from so8t.metrics.quality import bin_index
from so8t.verdict import Verdict
from tests.fakes.scores import make


@pytest.mark.parametrize(("k", "n"), [(0, 50), (3, 100), (20, 1000), (50, 50), (0, 1), (7, 12)])
def test_the_exact_interval_is_scipys(k: int, n: int) -> None:
    found = stats.binomtest(k, n).proportion_ci(0.95, "exact")
    assert metrics.clopper_pearson(k, n) == pytest.approx((found.low, found.high), abs=1e-12)


def test_nothing_measured_is_not_zero() -> None:
    assert metrics.rate(np.zeros(0, dtype=bool)).to_dict() == {
        "value": None,
        "k": 0,
        "n": 0,
        "ci95": [0.0, 1.0],
    }
    assert (upper_bound(0, 0, 0.05), lower_bound(0, 0, 0.05)) == (1.0, 0.0)


def test_brier_nll_and_f1_are_scikit_learns() -> None:
    scores = make(400, 1)
    p = metrics.softmax(scores.logits)
    top = p.argmax(axis=1)
    assert metrics.brier(p, scores.gold) == pytest.approx(
        brier_score_loss(scores.gold, p, labels=[0, 1, 2], scale_by_half=False), abs=1e-12
    )
    assert metrics.log_loss(p, scores.gold) == pytest.approx(
        sklearn_log_loss(scores.gold, p), abs=1e-12
    )
    assert metrics.macro_f1(scores.gold, top) == pytest.approx(
        f1_score(scores.gold, top, average="macro"), abs=1e-12
    )


def test_macro_f1_leaves_out_classes_that_never_occur() -> None:
    gold = np.array([0, 0, 1, 1])
    assert metrics.macro_f1(gold, np.array([0, 1, 1, 1])) == pytest.approx(
        f1_score(gold, [0, 1, 1, 1], average="macro")
    )
    assert np.isnan(metrics.macro_f1(np.zeros(0, dtype=int), np.zeros(0, dtype=int)))


@pytest.mark.parametrize("scheme", ["width", "mass"])
def test_ece_equals_its_definition_written_out(scheme: str) -> None:
    scores = make(300, 2)
    p = metrics.softmax(scores.logits)
    confidence, correct = p.max(axis=1), p.argmax(axis=1) == scores.gold
    order = np.argsort(confidence, kind="stable")
    edges = np.linspace(0, 1, 16)
    bins = [
        np.flatnonzero((confidence > low) & (confidence <= high)) for low, high in pairwise(edges)
    ]
    if scheme == "mass":
        bins = [order[k * 20 : (k + 1) * 20] for k in range(15)]
    expected = sum(
        len(b) / 300 * abs(correct[b].mean() - confidence[b].mean()) for b in bins if len(b)
    )
    assert metrics.ece(p, scores.gold, scheme) == pytest.approx(expected, abs=1e-12)  # type: ignore[arg-type]


def test_a_perfectly_calibrated_model_lies_inside_its_null_band() -> None:
    rng = np.random.default_rng(3)
    inside = 0
    for seed in range(40):
        p = metrics.softmax(rng.standard_normal((300, 3)) * 2)
        gold = (rng.random((300, 1)) > p.cumsum(axis=1)).sum(axis=1)
        limit = metrics.ece_null(p, draws=200, seed=seed)["q95"]
        assert limit is not None
        inside += metrics.ece(p, gold) <= limit
    assert inside >= 34  # P(fewer | 95 %) < 2 %


def test_rates_name_the_right_denominators() -> None:
    gold, said = np.array([0, 0, 0, 1, 1, 2, 2, 2]), np.array([0, 2, 1, 0, 1, 0, 1, 2])
    found = {name: (rate.k, rate.n) for name, rate in metrics.rates(gold, said).items()}
    assert found == {
        "accuracy": (3, 8),
        "false_allow_rate": (2, 5),
        "false_allow_rate_deny_only": (1, 3),
        "false_deny_rate": (1, 3),
        "allow_rate_on_allow": (1, 3),
        "escalation_rate": (3, 8),
    }
    assert metrics.confusion(gold, said).sum() == 8
    assert metrics.codes([Verdict.ALLOW, Verdict.DENY]).tolist() == [0, 2]


def test_a_row_that_is_not_finite_has_no_probabilities() -> None:
    p = metrics.softmax(
        np.array(
            [
                [1.0, 2.0, 3.0],
                [np.nan, 0, 0],
                [np.inf, 0, 0],
                [0.0, -np.inf, 0.0],
                [1e308, -1e308, 0.0],
            ]
        )
    )
    assert np.isfinite(p).all(axis=1).tolist() == [True, False, False, False, True]


@pytest.mark.parametrize(("b", "c"), [(0, 0), (1, 0), (8, 2), (12, 12), (3, 40)])
def test_mcnemar_is_the_binomial_test(b: int, c: int) -> None:
    a_hits = np.array([True] * b + [False] * c + [True, False])
    b_hits = np.array([False] * b + [True] * c + [True, False])
    found = metrics.mcnemar(a_hits, b_hits)
    expected = stats.binomtest(b, b + c, 0.5).pvalue if b + c else 1.0
    assert (found.only_a, found.only_b) == (b, c)
    assert found.p == pytest.approx(expected, abs=1e-12)
    assert metrics.group_sign_test(
        a_hits, b_hits, [str(i) for i in range(len(a_hits))]
    ) == pytest.approx(expected, abs=1e-12)
    assert binomial_two_sided(c, b + c) == pytest.approx(expected, abs=1e-12)


def test_the_group_sign_test_equals_trying_every_exchange() -> None:
    rng = np.random.default_rng(5)
    a, b, groups = rng.random(24) < 0.5, rng.random(24) < 0.8, [f"g{i // 3}" for i in range(24)]
    sums = (b.astype(int) - a.astype(int)).reshape(8, 3).sum(axis=1)
    totals = [
        abs(sum(s * d for s, d in zip(signs, sums, strict=True)))
        for signs in product((-1, 1), repeat=8)
    ]
    expected = np.mean([t >= abs(sums.sum()) for t in totals])
    assert metrics.group_sign_test(a, b, groups) == pytest.approx(float(expected), abs=1e-12)


def test_copying_every_row_of_a_group_does_not_make_a_result_more_certain() -> None:
    a, b = np.array([False] * 9 + [True]), np.array([True] * 9 + [False])
    groups = [str(i) for i in range(10)]
    once = metrics.group_sign_test(a, b, groups)
    assert metrics.group_sign_test(
        np.repeat(a, 5), np.repeat(b, 5), [g for g in groups for _ in range(5)]
    ) == pytest.approx(once)
    assert (
        metrics.mcnemar(np.repeat(a, 5), np.repeat(b, 5)).p < once / 100
    )  # what ignoring groups would claim


def test_the_swap_test_agrees_with_the_exact_test() -> None:
    rng = np.random.default_rng(6)
    a, b, groups = rng.random(60) < 0.5, rng.random(60) < 0.7, [f"g{i // 2}" for i in range(60)]
    ones = np.ones((60, 1))

    def mean(sums: np.ndarray) -> np.ndarray:
        return sums[:, 0] / sums[:, 1]

    tables = [
        metrics.group_sums(np.hstack([hits[:, None].astype(float), ones]), groups)
        for hits in (a, b)
    ]
    found = metrics.swap_test(tables[0], tables[1], mean, draws=10_000, seed=1)
    assert found == pytest.approx(metrics.group_sign_test(a, b, groups), abs=0.015)


def test_the_bootstrap_interval_covers_and_widens_with_groups() -> None:
    rng = np.random.default_rng(7)
    covered = 0
    for seed in range(100):
        shared = np.repeat(rng.standard_normal(60), 3)
        rows = np.stack([shared, np.ones(180)], axis=1)
        sums = metrics.group_sums(rows, [f"g{i // 3}" for i in range(180)])
        low, high = percentile_interval(
            metrics.group_bootstrap(sums, lambda s: s[:, 0] / s[:, 1], draws=400, seed=seed)
        ) or [0, 0]
        covered += low <= 0.0 <= high
    assert covered >= 88  # 95 % nominal; taking the 180 rows as independent covers about 74


def test_the_cell_bootstrap_has_scipys_interval() -> None:
    rng = np.random.default_rng(8)
    gold = rng.integers(0, 3, 300)
    a, b = (
        np.where(rng.random(300) < share, gold, rng.integers(0, 3, 300)) for share in (0.6, 0.8)
    )
    from_a, from_b = metrics.cell_bootstrap(gold, a, b, draws=4000, seed=1)
    ours = percentile_interval(metrics.macro_f1_of(from_b) - metrics.macro_f1_of(from_a))

    def difference(i: np.ndarray) -> float:
        return metrics.macro_f1(gold[i], b[i]) - metrics.macro_f1(gold[i], a[i])

    theirs = stats.bootstrap(
        (np.arange(300),),
        difference,
        n_resamples=1500,
        vectorized=False,
        method="percentile",
        rng=1,
    )
    assert ours == pytest.approx(list(theirs.confidence_interval), abs=0.01)


def test_holm_steps_down_and_keeps_order() -> None:
    assert metrics.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert metrics.holm([]) == []
    assert metrics.holm([1.0, 0.9]) == [1.0, 1.0]


@pytest.mark.parametrize(
    ("n", "discordant", "points"),
    [(100, 0.1, 8.8), (200, 0.05, 4.4), (500, 0.2, 5.7), (1000, 0.3, 4.9), (5000, 0.1, 1.3)],
)
def test_minimum_detectable_effect_is_the_published_table(
    n: int, discordant: float, points: float
) -> None:
    found = metrics.minimum_detectable(n, discordant, 0.05)
    assert found is not None
    assert 100 * found == pytest.approx(points, abs=0.06)


def test_minimum_detectable_effect_is_real_power() -> None:
    n, discordant = 300, 0.1
    effect = metrics.minimum_detectable(n, discordant, 0.05)
    assert effect is not None
    rng = np.random.default_rng(9)
    pairs = rng.multinomial(
        n, [(discordant - effect) / 2, (discordant + effect) / 2, 1 - discordant], size=2000
    )
    found = np.mean([binomial_two_sided(int(b), int(a + b)) <= 0.05 for a, b, _ in pairs])
    assert found == pytest.approx(0.8, abs=0.03)


def test_minimum_detectable_effect_beyond_the_discordant_share_and_for_tiny_samples() -> None:
    beyond = metrics.minimum_detectable(100, 0.02, 0.05)
    assert beyond is not None
    assert 0.05 < beyond < 0.12
    assert metrics.minimum_detectable(5, 0.5, 0.05) is None
    assert metrics.minimum_detectable(0, 0.5, 0.05) is None


def test_equal_confidences_share_a_bin_whatever_their_order() -> None:
    rng = np.random.default_rng(10)
    p = np.round(rng.dirichlet([1.0, 1.0, 1.0], 200), 1) + 1e-9
    p /= p.sum(axis=1, keepdims=True)
    gold = rng.integers(0, 3, 200)
    values = {
        round(metrics.ece(p[order], gold[order], "mass"), 12)
        for order in (rng.permutation(200) for _ in range(50))
    }
    assert len(values) == 1
    right_first = np.argsort(p.argmax(axis=1) != gold, kind="stable")
    assert metrics.ece(p[right_first], gold[right_first], "mass") == pytest.approx(values.pop())
    first, second = (metrics.reliability(p[o], gold[o]) for o in (right_first, right_first[::-1]))
    assert [row["n"] for row in first] == [row["n"] for row in second]


def test_bins_of_distinct_confidences_hold_equally_many() -> None:
    confidence = np.random.default_rng(11).random(150)
    counts = np.bincount(bin_index(confidence, "mass", 15), minlength=15)
    assert (counts == 10).all()


# --- intervals that hold for few groups and rare events ---


def outcomes_of(n: int, p01: float, p10: float) -> tuple[np.ndarray, np.ndarray]:
    """Every (only A, only B) of n pairs, flattened, and its probability."""
    only_a, only_b = (grid.ravel() for grid in np.meshgrid(np.arange(n + 1), np.arange(n + 1)))
    inside = only_a + only_b <= n
    counts = np.stack([only_a, only_b, n - only_a - only_b], axis=1)[inside]
    return counts, stats.multinomial.pmf(counts, n, [p10, p01, 1 - p10 - p01])


@pytest.mark.parametrize("n", [1, 5, 12, 30])
@pytest.mark.parametrize(
    ("p01", "p10"), [(0.05, 0.0), (0.02, 0.02), (0.3, 0.1), (0.1, 0.4), (0.5, 0.5), (0.9, 0.05)]
)
def test_the_paired_interval_covers_at_least_its_level_summed_over_every_outcome(
    n: int, p01: float, p10: float
) -> None:
    counts, mass = outcomes_of(n, p01, p10)
    limits = np.array([paired_difference(int(a), int(b), n) for a, b, _ in counts])
    covered = (limits[:, 0] <= p01 - p10) & (p01 - p10 <= limits[:, 1])
    assert mass[covered].sum() >= 0.95 - 1e-9
    # Each side alone keeps half of the error: this is what non-inferiority rests on.
    assert mass[limits[:, 1] < p01 - p10].sum() <= 0.025 + 1e-9


def test_a_truly_worse_model_is_hardly_ever_shown_not_worse() -> None:
    """5 points worse, margin 2 points: a bootstrap shows "not worse" in 75 % of trials at n = 5."""
    for n in (1, 5, 20, 100, 200):
        counts, mass = outcomes_of(n, 0.05, 0.0) if n <= 30 else (None, None)
        if counts is None:
            events = np.arange(n + 1)
            counts = np.stack([0 * events, events, n - events], axis=1)
            mass = stats.binom.pmf(events, n, 0.05)
        upper = np.array([paired_difference(int(a), int(b), n)[1] for a, b, _ in counts])
        assert mass[upper <= 0.02].sum() <= 0.025


def test_the_paired_interval_is_mirrored_and_narrows() -> None:
    assert paired_difference(0, 0, 0) == (-1.0, 1.0)
    low, high = paired_difference(3, 8, 40)
    assert paired_difference(8, 3, 40) == pytest.approx((-high, -low))
    assert paired_difference(0, 0, 1000)[1] < 0.005 < paired_difference(0, 0, 100)[1]
