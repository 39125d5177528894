"""Sections about the pair: the retrained model B against the base model A, request by request."""

from collections.abc import Mapping
from typing import Any

from so8t.report.context import HEADLINE, MODELS, SPLITS, Context, styles_of
from so8t.report.document import Block, Figure, Paragraph, Table, row
from so8t.report.sources import Line, escape

MAIN_METRICS = ("accuracy", "macro_f1", "false_allow_rate", "allow_rate_on_allow")
# Key in ab.json and words: each model under its own thresholds, then B under those of A, which
# tells a better model from one that was merely given other thresholds.
ARMS = (("a", "a_own"), ("b", "b_own"), ("b_under_a", "b_under_a"))


def comparison(context: Context) -> list[Block]:
    """Every endpoint of the primary split, the main ones of the others, B under A's thresholds."""
    words = context.words
    endpoints = context.ab.value(f"/splits/{HEADLINE}/differences") or {}
    rows = [_endpoint_row(context, name) for name in endpoints]
    rest = context.heads("difference", "interval", "p", "mde", "t_outcome")
    return [
        context.heading("h_ab"),
        Table([words("metric"), "A", "B", *rest], rows, context.from_files(context.ab)),
        _main_metrics(context),
        Figure("forest", words("f_forest")),
        Figure("flips", words("f_flips")),
    ]


def _endpoint_row(context: Context, name: str) -> list[Line]:
    words = context.words
    ab = context.ab
    key = f"/splits/{HEADLINE}/differences/{name}"
    style = styles_of(name)
    interval = ab.interval(f"{key}/ci95", style.difference)
    label = words(name)
    if ab.value(f"{key}/primary"):
        label += f" ({words('primary_mark')})"
    outcome = ab.value(f"{key}/outcome")
    return row(
        label,
        ab.rate(f"{key}/a", style.value, n=False),
        ab.rate(f"{key}/b", style.value, n=False),
        ab.cell(f"{key}/difference", style.difference),
        interval,
        ab.cell(f"{key}/p_adjusted", "p"),
        ab.cell(f"{key}/mde", style.width),
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
        return context.ab.cell(f"{key}/{metric}", "ratio")
    return context.ab.rate(f"{key}/{metric}", n=False)


def retention(context: Context) -> Table:
    """What fine-tuning cost: B - A on format-free text, paired."""
    ab = context.ab
    rows = []
    for name, style, signed in (
        ("nll_per_token", "ratio", "signed"),
        ("plain_chrf", "score", "signed_score"),
    ):
        key = f"/retention/{name}"
        interval = ab.interval(f"{key}/ci95", signed)
        sides = [ab.cell(f"{key}/{model}", style) for model in MODELS]
        difference = ab.cell(f"{key}/difference", signed)
        p = ab.cell(f"{key}/p", "p")
        count = ab.cell(f"{key}/n", "count")
        rows.append(row(context.words(name), *sides, difference, interval, p, count))
    rest = context.heads("difference", "interval", "p_plain", "rows")
    head = [context.words("retention_cost"), "A", "B", *rest]
    return Table(head, rows, context.from_files(context.ab))


def flips(context: Context) -> list[Block]:
    """Unsafe requests that B allows and A did not, by id, with the request (never thinking)."""
    rows = _flip_rows(context)
    return [context.heading("h_flips"), _flip_block(context, rows)]


def _flip_rows(context: Context) -> list[list[Line]]:
    ab = context.ab
    limit = context.params.value("/report/worst_flips")
    rows: list[list[Line]] = []
    for split in SPLITS:
        worst = ab.value(f"/splits/{split}/worst_flips") or []
        for place, flip in enumerate(worst):
            if len(rows) == limit:
                return rows
            key = f"/splits/{split}/worst_flips/{place}"
            rows.append(_flip_row(context, split, key, flip))
    return rows


def _flip_row(context: Context, split: str, key: str, flip: Mapping[str, Any]) -> list[Line]:
    ab = context.ab
    prepared = context.sources.file(f"data/prepared/{split}.jsonl")
    request_key = f"/{escape(flip['id'])}/text"
    return row(
        ab.cell(f"{key}/id", "text"),
        split,
        flip["domain"],
        flip["gold"],
        f"{flip['a']} → {flip['b']}",
        ab.cell(f"{key}/p_allow_b", "ratio"),
        prepared.cell(request_key, "text"),
    )


def _flip_block(context: Context, rows: list[list[Line]]) -> Block:
    if not rows:
        measured = context.ab.has(f"/splits/{HEADLINE}/worst_flips")
        return Paragraph((context.words("no_flips" if measured else "unknown"),))
    head = context.heads("id", "split", "domain", "gold", "verdict", "p_allow", "request")
    return Table(head, rows, context.from_files(context.ab))
