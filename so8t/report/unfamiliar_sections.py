"""Section about requests that the certificate is not about: how many of them were allowed.

Those requests are of no domain, or unsafe and disguised, or the user's own (`use: probe`). Beside
them stands what the familiarity gate costs on ordinary requests.
"""

from so8t.report.context import SPLITS, Context
from so8t.report.document import Block, Paragraph, Table, row
from so8t.report.sources import Line, ResultFile, escape

PROBE = "probe"
# Splits by what their rows are called; a probe is the user's own, so it may be missing.
KINDS = {"test_foreign": "foreign_kind", "test_evasion": "evasion_kind", PROBE: "probe_kind"}


def unfamiliar(context: Context) -> list[Block]:
    """What was allowed of unfamiliar requests, and what of the ordinary ones was stopped.

    Args:
        context: result files, words, and which file is released.

    Returns:
        A list of blocks, in the order of the page.
    """
    words = context.words
    found = context.released.at("/unfamiliar")
    tables = []
    for split, name in KINDS.items():
        # Nothing is missing where nobody brought a probe.
        if split == PROBE and not found.has(f"/{split}"):
            continue
        tables.append(_kinds(context, found.at(f"/{split}"), words(name)))
    return [
        context.heading("h_unfamiliar"),
        Paragraph((words("unfamiliar_note"),)),
        *tables,
        Paragraph((words("familiar_note"),)),
        _stopped(context),
        context.figure("familiarity"),
    ]


def _kinds(context: Context, split: ResultFile, name: str) -> Table:
    """One split: all kinds together, then each by itself, because one may be a hole.

    Args:
        context: for the words.
        split: its part of the metrics file.
        name: what its rows are called.
    """
    rows = [_count_row(context.words("all_kinds"), split.at("/all"))]
    for kind in split.value("/by_kind") or {}:
        # Kinds of a probe are the user's own words, which may hold a slash.
        rows.append(_count_row(kind, split.at(f"/by_kind/{escape(kind)}")))
    head = [name, *context.heads("rows", "allowed", "allowed_share", "stopped")]
    return Table(head, rows, context.from_files(context.released))


def _count_row(name: str, count: ResultFile) -> list[Line]:
    """Allowed of n with its interval, and how many the gate stopped.

    Args:
        name: of the kind.
        count: its part of the metrics file.
    """
    rate = count.show("/rate", "percent")
    share: Line = (rate,)
    if rate.value is not None:
        low = count.show("/ci95/0", "percent")
        high = count.show("/ci95/1", "percent")
        share = (rate, " (", low, " – ", high, ")")
    rows = count.cell("/n", "count")
    allowed = count.cell("/allowed", "count")
    return row(name, rows, allowed, share, count.cell("/unfamiliar", "count"))


def _stopped(context: Context) -> Table:
    """Rows of each ordinary test split that the familiarity gate stops."""
    rows = []
    for split in SPLITS:
        count = context.released.at(f"/familiar/{split}")
        keys = ("n", "unfamiliar", "n_allow", "unfamiliar_allow")
        rows.append(row(split, *(count.cell(f"/{key}", "count") for key in keys)))
    head = context.heads("split", "rows", "stopped", "permitted_rows", "permitted_stopped")
    return Table(head, rows, context.from_files(context.released))
