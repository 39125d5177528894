"""The ablation's results as docs/ablation.md: means with intervals over seeds, and paired tests against LoRA alone.

Seeds are the unit: an arm and the baseline share start values, order of rows and dropout where the seed is equal, so that
their differences are paired. Intervals are Student's, 95 %. Two tests, because both are weak with few seeds: Student's paired
t, and the exact one that flips signs (with five seeds it cannot fall under 2/32 = 0.0625); Holm corrects t over all arms.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy import ndarray

from so8t.files import write_text
from so8t.metrics import holm
from so8t.operations.ablation import ARMS, Run

OUT = Path("docs/ablation.md")
LEVEL = 0.95
BASELINE = "lora"
SIGNIFICANT = 0.05
FEW = 3  # seeds
Rows = Mapping[Run, Mapping[str, Any]]
METRICS: dict[str, tuple[str, Callable[[Mapping[str, Any]], float | None]]] = {
    "valid macro-F1 (cue)": ("higher", lambda row: row["splits"]["valid"]["cue"]["macro_f1"]),
    "valid accuracy (cue)": ("higher", lambda row: row["splits"]["valid"]["cue"]["accuracy"]),
    "test_iid macro-F1 (cue)": ("higher", lambda row: row["splits"]["test_iid"]["cue"]["macro_f1"]),
    "test_iid false allows (cue)": (
        "lower",
        lambda row: row["splits"]["test_iid"]["cue"]["false_allow_rate"],
    ),
    "test_phrases macro-F1 (cue)": (
        "higher",
        lambda row: row["splits"]["test_phrases"]["cue"]["macro_f1"],
    ),
    "test_cells macro-F1 (cue)": (
        "higher",
        lambda row: row["splits"]["test_cells"]["cue"]["macro_f1"],
    ),
    "language loss on valid": ("lower", lambda row: row["splits"]["valid"]["language_loss"]),
    "test_iid macro-F1 (heads)": (
        "higher",
        lambda row: row["splits"]["test_iid"].get("heads", {}).get("macro_f1"),
    ),
}


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean and half-width of Student's interval; infinite for one value."""
    from scipy.stats import t

    data = np.asarray(values, dtype=np.float64)
    if len(data) < 2:
        return float(data.mean()), float("inf")
    return float(data.mean()), float(
        t.ppf(0.5 + LEVEL / 2.0, len(data) - 1) * data.std(ddof=1) / np.sqrt(len(data))
    )


def shown(values: Sequence[float], sign: str = "") -> str:
    """Mean and interval; the mean alone where one value has none."""
    mean, half = interval(values)
    return f"{mean:{sign}.4f} ± {half:.4f}" if np.isfinite(half) else f"{mean:{sign}.4f}"


def paired_t(differences: Sequence[float]) -> float:
    """Two-sided p-value of a mean difference of zero; 1 where nothing differs or there is one pair."""
    from scipy.stats import ttest_1samp

    data = np.asarray(differences, dtype=np.float64)
    if len(data) < 2 or not data.any():
        return 1.0
    return 0.0 if np.ptp(data) == 0.0 else float(ttest_1samp(data, 0.0).pvalue)


def sign_flip(differences: Sequence[float]) -> float:
    """Exact two-sided p-value of the mean under all 2^n exchanges of arm and baseline."""
    data: ndarray = np.asarray(differences, dtype=np.float64)
    observed = abs(data.sum())
    sums = [abs(float(np.dot(signs, data))) for signs in product((1.0, -1.0), repeat=len(data))]
    return float(np.mean([value >= observed - 1e-12 for value in sums]))


def values_of(rows: Rows, arm: str, metric: str) -> dict[int, float]:
    """A metric by seed."""
    read = METRICS[metric][1]
    return {
        run.seed: value
        for run, row in sorted(rows.items(), key=lambda item: item[0].seed)
        if run.arm == arm and (value := read(row)) is not None
    }


def compare(rows: Rows, arms: Sequence[str], metric: str) -> list[dict[str, Any]]:
    """Each arm against the baseline on the seeds that both have, with p-values; Holm's over these arms."""
    base = values_of(rows, BASELINE, metric)
    found: list[dict[str, Any]] = []
    for arm in arms:
        own = values_of(rows, arm, metric)
        differences = [own[seed] - base[seed] for seed in sorted(own.keys() & base.keys())]
        if arm != BASELINE and differences:
            found.append(
                {
                    "arm": arm,
                    "mean": interval(differences)[0],
                    "shown": shown(differences, "+"),
                    "t": paired_t(differences),
                    "flip": sign_flip(differences),
                }
            )
    for entry, corrected in zip(found, holm([entry["t"] for entry in found]), strict=True):
        entry["holm"] = corrected
    return found


def render(rows: Rows) -> str:
    """The whole page."""
    arms = [arm for arm in ARMS if any(run.arm == arm for run in rows)]
    first = next(iter(rows.values()))
    seeds, scale = (
        max((len(values_of(rows, arm, "language loss on valid")) for arm in arms), default=0),
        next(iter(rows)).scale,
    )
    lines = [
        "# Ablation: what each part of training adds",
        "",
        "Generated by `so8t ablation` from `bench/results/ablation.jsonl`; do not edit. Every number is of the full-precision graph that `bake` would",
        "write (it equals the baked model within 1e-4 of the largest logit), so that arms without heads and with them are measured by the same readout:",
        "*cue*, the log-probabilities of the three labels after `# 判定`. Decisions are the largest of the three, without calibration.",
        "",
        f"Profile {first['profile']}, {seeds} seeds of training on one base and one set of data, {scale:g} of the profile's steps, commit "
        f"{', '.join(sorted({row['commit'] for row in rows.values()}))}. The demo's task is templated: this says nothing about real data.",
        "",
        *_means(rows, arms),
        "",
        "## Against LoRA alone",
        "",
        f"Differences of equal seeds, mean with its 95 % interval. p: Student's paired t, Holm's correction of it over the arms, exact sign flips "
        f"(at least {2 / 2**seeds:.3g} with {seeds} seeds).",
        "",
        *_differences(rows, arms),
        "",
        "## In words",
        "",
        *_words(rows, arms),
    ]
    return "\n".join(lines) + "\n"


def _means(rows: Rows, arms: Sequence[str]) -> list[str]:
    lines = [
        "| arm | seeds | numbers trained | " + " | ".join(METRICS) + " |",
        "|---|---|---|" + "---|" * len(METRICS),
    ]
    for arm in arms:
        cells = []
        for metric in METRICS:
            values = list(values_of(rows, arm, metric).values())
            cells.append(shown(values) if values else "–")
        own = [row for run, row in rows.items() if run.arm == arm]
        lines.append(
            f"| {ARMS[arm][0]} | {len(own)} | {sum(own[0]['trained'].values()):,} | "
            + " | ".join(cells)
            + " |"
        )
    return lines


def _differences(rows: Rows, arms: Sequence[str]) -> list[str]:
    lines = [
        "| metric (better) | arm | difference | p (t) | p (Holm) | p (flips) |",
        "|---|---|---|---|---|---|",
    ]
    for metric, (better, _) in METRICS.items():
        lines += [
            f"| {metric} ({better}) | {ARMS[one['arm']][0]} | {one['shown']} | {one['t']:.3f} | {one['holm']:.3f} | "
            f"{one['flip']:.3f} |"
            for one in compare(rows, arms, metric)
        ]
    return lines


def _words(rows: Rows, arms: Sequence[str]) -> list[str]:
    if max(run.seed for run in rows) < FEW:
        return [f"Fewer than {FEW} seeds: nothing can be said."]
    lines = []
    for metric, (better, _) in METRICS.items():
        sure = [one for one in compare(rows, arms, metric) if one["holm"] < SIGNIFICANT]
        told = [
            f"{ARMS[one['arm']][0]} {'helps' if (one['mean'] > 0) == (better == 'higher') else 'hurts'} ({one['mean']:+.4f})"
            for one in sure
        ]
        if compare(rows, arms, metric):
            lines.append(
                f"* {metric}: {'; '.join(told) if told else 'no arm differs from LoRA alone beyond what seeds do'}."
            )
    return lines


def write(rows: Rows, out: Path = OUT) -> None:
    """Write the page."""
    write_text(out, render(rows))
