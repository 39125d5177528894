"""What several figures of the report share: colours, rows of CSV tables, the certified limit."""

from matplotlib.axes import Axes

from so8t.drawing import BLUE, ORANGE
from so8t.report.context import SPLITS, Context

COLOURS = {"a": "#7f8c8d", "b": BLUE}
SPLIT_COLOURS = dict(zip(SPLITS, (BLUE, ORANGE, "#8a4fa8"), strict=True))
GREY = "#bbb"
# Rows of a CSV table: text by column, empty where nothing was measured.
Records = list[dict[str, str]]


def floats(rows: Records, column: str) -> list[float]:
    """The column's numbers, without empty cells."""
    return [float(row[column]) for row in rows if row[column]]


def of_kind(rows: Records, kind: str) -> Records:
    """The rows whose column `kind` says so."""
    return [row for row in rows if row["kind"] == kind]


def certified_alpha(context: Context) -> float | None:
    """The false-allow rate that the released file's card was calibrated for; null without one."""
    alpha: float | None = context.sources.value(context.released_card, "/certificate/alpha")
    return alpha


def tables_by_model(context: Context, name: str) -> dict[str, Records]:
    """One CSV table of both models at the released type; empty where it does not exist."""
    tables = {}
    for model in COLOURS:
        folder = context.tables(model, context.type)
        tables[model] = context.sources.table(f"{folder}/{name}.csv")
    return tables


def small_legend(axes: Axes, **placing: str) -> None:
    """A legend without a frame, in small print."""
    axes.legend(frameon=False, fontsize=8, **placing)
