"""Build the report from result files: `report.md`, `report.html`, and `speed.md` for the times.

Each page has a twin (`report.json`, `speed.json`), which names the file, key and value of each
number, and the digests of the files, the figures and the pages; `so8t.report.check` compares them
later. What differs from machine to machine stands on the speed page alone.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from so8t.files import atomic_dir, write_json, write_text
from so8t.report import conclusion, speed_sections, targets
from so8t.report.check import REPORT, SPEED, Page
from so8t.report.context import Context
from so8t.report.document import (
    Block,
    Document,
    Figure,
    Heading,
    Link,
    Paragraph,
    Table,
    first_sentence,
    to_html,
    to_markdown,
)
from so8t.report.origin_sections import data, limits, looks, provenance, training
from so8t.report.pair_sections import comparison, flips
from so8t.report.released_sections import calibration, domains, verdicts
from so8t.report.sources import NOT_RUN, Language, Line, Number, Sources, digest_of
from so8t.report.targets import Target
from so8t.report.type_sections import running, types
from so8t.report.unfamiliar_sections import unfamiliar

SCHEMA = "so8t.report/1"
SPEED_SCHEMA = "so8t.speed-report/1"
HTML = "report.html"
# Provenance comes last: it lists every file that the others have read.
SECTIONS: tuple[Callable[[Context], list[Block]], ...] = (
    verdicts,
    comparison,
    calibration,
    domains,
    unfamiliar,
    types,
    running,
    flips,
    training,
    data,
    looks,
    limits,
    provenance,
)
# Where nothing was timed: DVC expects the figure's file of the stage in either case.
NO_FIGURE = '<svg xmlns="http://www.w3.org/2000/svg"/>\n'


def build(root: Path, out: Path, language: Language) -> dict[str, Any]:
    """Write both pages, their twins and their figures.

    Args:
        root: where the result files lie.
        out: where to write; the figures folder is replaced as a whole.
        language: of the pages; headings show both.

    Returns:
        The twin of the report.

    Raises:
        ArtifactError: a result file that does not parse.
        DataError: a prepared split with a damaged row.
    """
    # Nothing is written before everything was read: a damaged file leaves no half of a report.
    speed = _compose_speed(root, language)
    report = _compose_report(root, language)
    # First: the report leads to this page, so it should not be there before it.
    _write_speed(speed, out)
    return _write_report(report, out)


@dataclass(frozen=True, slots=True)
class _Composed:
    """A page before it is written."""

    context: Context
    figures: Mapping[str, str]
    document: Document
    targets: list[Target]


def _compose_report(root: Path, language: Language) -> _Composed:
    # matplotlib takes a second to import, which the check need not wait for.
    from so8t.report.figures import draw

    context = Context.of(Sources(root, language))
    figures = draw(context)
    document, found = compose(context, figures)
    return _Composed(context, figures, document, found)


def _write_report(page: _Composed, out: Path) -> dict[str, Any]:
    context, figures, document = page.context, page.figures, page.document
    # As a whole: a figure that is no longer drawn must not stay behind.
    with atomic_dir(out / REPORT.figures) as folder:
        for name, text in figures.items():
            path = folder / f"{name}.svg"
            path.write_text(text, encoding="utf-8", newline="\n")
    write_text(out / REPORT.markdown, to_markdown(document, figures=REPORT.figures))
    write_text(out / HTML, to_html(document, figures=figures))
    outcomes = []
    for one in page.targets:
        outcomes.append({"name": one.name, "split": one.split, "met": one.met})
    twin = {
        "schema": SCHEMA,
        "language": document.language,
        "conclusion": first_sentence(document.blocks),
        "targets": outcomes,
        **_origins(context, out, (REPORT.markdown, HTML)),
        "figures": _figure_digests(REPORT, out, figures),
    }
    write_json(out / REPORT.twin, twin)
    return twin


def _compose_speed(root: Path, language: Language) -> _Composed:
    """The speed page, from sources of its own: the report's twin names no file with times."""
    from so8t.report.figures import draw_speed

    context = Context.of(Sources(root, language))
    figures = draw_speed(context)
    document = Document(language)
    document.add(*speed_sections.page(context, REPORT.markdown))
    document.blocks = _with_notes(context, document.blocks, figures)
    return _Composed(context, figures, document, [])


def _write_speed(page: _Composed, out: Path) -> None:
    context, figures, document = page.context, page.figures, page.document
    figure = SPEED.figure(out, speed_sections.FIGURE)
    write_text(figure, figures.get(speed_sections.FIGURE, NO_FIGURE))
    write_text(out / SPEED.markdown, to_markdown(document, figures=SPEED.figures))
    twin = {
        "schema": SPEED_SCHEMA,
        "language": document.language,
        **_origins(context, out, (SPEED.markdown,)),
        "figures": _figure_digests(SPEED, out, (speed_sections.FIGURE,)),
    }
    write_json(out / SPEED.twin, twin)


def _origins(context: Context, out: Path, pages: tuple[str, ...]) -> dict[str, Any]:
    """The part of a twin that says where everything is from."""
    sources = context.sources
    return {
        "numbers": sources.twin(),
        "files": dict(sorted(sources.files.items())),
        # Of the files as written, so an edit by hand shows.
        "pages": {name: digest_of(out / name) for name in pages},
    }


def _figure_digests(
    page: Page, out: Path, names: Mapping[str, str] | tuple[str, ...]
) -> dict[str, str | None]:
    digests = {}
    for name in sorted(names):
        digests[name] = digest_of(page.figure(out, name))
    return digests


def compose(context: Context, figures: Mapping[str, str]) -> tuple[Document, list[Target]]:
    """The report's document, and the targets in it.

    Args:
        context: what is reported.
        figures: SVG text by name; one that could not be drawn is absent, and a line says so.

    Returns:
        The document, and every target with its outcome, missed ones first.
    """
    found = targets.targets(context)
    document = Document(context.sources.language)
    document.add(
        Heading(1, context.words.heading("title")),
        conclusion.certificate(context),
        conclusion.covered(context),
        conclusion.comparison(context),
        conclusion.sampled(context),
        context.heading("h_targets"),
        targets.table(context, found),
    )
    for section in SECTIONS:
        document.add(*section(context))
    # Not among the sources: its times are in no file that the report reads.
    document.add(Link(context.words("speed_link"), SPEED.markdown))
    document.blocks = _with_notes(context, document.blocks, figures)
    return document, found


def _with_notes(context: Context, blocks: list[Block], figures: Mapping[str, str]) -> list[Block]:
    """The blocks, with a line instead of each that has nothing to show."""
    return [_or_missing(context, block, figures) for block in blocks]


def _or_missing(context: Context, block: Block, figures: Mapping[str, str]) -> Block:
    """A figure that was not drawn, or a table without any number, as one line that says so."""
    # Said, not left out: a reader cannot miss what was never there.
    if isinstance(block, Figure) and block.name not in figures:
        line = context.words.say("figure_missing", name=block.caption)
        return Paragraph(line)
    if isinstance(block, Table) and block.measured and not _holds_a_number(block):
        line = context.words.say("table_missing", head=", ".join(block.head))
        return Paragraph(line)
    return block


def _holds_a_number(table: Table) -> bool:
    lines = chain.from_iterable(table.rows)
    return any(_is_measured(line) for line in lines)


def _is_measured(line: Line) -> bool:
    numbers = [part for part in line if isinstance(part, Number)]
    return any(number.value is not None for number in numbers)


def summary(twin: dict[str, Any]) -> str:
    """The stage's last line.

    Args:
        twin: of the report.
    """
    outcomes = [one["met"] for one in twin["targets"]]
    met = outcomes.count(True)
    missed = outcomes.count(False)
    unknown = outcomes.count(None)
    # English, like every stage's last line, whatever the page's language.
    counts = f"{met} of {len(outcomes)} targets met, {missed} missed, {unknown} {NOT_RUN['en']}"
    return f"{counts}; {twin['conclusion']}"
