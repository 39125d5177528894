"""The figure of familiarity: how strange the rows of each split are, and where the limit lies."""

from matplotlib.figure import Figure

from so8t.drawing import LIMIT, blank
from so8t.report.context import Context
from so8t.report.plotting import GREY, SPLIT_COLOURS, floats
from so8t.report.sources import Records

# The signal that tells most: characters in a row that no training row has.
SIGNAL = "ngrams"
# Rows that made the limit, rows like them, new wordings, and requests of no domain.
CURVES = {
    "calibration": GREY,
    "test_iid": SPLIT_COLOURS["test_iid"],
    "test_phrases": SPLIT_COLOURS["test_phrases"],
    "test_foreign": "#2f8f5b",
}


def familiarity(context: Context) -> Figure | None:
    """Of each split, the cumulative share of rows that are at most so strange.

    Args:
        context: result files, words, and which file is released.

    Returns:
        The figure; null where the released file was not evaluated.
    """
    rows = [row for row in context.table(context.model, "familiarity") if row["signal"] == SIGNAL]
    if not rows:
        return None
    figure, ((axes,),) = blank(height=3.6)
    for split, colour in CURVES.items():
        x, y = _steps([row for row in rows if row["split"] == split])
        axes.step(x, y, where="post", color=colour, label=split, clip_on=False)
    limit = context.released_card.value(f"/familiarity/limits/{SIGNAL}")
    if limit is not None:
        # What lies to its right goes to a person.
        axes.axvline(limit, **LIMIT, label="familiar up to here")
    axes.set(
        xlabel="share of n-grams that no training row has, in the worst sentence",
        ylabel="share of rows",
        xlim=(0, 1),
        ylim=(0, 1),
    )
    axes.legend(frameon=False, loc="center right")
    return figure


def _steps(rows: Records) -> tuple[list[float], list[float]]:
    """The curve from nothing at 0 to the right edge; empty for a split without rows.

    Args:
        rows: of one split, by strangeness.
    """
    if not rows:
        return [], []
    x = floats(rows, "strangeness")
    y = floats(rows, "share")
    return [0.0, *x, 1.0], [0.0, *y, y[-1]]
