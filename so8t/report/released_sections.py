"""Sections about the released file: its verdicts, its calibration, and each domain by itself.

A file gives its verdict in two ways, called readouts: `prefill` reads three reserved rows of the
output matrix at the end of the prompt; `cue` feeds the text before a verdict and reads which of
the three labels follows. The calibration card names the one that decides.
"""

from so8t.report.context import HEADLINE, SPLITS, Context
from so8t.report.document import Block, Table, row
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
    """The released file on the three test splits, and per class on the first of them.

    Args:
        context: result files, words, and which file is released.

    Returns:
        A list of blocks, in the order of the page.
    """
    words = context.words
    rows = _verdict_rows(context)
    classes = _class_rows(context)
    # Per class on one split only: three tables would say little more.
    class_head = f"{words('verdict')} ({HEADLINE})"
    return [
        context.heading("h_verdicts"),
        Table([words("metric"), *SPLITS], rows, context.from_files(context.released)),
        Table([class_head, *context.heads("precision", "recall")], classes),
        context.figure("confusion"),
        context.figure("far_allow"),
    ]


def _verdict_rows(context: Context) -> list[list[Line]]:
    """Rates of decisions, then the quality of the probabilities behind them."""
    # A rate's key in the file is its name among the words.
    rows = [_row_by_split(context, name, name) for name in RATES]
    rows.append(_row_by_split(context, "macro_f1", "macro_f1", "ratio"))
    for name in PROBABILITY_SCORES:
        rows.append(_row_by_split(context, name, f"calibrated/{name}", "ratio"))
    return rows


def _row_by_split(context: Context, name: str, key: str, style: str = "percent") -> list[Line]:
    """One metric on each test split.

    Args:
        context: result files, words, and which file is released.
        name: of the row, among the words.
        key: of the metric inside a split.
        style: how it is shown.
    """
    keys = [f"/splits/{split}/{key}" for split in SPLITS]
    return context.rate_row(name, context.released, keys, style)


def _class_rows(context: Context) -> list[list[Line]]:
    """Precision and recall of each verdict."""
    rows = []
    for verdict in VERDICTS:
        one = context.released.at(f"/splits/{HEADLINE}/per_class/{verdict}")
        precision = one.rate("/precision")
        recall = one.rate("/recall")
        rows.append(row(verdict.value, precision, recall))
    return rows


def calibration(context: Context) -> list[Block]:
    """Temperature and thresholds, strata of the certificate, probabilities, the two readouts.

    Args:
        context: result files, words, and which file is released.

    Returns:
        A list of blocks, in the order of the page.
    """
    card = context.released_card
    # What `so8t ask` applies: whoever reads a score needs these numbers to decide.
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
        context.figure("reliability"),
        _readouts(context),
    ]


def _strata(context: Context) -> Table:
    """The parts of the traffic that the certificate was tested on, each by itself."""
    strata = context.released_card.at("/certificate/strata")
    rows = []
    for place, _ in enumerate(strata.value("") or []):
        stratum = strata.at(f"/{place}")
        # The card's threshold is not looser than that of any binding stratum.
        binding = "yes" if stratum.value("/binding") else "no"
        cells = [
            stratum.cell("/name", "text"),
            stratum.cell("/groups", "count"),
            stratum.cell("/allowed_errors", "count"),
            stratum.cell("/need_groups", "count"),
            stratum.cell("/threshold", "general"),
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
    split = context.released.at(f"/splits/{HEADLINE}")
    rows = []
    for name in PROBABILITY_SCORES:
        calibrated = split.at(f"/calibrated/{name}")
        # Even a perfectly calibrated model shows some calibration error on a finite sample; of the
        # other scores no such band is measured.
        band: Line = ("–",)
        if name.startswith("ece"):
            band = calibrated.cell("/null/q95", "ratio")
        before = split.rate(f"/uncalibrated/{name}", "ratio")
        after = calibrated.rate("", "ratio")
        rows.append(row(context.words(name), before, after, band))
    first = f"{context.words('metric')} ({HEADLINE})"
    return Table([first, *context.heads("before", "after", "band")], rows)


def _readouts(context: Context) -> Table:
    """The two readouts side by side, before thresholds."""
    words = context.words
    readouts = context.released.at(f"/readouts/{HEADLINE}")
    rows = []
    for name in READOUT_RATES:
        # Most likely verdicts: thresholds belong to one readout only.
        keys = [f"/{readout}/{name}" for readout in READOUTS]
        rows.append(context.rate_row(name, readouts, keys))
    # The prefill readout compares three rows with each other, so it leaves nothing over.
    mean = readouts.show("/cue/residual/mean", "percent")
    p95 = readouts.show("/cue/residual/p95", "percent")
    rows.append(row(words("residual"), "–", (mean, " / ", p95)))
    # One number for both columns: how often they say the same.
    agreement = readouts.rate("/agreement")
    rows.append(row(words("agreement"), agreement, "–"))
    first = f"{words('readout')} ({HEADLINE})"
    return Table([first, *context.heads(*READOUTS)], rows)


def domains(context: Context) -> list[Block]:
    """False-allow rate and usefulness of each domain.

    Args:
        context: result files, words, and which file is released.

    Returns:
        A list of blocks, in the order of the page.
    """
    rows = []
    for split in SPLITS:
        # Every split: a domain may hold on rows like those of calibration and fail on others.
        by_domain = context.released.at(f"/splits/{split}/by_domain")
        for name in by_domain.value("") or {}:
            # Domains are the user's own words, which may hold a slash.
            one = by_domain.at(f"/{escape(name)}")
            cells = [one.rate(f"/{metric}") for metric in DOMAIN_RATES]
            rows.append(row(split, name, *cells))
    head = context.heads("split", "domain", *DOMAIN_RATES)
    return [
        context.heading("h_domains"),
        Table(head, rows, context.from_files(context.released)),
        context.figure("domains"),
    ]
