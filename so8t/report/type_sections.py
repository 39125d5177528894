"""Sections about every quantised type of both models, and about what running the files showed."""

from dataclasses import dataclass

from so8t.report.context import HEADLINE, MODELS, UNQUANTISED, Context
from so8t.report.document import Block, Table, row
from so8t.report.pair_sections import retention
from so8t.report.sources import Line, ResultFile

TYPE_RATES = ("accuracy", "false_allow_rate", "allow_rate_on_allow")


@dataclass(frozen=True, slots=True)
class Measure:
    """One row of the running table: its words, the key of its numbers, and how they are shown."""

    name: str
    key: str
    style: str = "percent"


ANSWERS = (
    Measure("bleu", "/generation/overlap/bleu", "score"),
    Measure("chrf", "/generation/overlap/chrf", "score"),
    Measure("rouge_l", "/generation/overlap/rouge_l", "ratio"),
    Measure("format_adherence", "/generation/format_adherence"),
    Measure("final_present", "/generation/final_present"),
    Measure("hit_limit", "/generation/hit_limit"),
)
# Plain: without the verdict format, which shows what fine-tuning left of the base model's ability.
PLAIN = (
    Measure("perplexity", "/retention/perplexity", "ratio"),
    Measure("plain_chrf", "/retention/plain/chrf", "score"),
    Measure("plain_chance", "/retention/plain/chance_chrf", "score"),
    Measure("plain_marked", "/retention/plain/marked"),
)


def types(context: Context) -> list[Block]:
    """Size and quality of every type of both models.

    Args:
        context: result files, words, and which file is released.

    Returns:
        A list of blocks, in the order of the page.
    """
    rows = []
    for model in MODELS:
        for kind in context.types:
            rows.append(_type_row(context, model, kind))
    head = context.heads(
        "model",
        "type",
        "size",
        "bits",
        *TYPE_RATES,
        "status",
        "kl",
        "flips",
        "violations",
    )
    # Patterns, because eight files each would be longer than the table.
    files = "reports/metrics/verify-*.json, reports/metrics/evaluate-*.json"
    return [
        context.heading("h_types"),
        Table(head, rows, context.words("source").format(files=files)),
        context.figure("size_quality"),
    ]


def _type_row(context: Context, model: str, kind: str) -> list[Line]:
    """One file: its size, its metrics, its certificate and its drift from F16.

    Args:
        context: result files, words, and which file is released.
        model: `a` or `b`.
        kind: quant type.

    Returns:
        Eleven cells.
    """
    words = context.words
    # Four files know about one type: its check, its card, its metrics and the comparison.
    checked = context.verified(model, kind)
    status = context.card(model, kind).value("/status")
    drift = context.drift(model, kind)
    violations = drift.value("/violations")

    size = checked.cell("/bytes", "size")
    bits = checked.cell("/bits_per_weight", "ratio")
    split = context.evaluated(model, kind).at(f"/splits/{HEADLINE}")
    # Without counts: the table has eleven columns already.
    rates = [split.rate(f"/{name}", n=False) for name in TYPE_RATES]
    # A dash, not "not run": F16 is what the others are compared with.
    kl: str | Line = "–"
    changed: str | Line = "–"
    if kind != UNQUANTISED:
        kl = checked.cell("/drift/kl_mean", "general")
        changed = drift.rate("/flips/changed", n=False)
    # A type that was not compared has none to list, which is not the same as having none.
    violated = "–"
    if violations is not None:
        violated = ", ".join(violations) or words("none")
    return row(
        model.upper(),
        kind,
        size,
        bits,
        *rates,
        words("unknown" if status is None else f"{status}_short"),
        kl,
        changed,
        violated,
    )


def running(context: Context) -> list[Block]:
    """What was measured by running the files: both models at the released type, and at F16.

    Args:
        context: result files, words, and which file is released.

    Returns:
        A list of blocks, in the order of the page.
    """
    # A release of F16 itself has one type to show, not the same one twice.
    kinds = list(dict.fromkeys((context.type, UNQUANTISED)))
    files = []
    columns = []
    for kind in kinds:
        for model in MODELS:
            files.append(context.evaluated(model, kind))
            columns.append(f"{model.upper()} {kind}")
    rows = [
        *_rates(context, ANSWERS, files),
        _unstable_row(context, files),
        # What was kept of the base, below what was learnt.
        *_rates(context, PLAIN, files),
        _plain_able_row(context, files),
    ]
    head = [context.words("metric"), *columns]
    return [
        context.heading("h_running"),
        Table(head, rows, context.from_files(*files)),
        retention(context),
    ]


def _rates(
    context: Context, measures: tuple[Measure, ...], files: list[ResultFile]
) -> list[list[Line]]:
    """One row per measure, one column per file.

    Args:
        context: result files, words, and which file is released.
        measures: one row each.
        files: one column each.
    """
    rows = []
    for measure in measures:
        cells = [file.rate(measure.key, measure.style) for file in files]
        rows.append(row(context.words(measure.name), *cells))
    return rows


def _unstable_row(context: Context, files: list[ResultFile]) -> list[Line]:
    """Long texts that fell into a loop, of how many.

    Args:
        context: result files, words, and which file is released.
        files: one column each.
    """
    cells: list[Line] = []
    for file in files:
        unstable = file.show("/stability/unstable", "count")
        count = file.show("/stability/n", "count")
        # As a count: of so few texts a percentage would promise too much.
        cells.append((unstable, " / ", count))
    return row(context.words("unstable"), *cells)


def _plain_able_row(context: Context, files: list[ResultFile]) -> list[Line]:
    """Whether plain answers fit their own requests better than others' requests.

    A comparison of two models' plain answers counts only where they do.

    Args:
        context: result files, words, and which file is released.
        files: one column each.
    """
    answers = {True: "yes", False: "no"}
    cells = []
    for file in files:
        able = file.value("/retention/plain/beyond_chance")
        cells.append(context.words(answers.get(able, "unknown")))
    return row(context.words("plain_able"), *cells)
