"""Sections about where the released file and the report come from: training, data, looks, files."""

from so8t.report.context import SPLITS, Context
from so8t.report.document import Block, Items, Paragraph, Table, row
from so8t.report.sources import Line, joined
from so8t.report.texts import LIMITS

UNTESTED_SPLITS = ("train", "valid", "calibration")
# Classifiers that see words or character n-grams only: what the data give away on their surface.
PROBES = ("keywords", "ngram")
# Enough of a SHA-256 to tell files apart by eye; report.json has all of it.
SHOWN_DIGITS = 12


def training(context: Context) -> list[Block]:
    """The run that made B, and its bake: rotations and heads folded into a stock model.

    Args:
        context: result files, words, and which file is released.

    Returns:
        A list of blocks, in the order of the page.
    """
    number_row = context.number_row
    train = context.train
    bake = context.bake
    rows = [
        number_row("steps", train, "/steps", "count"),
        _loss_row(context),
        number_row("valid_best", train, "/validation/best/loss", "ratio"),
        number_row("valid_verdict", train, "/validation/best/verdict_accuracy", "percent"),
        number_row("max_angle", train, "/rotation/max_angle", "ratio"),
        # How far R R^T is from the identity: rounding alone, or something is wrong.
        number_row("orthogonality", train, "/rotation/orthogonality_max", "general"),
        number_row("rotated", bake, "/rotated_weights", "count"),
        number_row("head_scale", bake, "/head_scale", "general"),
        # A bake that changed nothing would be a perfect copy of the base.
        number_row("change", bake, "/parity/max_abs_change_from_base", "general"),
        *_training_drift(context),
    ]
    head = context.heads("metric", "value")
    return [
        context.heading("h_training"),
        Table(head, rows, context.from_files(train, bake)),
        context.figure("training"),
    ]


def _loss_row(context: Context) -> list[Line]:
    """The loss at both ends of training."""
    first = context.train.show("/first/loss", "ratio")
    last = context.train.show("/last/loss", "ratio")
    return row(context.words("loss"), (first, " → ", last))


def _training_drift(context: Context) -> list[list[Line]]:
    """How far the quantised graph that was trained is from the full-precision one shipped.

    Returns:
        Three rows, or none.
    """
    bake = context.bake
    # Only a run that trained through quantised weights measures this.
    if not bake.value("/drift/measured"):
        return []
    return [
        context.number_row("trained_kl", bake, "/drift/kl_mean", "general"),
        context.number_row("trained_flips", bake, "/drift/verdict_flips", "count"),
        context.number_row("trained_allows", bake, "/drift/flips_to_allow", "count"),
    ]


def data(context: Context) -> list[Block]:
    """Rows and groups of each split, and what trivial classifiers reach.

    Args:
        context: result files, words, and which file is released.

    Returns:
        A list of blocks, in the order of the page.
    """
    words = context.words
    splits = (*UNTESTED_SPLITS, *SPLITS)
    rows = [
        _split_row(context, words("rows"), "/rows/{}", "count"),
        _split_row(context, words("groups_all"), "/groups/{}", "count"),
    ]
    for probe in PROBES:
        label = f"{words(probe)} ({words('accuracy')})"
        rows.append(_split_row(context, label, f"/probes/{probe}/{{}}/accuracy", "percent"))
    # A model that is no better than words alone has learnt the surface.
    rows.append(_b_row(context))
    largest = context.prepare.show("/probes/single_factor/largest", "percent")
    return [
        context.heading("h_data"),
        Table([words("metric"), *splits], rows, context.from_files(context.prepare, context.ab)),
        Paragraph((words("single_factor"), ": ", largest)),
    ]


def _split_row(context: Context, label: str, key: str, style: str) -> list[Line]:
    """A row of one number per split; `key` has `{}` where the split's name goes.

    Args:
        context: result files, words, and which file is released.
        label: of the row.
        key: in prepare.json.
        style: how the numbers are shown.
    """
    cells = []
    for split in (*UNTESTED_SPLITS, *SPLITS):
        cells.append(context.prepare.cell(key.format(split), style))
    return row(label, *cells)


def _b_row(context: Context) -> list[Line]:
    """What B reaches on the test splits, beside the trivial classifiers."""
    words = context.words
    # Before thresholds, as the probes have none.
    label = f"B ({words('accuracy')}, {words('before_thresholds')})"
    # B is measured on test rows only.
    cells: list[str | Line] = ["–" for _ in UNTESTED_SPLITS]
    for split in SPLITS:
        cells.append(context.ab.rate(f"/splits/{split}/b/argmax_accuracy", n=False))
    return row(label, *cells)


def looks(context: Context) -> list[Block]:
    """How often calibration and test rows were read.

    Args:
        context: result files, words, and which file is released.

    Returns:
        A list of blocks, in the order of the page.
    """
    # A certificate is honest only if its rows were not used to choose the model, so every look
    # at them is counted.
    rows = [_looks_row(context, split) for split in context.looks.value("")]
    # A clone that has run nothing has no record.
    block: Block = Paragraph((context.words("unknown"),))
    if rows:
        block = Table(context.heads("split", "looks", "files", "stages"), rows)
    note = Paragraph((context.words("looks_note"),))
    return [context.heading("h_looks"), block, note]


def _looks_row(context: Context, split: str) -> list[Line]:
    """How often one split was read, of how many files, and by which stages.

    Args:
        context: result files, words, and which file is released.
        split: whose record it is.
    """
    record = context.looks
    count = record.cell(f"/{split}/looks", "count")
    files = record.cell(f"/{split}/files", "count")
    stages: list[Line] = []
    for name in record.value(f"/{split}/stages") or {}:
        looked = record.show(f"/{split}/stages/{name}", "count")
        stages.append((f"{name} ", looked))
    return row(split, count, files, joined(stages, ", "))


def limits(context: Context) -> list[Block]:
    """What the certificate does not cover: the card's own list, or all of it without a card.

    Args:
        context: result files, words, and which file is released.

    Returns:
        A list of blocks, in the order of the page.
    """
    codes = context.released_card.value("/limits") or LIMITS
    items: list[Line] = [(context.words(code),) for code in codes]
    return [context.heading("h_limits"), Items(items)]


def provenance(context: Context, note: str = "sources_note") -> list[Block]:
    """Every file that was read so far, with its digest.

    Args:
        context: whose sources are listed.
        note: the sentence that says where each number's origin is.
    """
    rows = []
    for file, digest in sorted(context.sources.files.items()):
        # A file that does not exist is in the twin, with null.
        if digest is not None:
            rows.append(row(file, digest[:SHOWN_DIGITS]))
    return [
        context.heading("h_sources"),
        Paragraph((context.words(note),)),
        Table([context.words("file"), "SHA-256"], rows, measured=False),
    ]
