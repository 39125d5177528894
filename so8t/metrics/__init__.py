"""Numbers about verdicts and probabilities: numpy alone, one definition each, always with a count.

Covered: rates with exact intervals, macro-F1, calibration error, Brier score, log-loss, bootstrap
over groups, paired tests, and reading score files. Not covered: text quality and speed
(so8t.generation), certificates (so8t.calibration).
"""

from so8t.metrics.intervals import (
    Rate,
    cell_bootstrap,
    clopper_pearson,
    group_bootstrap,
    group_sign_test,
    group_sums,
    holm,
    mcnemar,
    minimum_detectable,
    rate,
    swap_test,
    upper_bound,
)
from so8t.metrics.quality import (
    accuracy,
    brier,
    codes,
    confusion,
    ece,
    ece_null,
    log_loss,
    macro_f1,
    macro_f1_of,
    per_class,
    rates,
    reliability,
    softmax,
    verdict_metrics,
)
from so8t.metrics.scores import Scores, read_meta, read_scores

__all__ = [
    "Rate",
    "Scores",
    "accuracy",
    "brier",
    "cell_bootstrap",
    "clopper_pearson",
    "codes",
    "confusion",
    "ece",
    "ece_null",
    "group_bootstrap",
    "group_sign_test",
    "group_sums",
    "holm",
    "log_loss",
    "macro_f1",
    "macro_f1_of",
    "mcnemar",
    "minimum_detectable",
    "per_class",
    "rate",
    "rates",
    "read_meta",
    "read_scores",
    "reliability",
    "softmax",
    "swap_test",
    "upper_bound",
    "verdict_metrics",
]
