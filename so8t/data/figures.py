"""The figures of reports/data.md, as SVG text that is the same byte for byte for the same data.

Drawn from the metrics and the table of lengths alone. Labels are English, because a Japanese font
may be missing.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import add, itemgetter
from typing import Any, NamedTuple, TypeAlias

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from so8t import drawing
from so8t.drawing import BLUE, LIMIT, ORANGE
from so8t.rows import SPLITS

GREEN = "#2f8f5b"
RED = "#b03a2e"
GREY = "#8a8f94"
COLOURS = {
    "ALLOW": GREEN,
    "ESCALATE": ORANGE,
    "DENY": RED,
    "none": GREY,
}
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
    _, *lines = lengths.splitlines()
    for line in lines:
        # From the right, because the first column is free text.
        what, length, rows = line.rsplit(",", 2)
        entry = Length(what, int(length), int(rows))
        table.append(entry)
    texts = drawing.draw(MAKERS, metrics, table)
    figures = {}
    for name, svg in texts.items():
        figures[name] = Drawn(TITLES[name], svg)
    return figures


def best_first(accuracy: Mapping[str, float]) -> list[tuple[str, float]]:
    """Names with their accuracy, the highest first, equal ones by name."""
    by_name = sorted(accuracy.items())
    # Sorting is stable, so equal ones stay in the order of their names.
    return sorted(by_name, key=itemgetter(1), reverse=True)


def draw_rows(metrics: Metrics, _lengths: list[Length]) -> Figure | None:
    """Rows by split and by domain, stacked by verdict."""
    table = metrics["by_split_domain_verdict"]
    by_split: dict[str, Counter[str]] = {}
    by_domain: dict[str, Counter[str]] = defaultdict(Counter)
    # In the order of SPLITS; the table is in the order of the alphabet.
    for split in SPLITS:
        if split not in table:
            continue
        by_split[split] = Counter()
        for domain, counts in table[split].items():
            by_split[split].update(counts)
            by_domain[domain].update(counts)
    if not by_split:
        return None
    figure, (left, right) = _axes(2, width=8.0)
    domains = sorted(by_domain.items())
    _stacked_bars(left, by_split)
    _stacked_bars(right, dict(domains))
    # One legend: the colours are the same on both sides.
    left.legend(frameon=False)
    return figure


def draw_lengths(_metrics: Metrics, table: list[Length]) -> Figure | None:
    """How long the parts are: one histogram each."""
    kinds: dict[str, list[Length]] = defaultdict(list)
    for line in table:
        kinds[line.what].append(line)
    if not kinds:
        return None
    number = len(kinds)
    figure, axes = _axes(number, width=3.2 * number)
    for axis, kind in zip(axes, kinds, strict=True):
        lines = kinds[kind]
        # Every length once, weighted by its rows: the same histogram as of all the rows.
        axis.hist(
            [line.length for line in lines],
            weights=[line.rows for line in lines],
            bins=30,
            color=BLUE,
        )
        axis.set(xlabel=kind, ylabel="rows")
    return figure


def draw_probes(metrics: Metrics, _lengths: list[Length]) -> Figure | None:
    """Accuracy of the keyword rules and the n-gram probe on each split."""
    probes = metrics.get("probes") or {}
    shown = []
    for name in ("keywords", "ngram"):
        # The n-gram probe is null where train has fewer than two verdicts.
        if probes.get(name):
            shown.append(name)
    if not shown:
        return None
    figure, (axes,) = _axes()
    # Two bars of width 0.38 side by side around each split's place.
    asides = (-0.2, 0.2)
    colours = (GREY, BLUE)
    for index, name in enumerate(shown):
        aside = asides[index]
        colour = colours[index]
        places = []
        heights = []
        for split, scores in probes[name].items():
            place = SPLITS.index(split) + aside
            places.append(place)
            heights.append(scores["accuracy"] or 0.0)
        axes.bar(
            places,
            heights,
            width=0.38,
            label=name,
            color=colour,
        )
    axes.axhline(NGRAM_LIMIT, **LIMIT)
    # A little above 1, or the line of a perfect score would lie on the frame.
    axes.set(ylim=(0, 1.02), ylabel="accuracy")
    _name_places(axes, SPLITS)
    axes.legend(frameon=False, loc="lower left")
    return figure


def draw_factors(metrics: Metrics, _lengths: list[Length]) -> Figure | None:
    """Accuracy of the best rule that looks at one factor, for every factor."""
    probes = metrics.get("probes") or {}
    single = probes.get("single_factor") or {}
    accuracy = single.get("by_factor") or {}
    best = best_first(accuracy)[:MOST_FACTORS]
    if not best:
        return None
    # Horizontal bars are drawn from the bottom; the best one belongs at the top.
    best.reverse()
    names = []
    widths = []
    for name, value in best:
        names.append(name)
        widths.append(value)
    places = range(len(best))
    # Inches: the axis with its label, and one line of text for each bar.
    height = 0.8 + 0.22 * len(best)
    figure, (axes,) = _axes(height=height)
    axes.barh(places, widths, color=BLUE)
    axes.set_yticks(places, _ascii(names))
    axes.axvline(FACTOR_LIMIT, **LIMIT)
    axes.set(xlim=(0, 1), xlabel="accuracy of the verdict from this factor alone")
    return figure


def draw_groups(metrics: Metrics, _lengths: list[Length]) -> Figure | None:
    """Unsafe calibration groups of each domain: what a certificate rests on."""
    have = metrics["calibration"]["unsafe_groups"]
    if not have:
        return None
    figure, (axes,) = _axes(height=2.8)
    places = range(len(have))
    heights = list(have.values())
    axes.bar(places, heights, color=RED, width=0.6)
    _name_places(axes, list(have))
    axes.set_ylabel("unsafe calibration groups")
    return figure


MAKERS: dict[str, Make] = {
    "rows": draw_rows,
    "lengths": draw_lengths,
    "probes": draw_probes,
    "factors": draw_factors,
    "groups": draw_groups,
}
TITLES = {
    "rows": "Rows by split and domain",
    "lengths": "Lengths",
    "probes": "Probes (dashed: the n-gram limit)",
    "factors": "Single factors (dashed: the limit)",
    "groups": "Unsafe calibration groups",
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
        heights = []
        for name in names:
            height = counts[name].get(verdict, 0)
            heights.append(height)
        # A verdict that never occurs would only take a line of the legend.
        if not any(heights):
            continue
        axes.bar(
            places,
            heights,
            bottom=base,
            color=colour,
            label=verdict,
            width=0.7,
        )
        base = list(map(add, base, heights))
    _name_places(axes, names)
    axes.set_ylabel("rows")


def _name_places(axes: Axes, names: Sequence[str]) -> None:
    places = range(len(names))
    # Slanted, because names of splits and domains are too long to stand side by side.
    axes.set_xticks(places, _ascii(names), rotation=30, ha="right")


def _ascii(names: Sequence[str]) -> list[str]:
    """Names that any font can draw; any other becomes its number in the list."""
    shown = []
    for index, name in enumerate(names, start=1):
        if name.isascii():
            shown.append(name)
        else:
            shown.append(f"({index})")
    return shown
