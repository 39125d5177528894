"""The figures, as SVG text that is the same byte for byte for the same files.

Drawn only from result files and their CSV tables; a figure whose data are missing is null. Labels are English, because
a Japanese font may be missing.
"""

from collections.abc import Callable

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from so8t import drawing
from so8t.drawing import BLUE, LIMIT, ORANGE, blank
from so8t.report.page import AB, HEADLINE, MODELS, SPLITS, TRAIN_TABLE, Page

COLOURS = {"a": "#7f8c8d", "b": BLUE}
SPLIT_COLOURS = dict(zip(SPLITS, (BLUE, ORANGE, "#8a4fa8"), strict=True))
VERDICTS = ("ALLOW", "ESCALATE", "DENY")
Table = list[dict[str, str]]


def ascii_name(name: str, index: int) -> str:
    """A name that any font can draw."""
    return name if name.isascii() else f"domain {index + 1}"


def _floats(rows: Table, column: str) -> list[float]:
    return [float(row[column]) for row in rows if row[column]]


def reliability(page: Page) -> Figure | None:
    """Accuracy against confidence, before and after the temperature; area of a point = rows in its bin."""
    rows = page.sources.table(f"{page.tables(page.model, page.type)}/reliability.csv")
    if not rows:
        return None
    figure, ((axes,),) = blank(width=4.6, height=4.2)
    axes.plot([0, 1], [0, 1], color="#bbb", linewidth=1, zorder=0)
    for kind, colour in (("before", ORANGE), ("after", BLUE)):
        some = [row for row in rows if row["kind"] == kind]
        total = sum(_floats(some, "n")) or 1.0
        x, y = _floats(some, "confidence"), _floats(some, "accuracy")
        axes.plot(x, y, color=colour, linewidth=1, label=f"{kind} temperature")
        axes.scatter(
            x,
            y,
            s=[12 + 400 * n / total for n in _floats(some, "n")],
            color=colour,
            alpha=0.6,
            linewidths=0,
        )
    low = min([*_floats(rows, "confidence"), *_floats(rows, "accuracy")])
    axes.set(
        xlabel="confidence of the top verdict",
        ylabel="accuracy",
        title=f"Reliability ({HEADLINE})",
        xlim=(min(low, 0.9) - 0.03, 1.02),
        ylim=(min(low, 0.9) - 0.03, 1.02),
    )
    axes.legend(frameon=False, loc="upper left")
    return figure


def _matrix(axes: Axes, counts: list[list[int]], rows: str, columns: str) -> None:
    shares = [[value / max(sum(row), 1) for value in row] for row in counts]
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for i, row in enumerate(counts):
        for j, value in enumerate(row):
            axes.text(
                j,
                i,
                f"{value}\n{shares[i][j]:.0%}",
                ha="center",
                va="center",
                color="white" if shares[i][j] > 0.55 else "black",
            )
    axes.set(
        xticks=range(3),
        yticks=range(3),
        xticklabels=VERDICTS,
        yticklabels=VERDICTS,
        xlabel=columns,
        ylabel=rows,
    )
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)


def _matrices(page: Page, file: str, key: str, rows: str, columns: str) -> Figure | None:
    """One matrix of counts per split."""
    found = [page.sources.value(file, f"/splits/{split}/{key}") for split in SPLITS]
    if any(matrix is None for matrix in found):
        return None
    figure, (axes,) = blank(3, width=9.6, height=3.4)
    for one, split, matrix in zip(axes, SPLITS, found, strict=True):
        _matrix(one, matrix, rows if split == HEADLINE else "", columns)
        one.set_title(split)
    return figure


def confusion(page: Page) -> Figure | None:
    """Counts and row shares on the three splits."""
    return _matrices(page, page.released, "confusion", "label", "decided")


def flips(page: Page) -> Figure | None:
    """What A decided against what B decided."""
    return _matrices(page, AB, "flips/matrix", "A decided", "B decided")


def far_allow(page: Page) -> Figure | None:
    """Every threshold's false-allow and allow rate; the square is what the card decided."""
    tables = {
        model: page.sources.table(f"{page.tables(model, page.type)}/far_allow.csv")
        for model in MODELS
    }
    if not any(tables.values()):
        return None
    figure, ((axes,),) = blank(width=5.6, height=4.0)
    largest = 0.1
    for model, rows in tables.items():
        curve, point = (
            [row for row in rows if row["kind"] == kind] for kind in ("curve", "decided")
        )
        label = f"{model.upper()} {page.type}"
        axes.plot(
            _floats(curve, "false_allow_rate"),
            _floats(curve, "allow_rate"),
            color=COLOURS[model],
            label=label,
        )
        axes.plot(
            _floats(point, "false_allow_rate"),
            _floats(point, "allow_rate"),
            "s",
            color=COLOURS[model],
            markersize=8,
            clip_on=False,
        )
        largest = max([largest, *(2 * x for x in _floats(point, "false_allow_rate"))])
    alpha = page.sources.value(page.released_card, "/certificate/alpha")
    if alpha is not None:
        axes.axvline(alpha, **LIMIT, label="certified limit")
        largest = max(largest, 4 * alpha)
    axes.set(
        xlabel="false-allow rate",
        ylabel="allowed of true ALLOW",
        title=f"Square: the card's decision ({HEADLINE})",
        xlim=(0, min(largest, 1.0)),
        ylim=(0, 1.02),
    )
    axes.legend(frameon=False, loc="lower right")
    return figure


def _differences(page: Page, axes: Axes, names: list[str]) -> None:
    """One row per endpoint, one mark per split: difference and interval."""
    for offset, split in enumerate(SPLITS):
        differences = page.sources.value(AB, f"/splits/{split}/differences") or {}
        for place, name in enumerate(names):
            one = differences.get(name) or {}
            if one.get("difference") is not None:
                low, high = one["ci95"] or (one["difference"], one["difference"])
                y = len(names) - place - 0.22 * (offset - 1)
                axes.plot(
                    [low, high],
                    [y, y],
                    color=SPLIT_COLOURS[split],
                    linewidth=1.6,
                    label=split if place == 0 else None,
                )
                axes.plot(one["difference"], y, "o", color=SPLIT_COLOURS[split], markersize=4)
    axes.axvline(0, color="#555", linewidth=0.8)
    primary = page.sources.value(AB, f"/splits/{HEADLINE}/differences")
    labels = [f"{name}{' *' if primary[name]['primary'] else ''}" for name in names]
    axes.set(
        yticks=[len(names) - place for place in range(len(names))],
        yticklabels=labels,
        xlabel="B - A (* primary endpoint)",
    )


def forest(page: Page) -> Figure | None:
    """B - A of every endpoint on every split, with group-bootstrap intervals; rates apart from scores without an upper end."""
    names = list(page.sources.value(AB, f"/splits/{HEADLINE}/differences") or {})
    if not names:
        return None
    open_ended = [name for name in names if name in ("ece", "brier_score", "nll")]
    rates = [name for name in names if name not in open_ended]
    figure, ((left, right),) = blank(2, width=9.6, height=0.9 + 0.42 * len(rates))
    _differences(page, left, rates)
    _differences(page, right, open_ended)
    left.set_title("rates and macro-F1")
    right.set_title("lower is better")
    left.legend(frameon=False, fontsize=8)
    if not right.get_legend_handles_labels()[
        0
    ]:  # a model that reads no verdict has no probabilities to score
        right.set_visible(False)
    return figure


def latency(page: Page) -> Figure | None:
    """Distribution of verdict times, with median and 95th percentile."""
    tables = {
        model: page.sources.table(f"{page.tables(model, page.type)}/latency.csv")
        for model in MODELS
    }
    if not any(tables.values()):
        return None
    figure, ((axes,),) = blank(height=3.2)
    for model, rows in tables.items():
        axes.step(
            [1000 * x for x in _floats(rows, "seconds")],
            _floats(rows, "share"),
            where="post",
            color=COLOURS[model],
            label=f"{model.upper()} {page.type} (n={len(rows)})",
        )
    for share, name in ((0.5, "p50"), (0.95, "p95")):
        axes.axhline(share, color="#bbb", linewidth=0.8)
        axes.text(
            1.0,
            share,
            name,
            transform=axes.get_yaxis_transform(),
            ha="right",
            va="bottom",
            color="#666",
        )
    axes.set(
        xlabel="milliseconds per verdict, shared prefix kept",
        ylabel="share of runs",
        ylim=(0, 1.03),
        xlim=(0, None),
    )
    axes.legend(frameon=False, loc="lower right")
    return figure


def domains(page: Page) -> Figure | None:
    """False-allow rate of each domain on each split, with its one-sided upper limit."""
    rows = page.sources.table(f"{page.tables(page.model, page.type)}/domains.csv")
    if not rows:
        return None
    names = list(dict.fromkeys(row["domain"] for row in rows))
    figure, ((axes,),) = blank(height=3.4)
    for offset, split in enumerate(SPLITS):
        some = [row for row in rows if row["split"] == split and row["false_allow_rate"]]
        x = [names.index(row["domain"]) + 0.2 * (offset - 1) for row in some]
        axes.vlines(
            x,
            _floats(some, "false_allow_rate"),
            _floats(some, "upper"),
            color=SPLIT_COLOURS[split],
            linewidth=1.4,
        )
        axes.plot(x, _floats(some, "upper"), "_", color=SPLIT_COLOURS[split], markersize=9)
        axes.plot(
            x,
            _floats(some, "false_allow_rate"),
            "o",
            color=SPLIT_COLOURS[split],
            label=split,
            clip_on=False,
        )
    alpha = page.sources.value(page.released_card, "/certificate/alpha")
    if alpha is not None:
        axes.axhline(alpha, **LIMIT, label="certified limit")
    axes.set(
        xticks=range(len(names)),
        xticklabels=[ascii_name(name, i) for i, name in enumerate(names)],
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


def _sizes(page: Page, axes: Axes, model: str, metric: str) -> bool:
    """One model's files by size; hollow marks are not certified. Returns whether anything was drawn."""
    points = []
    for kind in page.types:
        size = page.sources.value(page.verified(model, kind), "/bytes") or page.sources.value(
            page.evaluated(model, kind), "/file_bytes"
        )
        found = page.sources.value(page.evaluated(model, kind), f"/splits/{HEADLINE}/{metric}")
        if size is not None and found is not None and found["value"] is not None:
            points.append((size / 2**20, found["value"], *found["ci95"], kind))
    for x, y, low, high, kind in sorted(points):
        certified = page.sources.value(page.card(model, kind), "/status") == "certified"
        axes.errorbar(
            x,
            y,
            yerr=[[y - low], [high - y]],
            fmt="o",
            color=COLOURS[model],
            capsize=2,
            linewidth=0.9,
            markerfacecolor=COLOURS[model] if certified else "white",
            zorder=3,
        )
        axes.annotate(
            kind,
            (x, high),
            xytext=(0, 4),
            textcoords="offset points",
            fontsize=7,
            rotation=40,
            color=COLOURS[model],
        )
    axes.plot(
        [point[0] for point in sorted(points)],
        [point[1] for point in sorted(points)],
        color=COLOURS[model],
        linewidth=0.8,
        label=model.upper(),
    )
    return bool(points)


def size_quality(page: Page) -> Figure | None:
    """Accuracy and share of true ALLOW allowed against file size; hollow = not certified."""
    figure, (axes,) = blank(2, width=8.6, height=3.6)
    drawn = [
        _sizes(page, one, model, metric)
        for one, metric in zip(axes, ("allow_rate_on_allow", "accuracy"), strict=True)
        for model in MODELS
    ]
    for one, title in zip(
        axes,
        ("allowed of true ALLOW (hollow: not certified)", "accuracy of decisions"),
        strict=True,
    ):
        one.set(
            xlabel="file size, MiB",
            title=title,
            ylim=(-0.02, 1.18),
            xlim=(0, None),
            yticks=[0, 0.2, 0.4, 0.6, 0.8, 1],
        )
        one.margins(x=0.15)
        one.legend(frameon=False, fontsize=8, loc="center right")
    return figure if any(drawn) else None


def training(page: Page) -> Figure | None:
    """Loss parts, validation, PET weight and rotation angles by step."""
    rows = page.sources.table(TRAIN_TABLE)
    if not rows:
        return None
    figure, axes = blank(2, 2, width=8.6, height=5.2)

    def draw(one: Axes, columns: tuple[str, ...], title: str, marker: str = "") -> None:
        for column in columns:
            some = [row for row in rows if row.get(column)]
            if some:
                one.plot(
                    _floats(some, "step"),
                    _floats(some, column),
                    marker=marker,
                    markersize=3,
                    linewidth=1.1,
                    label=column,
                )
        one.set(xlabel="step", title=title)
        if one.get_legend_handles_labels()[1]:
            one.legend(frameon=False, fontsize=8)

    draw(axes[0][0], ("loss", "lm", "safety", "authority", "label"), "training losses")
    draw(axes[0][1], ("valid_loss", "valid_verdict"), "validation", "o")
    draw(axes[1][0], ("pet", "lambda"), "PET penalty and its weight")
    draw(axes[1][1], ("max_angle", "mean_angle"), "rotation angles, rad")
    return figure


FIGURES: dict[str, Callable[[Page], Figure | None]] = {
    "reliability": reliability,
    "confusion": confusion,
    "far_allow": far_allow,
    "flips": flips,
    "forest": forest,
    "latency": latency,
    "domains": domains,
    "size_quality": size_quality,
    "training": training,
}


def draw(page: Page) -> dict[str, str]:
    """Every figure whose data exist, as SVG text by name."""
    return drawing.draw(FIGURES, page)
