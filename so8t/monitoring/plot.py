"""The evidence after each request, as a figure or as a table."""

import math

from matplotlib.figure import Figure

from so8t.drawing import LIMIT, blank, draw
from so8t.files import csv_text
from so8t.monitoring.drift import Watched

LN10 = math.log(10.0)


def as_csv(watched: Watched) -> str:
    """Line of the file, and by signal the logarithm (base 10) of the evidence after it."""
    rows = []
    for index, line in enumerate(watched.lines):
        values = {track.signal: float(track.evidence[index]) / LN10 for track in watched.tracks}
        rows.append({"line": line, **values})
    return csv_text(["line", *(track.signal for track in watched.tracks)], rows, numbers=".8g")


def as_svg(watched: Watched) -> str:
    """The same as a figure, with the threshold as a line."""
    return draw({"drift": _figure}, watched)["drift"]


def _figure(watched: Watched) -> Figure:
    figure, axes = blank()
    axis = axes[0, 0]
    for track in watched.tracks:
        axis.plot(watched.lines, track.evidence / LN10, label=track.signal, linewidth=1)
    axis.axhline(math.log10(watched.threshold), label="threshold", **LIMIT)
    axis.set_xlabel("line of the file")
    axis.set_ylabel("evidence of a drift (power of ten)")
    axis.legend(frameon=False)
    return figure
