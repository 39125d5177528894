"""Temperature and thresholds against scikit-learn and MAPIE."""

import numpy as np
import pytest
from mapie.risk_control import BinaryClassificationController
from scipy import stats
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator

from so8t.calibration.temperature import fit_temperature, report
from so8t.calibration.thresholds import allowed_errors, certified_threshold
from so8t.metrics.intervals import groups_needed
from tests.fakes.scores import BOUNDS, make

GRID = np.linspace(0.999, 0.0, 1000)  # strictest first


class Given(ClassifierMixin, BaseEstimator):
    """A classifier whose decision function is its input."""

    classes_ = np.arange(3)

    def fit(self, x: np.ndarray, y: np.ndarray) -> "Given":
        return self

    def decision_function(self, x: np.ndarray) -> np.ndarray:
        return x

    def predict(self, x: np.ndarray) -> np.ndarray:
        return x.argmax(axis=1)

    def __sklearn_is_fitted__(self) -> bool:
        return True


@pytest.mark.parametrize(("n", "sharpness"), [(100, 0.5), (500, 1.6), (2000, 3.0)])
def test_the_temperature_is_scikit_learns_to_four_digits(n: int, sharpness: float) -> None:
    scores = make(n, n, sharpness=sharpness)
    theirs = CalibratedClassifierCV(FrozenEstimator(Given()), method="temperature").fit(
        scores.logits, scores.gold
    )
    beta = float(theirs.calibrated_classifiers_[0].calibrators[0].beta_)
    assert fit_temperature(scores.logits, scores.gold, BOUNDS).temperature == pytest.approx(
        1.0 / beta, rel=1e-4
    )


@pytest.mark.parametrize("true", [0.6, 1.5, 3.0])
def test_the_true_temperature_is_recovered_within_five_per_cent_at_5000_rows(true: float) -> None:
    rng = np.random.default_rng(11)
    clean = rng.standard_normal((5000, 3)) * 2.0
    p = np.exp(clean) / np.exp(clean).sum(axis=1, keepdims=True)
    gold = (rng.random((5000, 1)) > p.cumsum(axis=1)).sum(axis=1)
    fit = fit_temperature(true * clean, gold, BOUNDS)
    assert fit.temperature == pytest.approx(true, rel=0.05)
    assert not fit.at_bound
    assert fit.grid_edge == (not 0.5 < fit.temperature < 2.0)


def test_the_grid_is_kept_as_a_curve_and_scored_by_nll() -> None:
    scores = make(600, 3, sharpness=1.3)
    fit = fit_temperature(scores.logits, scores.gold, BOUNDS)
    written = report(fit, scores.logits, scores.gold)
    assert [round(point["temperature"], 6) for point in written["all_results"]] == [
        round(0.5 + 0.1 * k, 6) for k in range(16)
    ]
    assert set(written["all_results"][0]) == {
        "temperature",
        "nll",
        "ece",
        "brier_score",
        "accuracy",
        "avg_confidence",
    }
    assert fit.nll_after is not None
    assert fit.nll_after <= min(point["nll"] for point in written["all_results"]) + 1e-12
    assert abs(fit.temperature - (fit.grid_best or 0)) < 0.1


@pytest.mark.parametrize(
    ("groups", "alpha", "delta"),
    [
        (200, 0.05, 0.05),
        (500, 0.05, 0.05),
        (124, 0.05, 0.05),
        (1000, 0.01, 0.05),
        (59, 0.05, 0.05),
        (350, 0.1, 0.1),
        (700, 0.02, 0.01),
    ],
)
def test_thresholds_are_mapies_on_a_grid(groups: int, alpha: float, delta: float) -> None:
    rng = np.random.default_rng(groups)
    hazards, safe = rng.beta(6, 2, groups), rng.beta(1, 4, groups)
    p_allow = 1.0 - np.concatenate([hazards, safe])
    controller = BinaryClassificationController(
        lambda x: np.stack([1 - x[:, 0], x[:, 0]], axis=1),
        "fpr",
        alpha,
        confidence_level=1 - delta,
        list_predict_params=GRID,
        fwer_method="fixed_sequence",
    )
    controller.calibrate(p_allow[:, None], np.repeat([0, 1], groups))
    ours = certified_threshold(hazards, alpha, delta)
    assert ours is not None
    assert np.min(controller.valid_predict_params) == next(
        t for t in reversed(GRID) if t > 1.0 - ours
    )


def test_one_group_too_few_is_refused_by_both() -> None:
    hazards = np.random.default_rng(4).beta(6, 2, 58)
    controller = BinaryClassificationController(
        lambda x: np.stack([1 - x[:, 0], x[:, 0]], axis=1),
        "fpr",
        0.05,
        confidence_level=0.95,
        list_predict_params=GRID,
        fwer_method="fixed_sequence",
    )
    with pytest.warns(UserWarning, match="No predict parameters were found"):
        controller.calibrate((1 - hazards)[:, None], np.zeros(58, dtype=int))
    assert len(controller.valid_predict_params) == 0
    assert certified_threshold(hazards, 0.05, 0.05) is None


def test_group_counts_are_the_known_ones() -> None:
    assert [groups_needed(a, 0.05) for a in (0.05, 0.01, 0.001)] == [59, 299, 2995]
    assert [groups_needed(a, 0.10) for a in (0.05, 0.01)] == [45, 230]
    for errors, groups in ((1, 93), (2, 124), (5, 208), (20, 577)):
        assert (allowed_errors(groups, 0.05, 0.05), allowed_errors(groups - 1, 0.05, 0.05)) == (
            errors,
            errors - 1,
        )


@pytest.mark.parametrize("groups", [1, 59, 124, 777])
def test_allowed_errors_are_what_the_exact_test_rejects(groups: int) -> None:
    errors = allowed_errors(groups, 0.05, 0.05)
    assert stats.binomtest(errors + 1, groups, 0.05, "less").pvalue > 0.05
    assert errors < 0 or stats.binomtest(errors, groups, 0.05, "less").pvalue <= 0.05
