"""How every figure looks and is written: SVG text that is the same byte for byte for the same data.

Glyphs are drawn as paths, so a reader needs no font at all. Covered: style, colours that several
figures share, SVG text. Not covered: what is drawn (the data page, the report, sweeps).
"""

import io
from collections.abc import Callable, Mapping
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

# No figure is shown in a window, so none needs a display.
mpl.use("svg")
BLUE = "#1f6fb4"
ORANGE = "#d98c1f"
# The line of a limit.
LIMIT: dict[str, Any] = {
    "color": "#c0392b",
    "linestyle": "--",
    "linewidth": 1,
}
STYLE: dict[Any, Any] = {
    # Ids of SVG elements are random without a salt.
    "svg.hashsalt": "so8t",
    "svg.fonttype": "path",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    # The font that matplotlib brings along: another machine may have no other.
    "font.family": "DejaVu Sans",
}


def blank(
    columns: int = 1, rows: int = 1, *, width: float = 6.4, height: float = 3.8
) -> tuple[Figure, Any]:
    """An empty figure.

    Args:
        columns: of axes.
        rows: of axes.
        width: inches.
        height: inches.

    Returns:
        The figure, and its axes as an array [rows, columns].
    """
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def draw(figures: Mapping[str, Callable[..., Figure | None]], *data: Any) -> dict[str, str]:
    """SVG text by name of every figure that the data allow.

    Args:
        figures: what makes each of them from the data; null where they are missing.
        data: what each is given.
    """
    texts = {}
    # Only for the time of drawing: the caller may draw figures of its own.
    with mpl.rc_context(STYLE):
        for name, make in figures.items():
            figure = make(*data)
            if figure is not None:
                texts[name] = _svg(figure)
    return texts


def _svg(figure: Figure) -> str:
    out = io.StringIO()
    # The date and the program's version would change the bytes.
    figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    return out.getvalue()
