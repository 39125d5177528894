"""Sections about the released file: its verdicts, its calibration, and each domain by itself.

A file gives its verdict in two ways, called readouts: `prefill` reads three reserved rows of the
output matrix at the end of the prompt; `cue` feeds the text before a verdict and reads which of
the three labels follows. The calibration card names the one that decides.
"""

from so8t.report.context import HEADLINE, SPLITS, Context
from so8t.report.document import Block, Figure, Table, row
from so8t.report.sources import Line, escape
from so8t.verdict import VERDICTS

RATES = (
    "false_allow_rate",
    "false_allow_rate_deny_only",
    "allow_rate_on_allow",
    "false_deny_rate",
    "accuracy",
    "escalation_rate",
    "unparsed_rate",
)
# Quality of probabilities: calibration errors (equal-width and equal-mass bins), Brier score, and
# negative log-likelihood in nats.
PROBABILITY_SCORES = ("ece_width", "ece_mass", "brier", "nll")
READOUTS = ("prefill", "cue")
READOUT_RATES = ("accuracy", "false_allow_rate", "allow_rate_on_allow", "unparsed_rate")
DOMAIN_RATES = ("false_allow_rate", "allow_rate_on_allow", "accuracy")


def verdicts(context: Context) -> list[Block]:
    """The released file on the three test splits, and per class on the first of them."""
    words = context.words
    rows = _verdict_rows(context)
    classes = _class_rows(context)
    class_head = f"{words('verdict')} ({HEADLINE})"
    return [
        context.heading("h_verdicts"),
        Table([words("metric"), *SPLITS], rows, context.from_files(context.released)),
        Table([class_head, *context.heads("precision", "recall")], classes),
        Figure("confusion", words("f_confusion")),
        Figure("far_allow", words("f_far_allow")),
    ]


def _verdict_rows(context: Context) -> list[list[Line]]:
    rows = [_row_by_split(context, name, name) for name in RATES]
    rows.append(_row_by_split(context, "macro_f1", "macro_f1", "ratio"))
    for name in PROBABILITY_SCORES:
        rows.append(_row_by_split(context, name, f"calibrated/{name}", "ratio"))
    return rows


def _row_by_split(context: Context, name: str, key: str, style: str = "percent") -> list[Line]:
    keys = [f"/splits/{split}/{key}" for split in SPLITS]
    return context.rate_row(name, context.released, keys, style)


def _class_rows(context: Context) -> list[list[Line]]:
    rows = []
    for verdict in VERDICTS:
        key = f"/splits/{HEADLINE}/per_class/{verdict}"
        precision = context.released.rate(f"{key}/precision")
        recall = context.released.rate(f"{key}/recall")
        rows.append(row(verdict.value, precision, recall))
    return rows


def calibration(context: Context) -> list[Block]:
    """Temperature and thresholds, strata of the certificate, probabilities, the two readouts."""
    words = context.words
    card = context.released_card
    facts = [
        context.number_row("temperature", card, "/temperature", "ratio"),
        context.number_row("t_escalate", card, "/thresholds/escalate", "general"),
        context.number_row("t_deny", card, "/thresholds/deny", "general"),
        context.number_row("readout", card, "/readout", "text"),
    ]
    return [
        context.heading("h_calibration"),
        Table(context.heads("metric", "value"), facts, context.from_files(card)),
        _strata(context),
        _probabilities(context),
        Figure("reliability", words("f_reliability")),
        _readouts(context),
    ]


def _strata(context: Context) -> Table:
    """The parts of the traffic that the certificate was tested on, each by itself."""
    card = context.released_card
    strata = card.value("/certificate/strata") or []
    rows = []
    for place, _ in enumerate(strata):
        key = f"/certificate/strata/{place}"
        binding = "yes" if card.value(f"{key}/binding") else "no"
        cells = [
            card.cell(f"{key}/name", "text"),
            card.cell(f"{key}/groups", "count"),
            card.cell(f"{key}/allowed_errors", "count"),
            card.cell(f"{key}/need_groups", "count"),
            card.cell(f"{key}/threshold", "general"),
        ]
        rows.append(row(*cells, context.words(binding)))
    head = context.heads(
        "stratum",
        "groups",
        "allowed_errors",
        "need_groups",
        "stratum_limit",
        "binding",
    )
    return Table(head, rows)


def _probabilities(context: Context) -> Table:
    """Probabilities before and after the temperature, and what a perfect model would reach."""
    file = context.released
    rows = []
    for name in PROBABILITY_SCORES:
        before_key = f"/splits/{HEADLINE}/uncalibrated/{name}"
        after_key = f"/splits/{HEADLINE}/calibrated/{name}"
        # Even a perfectly calibrated model shows some calibration error on a finite sample; of the
        # other scores no such band is measured.
        band: Line = ("–",)
        if name.startswith("ece"):
            band = file.cell(f"{after_key}/null/q95", "ratio")
        before = file.rate(before_key, "ratio")
        after = file.rate(after_key, "ratio")
        rows.append(row(context.words(name), before, after, band))
    first = f"{context.words('metric')} ({HEADLINE})"
    return Table([first, *context.heads("before", "after", "band")], rows)


def _readouts(context: Context) -> Table:
    """The two readouts side by side, before thresholds."""
    words = context.words
    file = context.released
    base = f"/readouts/{HEADLINE}"
    rows = []
    for name in READOUT_RATES:
        keys = [f"{base}/{readout}/{name}" for readout in READOUTS]
        rows.append(context.rate_row(name, file, keys))
    prefill_time = context.percentile(file, "/speed/verdict_s/p50", "milliseconds")
    cue_time = context.percentile(file, "/speed/cue_s/p50", "milliseconds")
    rows.append(row(words("verdict_p50"), prefill_time, cue_time))
    residual_mean = file.show(f"{base}/cue/residual/mean", "percent")
    residual_p95 = file.show(f"{base}/cue/residual/p95", "percent")
    rows.append(row(words("residual"), "–", (residual_mean, " / ", residual_p95)))
    rows.append(row(words("agreement"), file.rate(f"{base}/agreement"), "–"))
    return Table([f"{words('readout')} ({HEADLINE})", *context.heads(*READOUTS)], rows)


def domains(context: Context) -> list[Block]:
    """False-allow rate and usefulness of each domain."""
    file = context.released
    rows = []
    for split in SPLITS:
        for name in file.value(f"/splits/{split}/by_domain") or {}:
            key = f"/splits/{split}/by_domain/{escape(name)}"
            cells = [file.rate(f"{key}/{metric}") for metric in DOMAIN_RATES]
            rows.append(row(split, name, *cells))
    head = context.heads("split", "domain", *DOMAIN_RATES)
    return [
        context.heading("h_domains"),
        Table(head, rows, context.from_files(file)),
        Figure("domains", context.words("f_domains")),
    ]
