"""The report's figures, as SVG text that is the same byte for byte for the same files.

Drawn only from result files and their CSV tables.
"""

from collections.abc import Callable

from matplotlib.figure import Figure

from so8t import drawing
from so8t.report.context import Context
from so8t.report.decision_figures import confusion, domains, far_allow, flips, reliability
from so8t.report.model_figures import forest, latency, size_quality, training

# Each returns null where its data are missing.
FIGURES: dict[str, Callable[[Context], Figure | None]] = {
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


def draw(context: Context) -> dict[str, str]:
    """Every figure whose data exist, as SVG text by name."""
    return drawing.draw(FIGURES, context)
