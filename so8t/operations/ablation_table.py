"""The ablation's results as docs/ablation.md: means with intervals, and tests against LoRA alone.

Seeds are the unit. Where the seed is equal, an arm and the baseline share their start values, the
order of rows and the dropout, so their differences are paired. Intervals are Student's, 95 %.

There are two tests, because both are weak with few seeds: Student's paired t, and the exact test
that flips signs (with five seeds its p-value cannot fall under 2/32 = 0.0625). Holm's procedure
corrects the p-values of t over all arms.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy import ndarray

from so8t.files import write_text
from so8t.metrics import holm
from so8t.operations.ablation import ARMS, Run

OUT = Path("docs/ablation.md")
LEVEL = 0.95
BASELINE = "lora"
SIGNIFICANT = 0.05  # of the p-value after Holm's correction
FEW = 3  # seeds; with fewer, nothing is said in words

Row = Mapping[str, Any]
Rows = Mapping[Run, Row]


@dataclass(frozen=True, slots=True)
class Metric:
    """One column of the tables.

    Attributes:
        better: which direction is better.
        read: takes the number from a run's result; None where the run has none.
    """

    better: Literal["higher", "lower"]
    read: Callable[[Row], float | None]


def _cue(split: str, name: str) -> Callable[[Row], float | None]:
    """Read one number of the cue readout, which every run has.

    It reads the verdict from the log-probabilities of the three labels after the cue, `# 判定`.

    Args:
        split: such as `valid` or `test_iid`.
        name: a key of the split's measures.
    """

    def read(row: Row) -> float | None:
        value: float = row["splits"][split]["cue"][name]
        return value

    return read


def _heads(split: str, name: str) -> Callable[[Row], float | None]:
    """Read one number of the heads' readout; None where the arm has no heads."""

    def read(row: Row) -> float | None:
        value: float | None = row["splits"][split].get("heads", {}).get(name)
        return value

    return read


def _language_loss(row: Row) -> float:
    """Read the loss of language modelling on the validation rows, in nats per token."""
    loss: float = row["splits"]["valid"]["language_loss"]
    return loss


# Every run has this one, so it also counts an arm's seeds.
LANGUAGE_LOSS = "language loss on valid"
METRICS: dict[str, Metric] = {
    "valid macro-F1 (cue)": Metric("higher", _cue("valid", "macro_f1")),
    "valid accuracy (cue)": Metric("higher", _cue("valid", "accuracy")),
    "test_iid macro-F1 (cue)": Metric("higher", _cue("test_iid", "macro_f1")),
    "test_iid false allows (cue)": Metric("lower", _cue("test_iid", "false_allow_rate")),
    "test_phrases macro-F1 (cue)": Metric("higher", _cue("test_phrases", "macro_f1")),
    "test_cells macro-F1 (cue)": Metric("higher", _cue("test_cells", "macro_f1")),
    LANGUAGE_LOSS: Metric("lower", _language_loss),
    "test_iid macro-F1 (heads)": Metric("higher", _heads("test_iid", "macro_f1")),
}


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Student's confidence interval of a mean, at `LEVEL`.

    Args:
        values: one number per seed, at least one.

    Returns:
        The mean and the interval's half-width, which is infinite for one value.
    """
    from scipy.stats import t

    data = np.asarray(values, dtype=np.float64)
    mean = float(data.mean())
    if len(data) < 2:
        return mean, float("inf")
    # Half of the rest on each side. ddof=1: the seeds are a sample of all seeds.
    quantile = t.ppf(0.5 + LEVEL / 2.0, len(data) - 1)
    return mean, float(quantile * data.std(ddof=1) / np.sqrt(len(data)))


def shown(values: Sequence[float], sign: str = "") -> str:
    """Mean and interval as text; the mean alone where one value has no interval.

    Args:
        values: one number per seed, at least one.
        sign: "+" shows the sign of a positive mean too, as differences want it.
    """
    mean, half = interval(values)
    text = f"{mean:{sign}.4f}"
    if np.isfinite(half):
        text += f" ± {half:.4f}"
    return text


def paired_t(differences: Sequence[float]) -> float:
    """Student's paired t-test of a mean difference of zero.

    Args:
        differences: arm minus baseline, one number per seed.

    Returns:
        The two-sided p-value: 1 where nothing differs or there is one pair, 0 where all differences
        are the same number.
    """
    # Here, because scipy is slow to import.
    from scipy.stats import ttest_1samp

    data = np.asarray(differences, dtype=np.float64)
    if len(data) < 2 or not data.any():
        return 1.0
    if np.ptp(data) == 0.0:
        # t would divide by a standard deviation of zero.
        return 0.0
    return float(ttest_1samp(data, 0.0).pvalue)


def sign_flip(differences: Sequence[float]) -> float:
    """Exact permutation test: what the mean could be if arm and baseline were exchanged at will.

    Args:
        differences: arm minus baseline, one number per seed. All 2^n choices of signs are tried.

    Returns:
        The two-sided p-value, at least 2 / 2^n: the true signs and their opposites always count.
    """
    data: ndarray = np.asarray(differences, dtype=np.float64)
    observed = abs(data.sum())
    extreme = []
    for signs in product((1.0, -1.0), repeat=len(data)):
        exchanged = abs(float(np.dot(signs, data)))
        # Sums of the same numbers in another order differ in their last bits.
        extreme.append(exchanged >= observed - 1e-12)
    return float(np.mean(extreme))


def values_of(rows: Rows, arm: str, metric: str) -> dict[int, float]:
    """A metric of one arm by seed, in the order of seeds.

    Args:
        rows: results by run.
        arm: key of `ARMS`.
        metric: key of `METRICS`.

    Returns:
        Values by seed; a seed whose run lacks the metric is left out.
    """
    read = METRICS[metric].read
    found = {}
    for run in sorted(rows, key=lambda run: run.seed):
        if run.arm != arm:
            continue
        value = read(rows[run])
        if value is not None:
            found[run.seed] = value
    return found


@dataclass(frozen=True, slots=True)
class Comparison:
    """One arm against the baseline, on the seeds that both have.

    Attributes:
        arm: key of `ARMS`.
        mean: mean difference, arm minus baseline.
        shown: the same with its interval, as text.
        t: p-value of Student's paired t.
        holm: the same, corrected for the number of arms.
        flip: p-value of the exact sign flips.
    """

    arm: str
    mean: float
    shown: str
    t: float
    holm: float
    flip: float

    @property
    def title(self) -> str:
        """The arm's name in the tables."""
        return ARMS[self.arm].title


def compare(rows: Rows, arms: Sequence[str], metric: str) -> list[Comparison]:
    """Each arm against the baseline, with p-values.

    Args:
        rows: results by run.
        arms: what is compared; the baseline itself is left out, and so is an arm that shares no
            seed with it.
        metric: key of `METRICS`.

    Returns:
        One comparison per arm, in the order of `arms`. Holm's correction is over these arms, not
        over the metrics: each metric is a question of its own.
    """
    base = values_of(rows, BASELINE, metric)
    differences: dict[str, list[float]] = {}
    for arm in arms:
        # Paired: each seed against the same seed of the baseline.
        own = values_of(rows, arm, metric)
        # A stopped ablation has seeds that only some arms have finished.
        shared_seeds = sorted(own.keys() & base.keys())
        if arm != BASELINE and shared_seeds:
            differences[arm] = [own[seed] - base[seed] for seed in shared_seeds]
    # Holm's correction needs the p-values of all arms at once.
    p_values = [paired_t(values) for values in differences.values()]
    found = []
    for (arm, values), p, corrected in zip(
        differences.items(), p_values, holm(p_values), strict=True
    ):
        mean, _half = interval(values)
        flip = sign_flip(values)
        found.append(Comparison(arm, mean, shown(values, "+"), p, corrected, flip))
    return found


def render(rows: Rows) -> str:
    """The whole page, as Markdown.

    Args:
        rows: at least one result.
    """
    # In the order of ARMS, whatever the order of the results.
    arms = [arm for arm in ARMS if any(run.arm == arm for run in rows)]
    # While an ablation goes on, arms have different numbers of seeds.
    seeds = max((len(values_of(rows, arm, LANGUAGE_LOSS)) for arm in arms), default=0)
    lines = [
        *_head(rows, seeds),
        "",
        *_means(rows, arms),
        "",
        "## Against LoRA alone",
        "",
        "Each difference is arm minus LoRA alone at equal seeds: mean and 95 % interval. "
        "Three p-values: Student's paired t-test, the same after Holm's correction over the arms,",
        "and an exact test that flips signs, "
        f"which cannot fall below {2 / 2**seeds:.3g} with {seeds} seeds.",
        "",
        *_differences(rows, arms),
        "",
        "## In words",
        "",
        *_words(rows, arms),
    ]
    return "\n".join(lines) + "\n"


def _head(rows: Rows, seeds: int) -> list[str]:
    """Title, and what was measured how."""
    first_run, first_row = next(iter(rows.items()))
    commits = ", ".join(sorted({row["commit"] for row in rows.values()}))
    return [
        "# Ablation: what each part of training adds",
        "",
        "Generated by `so8t ablation` from `bench/results/ablation.jsonl`; do not edit. "
        "An *arm* is one way to train. Words: [glossary.md](glossary.md).",
        "",
        "All arms are measured by the same readout, because arms without heads have no other: "
        "the *cue*, which is the log-probabilities of the three labels",
        "after `# 判定`. The decision is the largest of the three, without calibration. "
        "The numbers come from the full-precision graph that `bake` would write,",
        "which equals the baked model within 1e-4 of the largest logit.",
        "",
        f"Profile {first_row['profile']}; {seeds} seeds of training on one base and one set of "
        f"data; {first_run.scale:g} times the profile's steps; commit {commits}. "
        "The data are made from templates, so the table says nothing about real data.",
    ]


def _means(rows: Rows, arms: Sequence[str]) -> list[str]:
    """Table of every arm's own values."""
    lines = [
        "| arm | seeds | numbers trained | " + " | ".join(METRICS) + " |",
        "|---|---|---|" + "---|" * len(METRICS),
    ]
    for arm in arms:
        own = [row for run, row in rows.items() if run.arm == arm]
        # Every seed trains the same parameters, so one run stands for all.
        trained = sum(own[0]["trained"].values())
        cells = [ARMS[arm].title, str(len(own)), f"{trained:,}"]
        for metric in METRICS:
            values = list(values_of(rows, arm, metric).values())
            # An arm without heads has no number of the heads.
            cells.append(shown(values) if values else "–")
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _differences(rows: Rows, arms: Sequence[str]) -> list[str]:
    """Table of every arm's differences from the baseline."""
    lines = [
        "| metric (better) | arm | difference | p (t) | p (Holm) | p (flips) |",
        "|---|---|---|---|---|---|",
    ]
    for name, metric in METRICS.items():
        for one in compare(rows, arms, name):
            p_values = f"{one.t:.3f} | {one.holm:.3f} | {one.flip:.3f}"
            lines.append(f"| {name} ({metric.better}) | {one.title} | {one.shown} | {p_values} |")
    return lines


def _words(rows: Rows, arms: Sequence[str]) -> list[str]:
    """One sentence per metric: which arms differ from the baseline beyond what seeds do."""
    if max(run.seed for run in rows) < FEW:
        return [f"Fewer than {FEW} seeds: nothing can be said."]
    lines = []
    for name, metric in METRICS.items():
        compared = compare(rows, arms, name)
        if not compared:
            continue
        # Only what Holm's correction leaves significant is put in words.
        told = [_effect(one, metric) for one in compared if one.holm < SIGNIFICANT]
        said = "; ".join(told) or "no arm differs from LoRA alone by more than seeds explain"
        lines.append(f"* {name}: {said}.")
    return lines


def _effect(one: Comparison, metric: Metric) -> str:
    """An arm's effect in words."""
    # A fall of a loss helps, a fall of an accuracy hurts.
    rose = one.mean > 0
    wanted_rise = metric.better == "higher"
    verb = "helps" if rose == wanted_rise else "hurts"
    return f"{one.title} {verb} ({one.mean:+.4f})"


def write(rows: Rows, out: Path = OUT) -> None:
    """Write the page.

    Args:
        rows: at least one result.
        out: where to; the project's docs without one.
    """
    write_text(out, render(rows))
