"""The figures of reports/data.md, as SVG text that is the same byte for byte for the same data.

Drawn from the metrics and the table of lengths alone. Labels are English, because a Japanese font may be missing.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from so8t import drawing
from so8t.corpus.split import SPLITS
from so8t.drawing import BLUE, LIMIT, ORANGE
from so8t.verdict import VERDICTS

RED, GREY = "#b03a2e", "#8a8f94"
COLOURS = dict(zip((*map(str, VERDICTS), "none"), ("#2f8f5b", ORANGE, RED, GREY), strict=True))
NGRAM_LIMIT, FACTOR_LIMIT = 0.95, 0.5  # the generator's own limits on accuracy
FACTORS = 16  # bars of single factors shown
Table = list[tuple[str, int, int]]  # what, length, rows


def draw(metrics: Mapping[str, Any], lengths: str) -> dict[str, tuple[str, str]]:
    """SVG text and title of every figure that the data allow, by name.

    Args:
        metrics: what `prepare` counted, with `probes`.
        lengths: the table of lengths, CSV.
    """
    cells = [line.rsplit(",", 2) for line in lengths.splitlines()[1:]]
    table: Table = [(what, int(length), int(rows)) for what, length, rows in cells]
    drawn = drawing.draw({name: make for name, (_, make) in FIGURES.items()}, metrics, table)
    return {name: (text, FIGURES[name][0]) for name, text in drawn.items()}


def _axes(columns: int = 1, *, width: float = 6.4, height: float = 3.4) -> tuple[Figure, list[Axes]]:
    figure, (axes,) = drawing.blank(columns, width=width, height=height)
    return figure, list(axes)


def _ascii(names: list[str]) -> list[str]:
    """Names that any font can draw."""
    return [name if name.isascii() else f"({index + 1})" for index, name in enumerate(names)]


def _stacked(axes: Axes, counts: Mapping[str, Mapping[str, int]]) -> None:
    names, base = list(counts), [0] * len(counts)
    for verdict, colour in COLOURS.items():
        heights = [counts[name].get(verdict, 0) for name in names]
        if any(heights):
            axes.bar(range(len(names)), heights, bottom=base, color=colour, label=verdict, width=0.7)
            base = [a + b for a, b in zip(base, heights, strict=True)]
    axes.set_xticks(range(len(names)), _ascii(names), rotation=30, ha="right")
    axes.set_ylabel("rows")


def rows(metrics: Mapping[str, Any], _table: Table) -> Figure | None:
    """Rows by split and by domain, stacked by verdict."""
    table = metrics["by_split_domain_verdict"]
    by_split: dict[str, dict[str, int]] = {s: defaultdict(int) for s in SPLITS if s in table}
    by_domain: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for split, domains in table.items():
        for domain, counts in domains.items():
            for verdict, n in counts.items():
                by_split[split][verdict] += n
                by_domain[domain][verdict] += n
    if not by_split:
        return None
    figure, (left, right) = _axes(2, width=8.0)
    _stacked(left, by_split)
    _stacked(right, dict(sorted(by_domain.items())))
    left.legend(frameon=False)
    return figure


def lengths(_metrics: Mapping[str, Any], table: Table) -> Figure | None:
    """How long the parts are: one histogram each."""
    kinds = list(dict.fromkeys(what for what, _, _ in table))
    if not kinds:
        return None
    figure, axes = _axes(len(kinds), width=3.2 * len(kinds))
    for axis, kind in zip(axes, kinds, strict=True):
        points = [(length, n) for what, length, n in table if what == kind]
        axis.hist([length for length, _ in points], weights=[n for _, n in points], bins=30, color=BLUE)
        axis.set(xlabel=kind, ylabel="rows")
    return figure


def probes(metrics: Mapping[str, Any], _table: Table) -> Figure | None:
    """Accuracy of the keyword rules and the n-gram probe on each split."""
    found = metrics.get("probes") or {}
    shown = {name: found[name] for name in ("keywords", "ngram") if found.get(name)}
    if not shown:
        return None
    figure, (axes,) = _axes()
    for index, (name, splits) in enumerate(shown.items()):
        places = [SPLITS.index(split) + 0.4 * index - 0.2 for split in splits]
        axes.bar(places, [splits[s]["accuracy"] or 0.0 for s in splits], width=0.38, label=name, color=(GREY, BLUE)[index])
    axes.axhline(NGRAM_LIMIT, **LIMIT)
    axes.set(ylim=(0, 1.02), ylabel="accuracy")
    axes.set_xticks(range(len(SPLITS)), SPLITS, rotation=30, ha="right")
    axes.legend(frameon=False, loc="lower left")
    return figure


def factors(metrics: Mapping[str, Any], _table: Table) -> Figure | None:
    """Accuracy of the best rule that looks at one factor, for every factor."""
    alone = ((metrics.get("probes") or {}).get("single_factor") or {}).get("by_factor") or {}
    best = sorted(alone.items(), key=lambda pair: (-pair[1], pair[0]))[:FACTORS][::-1]
    if not best:
        return None
    figure, (axes,) = _axes(height=0.8 + 0.22 * len(best))
    axes.barh(range(len(best)), [value for _, value in best], color=BLUE)
    axes.set_yticks(range(len(best)), _ascii([name for name, _ in best]))
    axes.axvline(FACTOR_LIMIT, **LIMIT)
    axes.set(xlim=(0, 1), xlabel="accuracy of the verdict from this factor alone")
    return figure


def groups(metrics: Mapping[str, Any], _table: Table) -> Figure | None:
    """Unsafe calibration groups of each domain: what a certificate rests on."""
    have = metrics["calibration"]["unsafe_groups"]
    if not have:
        return None
    figure, (axes,) = _axes(height=2.8)
    axes.bar(range(len(have)), list(have.values()), color=RED, width=0.6)
    axes.set_xticks(range(len(have)), _ascii(list(have)), rotation=30, ha="right")
    axes.set_ylabel("unsafe calibration groups")
    return figure


Make = Callable[[Mapping[str, Any], Table], Figure | None]
FIGURES: dict[str, tuple[str, Make]] = {
    "rows": ("Rows by split and domain", rows), "lengths": ("Lengths", lengths), "probes": ("Probes (dashed: the n-gram limit)", probes),
    "factors": ("Single factors (dashed: the limit)", factors), "groups": ("Unsafe calibration groups", groups),
}
