"""How every figure looks and is written: SVG text that is the same byte for byte for the same data.

Glyphs are drawn as paths, so a reader needs no font at all. Covered: style, colours that several figures share, SVG text.
Not covered: what is drawn (corpus.figures, report.plots, operations.sweep).
"""

import io
from collections.abc import Callable, Mapping
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

mpl.use("svg")
BLUE, ORANGE = "#1f6fb4", "#d98c1f"
LIMIT: dict[str, Any] = {
    "color": "#c0392b",
    "linestyle": "--",
    "linewidth": 1,
}  # the line of a limit
STYLE: dict[Any, Any] = {
    "svg.hashsalt": "so8t",
    "svg.fonttype": "path",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "font.family": "DejaVu Sans",
}


def blank(
    columns: int = 1, rows: int = 1, *, width: float = 6.4, height: float = 3.8
) -> tuple[Figure, Any]:
    """A figure of this size in inches, and its axes [rows, columns]."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def draw(figures: Mapping[str, Callable[..., Figure | None]], *data: Any) -> dict[str, str]:
    """SVG text by name of every figure that the data allow.

    Args:
        figures: what makes each of them from the data; null where they are missing.
        data: what each is given.
    """
    with mpl.rc_context(STYLE):
        return {
            name: _svg(figure)
            for name, make in figures.items()
            if (figure := make(*data)) is not None
        }


def _svg(figure: Figure) -> str:
    """Without date or program name."""
    out = io.StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    return out.getvalue()
