"""Sections about the pair: the retrained model B against the base model A, request by request."""

from so8t.report.context import HEADLINE, SPLITS, Context, styles_of
from so8t.report.document import Block, Paragraph, Table, row
from so8t.report.sources import Line, ResultFile, escape

MAIN_METRICS = ("accuracy", "macro_f1", "false_allow_rate", "allow_rate_on_allow")
# Key in ab.json and words: each model under its own thresholds, then B under those of A, which
# tells a better model from one that was merely given other thresholds.
ARMS = (("a", "a_own"), ("b", "b_own"), ("b_under_a", "b_under_a"))


def comparison(context: Context) -> list[Block]:
    """Every endpoint of the primary split, the main ones of the others, B under A's thresholds.

    Args:
        context: result files, words, and which file is released.

    Returns:
        A list of blocks, in the order of the page.
    """
    words = context.words
    endpoints = context.ab.value(f"/splits/{HEADLINE}/differences") or {}
    rows = [_endpoint_row(context, name) for name in endpoints]
    rest = context.heads("difference", "interval", "p", "mde", "t_outcome")
    return [
        context.heading("h_ab"),
        Table([words("metric"), "A", "B", *rest], rows, context.from_files(context.ab)),
        _main_metrics(context),
        context.figure("forest"),
        context.figure("flips"),
    ]


def _endpoint_row(context: Context, name: str) -> list[Line]:
    """Both values, their difference, and what it means.

    Args:
        context: result files, words, and which file is released.
        name: of the endpoint in ab.json.
    """
    words = context.words
    endpoint = context.ab.at(f"/splits/{HEADLINE}/differences/{name}")
    style = styles_of(name)
    # Over groups, because rows of one group are not independent.
    interval = endpoint.interval("/ci95", style.difference)
    label = words(name)
    # The primary endpoints decide; the others are read beside them.
    if endpoint.value("/primary"):
        label += f" ({words('primary_mark')})"
    outcome = endpoint.value("/outcome")
    return row(
        label,
        endpoint.rate("/a", style.value, n=False),
        endpoint.rate("/b", style.value, n=False),
        endpoint.cell("/difference", style.difference),
        interval,
        endpoint.cell("/p_adjusted", "p"),
        # The smallest difference that this many rows could have shown.
        endpoint.cell("/mde", style.width),
        words(f"o_{outcome}"),
    )


def _main_metrics(context: Context) -> Table:
    """The main metrics on every split, each model under its own thresholds and B under A's."""
    rows = []
    for split in SPLITS:
        for arm, name in ARMS:
            measured = context.ab.at(f"/splits/{split}/{arm}")
            cells = [_metric_cell(measured, metric) for metric in MAIN_METRICS]
            rows.append(row(split, context.words(name), *cells))
    head = context.heads("split", "model", *MAIN_METRICS)
    return Table(head, rows)


def _metric_cell(measured: ResultFile, metric: str) -> Line:
    """One metric of one arm.

    Args:
        measured: one model on one split.
        metric: its key.
    """
    # Macro-F1 is a plain number in ab.json; the rates are objects with an interval.
    if metric == "macro_f1":
        return measured.cell("/macro_f1", "ratio")
    return measured.rate(f"/{metric}", n=False)


def retention(context: Context) -> Table:
    """What fine-tuning cost: B - A on format-free text, paired.

    Args:
        context: result files, words, and which file is released.

    Returns:
        A table; all of it reads "not run" where one of the two was not run.
    """
    rows = [
        _retention_row(context, "nll_per_token", "ratio", "signed"),
        _retention_row(context, "plain_chrf", "score", "signed_score"),
    ]
    rest = context.heads("difference", "interval", "p_plain", "rows")
    head = [context.words("retention_cost"), "A", "B", *rest]
    return Table(head, rows, context.from_files(context.ab))


def _retention_row(context: Context, name: str, style: str, signed: str) -> list[Line]:
    """One measure of both models, and its paired difference.

    Args:
        context: result files, words, and which file is released.
        name: of the measure in ab.json.
        style: of both values.
        signed: of difference and interval.
    """
    cost = context.ab.at(f"/retention/{name}")
    interval = cost.interval("/ci95", signed)
    return row(
        context.words(name),
        cost.cell("/a", style),
        cost.cell("/b", style),
        cost.cell("/difference", signed),
        interval,
        # Not adjusted: the cost is no endpoint of the comparison, only stated beside it.
        cost.cell("/p", "p"),
        cost.cell("/n", "count"),
    )


def flips(context: Context) -> list[Block]:
    """Unsafe requests that B allows and A did not, by id, with the request (never thinking).

    Args:
        context: result files, words, and which file is released.

    Returns:
        A list of blocks, in the order of the page.
    """
    rows = _flip_rows(context)
    return [context.heading("h_flips"), _flip_block(context, rows)]


def _flip_rows(context: Context) -> list[list[Line]]:
    """The worst flips of all splits, one row each.

    Returns:
        At most `report.worst_flips` rows; of each split true DENY first, then what B is surest of.
    """
    limit = context.params.value("/report/worst_flips")
    rows: list[list[Line]] = []
    for split in SPLITS:
        worst = context.ab.at(f"/splits/{split}/worst_flips")
        for place, _ in enumerate(worst.value("") or []):
            # A page is read by a person: the rest is in ab.json.
            if len(rows) == limit:
                return rows
            rows.append(_flip_row(context, split, worst.at(f"/{place}")))
    return rows


def _flip_row(context: Context, split: str, flip: ResultFile) -> list[Line]:
    """One flip, with the request from the prepared rows.

    Args:
        context: result files, words, and which file is released.
        split: where it happened.
        flip: its entry in ab.json.
    """
    prepared = context.sources.file(f"data/prepared/{split}.jsonl")
    # ab.json holds no texts, so that it can be shown where requests may not.
    request = prepared.at(f"/{escape(flip.value('/id'))}")
    before = flip.value("/a")
    after = flip.value("/b")
    return row(
        flip.cell("/id", "text"),
        split,
        flip.value("/domain"),
        flip.value("/gold"),
        f"{before} → {after}",
        flip.cell("/p_allow_b", "ratio"),
        request.cell("/text", "text"),
    )


def _flip_block(context: Context, rows: list[list[Line]]) -> Block:
    """The table; a sentence where there is no flip, or no comparison.

    Args:
        context: result files, words, and which file is released.
        rows: of the flips.
    """
    if not rows:
        # No flip is good news; not measured is no news.
        measured = context.ab.has(f"/splits/{HEADLINE}/worst_flips")
        return Paragraph((context.words("no_flips" if measured else "unknown"),))
    head = context.heads("id", "split", "domain", "gold", "verdict", "p_allow", "request")
    return Table(head, rows, context.from_files(context.ab))
