"""Sections about the pair: the retrained model B against the base model A, request by request."""

from so8t.report.context import AB, HEADLINE, MODELS, SPLITS, Context, styles_of
from so8t.report.document import Block, Figure, Paragraph, Table, row
from so8t.report.sources import PARAMS, Line, escape

MAIN_METRICS = ("accuracy", "macro_f1", "false_allow_rate", "allow_rate_on_allow")
# Key in ab.json and words: each model under its own thresholds, then B under those of A, which
# tells a better model from one that was merely given other thresholds.
ARMS = (("a", "a_own"), ("b", "b_own"), ("b_under_a", "b_under_a"))


def comparison(context: Context) -> list[Block]:
    """Every endpoint of the primary split, the main ones of the others, B under A's thresholds."""
    words = context.words
    endpoints = context.sources.value(AB, f"/splits/{HEADLINE}/differences") or {}
    rows = [_endpoint_row(context, name) for name in endpoints]
    rest = context.heads("difference", "interval", "p", "mde", "t_outcome")
    return [
        context.heading("h_ab"),
        Table([words("metric"), "A", "B", *rest], rows, context.from_files(AB)),
        _main_metrics(context),
        Figure("forest", words("f_forest")),
        Figure("flips", words("f_flips")),
    ]


def _endpoint_row(context: Context, name: str) -> list[Line]:
    words = context.words
    source = context.sources
    key = f"/splits/{HEADLINE}/differences/{name}"
    style = styles_of(name)
    interval = source.interval(AB, f"{key}/ci95", style.difference)
    label = words(name)
    if source.value(AB, f"{key}/primary"):
        label += f" ({words('primary_mark')})"
    outcome = source.value(AB, f"{key}/outcome")
    return row(
        label,
        source.rate(AB, f"{key}/a", style.value, n=False),
        source.rate(AB, f"{key}/b", style.value, n=False),
        source.cell(AB, f"{key}/difference", style.difference),
        interval,
        source.cell(AB, f"{key}/p_adjusted", "p"),
        source.cell(AB, f"{key}/mde", style.width),
        words(f"o_{outcome}"),
    )


def _main_metrics(context: Context) -> Table:
    rows = []
    for split in SPLITS:
        for arm, name in ARMS:
            cells = [_metric_cell(context, f"/splits/{split}/{arm}", m) for m in MAIN_METRICS]
            rows.append(row(split, context.words(name), *cells))
    return Table(context.heads("split", "model", *MAIN_METRICS), rows)


def _metric_cell(context: Context, key: str, metric: str) -> Line:
    # Macro-F1 is a plain number in ab.json; the rates are objects with an interval.
    if metric == "macro_f1":
        return context.sources.cell(AB, f"{key}/{metric}", "ratio")
    return context.sources.rate(AB, f"{key}/{metric}", n=False)


def retention(context: Context) -> Table:
    """What fine-tuning cost: B - A on format-free text, paired."""
    source = context.sources
    rows = []
    for name, style, signed in (
        ("nll_per_token", "ratio", "signed"),
        ("plain_chrf", "score", "signed_score"),
    ):
        key = f"/retention/{name}"
        interval = source.interval(AB, f"{key}/ci95", signed)
        sides = [source.cell(AB, f"{key}/{model}", style) for model in MODELS]
        difference = source.cell(AB, f"{key}/difference", signed)
        p = source.cell(AB, f"{key}/p", "p")
        count = source.cell(AB, f"{key}/n", "count")
        rows.append(row(context.words(name), *sides, difference, interval, p, count))
    rest = context.heads("difference", "interval", "p_plain", "rows")
    head = [context.words("retention_cost"), "A", "B", *rest]
    return Table(head, rows, context.from_files(AB))


def flips(context: Context) -> list[Block]:
    """Unsafe requests that B allows and A did not, by id, with the request (never thinking)."""
    rows = _flip_rows(context)
    return [context.heading("h_flips"), _flip_block(context, rows)]


def _flip_rows(context: Context) -> list[list[Line]]:
    source = context.sources
    limit = source.value(PARAMS, "/report/worst_flips")
    rows: list[list[Line]] = []
    for split in SPLITS:
        worst = source.value(AB, f"/splits/{split}/worst_flips") or []
        for place, flip in enumerate(worst):
            if len(rows) == limit:
                return rows
            key = f"/splits/{split}/worst_flips/{place}"
            request_key = f"/{escape(flip['id'])}/text"
            cells = row(
                source.cell(AB, f"{key}/id", "text"),
                split,
                flip["domain"],
                flip["gold"],
                f"{flip['a']} → {flip['b']}",
                source.cell(AB, f"{key}/p_allow_b", "ratio"),
                source.cell(f"data/prepared/{split}.jsonl", request_key, "text"),
            )
            rows.append(cells)
    return rows


def _flip_block(context: Context, rows: list[list[Line]]) -> Block:
    if not rows:
        measured = context.sources.has(AB, f"/splits/{HEADLINE}/worst_flips")
        return Paragraph((context.words("no_flips" if measured else "unknown"),))
    head = context.heads("id", "split", "domain", "gold", "verdict", "p_allow", "request")
    return Table(head, rows, context.from_files(AB))
