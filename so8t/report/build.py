"""Build the report from result files, and check later that it still says what they say.

`report.md`, `report.html` and `report.json` hold the same numbers; the JSON twin names file, key and value of each, the
digest of each file and of the two pages. `check` recomputes all of it and lists every disagreement.
"""

from pathlib import Path
from typing import Any

from so8t.errors import GateError
from so8t.files import atomic_dir, read_json, sha256_file, write_json, write_text
from so8t.report import conclusion, sections, targets
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
from so8t.report.page import Page
from so8t.report.sources import (
    LOOKS,
    MISSING,
    NOT_RUN,
    Language,
    Line,
    Number,
    Sources,
    load,
    resolve,
    show,
)
from so8t.report.targets import Target

SCHEMA = "so8t.report/1"
PAGES = ("report.md", "report.html")
FIGURES = "figures"


def compose(page: Page, figures: dict[str, str]) -> tuple[Document, list[Target]]:
    """The whole document; figures that could not be drawn say so."""
    found, to = targets.targets(page), Document(page.sources.language)
    to.add(
        Heading(1, page.words.heading("title")),
        conclusion.certificate(page),
        conclusion.comparison(page),
        conclusion.sampled(page),
        Heading(2, page.words.heading("h_targets")),
        targets.table(page, found),
    )
    for section in sections.ORDER:
        section(page, to)
    sections.provenance(page, to)
    to.blocks = [_or_missing(page, block, figures) for block in to.blocks]
    return to, found


def _or_missing(page: Page, block: Block, figures: dict[str, str]) -> Block:
    """A figure that was not drawn, or a table without any number, as one line that says so."""
    if isinstance(block, Figure) and block.name not in figures:
        return Paragraph(page.words.say("figure_missing", name=block.caption))
    if (
        isinstance(block, Table)
        and block.measured
        and not any(_known(line) for row in block.rows for line in row)
    ):
        return Paragraph(page.words.say("table_missing", head=", ".join(block.head)))
    return block


def _known(line: Line) -> bool:
    return any(isinstance(part, Number) and part.value is not None for part in line)


def build(root: Path, out: Path, language: Language) -> dict[str, Any]:
    """Write report.md, report.html, report.json and figures/ below `out`; return the twin."""
    from so8t.report.figures import draw

    page = Page.of(Sources(root, language))
    figures = draw(page)
    document, found = compose(page, figures)
    with atomic_dir(out / FIGURES) as folder:
        for name, text in figures.items():
            (folder / f"{name}.svg").write_text(text, encoding="utf-8", newline="\n")
    write_text(out / PAGES[0], to_markdown(document, figures=FIGURES))
    write_text(out / PAGES[1], to_html(document, figures=figures))
    twin = {
        "schema": SCHEMA,
        "language": language,
        "conclusion": first_sentence(document.blocks),
        "targets": [{"name": one.name, "split": one.split, "met": one.met} for one in found],
        "numbers": page.sources.twin(),
        "files": dict(sorted(page.sources.files.items())),
        "pages": {name: sha256_file(out / name) for name in PAGES},
        "figures": {name: sha256_file(out / FIGURES / f"{name}.svg") for name in sorted(figures)},
    }
    write_json(out / "report.json", twin)
    return twin


def check(twin_path: Path, root: Path) -> list[str]:
    """Everything in which report, twin and result files disagree; empty when they agree.

    Args:
        twin_path: report.json; the pages and figures lie beside it.
        root: where the result files lie.
    """
    twin, out = read_json(twin_path), twin_path.parent
    problems = [
        f"{file}: changed since the report was written"
        for file, digest in twin["files"].items()
        if _digest(root / file) != digest
    ]
    problems += [
        f"{name}: edited by hand"
        for name, digest in twin["pages"].items()
        if _digest(out / name) != digest
    ]
    problems += [
        f"{FIGURES}/{name}.svg: edited by hand"
        for name, digest in twin["figures"].items()
        if _digest(out / FIGURES / f"{name}.svg") != digest
    ]
    contents: dict[str, Any] = {}
    page = (out / PAGES[0]).read_text(encoding="utf-8") if (out / PAGES[0]).is_file() else ""
    for entry in twin["numbers"]:
        number = Number(**entry)
        if number.file not in contents:
            contents[number.file] = load(root, number.file)
        problems += _number_problems(number, contents[number.file], twin["language"], page)
    if twin["conclusion"] not in page.replace("&lt;", "<").replace("&gt;", ">"):
        problems.append("report.md: the conclusion is not the twin's")
    return problems


def _digest(path: Path) -> str | None:
    return sha256_file(path) if path.is_file() else None


def _number_problems(number: Number, content: Any, language: Language, page: str) -> list[str]:
    where = f"{number.file}#{number.key}"
    now = MISSING if content is MISSING else resolve(content, number.key)
    now = now if isinstance(now, str | int | float | bool) else None
    if number.file == LOOKS:  # a record that grows with every run
        return (
            [f"{where}: fewer looks than reported"]
            if isinstance(now, int) and isinstance(number.value, int) and now < number.value
            else []
        )
    problems = []
    if now != number.value or isinstance(now, bool) != isinstance(number.value, bool):
        problems.append(f"{where}: the report has another value than the file")
    if show(number.value, number.style, language) != number.shown:
        problems.append(f"{where}: shown as {number.shown!r}, which is not its value")
    if number.style not in ("text", "digest") and number.shown not in page.replace("&lt;", "<"):
        problems.append(f"{where}: {number.shown!r} is not on the page")
    return problems


def require(twin_path: Path, root: Path) -> None:
    """Refuse a report that does not say what its files say.

    Raises:
        GateError: with the first disagreements.
    """
    problems = check(twin_path, root)
    if problems:
        raise GateError("; ".join(problems[:5]), where=str(twin_path), fix="run `dvc repro report`")


def summary(twin: dict[str, Any]) -> str:
    """The stage's last line."""
    met = [one["met"] for one in twin["targets"]]
    words = f"{met.count(True)} of {len(met)} targets met, {met.count(False)} missed, {met.count(None)} {NOT_RUN['en']}"
    return f"{words}; {twin['conclusion']}"
