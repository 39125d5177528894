"""The page of times and memory: the only one whose numbers differ from machine to machine.

It is apart from the report so that a slower clock changes no other file of a run.
"""

from so8t.report.context import MODELS, UNQUANTISED, Context
from so8t.report.document import Block, Heading, Link, Paragraph, Table, row
from so8t.report.origin_sections import provenance
from so8t.report.released_sections import READOUTS
from so8t.report.sources import Line, ResultFile

# Key of each distribution, and how its numbers are shown.
RATES = ("prefill_tokens_per_s", "decode_tokens_per_s")
# Seconds per verdict by each readout, in the order of `READOUTS`.
READOUT_TIMES = ("verdict_s", "cue_s")
QUANTILES = ("p50", "p95")
FIGURE = "speed-latency"


def page(context: Context, report: str) -> list[Block]:
    """The whole page.

    Args:
        context: of sources that the report does not share.
        report: file of the report beside it, for the way back.
    """
    return [
        Heading(1, context.words.heading("speed_title")),
        Paragraph((context.words("speed_note"),)),
        # Whoever was given this page alone finds the rest.
        Link(context.words("report_link"), report),
        *speeds(context),
        *readout_times(context),
        *provenance(context, note="speed_sources_note"),
    ]


def speeds(context: Context) -> list[Block]:
    """Both models at the released type, and at F16.

    Args:
        context: result files, words, and which file is released.

    Returns:
        A list of blocks, in the order of the page.
    """
    # A release of F16 itself has one type to show, not the same one twice.
    kinds = dict.fromkeys((context.type, UNQUANTISED))
    files = []
    columns = []
    for kind in kinds:
        for model in MODELS:
            files.append(context.timed(model, kind))
            columns.append(f"{model.upper()} {kind}")
    # Medians of rates, but both ends of times: somebody waits for the slow ones.
    rows = [_percentiles(context, name, f"/{name}/p50", "score", files) for name in RATES]
    for quantile in QUANTILES:
        key = f"/verdict_s/{quantile}"
        rows.append(_percentiles(context, f"verdict_{quantile}", key, "milliseconds", files))
    rows.append(_numbers(context, "memory", "/peak_rss_bytes", "size", files))
    # A time says nothing without the number of cores it had.
    rows.append(_numbers(context, "threads", "/threads", "count", files))
    head = [context.words("metric"), *columns]
    return [
        context.heading("h_speed"),
        Table(head, rows, context.from_files(*files)),
        context.figure(FIGURE),
    ]


def readout_times(context: Context) -> list[Block]:
    """What each readout of the released file costs.

    Args:
        context: result files, words, and which file is released.

    Returns:
        A list of blocks, in the order of the page.
    """
    file = context.timed(context.model, context.type)
    rows = []
    for quantile in QUANTILES:
        cells = []
        for time in READOUT_TIMES:
            cell = context.percentile(file, f"/{time}/{quantile}", "milliseconds")
            cells.append(cell)
        rows.append(row(context.words(f"verdict_{quantile}"), *cells))
    head = context.heads("readout", *READOUTS)
    return [
        context.heading("h_readout_times"),
        Table(head, rows, context.from_files(file)),
    ]


def _percentiles(
    context: Context, name: str, key: str, style: str, files: list[ResultFile]
) -> list[Line]:
    """One row: a percentile of each file.

    Args:
        context: result files, words, and which file is released.
        name: of the row, among the words.
        key: of the percentile.
        style: how it is shown.
        files: one column each.
    """
    cells = [context.percentile(file, key, style) for file in files]
    return row(context.words(name), *cells)


def _numbers(
    context: Context, name: str, key: str, style: str, files: list[ResultFile]
) -> list[Line]:
    """One row: a plain number of each file.

    Args:
        context: result files, words, and which file is released.
        name: of the row, among the words.
        key: of the number.
        style: how it is shown.
        files: one column each.
    """
    cells = [file.cell(key, style) for file in files]
    return row(context.words(name), *cells)
