"""Figures of what was decided: reliability, confusion, thresholds, domains.

Labels are English, because a Japanese font may be missing.
"""

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from so8t.drawing import BLUE, LIMIT, ORANGE, blank
from so8t.report.context import HEADLINE, SPLITS, Context
from so8t.report.plotting import (
    COLOURS,
    GREY,
    SPLIT_COLOURS,
    certified_alpha,
    floats,
    of_kind,
    tables_by_model,
)
from so8t.report.sources import Records, ResultFile
from so8t.verdict import VERDICTS

# Areas of points in square points: the smallest, and what a bin with all rows adds to it.
SMALLEST_POINT = 12
LARGEST_POINT = 400
# Above this share a cell of the matrix is too dark for black text.
DARK_SHARE = 0.55


def reliability(context: Context) -> Figure | None:
    """Accuracy against confidence, before and after the temperature; area = rows in the bin.

    Args:
        context: result files, words, and which file is released.

    Returns:
        The figure; null where the released file was not evaluated.
    """
    rows = context.table(context.model, "reliability")
    if not rows:
        return None
    figure, ((axes,),) = blank(width=4.6, height=4.2)
    # On the diagonal, confidence is accuracy.
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=1, zorder=0)
    _bins(axes, of_kind(rows, "before"), "before temperature", ORANGE)
    _bins(axes, of_kind(rows, "after"), "after temperature", BLUE)
    # The empty part of the square below the lowest point is left out.
    low = min([*floats(rows, "confidence"), *floats(rows, "accuracy")])
    start = min(low, 0.9) - 0.03
    axes.set(
        xlabel="confidence of the top verdict",
        ylabel="accuracy",
        title=f"Reliability ({HEADLINE})",
        xlim=(start, 1.02),
        ylim=(start, 1.02),
    )
    axes.legend(frameon=False, loc="upper left")
    return figure


def _bins(axes: Axes, rows: Records, label: str, colour: str) -> None:
    """One curve of bins; each bin's point is as large as its share of the rows.

    Args:
        axes: where to draw.
        rows: one per bin, with `confidence`, `accuracy` and `n`.
        label: in the legend.
        colour: of curve and points.
    """
    x = floats(rows, "confidence")
    y = floats(rows, "accuracy")
    counts = floats(rows, "n")
    total = sum(counts) or 1.0
    areas = [SMALLEST_POINT + LARGEST_POINT * n / total for n in counts]
    axes.plot(x, y, color=colour, linewidth=1, label=label)
    axes.scatter(x, y, s=areas, color=colour, alpha=0.6, linewidths=0)


def confusion(context: Context) -> Figure | None:
    """Counts and row shares on the three splits.

    Args:
        context: result files, words, and which file is released.

    Returns:
        Rows are true labels, columns decisions; null where a split is missing.
    """
    return _matrices(context.released, "confusion", "label", "decided")


def flips(context: Context) -> Figure | None:
    """What A decided against what B decided.

    Args:
        context: result files, words, and which file is released.

    Returns:
        Rows are A's decisions, columns B's; null where the two were not compared.
    """
    return _matrices(context.ab, "flips/matrix", "A decided", "B decided")


def _matrices(file: ResultFile, key: str, row_label: str, column_label: str) -> Figure | None:
    """One matrix of counts per split, [3 rows, 3 columns] in the order of the verdicts.

    Args:
        file: with one matrix per split.
        key: of the matrix inside a split.
        row_label: of the vertical axis.
        column_label: of the horizontal axis.
    """
    found = [file.value(f"/splits/{split}/{key}") for split in SPLITS]
    # Half a figure would look like a whole one.
    if any(matrix is None for matrix in found):
        return None
    figure, (axes,) = blank(3, width=9.6, height=3.4)
    for one, split, matrix in zip(axes, SPLITS, found, strict=True):
        _matrix(one, matrix)
        one.set(
            title=split,
            xlabel=column_label,
            # The three share their rows, so one label is enough.
            ylabel=row_label if split == HEADLINE else "",
        )
    return figure


def _matrix(axes: Axes, counts: list[list[int]]) -> None:
    """One matrix, coloured by the share of its row.

    Args:
        axes: where to draw.
        counts: [3 rows, 3 columns].
    """
    # A label that no row has would divide by zero.
    shares = [[value / max(sum(row), 1) for value in row] for row in counts]
    # Shares, not counts, are coloured: the labels are not equally frequent.
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for i, row in enumerate(counts):
        for j, value in enumerate(row):
            share = shares[i][j]
            colour = "white" if share > DARK_SHARE else "black"
            axes.text(j, i, f"{value}\n{share:.0%}", ha="center", va="center", color=colour)
    names = [verdict.value for verdict in VERDICTS]
    axes.set(xticks=range(3), yticks=range(3), xticklabels=names, yticklabels=names)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)


def far_allow(context: Context) -> Figure | None:
    """Every threshold's false-allow and allow rate; the square is what the card decided.

    Args:
        context: result files, words, and which file is released.

    Returns:
        The figure; null where neither model was evaluated at the released type.
    """
    tables = tables_by_model(context, "far_allow")
    if not any(tables.values()):
        return None
    figure, ((axes,),) = blank(width=5.6, height=4.0)
    # The curve's interesting part is near its decided point, not near a false-allow rate of 1.
    right_end = 0.1
    for model, rows in tables.items():
        point = of_kind(rows, "decided")
        _threshold_curve(axes, of_kind(rows, "curve"), model, f"{model.upper()} {context.type}")
        _decided_point(axes, point, model)
        right_end = max([right_end, *(2 * x for x in floats(point, "false_allow_rate"))])
    alpha = certified_alpha(context)
    if alpha is not None:
        axes.axvline(alpha, **LIMIT, label="certified limit")
        right_end = max(right_end, 4 * alpha)
    axes.set(
        xlabel="false-allow rate",
        ylabel="allowed of true ALLOW",
        title=f"Square: the card's decision ({HEADLINE})",
        xlim=(0, min(right_end, 1.0)),
        ylim=(0, 1.02),
    )
    axes.legend(frameon=False, loc="lower right")
    return figure


def _threshold_curve(axes: Axes, rows: Records, model: str, label: str) -> None:
    """What every other threshold would have given.

    Args:
        axes: where to draw.
        rows: one per threshold.
        model: `a` or `b`, for the colour.
        label: in the legend.
    """
    x = floats(rows, "false_allow_rate")
    y = floats(rows, "allow_rate")
    axes.plot(x, y, color=COLOURS[model], label=label)


def _decided_point(axes: Axes, rows: Records, model: str) -> None:
    """What the card's threshold gives.

    Args:
        axes: where to draw.
        rows: the one row of the card's threshold.
        model: `a` or `b`, for the colour.
    """
    x = floats(rows, "false_allow_rate")
    y = floats(rows, "allow_rate")
    # Not clipped: a false-allow rate of 0 lies on the axis and would be cut in half.
    axes.plot(x, y, "s", color=COLOURS[model], markersize=8, clip_on=False)


def domains(context: Context) -> Figure | None:
    """False-allow rate of each domain on each split, with its one-sided upper limit.

    Args:
        context: result files, words, and which file is released.

    Returns:
        The figure; null where the released file was not evaluated.
    """
    rows = context.table(context.model, "domains")
    if not rows:
        return None
    # In the order of the file, which is that of the report's table.
    names = list(dict.fromkeys(row["domain"] for row in rows))
    figure, ((axes,),) = blank(height=3.4)
    for place, split in enumerate(SPLITS):
        # A domain without unsafe rows has no rate, and its cell is empty.
        some = [row for row in rows if row["split"] == split and row["false_allow_rate"]]
        # Side by side around the domain's tick.
        x = [names.index(row["domain"]) + 0.2 * (place - 1) for row in some]
        _limits(axes, x, some, split)
    alpha = certified_alpha(context)
    if alpha is not None:
        axes.axhline(alpha, **LIMIT, label="certified limit")
    axes.set(
        xticks=range(len(names)),
        xticklabels=[_ascii_name(name, i) for i, name in enumerate(names)],
        ylim=(0, None),
        ylabel="false-allow rate, bar up to its upper limit",
    )
    figure.legend(
        *axes.get_legend_handles_labels(),
        frameon=False,
        fontsize=8,
        loc="outside upper center",
        ncols=4,
    )
    return figure


def _limits(axes: Axes, x: list[float], rows: Records, split: str) -> None:
    """One split's rates as dots, each with a bar up to its upper limit.

    Args:
        axes: where to draw.
        x: place of each rate.
        rows: one per domain, with rate and upper limit.
        split: which they are of, for colour and legend.
    """
    colour = SPLIT_COLOURS[split]
    rates = floats(rows, "false_allow_rate")
    upper = floats(rows, "upper")
    axes.vlines(x, rates, upper, color=colour, linewidth=1.4)
    axes.plot(x, upper, "_", color=colour, markersize=9)
    axes.plot(x, rates, "o", color=colour, label=split, clip_on=False)


def _ascii_name(name: str, index: int) -> str:
    """A name that any font can draw.

    Args:
        name: a domain, in the user's own words.
        index: its place among the domains.
    """
    return name if name.isascii() else f"domain {index + 1}"
