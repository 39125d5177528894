"""Figures of the models: B against A, times, sizes, training.

Labels are English, because a Japanese font may be missing.
"""

from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from so8t.drawing import blank
from so8t.report.context import HEADLINE, MODELS, SPLITS, TRAIN_TABLE, Context
from so8t.report.plotting import COLOURS, GREY, SPLIT_COLOURS, floats
from so8t.report.sources import Records

# Scores without an upper end, which would dwarf rates on one axis.
OPEN_ENDED = ("ece", "brier_score", "nll")
MIB = 2**20
SMALL_LEGEND: dict[str, Any] = {"frameon": False, "fontsize": 8}


# --- B against A ---


def forest(context: Context) -> Figure | None:
    """B - A of every endpoint on every split, with group-bootstrap intervals.

    Rates and macro-F1 stand apart from scores without an upper end.

    Args:
        context: result files, words, and which file is released.

    Returns:
        The figure; null where A and B were not compared.
    """
    names = list(context.ab.value(f"/splits/{HEADLINE}/differences") or {})
    if not names:
        return None
    scores = [name for name in names if name in OPEN_ENDED]
    rates = [name for name in names if name not in OPEN_ENDED]
    figure, ((left, right),) = blank(2, width=9.6, height=0.9 + 0.42 * len(rates))
    _differences(context, left, rates)
    _differences(context, right, scores)
    left.set_title("rates and macro-F1")
    right.set_title("lower is better")
    left.legend(**SMALL_LEGEND)
    # A model that reads no verdict has no probabilities to score.
    handles, _ = right.get_legend_handles_labels()
    if not handles:
        right.set_visible(False)
    return figure


def _differences(context: Context, axes: Axes, names: list[str]) -> None:
    """One row per endpoint, one mark per split: difference and interval.

    Args:
        context: result files, words, and which file is released.
        axes: where to draw.
        names: of the endpoints, from top to bottom.
    """
    for offset, split in enumerate(SPLITS):
        differences = context.ab.value(f"/splits/{split}/differences") or {}
        for place, name in enumerate(names):
            one = differences.get(name) or {}
            if one.get("difference") is None:
                continue
            # The first endpoint on top, the splits just above, on and below its line.
            y = len(names) - place - 0.22 * (offset - 1)
            # Too few groups give no interval: the bar then has no length.
            low, high = one["ci95"] or (one["difference"], one["difference"])
            colour = SPLIT_COLOURS[split]
            # One legend entry per split, not one per endpoint.
            label = split if place == 0 else None
            axes.plot([low, high], [y, y], color=colour, linewidth=1.6, label=label)
            axes.plot(one["difference"], y, "o", color=colour, markersize=4)
    # Where A and B are equal.
    axes.axvline(0, color="#555", linewidth=0.8)
    axes.set(
        yticks=[len(names) - place for place in range(len(names))],
        yticklabels=_starred(context, names),
        xlabel="B - A (* primary endpoint)",
    )


def _starred(context: Context, names: list[str]) -> list[str]:
    """Names of endpoints; those that decide have a star.

    Args:
        context: result files, words, and which file is released.
        names: of endpoints.
    """
    endpoints = context.ab.value(f"/splits/{HEADLINE}/differences")
    labels = []
    for name in names:
        mark = " *" if endpoints[name]["primary"] else ""
        labels.append(f"{name}{mark}")
    return labels


# --- times ---


def latency(context: Context) -> Figure | None:
    """Distribution of verdict times, with median and 95th percentile.

    Args:
        context: result files, words, and which file is released.

    Returns:
        The figure of the speed page; null where nothing was timed.
    """
    tables = {model: context.times(model) for model in MODELS}
    if not any(tables.values()):
        return None
    figure, ((axes,),) = blank(height=3.2)
    for model, rows in tables.items():
        # Milliseconds on the axis, because a verdict takes a few of them.
        milliseconds = [1000 * x for x in floats(rows, "seconds")]
        axes.step(
            milliseconds,
            floats(rows, "share"),
            where="post",
            color=COLOURS[model],
            label=f"{model.upper()} {context.type} (n={len(rows)})",
        )
    _percentile_line(axes, 0.5, "p50")
    _percentile_line(axes, 0.95, "p95")
    axes.set(
        xlabel="milliseconds per verdict, shared prefix kept",
        ylabel="share of runs",
        ylim=(0, 1.03),
        xlim=(0, None),
    )
    axes.legend(frameon=False, loc="lower right")
    return figure


def _percentile_line(axes: Axes, share: float, name: str) -> None:
    """A thin line at one share of the runs.

    Args:
        axes: where to draw.
        share: of the runs, 0 to 1.
        name: at the line's right end.
    """
    axes.axhline(share, color=GREY, linewidth=0.8)
    axes.text(
        1.0,
        share,
        name,
        # At the right edge whatever the times are, at the height of its share.
        transform=axes.get_yaxis_transform(),
        ha="right",
        va="bottom",
        color="#666",
    )


# --- sizes ---


@dataclass(frozen=True, slots=True, order=True)
class Point:
    """One file of a model; sorted by size.

    Attributes:
        mib: its size.
        value, low, high: the metric and its 95 % interval.
        kind: its type.
    """

    mib: float
    value: float
    low: float
    high: float
    kind: str


def size_quality(context: Context) -> Figure | None:
    """Share of true ALLOW allowed and accuracy against file size; hollow = not certified.

    Args:
        context: result files, words, and which file is released.

    Returns:
        The figure; null where no file was evaluated.
    """
    figure, ((left, right),) = blank(2, width=8.6, height=3.6)
    # Usefulness beside accuracy: a closed gate is accurate on DENY and useless.
    drawn = _sizes(context, left, "allow_rate_on_allow")
    drawn += _sizes(context, right, "accuracy")
    left.set_title("allowed of true ALLOW (hollow: not certified)")
    right.set_title("accuracy of decisions")
    for axes in (left, right):
        axes.set(
            xlabel="file size, MiB",
            # Above 1, because the names of the types stand above their marks.
            ylim=(-0.02, 1.18),
            xlim=(0, None),
            yticks=[0, 0.2, 0.4, 0.6, 0.8, 1],
        )
        axes.margins(x=0.15)
        axes.legend(**SMALL_LEGEND, loc="center right")
    return figure if drawn else None


def _sizes(context: Context, axes: Axes, metric: str) -> int:
    """Both models' files by size; returns how many were drawn.

    Args:
        context: result files, words, and which file is released.
        axes: where to draw.
        metric: a rate of the headline split.
    """
    drawn = 0
    for model in MODELS:
        points = _points(context, model, metric)
        for point in points:
            status = context.card(model, point.kind).value("/status")
            _mark(axes, point, COLOURS[model], certified=status == "certified")
        axes.plot(
            [point.mib for point in points],
            [point.value for point in points],
            color=COLOURS[model],
            linewidth=0.8,
            label=model.upper(),
        )
        drawn += len(points)
    return drawn


def _points(context: Context, model: str, metric: str) -> list[Point]:
    """The files of one model whose size and metric are known, smallest first.

    Args:
        context: result files, words, and which file is released.
        model: `a` or `b`.
        metric: a rate of the headline split.
    """
    points = []
    for kind in context.types:
        evaluated = context.evaluated(model, kind)
        size = context.verified(model, kind).value("/bytes")
        # A file that was not verified has its size in its metrics.
        size = size or evaluated.value("/file_bytes")
        found = evaluated.value(f"/splits/{HEADLINE}/{metric}")
        if size is None or found is None or found["value"] is None:
            continue
        # Too few groups have no interval; the point stands alone.
        low, high = found["ci95"] or (found["value"], found["value"])
        points.append(Point(size / MIB, found["value"], low, high, kind))
    # By size, because a line joins them.
    return sorted(points)


def _mark(axes: Axes, point: Point, colour: str, *, certified: bool) -> None:
    """One file: its mark, its interval and the name of its type.

    Args:
        axes: where to draw.
        point: of one file.
        colour: of its model.
        certified: filled where it is.
    """
    axes.errorbar(
        point.mib,
        point.value,
        yerr=[[point.value - point.low], [point.high - point.value]],
        fmt="o",
        color=colour,
        capsize=2,
        linewidth=0.9,
        markerfacecolor=colour if certified else "white",
        zorder=3,
    )
    axes.annotate(
        point.kind,
        (point.mib, point.high),
        xytext=(0, 4),
        textcoords="offset points",
        fontsize=7,
        # Slanted, because types of similar size stand close together.
        rotation=40,
        color=colour,
    )


# --- training ---


def training(context: Context) -> Figure | None:
    """Loss parts, validation, weight of the penalty and rotation angles by step.

    The penalty is PET (so8t.pet), on jumps of the hidden states from token to token.

    Args:
        context: result files, words, and which file is released.

    Returns:
        The figure; null where nothing was trained here.
    """
    rows = context.sources.table(TRAIN_TABLE)
    if not rows:
        return None
    # Four panels, because the four have no scale in common.
    figure, ((losses, validation), (penalty, angles)) = blank(2, 2, width=8.6, height=5.2)
    _curves(losses, rows, ("loss", "lm", "safety", "authority", "label"))
    _curves(validation, rows, ("valid_loss", "valid_verdict"), marker="o")
    _curves(penalty, rows, ("pet", "lambda"))
    _curves(angles, rows, ("max_angle", "mean_angle"))
    losses.set_title("training losses")
    validation.set_title("validation")
    penalty.set_title("PET penalty and its weight")
    angles.set_title("rotation angles, rad")
    return figure


def _curves(axes: Axes, rows: Records, columns: tuple[str, ...], marker: str = "") -> None:
    """One curve by step per column that the log has.

    Args:
        axes: where to draw.
        rows: of the training log.
        columns: one curve each.
        marker: at each point; empty for a bare line.
    """
    for column in columns:
        # Validation is measured every so many steps; its other cells are empty.
        some = [row for row in rows if row.get(column)]
        if not some:
            continue
        axes.plot(
            floats(some, "step"),
            floats(some, column),
            marker=marker,
            markersize=3,
            linewidth=1.1,
            label=column,
        )
    axes.set_xlabel("step")
    _, labels = axes.get_legend_handles_labels()
    if labels:
        axes.legend(**SMALL_LEGEND)
