"""Does the report still say what its files say? Reads everything again and lists what disagrees.

Each page has a twin, a JSON file beside it with file, key and value of every number on the page,
and the digests of the files, the figures and the pages.

Covered: both pages, `report` and `speed`, with their twins and figures. Not covered: writing them
(`so8t.report.build`).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from so8t.errors import GateError
from so8t.files import read_json
from so8t.report.sources import (
    LOOKS,
    MISSING,
    TEXT,
    Language,
    Number,
    digest_of,
    load,
    resolve,
    show,
)

FIX = "run `dvc repro report`"
# An error names only the first few disagreements: one edited file can cause hundreds.
MOST_NAMED = 5


@dataclass(frozen=True, slots=True)
class Page:
    """A page and what lies beside it.

    Attributes:
        markdown: its file.
        twin: the JSON file with the origin of its numbers.
        figures: the folder of its SVG files, as seen from the page.
    """

    markdown: str
    twin: str
    figures: str

    def figure(self, out: Path, name: str) -> Path:
        """The file of one of its figures, for pages below `out`."""
        return out / self.figures / f"{name}.svg"


REPORT = Page("report.md", "report.json", "figures")
# Times differ from machine to machine, so they have a page that nothing else is compared with.
SPEED = Page("speed.md", "speed.json", ".")
PAGES = (REPORT, SPEED)


def require(out: Path, root: Path) -> None:
    """Refuse a report that does not say what its files say.

    Args:
        out: the folder of the pages.
        root: where the result files lie.

    Raises:
        GateError: with the first disagreements.
        ArtifactError: a twin is missing.
    """
    problems = check(out, root)
    if problems:
        first = "; ".join(problems[:MOST_NAMED])
        raise GateError(first, where=str(out), fix=FIX)


def check(out: Path, root: Path) -> list[str]:
    """Everything in which pages, twins and result files disagree.

    Args:
        out: the folder of the pages, with their twins and figures.
        root: where the result files lie.

    Returns:
        One line per disagreement; empty when all agree.

    Raises:
        ArtifactError: a twin is missing.
    """
    problems = []
    for page in PAGES:
        problems += _page_problems(page, out, root)
    return problems


def _page_problems(page: Page, out: Path, root: Path) -> list[str]:
    twin = read_json(out / page.twin, fix=FIX)
    problems = _changed_files(twin, page, out, root)
    text = _text_of(out / page.markdown)
    # A file is read once, however many of its numbers the page shows.
    contents: dict[str, Any] = {}
    for entry in twin["numbers"]:
        number = Number(**entry)
        if number.file not in contents:
            contents[number.file] = load(root, number.file)
        content = contents[number.file]
        problems += _number_problems(number, content, twin["language"], text)
    # The speed page concludes nothing.
    conclusion = twin.get("conclusion", "")
    if conclusion not in _unescaped(text):
        problems.append(f"{page.markdown}: the conclusion is not the twin's")
    return problems


def _changed_files(twin: dict[str, Any], page: Page, out: Path, root: Path) -> list[str]:
    """Result files, pages and figures whose digest is not the twin's."""
    problems = []
    for file, digest in twin["files"].items():
        if digest_of(root / file) != digest:
            problems.append(f"{file}: changed since the report was written")
    # The HTML page too: its numbers are not read again, but its bytes are.
    for name, digest in twin["pages"].items():
        if digest_of(out / name) != digest:
            problems.append(f"{name}: edited by hand")
    for name, digest in twin["figures"].items():
        path = page.figure(out, name)
        if digest_of(path) != digest:
            problems.append(f"{path.relative_to(out)}: edited by hand")
    return problems


def _text_of(path: Path) -> str:
    # A page that is gone was named already, by its digest.
    if not path.is_file():
        return ""
    return path.read_text(encoding="utf-8")


def _unescaped(text: str) -> str:
    return text.replace("&lt;", "<").replace("&gt;", ">")


def _number_problems(number: Number, content: Any, language: Language, text: str) -> list[str]:
    """What is wrong with one number.

    Args:
        number: as the twin has it.
        content: of its file now; `MISSING` when the file is gone.
        language: of the page.
        text: of the page.
    """
    where = f"{number.file}#{number.key}"
    now = MISSING
    if content is not MISSING:
        now = resolve(content, number.key)
    # What is no value by itself was reported as missing.
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
    if number.style != TEXT and number.shown not in _unescaped(text):
        problems.append(f"{where}: {number.shown!r} is not on the page")
    return problems


def _looks_problems(number: Number, now: Any) -> list[str]:
    """The record of looks grows with every run, so it may only not have shrunk."""
    both_count = isinstance(now, int) and isinstance(number.value, int)
    if both_count and now < number.value:
        return [f"{number.file}#{number.key}: fewer looks than reported"]
    return []
