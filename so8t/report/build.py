"""Build the report from result files, and check later that it still says what they say.

`report.md`, `report.html` and `report.json` hold the same numbers. report.json, the twin, names the
file, key and value of each number, and the digests of the files, the figures and the two pages.
`check` reads everything again and lists every disagreement.
"""

from collections.abc import Callable, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

from so8t.errors import GateError
from so8t.files import atomic_dir, read_json, write_json, write_text
from so8t.report import conclusion, targets
from so8t.report.context import Context
from so8t.report.document import (
    Block,
    Document,
    Figure,
    Heading,
    Paragraph,
    Table,
    first_sentence,
    to_html,
    to_markdown,
)
from so8t.report.origin_sections import data, limits, looks, provenance, training
from so8t.report.pair_sections import comparison, flips
from so8t.report.released_sections import calibration, domains, verdicts
from so8t.report.sources import (
    LOOKS,
    MISSING,
    NOT_RUN,
    TEXT,
    Language,
    Line,
    Number,
    Sources,
    digest_of,
    load,
    resolve,
    show,
)
from so8t.report.targets import Target
from so8t.report.type_sections import running, types

SCHEMA = "so8t.report/1"
MARKDOWN = "report.md"
HTML = "report.html"
TWIN = "report.json"
FIGURES = "figures"
# Provenance comes last: it lists every file that the others have read.
SECTIONS: tuple[Callable[[Context], list[Block]], ...] = (
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
    provenance,
)
# An error names only the first few disagreements: one edited file can cause hundreds.
MOST_NAMED = 5


# --- writing ---


def build(root: Path, out: Path, language: Language) -> dict[str, Any]:
    """Write report.md, report.html, report.json and figures/ below `out`; return the twin.

    Args:
        root: where the result files lie.
        out: where to write; the figures folder is replaced as a whole.
        language: of the report; headings show both.
    """
    # matplotlib takes a second to import, which `check` need not wait for.
    from so8t.report.figures import draw

    context = Context.of(Sources(root, language))
    figures = draw(context)
    document, found = compose(context, figures)
    with atomic_dir(out / FIGURES) as folder:
        for name, text in figures.items():
            (folder / f"{name}.svg").write_text(text, encoding="utf-8", newline="\n")
    write_text(out / MARKDOWN, to_markdown(document, figures=FIGURES))
    write_text(out / HTML, to_html(document, figures=figures))
    twin = {
        "schema": SCHEMA,
        "language": language,
        "conclusion": first_sentence(document.blocks),
        "targets": [{"name": one.name, "split": one.split, "met": one.met} for one in found],
        "numbers": context.sources.twin(),
        "files": dict(sorted(context.sources.files.items())),
        "pages": {name: digest_of(out / name) for name in (MARKDOWN, HTML)},
        "figures": {name: digest_of(_figure_file(out, name)) for name in sorted(figures)},
    }
    write_json(out / TWIN, twin)
    return twin


def _figure_file(out: Path, name: str) -> Path:
    return out / FIGURES / f"{name}.svg"


def compose(context: Context, figures: Mapping[str, str]) -> tuple[Document, list[Target]]:
    """The whole document, and the targets in it.

    Args:
        context: what is reported.
        figures: SVG text by name; one that could not be drawn is absent, and a line says so.
    """
    found = targets.targets(context)
    document = Document(context.sources.language)
    document.add(
        Heading(1, context.words.heading("title")),
        conclusion.certificate(context),
        conclusion.comparison(context),
        conclusion.sampled(context),
        context.heading("h_targets"),
        targets.table(context, found),
    )
    for section in SECTIONS:
        document.add(*section(context))
    document.blocks = [_or_missing(context, block, figures) for block in document.blocks]
    return document, found


def _or_missing(context: Context, block: Block, figures: Mapping[str, str]) -> Block:
    """A figure that was not drawn, or a table without any number, as one line that says so."""
    if isinstance(block, Figure) and block.name not in figures:
        return Paragraph(context.words.say("figure_missing", name=block.caption))
    if isinstance(block, Table) and block.measured and not _holds_a_number(block):
        return Paragraph(context.words.say("table_missing", head=", ".join(block.head)))
    return block


def _holds_a_number(table: Table) -> bool:
    lines = chain.from_iterable(table.rows)
    return any(_is_measured(line) for line in lines)


def _is_measured(line: Line) -> bool:
    return any(isinstance(part, Number) and part.value is not None for part in line)


def summary(twin: dict[str, Any]) -> str:
    """The stage's last line."""
    outcomes = [one["met"] for one in twin["targets"]]
    met = outcomes.count(True)
    missed = outcomes.count(False)
    unknown = outcomes.count(None)
    counts = f"{met} of {len(outcomes)} targets met, {missed} missed, {unknown} {NOT_RUN['en']}"
    return f"{counts}; {twin['conclusion']}"


# --- checking ---


def require(twin_path: Path, root: Path) -> None:
    """Refuse a report that does not say what its files say.

    Raises:
        GateError: with the first disagreements.
    """
    problems = check(twin_path, root)
    if problems:
        first = "; ".join(problems[:MOST_NAMED])
        raise GateError(first, where=str(twin_path), fix="run `dvc repro report`")


def check(twin_path: Path, root: Path) -> list[str]:
    """Everything in which report, twin and result files disagree; empty when they agree.

    Args:
        twin_path: report.json; the pages and figures lie beside it.
        root: where the result files lie.
    """
    twin = read_json(twin_path)
    out = twin_path.parent
    problems = _changed_files(twin, out, root)
    page = _page_text(out / MARKDOWN)
    contents: dict[str, Any] = {}
    for entry in twin["numbers"]:
        number = Number(**entry)
        if number.file not in contents:
            contents[number.file] = load(root, number.file)
        content = contents[number.file]
        problems.extend(_number_problems(number, content, twin["language"], page))
    if twin["conclusion"] not in page.replace("&lt;", "<").replace("&gt;", ">"):
        problems.append(f"{MARKDOWN}: the conclusion is not the twin's")
    return problems


def _changed_files(twin: dict[str, Any], out: Path, root: Path) -> list[str]:
    """Result files, pages and figures whose digest is not the twin's."""
    problems = []
    for file, digest in twin["files"].items():
        if digest_of(root / file) != digest:
            problems.append(f"{file}: changed since the report was written")
    for name, digest in twin["pages"].items():
        if digest_of(out / name) != digest:
            problems.append(f"{name}: edited by hand")
    for name, digest in twin["figures"].items():
        if digest_of(_figure_file(out, name)) != digest:
            problems.append(f"{FIGURES}/{name}.svg: edited by hand")
    return problems


def _page_text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def _number_problems(number: Number, content: Any, language: Language, page: str) -> list[str]:
    where = f"{number.file}#{number.key}"
    now = MISSING if content is MISSING else resolve(content, number.key)
    if not isinstance(now, str | int | float | bool):
        now = None
    if number.file == LOOKS:
        return _looks_problems(number, now)
    problems = []
    # True equals 1 in Python, and is another value in JSON.
    same_kind = isinstance(now, bool) == isinstance(number.value, bool)
    if now != number.value or not same_kind:
        problems.append(f"{where}: the report has another value than the file")
    if show(number.value, number.style, language) != number.shown:
        problems.append(f"{where}: shown as {number.shown!r}, which is not its value")
    # A text is escaped on the page, so it cannot be looked for there.
    if number.style != TEXT and number.shown not in page.replace("&lt;", "<"):
        problems.append(f"{where}: {number.shown!r} is not on the page")
    return problems


def _looks_problems(number: Number, now: Any) -> list[str]:
    """The record of looks grows with every run, so it may only not have shrunk."""
    both_count = isinstance(now, int) and isinstance(number.value, int)
    if both_count and now < number.value:
        return [f"{number.file}#{number.key}: fewer looks than reported"]
    return []
