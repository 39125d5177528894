"""The report's figures, as SVG text that is the same byte for byte for the same files.

Drawn only from result files and their CSV tables.
"""

from collections.abc import Callable

from matplotlib.figure import Figure

from so8t import drawing
from so8t.report.context import Context
from so8t.report.decision_figures import confusion, domains, far_allow, flips, reliability
from so8t.report.familiarity_figure import familiarity
from so8t.report.model_figures import forest, latency, size_quality, training
from so8t.report.speed_sections import FIGURE

# Each returns null where its data are missing.
FIGURES: dict[str, Callable[[Context], Figure | None]] = {
    "reliability": reliability,
    "confusion": confusion,
    "far_allow": far_allow,
    "flips": flips,
    "forest": forest,
    "domains": domains,
    "familiarity": familiarity,
    "size_quality": size_quality,
    "training": training,
}


# Of the speed page: times are in no figure of the report.
SPEED_FIGURES: dict[str, Callable[[Context], Figure | None]] = {FIGURE: latency}


def draw(context: Context) -> dict[str, str]:
    """Every figure of the report whose data exist, as SVG text by name."""
    return drawing.draw(FIGURES, context)


def draw_speed(context: Context) -> dict[str, str]:
    """The figure of the speed page, as SVG text by name; nothing where no verdict was timed."""
    return drawing.draw(SPEED_FIGURES, context)
