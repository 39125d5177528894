"""The figures of reports/data.md, as SVG text that is the same byte for byte for the same data.

Drawn from the metrics and the table of lengths alone. Labels are English, because a Japanese font
may be missing.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from so8t import drawing
from so8t.drawing import BLUE, LIMIT, ORANGE
from so8t.rows import SPLITS

GREEN = "#2f8f5b"
RED = "#b03a2e"
GREY = "#8a8f94"
COLOURS = {"ALLOW": GREEN, "ESCALATE": ORANGE, "DENY": RED, "none": GREY}
# The generator's own limits on the accuracy of the probes, drawn as dashed lines.
NGRAM_LIMIT = 0.95
FACTOR_LIMIT = 0.5
MOST_FACTORS = 16  # bars of single factors shown


class Length(NamedTuple):
    """One line of the table of lengths."""

    what: str
    length: int
    rows: int


@dataclass(frozen=True, slots=True)
class Drawn:
    """One figure."""

    title: str
    svg: str


Metrics: TypeAlias = Mapping[str, Any]
Make: TypeAlias = Callable[[Metrics, list[Length]], Figure | None]


def draw(metrics: Metrics, lengths: str) -> dict[str, Drawn]:
    """Every figure that the data allow, by name.

    Args:
        metrics: what `prepare` counted, with `probes`.
        lengths: the table of lengths, CSV with a head.
    """
    table = []
    for line in lengths.splitlines()[1:]:
        # From the right, because the first column is free text.
        what, length, rows = line.rsplit(",", 2)
        table.append(Length(what, int(length), int(rows)))
    makers = {name: make for name, (_, make) in FIGURES.items()}
    texts = drawing.draw(makers, metrics, table)
    return {name: Drawn(FIGURES[name][0], svg) for name, svg in texts.items()}


def draw_rows(metrics: Metrics, _lengths: list[Length]) -> Figure | None:
    """Rows by split and by domain, stacked by verdict."""
    table = metrics["by_split_domain_verdict"]
    # In the order of SPLITS: the table may have come back from JSON.
    by_split: dict[str, dict[str, int]] = {
        split: defaultdict(int) for split in SPLITS if split in table
    }
    by_domain: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for split, domains in table.items():
        for domain, counts in domains.items():
            for verdict, number in counts.items():
                by_split[split][verdict] += number
                by_domain[domain][verdict] += number
    if not by_split:
        return None
    figure, (left, right) = _axes(2, width=8.0)
    _stacked_bars(left, by_split)
    _stacked_bars(right, dict(sorted(by_domain.items())))
    left.legend(frameon=False)
    return figure


def draw_lengths(_metrics: Metrics, table: list[Length]) -> Figure | None:
    """How long the parts are: one histogram each."""
    kinds = list(dict.fromkeys(line.what for line in table))
    if not kinds:
        return None
    figure, axes = _axes(len(kinds), width=3.2 * len(kinds))
    for axis, kind in zip(axes, kinds, strict=True):
        lines = [line for line in table if line.what == kind]
        lengths = [line.length for line in lines]
        rows = [line.rows for line in lines]
        axis.hist(lengths, weights=rows, bins=30, color=BLUE)
        axis.set(xlabel=kind, ylabel="rows")
    return figure


def draw_probes(metrics: Metrics, _lengths: list[Length]) -> Figure | None:
    """Accuracy of the keyword rules and the n-gram probe on each split."""
    found = metrics.get("probes") or {}
    shown = {name: found[name] for name in ("keywords", "ngram") if found.get(name)}
    if not shown:
        return None
    figure, (axes,) = _axes()
    for index, (name, splits) in enumerate(shown.items()):
        # Two bars of width 0.38 side by side around each split's place.
        places = [SPLITS.index(split) + 0.4 * index - 0.2 for split in splits]
        heights = [scores["accuracy"] or 0.0 for scores in splits.values()]
        axes.bar(places, heights, width=0.38, label=name, color=(GREY, BLUE)[index])
    axes.axhline(NGRAM_LIMIT, **LIMIT)
    axes.set(ylim=(0, 1.02), ylabel="accuracy")
    axes.set_xticks(range(len(SPLITS)), SPLITS, rotation=30, ha="right")
    axes.legend(frameon=False, loc="lower left")
    return figure


def draw_factors(metrics: Metrics, _lengths: list[Length]) -> Figure | None:
    """Accuracy of the best rule that looks at one factor, for every factor."""
    probes = metrics.get("probes") or {}
    single = probes.get("single_factor") or {}
    accuracy = single.get("by_factor") or {}
    best = sorted(accuracy.items(), key=lambda pair: (-pair[1], pair[0]))[:MOST_FACTORS]
    if not best:
        return None
    # Horizontal bars are drawn from the bottom; the best one belongs at the top.
    best.reverse()
    names = [name for name, _ in best]
    figure, (axes,) = _axes(height=0.8 + 0.22 * len(best))
    axes.barh(range(len(best)), [value for _, value in best], color=BLUE)
    axes.set_yticks(range(len(best)), _ascii(names))
    axes.axvline(FACTOR_LIMIT, **LIMIT)
    axes.set(xlim=(0, 1), xlabel="accuracy of the verdict from this factor alone")
    return figure


def draw_groups(metrics: Metrics, _lengths: list[Length]) -> Figure | None:
    """Unsafe calibration groups of each domain: what a certificate rests on."""
    have = metrics["calibration"]["unsafe_groups"]
    if not have:
        return None
    figure, (axes,) = _axes(height=2.8)
    axes.bar(range(len(have)), list(have.values()), color=RED, width=0.6)
    axes.set_xticks(range(len(have)), _ascii(list(have)), rotation=30, ha="right")
    axes.set_ylabel("unsafe calibration groups")
    return figure


FIGURES: dict[str, tuple[str, Make]] = {
    "rows": ("Rows by split and domain", draw_rows),
    "lengths": ("Lengths", draw_lengths),
    "probes": ("Probes (dashed: the n-gram limit)", draw_probes),
    "factors": ("Single factors (dashed: the limit)", draw_factors),
    "groups": ("Unsafe calibration groups", draw_groups),
}


def _axes(
    columns: int = 1, *, width: float = 6.4, height: float = 3.4
) -> tuple[Figure, Sequence[Axes]]:
    """A figure of this size in inches with one row of axes."""
    figure, (axes,) = drawing.blank(columns, width=width, height=height)
    return figure, list(axes)


def _stacked_bars(axes: Axes, counts: Mapping[str, Mapping[str, int]]) -> None:
    names = list(counts)
    places = range(len(names))
    base = [0] * len(names)
    for verdict, colour in COLOURS.items():
        heights = [counts[name].get(verdict, 0) for name in names]
        # A verdict that never occurs would still take a line of the legend.
        if not any(heights):
            continue
        axes.bar(places, heights, bottom=base, color=colour, label=verdict, width=0.7)
        base = [low + height for low, height in zip(base, heights, strict=True)]
    axes.set_xticks(places, _ascii(names), rotation=30, ha="right")
    axes.set_ylabel("rows")


def _ascii(names: Sequence[str]) -> list[str]:
    """Names that any font can draw; any other becomes its number in the list."""
    shown = []
    for index, name in enumerate(names, start=1):
        shown.append(name if name.isascii() else f"({index})")
    return shown
