"""The tables of the report, one function per section; every cell is a number with an origin, or a word."""

from so8t.report.conclusion import SIGNED, WIDTH
from so8t.report.document import Block, Document, Figure, Heading, Items, Paragraph, Table, row
from so8t.report.page import AB, BAKE, HEADLINE, MODELS, PREPARE, SPLITS, TRAIN, Page
from so8t.report.sources import LOOKS, PARAMS, Line, escape, joined
from so8t.report.targets import drift_index
from so8t.report.texts import LIMITS

RATES = (
    "false_allow_rate",
    "false_allow_rate_deny_only",
    "allow_rate_on_allow",
    "false_deny_rate",
    "accuracy",
    "escalation_rate",
    "unparsed_rate",
)
SHORT = ("accuracy", "macro_f1", "false_allow_rate", "allow_rate_on_allow")
PROSE = {"bleu": "score", "chrf": "score", "rouge_l": "ratio"}


def _heading(page: Page, name: str) -> Heading:
    return Heading(2, page.words.heading(name))


def _style(endpoint: str) -> str:
    return "ratio" if endpoint in SIGNED else "percent"


def verdicts(page: Page, to: Document) -> None:
    """The released file on the three splits, per class on the first."""
    words, file = page.words, page.released
    rows = [
        page.metric_row(file, name, [f"/splits/{split}/{name}" for split in SPLITS])
        for name in RATES
    ]
    rows += [
        page.metric_row(
            file, "macro_f1", [f"/splits/{split}/macro_f1" for split in SPLITS], "ratio"
        )
    ]
    for name in ("ece_width", "ece_mass", "brier", "nll"):
        rows.append(
            page.metric_row(
                file, name, [f"/splits/{split}/calibrated/{name}" for split in SPLITS], "ratio"
            )
        )
    classes = [
        row(
            verdict,
            *(
                page.sources.rate(file, f"/splits/{HEADLINE}/per_class/{verdict}/{part}")
                for part in ("precision", "recall")
            ),
        )
        for verdict in ("ALLOW", "ESCALATE", "DENY")
    ]
    to.add(
        _heading(page, "h_verdicts"),
        Table([words("metric"), *SPLITS], rows, page.from_files(file)),
        Table([f"{words('verdict')} ({HEADLINE})", words("precision"), words("recall")], classes),
        Figure("confusion", words("f_confusion")),
        Figure("far_allow", words("f_far_allow")),
    )


def comparison(page: Page, to: Document) -> None:
    """Every endpoint of the primary split, the main ones of the others, B under A's thresholds."""
    words, source, base = page.words, page.sources, f"/splits/{HEADLINE}/differences"
    rows = []
    for name in source.value(AB, base) or {}:
        key, style = f"{base}/{name}", _style(name)
        signed = "signed" if style == "ratio" else "points"
        interval = (
            "[",
            source.show(AB, f"{key}/ci95/0", signed),
            ", ",
            source.show(AB, f"{key}/ci95/1", signed),
            "]",
        )
        mark = f" ({words('primary_mark')})" if source.value(AB, f"{key}/primary") else ""
        rows.append(
            row(
                words(name) + mark,
                source.rate(AB, f"{key}/a", style, n=False),
                source.rate(AB, f"{key}/b", style, n=False),
                (source.show(AB, f"{key}/difference", signed),),
                interval,
                (source.show(AB, f"{key}/p_adjusted", "p"),),
                (source.show(AB, f"{key}/mde", WIDTH[signed]),),
                words(f"o_{source.value(AB, f'{key}/outcome')}"),
            )
        )
    head = [
        words("metric"),
        "A",
        "B",
        *(words(name) for name in ("difference", "interval", "p", "mde", "t_outcome")),
    ]
    to.add(
        _heading(page, "h_ab"),
        Table(head, rows, page.from_files(AB)),
        _other_splits(page),
        Figure("forest", words("f_forest")),
        Figure("flips", words("f_flips")),
    )


def _other_splits(page: Page) -> Table:
    words, source, rows = page.words, page.sources, []
    for split in SPLITS:
        for arm, name in (("a", "a_own"), ("b", "b_own"), ("b_under_a", "b_under_a")):
            cells: list[Line] = []
            for metric in SHORT:
                key = f"/splits/{split}/{arm}/{metric}"
                cells.append(
                    (source.show(AB, key, "ratio"),)
                    if metric == "macro_f1"
                    else source.rate(AB, key, n=False)
                )
            rows.append(row(split, words(name), *cells))
    return Table([words("split"), words("model"), *(words(name) for name in SHORT)], rows)


def calibration(page: Page, to: Document) -> None:
    """Temperature and thresholds, the strata of the certificate, quality of probabilities, the two readouts."""
    words, source, card = page.words, page.sources, page.released_card
    facts = [
        row(words("temperature"), (source.show(card, "/temperature", "ratio"),)),
        row(words("t_escalate"), (source.show(card, "/thresholds/escalate", "general"),)),
        row(words("t_deny"), (source.show(card, "/thresholds/deny", "general"),)),
        row(words("readout"), (source.show(card, "/readout", "text"),)),
    ]
    strata = []
    for i in range(len(source.value(card, "/certificate/strata") or [])):
        key = f"/certificate/strata/{i}"
        binding = words("yes" if source.value(card, f"{key}/binding") else "no")
        strata.append(
            row(
                (source.show(card, f"{key}/name", "text"),),
                *(
                    (source.show(card, f"{key}/{name}", "count"),)
                    for name in ("groups", "allowed_errors", "need_groups")
                ),
                (source.show(card, f"{key}/threshold", "general"),),
                binding,
            )
        )
    head = [
        words(name)
        for name in (
            "stratum",
            "groups",
            "allowed_errors",
            "need_groups",
            "stratum_limit",
            "binding",
        )
    ]
    to.add(
        _heading(page, "h_calibration"),
        Table([words("metric"), words("value")], facts, page.from_files(card)),
        Table(head, strata),
        _probabilities(page),
        Figure("reliability", words("f_reliability")),
        _readouts(page),
    )


def _probabilities(page: Page) -> Table:
    words, source, file, rows = page.words, page.sources, page.released, []
    for name in ("ece_width", "ece_mass", "brier", "nll"):
        keys = [f"/splits/{HEADLINE}/{part}/{name}" for part in ("uncalibrated", "calibrated")]
        band: Line = (
            (source.show(file, f"{keys[1]}/null/q95", "ratio"),)
            if name.startswith("ece")
            else ("–",)
        )
        rows.append(row(words(name), *(source.rate(file, key, "ratio") for key in keys), band))
    return Table(
        [f"{words('metric')} ({HEADLINE})", words("before"), words("after"), words("band")], rows
    )


def _readouts(page: Page) -> Table:
    words, source, file, base, rows = (
        page.words,
        page.sources,
        page.released,
        f"/readouts/{HEADLINE}",
        [],
    )
    for name in ("accuracy", "false_allow_rate", "allow_rate_on_allow", "unparsed_rate"):
        rows.append(
            row(
                words(name),
                *(source.rate(file, f"{base}/{readout}/{name}") for readout in ("prefill", "cue")),
            )
        )
    rows.append(
        row(
            words("verdict_p50"),
            *(
                _resolved(page, file, f"/speed/{name}/p50", "milliseconds")
                for name in ("verdict_s", "cue_s")
            ),
        )
    )
    residual: Line = (
        source.show(file, f"{base}/cue/residual/mean", "percent"),
        " / ",
        source.show(file, f"{base}/cue/residual/p95", "percent"),
    )
    rows.append(row(words("residual"), "–", residual))
    rows.append(row(words("agreement"), source.rate(file, f"{base}/agreement"), "–"))
    return Table([f"{words('readout')} ({HEADLINE})", words("prefill"), words("cue")], rows)


def domains(page: Page, to: Document) -> None:
    """False-allow rate and usefulness of each domain."""
    words, source, file, rows = page.words, page.sources, page.released, []
    for split in SPLITS:
        for name in source.value(file, f"/splits/{split}/by_domain") or {}:
            key = f"/splits/{split}/by_domain/{escape(name)}"
            rows.append(
                row(
                    split,
                    name,
                    *(
                        source.rate(file, f"{key}/{metric}")
                        for metric in ("false_allow_rate", "allow_rate_on_allow", "accuracy")
                    ),
                )
            )
    head = [
        words(name)
        for name in ("split", "domain", "false_allow_rate", "allow_rate_on_allow", "accuracy")
    ]
    to.add(
        _heading(page, "h_domains"),
        Table(head, rows, page.from_files(file)),
        Figure("domains", words("f_domains")),
    )


def types(page: Page, to: Document) -> None:
    """Size and quality of every type of both models."""
    words, source, rows = page.words, page.sources, []
    for model in MODELS:
        for kind in page.types:
            file, card, checked = (
                page.evaluated(model, kind),
                page.card(model, kind),
                page.verified(model, kind),
            )
            index, status = drift_index(page, model, kind), source.value(card, "/status")
            violations = (
                source.value(AB, f"/drift/{index}/violations") if index is not None else None
            )
            rows.append(
                row(
                    model.upper(),
                    kind,
                    (source.show(checked, "/bytes", "size"),),
                    (source.show(checked, "/bits_per_weight", "ratio"),),
                    source.rate(file, f"/splits/{HEADLINE}/accuracy", n=False),
                    source.rate(file, f"/splits/{HEADLINE}/false_allow_rate", n=False),
                    source.rate(file, f"/splits/{HEADLINE}/allow_rate_on_allow", n=False),
                    words("unknown" if status is None else f"{status}_short"),
                    (source.show(checked, "/drift/kl_mean", "general"),) if kind != "F16" else "–",
                    source.rate(AB, f"/drift/{index}/flips/changed", n=False)
                    if kind != "F16"
                    else "–",
                    "–" if violations is None else ", ".join(violations) or words("none"),
                )
            )
    head = [
        words(name)
        for name in (
            "model",
            "type",
            "size",
            "bits",
            "accuracy",
            "false_allow_rate",
            "allow_rate_on_allow",
            "status",
            "kl",
            "flips",
            "violations",
        )
    ]
    to.add(
        _heading(page, "h_types"),
        Table(
            head,
            rows,
            words("source").format(
                files="reports/metrics/verify-*.json, reports/metrics/evaluate-*.json"
            ),
        ),
        Figure("size_quality", words("f_size_quality")),
    )


def running(page: Page, to: Document) -> None:
    """What was measured by running the files: both models at the released type, and F16."""
    words, source = page.words, page.sources
    kinds = list(dict.fromkeys((page.type, "F16")))
    files = [page.evaluated(model, kind) for kind in kinds for model in MODELS]
    rows = [
        row(
            words(name),
            *(source.rate(file, f"/generation/overlap/{name}", style) for file in files),
        )
        for name, style in PROSE.items()
    ]
    rows += [
        row(words(name), *(source.rate(file, f"/generation/{name}") for file in files))
        for name in ("format_adherence", "final_present", "hit_limit")
    ]
    rows.append(
        row(
            words("unstable"),
            *(
                (
                    source.show(file, "/stability/unstable", "count"),
                    " / ",
                    source.show(file, "/stability/n", "count"),
                )
                for file in files
            ),
        )
    )
    rows.append(
        row(
            words("perplexity"),
            *(source.rate(file, "/retention/perplexity", "ratio") for file in files),
        )
    )
    for name, key, style in (
        ("plain_chrf", "chrf", "score"),
        ("plain_chance", "chance_chrf", "score"),
        ("plain_marked", "marked", "percent"),
    ):
        rows.append(
            row(
                words(name),
                *(source.rate(file, f"/retention/plain/{key}", style) for file in files),
            )
        )
    rows.append(row(words("plain_able"), *((_plainly(page, file),) for file in files)))
    for name, key, style in (
        ("prefill_speed", "prefill_tokens_per_s/p50", "score"),
        ("decode_speed", "decode_tokens_per_s/p50", "score"),
        ("verdict_p50", "verdict_s/p50", "milliseconds"),
        ("verdict_p95", "verdict_s/p95", "milliseconds"),
    ):
        rows.append(
            row(words(name), *(_resolved(page, file, f"/speed/{key}", style) for file in files))
        )
    rows.append(
        row(
            words("memory"),
            *((source.show(file, "/speed/peak_rss_bytes", "size"),) for file in files),
        )
    )
    head = [words("metric"), *(f"{model.upper()} {kind}" for kind in kinds for model in MODELS)]
    to.add(
        _heading(page, "h_running"),
        Table(head, rows, page.from_files(*files)),
        _retention(page),
        Figure("latency", words("f_latency")),
    )


def _plainly(page: Page, file: str) -> str:
    """Whether plain answers fit their own requests better than others'; without that no comparison of them counts."""
    return page.words(
        {True: "yes", False: "no"}.get(
            page.sources.value(file, "/retention/plain/beyond_chance"), "unknown"
        )
    )


def _retention(page: Page) -> Table:
    """What fine-tuning cost: B - A on format-free text, paired."""
    words, source, rows = page.words, page.sources, []
    for name, style in (("nll_per_token", "ratio"), ("plain_chrf", "score")):
        key, signed = f"/retention/{name}", {"ratio": "signed", "score": "signed_score"}[style]
        interval = (
            "[",
            source.show(AB, f"{key}/ci95/0", signed),
            ", ",
            source.show(AB, f"{key}/ci95/1", signed),
            "]",
        )
        rows.append(
            row(
                words(name),
                *((source.show(AB, f"{key}/{side}", style),) for side in MODELS),
                (source.show(AB, f"{key}/difference", signed),),
                interval,
                (source.show(AB, f"{key}/p", "p"),),
                (source.show(AB, f"{key}/n", "count"),),
            )
        )
    head = [
        words("retention_cost"),
        "A",
        "B",
        *(words(name) for name in ("difference", "interval", "p_plain", "rows")),
    ]
    return Table(head, rows, page.from_files(AB))


def _resolved(page: Page, file: str, key: str, style: str) -> Line:
    line = page.sources.rate(file, key, style)
    unresolved = page.sources.has(file, f"{key}/value") and not page.sources.has(
        file, f"{key}/ci95/1"
    )
    return (*line, f"; {page.words('unresolved')}") if unresolved else line


def flips(page: Page, to: Document) -> None:
    """Unsafe requests that B allows and A did not, by id, with the request (never thinking)."""
    words, source = page.words, page.sources
    rows: list[list[Line]] = []
    limit = source.value(PARAMS, "/report/worst_flips")
    for split in SPLITS:
        for i, one in enumerate(source.value(AB, f"/splits/{split}/worst_flips") or []):
            key, text = f"/splits/{split}/worst_flips/{i}", f"data/prepared/{split}.jsonl"
            if len(rows) < limit:
                rows.append(
                    row(
                        (source.show(AB, f"{key}/id", "text"),),
                        split,
                        one["domain"],
                        one["gold"],
                        f"{one['a']} → {one['b']}",
                        (source.show(AB, f"{key}/p_allow_b", "ratio"),),
                        (source.show(text, f"/{escape(one['id'])}/text", "text"),),
                    )
                )
    head = [
        words(name) for name in ("id", "split", "domain", "gold", "verdict", "p_allow", "request")
    ]
    measured = source.has(AB, f"/splits/{HEADLINE}/worst_flips")
    block: Block = (
        Table(head, rows, page.from_files(AB))
        if rows
        else Paragraph((words("no_flips" if measured else "unknown"),))
    )
    to.add(_heading(page, "h_flips"), block)


def training(page: Page, to: Document) -> None:
    """The run that made B, and its bake."""
    words, source = page.words, page.sources
    between: Line = (" → ",)
    rows = [
        row(words("steps"), (source.show(TRAIN, "/steps", "count"),)),
        row(
            words("loss"),
            joined(
                [(source.show(TRAIN, f"/{part}/loss", "ratio"),) for part in ("first", "last")],
                str(between[0]),
            ),
        ),
        row(words("valid_best"), (source.show(TRAIN, "/validation/best/loss", "ratio"),)),
        row(
            words("valid_verdict"),
            (source.show(TRAIN, "/validation/best/verdict_accuracy", "percent"),),
        ),
        row(words("max_angle"), (source.show(TRAIN, "/rotation/max_angle", "ratio"),)),
        row(
            words("orthogonality"), (source.show(TRAIN, "/rotation/orthogonality_max", "general"),)
        ),
        row(words("rotated"), (source.show(BAKE, "/rotated_weights", "count"),)),
        row(words("head_scale"), (source.show(BAKE, "/head_scale", "general"),)),
        row(words("change"), (source.show(BAKE, "/parity/max_abs_change_from_base", "general"),)),
        *_training_drift(page),
    ]
    to.add(
        _heading(page, "h_training"),
        Table([words("metric"), words("value")], rows, page.from_files(TRAIN, BAKE)),
        Figure("training", words("f_training")),
    )


def _training_drift(page: Page) -> list[list[Line]]:
    """How far the quantised graph that was trained is from the full-precision one that is shipped."""
    words, source = page.words, page.sources
    if not source.value(BAKE, "/drift/measured"):
        return []
    return [
        row(words("trained_kl"), (source.show(BAKE, "/drift/kl_mean", "general"),)),
        row(words("trained_flips"), (source.show(BAKE, "/drift/verdict_flips", "count"),)),
        row(words("trained_allows"), (source.show(BAKE, "/drift/flips_to_allow", "count"),)),
    ]


def data(page: Page, to: Document) -> None:
    """Rows and groups of each split, and what trivial classifiers reach."""
    words, source = page.words, page.sources
    splits = ("train", "valid", "calibration", *SPLITS)
    rows = [
        row(
            words("rows"), *((source.show(PREPARE, f"/rows/{split}", "count"),) for split in splits)
        ),
        row(
            words("groups_all"),
            *((source.show(PREPARE, f"/groups/{split}", "count"),) for split in splits),
        ),
    ]
    for probe in ("keywords", "ngram"):
        rows.append(
            row(
                f"{words(probe)} ({words('accuracy')})",
                *(
                    (source.show(PREPARE, f"/probes/{probe}/{split}/accuracy", "percent"),)
                    for split in splits
                ),
            )
        )
    b_line = [
        row(
            f"B ({words('accuracy')}, {words('before_thresholds')})",
            *("–" for _ in splits[: -len(SPLITS)]),
            *(source.rate(AB, f"/splits/{split}/b/argmax_accuracy", n=False) for split in SPLITS),
        )
    ]
    largest: Line = (
        words("single_factor"),
        ": ",
        source.show(PREPARE, "/probes/single_factor/largest", "percent"),
    )
    to.add(
        _heading(page, "h_data"),
        Table([words("metric"), *splits], rows + b_line, page.from_files(PREPARE, AB)),
        Paragraph(largest),
    )


def looks(page: Page, to: Document) -> None:
    """How often calibration and test rows were read."""
    words, source, rows = page.words, page.sources, []
    for split in source.content(LOOKS):
        stages = source.value(LOOKS, f"/{split}/stages") or {}
        rows.append(
            row(
                split,
                (source.show(LOOKS, f"/{split}/looks", "count"),),
                (source.show(LOOKS, f"/{split}/files", "count"),),
                joined(
                    [
                        (f"{name} ", source.show(LOOKS, f"/{split}/stages/{name}", "count"))
                        for name in stages
                    ],
                    ", ",
                ),
            )
        )
    block: Block = (
        Table([words(name) for name in ("split", "looks", "files", "stages")], rows)
        if rows
        else Paragraph((words("unknown"),))
    )
    to.add(_heading(page, "h_looks"), block, Paragraph((words("looks_note"),)))


def limits(page: Page, to: Document) -> None:
    """What the certificate does not cover: the card's own list, or all of it without a card."""
    codes = page.sources.value(page.released_card, "/limits") or LIMITS
    to.add(_heading(page, "h_limits"), Items([(page.words(code),) for code in codes]))


def provenance(page: Page, to: Document) -> None:
    """Every file that was read, with its digest."""
    found = sorted(
        (file, digest) for file, digest in page.sources.files.items() if digest is not None
    )
    rows = [row(file, digest[:12]) for file, digest in found]
    to.add(
        _heading(page, "h_sources"),
        Paragraph((page.words("sources_note"),)),
        Table([page.words("file"), "SHA-256"], rows, measured=False),
    )


ORDER = (
    verdicts,
    comparison,
    calibration,
    domains,
    types,
    running,
    flips,
    training,
    data,
    looks,
    limits,
)
