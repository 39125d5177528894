"""What several figures of the report share: colours, columns of CSV tables, the certified limit."""

from so8t.drawing import BLUE, ORANGE
from so8t.report.context import MODELS, SPLITS, Context
from so8t.report.sources import Records

# Of the models, then of the splits; the same in every figure.
COLOURS = {"a": "#7f8c8d", "b": BLUE}
SPLIT_COLOURS = dict(zip(SPLITS, (BLUE, ORANGE, "#8a4fa8"), strict=True))
GREY = "#bbb"


def floats(rows: Records, column: str) -> list[float]:
    """The column's numbers, without empty cells.

    Args:
        rows: of a CSV table.
        column: its name.
    """
    # Cells are text, and empty where nothing was measured.
    return [float(row[column]) for row in rows if row[column]]


def of_kind(rows: Records, kind: str) -> Records:
    """The rows whose column `kind` says so.

    Args:
        rows: of a CSV table with a column `kind`.
        kind: what it must say.
    """
    return [row for row in rows if row["kind"] == kind]


def certified_alpha(context: Context) -> float | None:
    """The false-allow rate that the released file's card was calibrated for; null without one.

    Args:
        context: result files, words, and which file is released.
    """
    alpha: float | None = context.released_card.value("/certificate/alpha")
    return alpha


def tables_by_model(context: Context, name: str) -> dict[str, Records]:
    """One CSV table of both models at the released type; empty where it does not exist.

    Args:
        context: result files, words, and which file is released.
        name: of the table.

    Returns:
        Rows by model, `a` first.
    """
    # Both, also where one is missing: a figure of one model is better than none.
    return {model: context.table(model, name) for model in MODELS}
