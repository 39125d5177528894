"""A report as blocks, and its two forms: GitHub Markdown, and one HTML file.

Both forms are made of the same blocks and neither computes anything, so they cannot disagree. The
HTML file needs no script and no network: the figures are inside it, and every number shows its
file and key when the pointer rests on it.
"""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import PurePosixPath

from so8t.report.sources import Line, Number


@dataclass(frozen=True, slots=True)
class Heading:
    """A heading; level 1 is the title."""

    level: int
    text: str


@dataclass(frozen=True, slots=True)
class Paragraph:
    """Running text; `tone` good, bad or plain."""

    line: Line
    tone: str = "plain"


@dataclass(frozen=True, slots=True)
class Items:
    """A bulleted list."""

    lines: list[Line]


@dataclass(frozen=True, slots=True)
class Table:
    """A table.

    Attributes:
        head: one text per column.
        rows: one line per column.
        source: which files its numbers are from.
        measured: its cells are numbers, so that a table without any number reads "not run".
    """

    head: list[str]
    rows: list[list[Line]]
    source: str = ""
    measured: bool = True


@dataclass(frozen=True, slots=True)
class Figure:
    """An SVG in the figures directory."""

    name: str
    caption: str


@dataclass(frozen=True, slots=True)
class Link:
    """A line that leads to a page beside this one."""

    text: str
    target: str


Block = Heading | Paragraph | Items | Table | Figure | Link


@dataclass(slots=True)
class Document:
    """The blocks in order."""

    language: str
    blocks: list[Block] = field(default_factory=list)

    def add(self, *blocks: Block | None) -> None:
        """Append blocks; null is left out.

        Args:
            blocks: in order.
        """
        for block in blocks:
            # A section may have nothing to warn of.
            if block is not None:
                self.blocks.append(block)


def row(*cells: str | Line) -> list[Line]:
    """A table row of texts and lines.

    Args:
        cells: a text stands for a line of one text.

    Returns:
        One line per column.
    """
    return [(cell,) if isinstance(cell, str) else cell for cell in cells]


def plain(line: Line) -> str:
    """A line as text.

    Args:
        line: words and numbers.
    """
    return "".join(part if isinstance(part, str) else part.shown for part in line)


def first_sentence(blocks: Sequence[Block]) -> str:
    """The first paragraph's text.

    Args:
        blocks: of a document.

    Raises:
        ValueError: there is no paragraph.
    """
    for block in blocks:
        if isinstance(block, Paragraph):
            return plain(block.line)
    raise ValueError("a document without a paragraph has no first sentence")


# --- HTML ---

# The figures' white background keeps their black text readable in a dark colour scheme.
STYLE = (
    ":root{color-scheme:light dark}"
    "body{font-family:system-ui,'Hiragino Sans','Noto Sans JP',sans-serif;line-height:1.6;"
    "max-width:64rem;margin:0 auto;padding:1rem}"
    "table{border-collapse:collapse;display:block;overflow-x:auto}"
    "td,th{border:1px solid #8888;padding:.2em .6em;text-align:left;vertical-align:top}"
    "img{max-width:100%;background:#fff}"
    "figure{margin:1em 0}"
    ".good{border-left:.4em solid #2a8a4a;padding-left:.6em}"
    ".bad{border-left:.4em solid #c0392b;padding-left:.6em}"
    ".source,figcaption{font-size:.8em;opacity:.75}"
    "data{border-bottom:1px dotted #8888}"
)


def to_html(document: Document, *, figures: Mapping[str, str]) -> str:
    """The document as HTML.

    Args:
        document: what to write.
        figures: SVG text by name; every figure of the document must be there.

    Returns:
        One file that needs no other.
    """
    title = escape(first_sentence(document.blocks))
    # One block a line, so that a diff of two reports can be read.
    body = "\n".join(_html_block(block, figures) for block in document.blocks)
    return (
        "<!doctype html>\n"
        f'<html lang="{document.language}"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{STYLE}</style></head><body>\n"
        f"{body}\n"
        "</body></html>\n"
    )


def _html_block(block: Block, figures: Mapping[str, str]) -> str:
    """One block as HTML; texts are escaped.

    Args:
        block: what to write.
        figures: SVG text by name.
    """
    match block:
        case Heading(level, text):
            return f"<h{level}>{escape(text)}</h{level}>"
        case Paragraph(line, tone):
            # The tone is a bar at the side, because colour alone is not seen by everyone.
            return f'<p class="{tone}">{_html_line(line)}</p>'
        case Items(lines):
            items = "".join(f"<li>{_html_line(line)}</li>" for line in lines)
            return f"<ul>{items}</ul>"
        case Table():
            return _html_table(block)
        case Figure():
            return _html_figure(block, figures[block.name])
        case Link(text, target):
            # By name only: the HTML page is one file that may lie somewhere without the others.
            return f"<p>{escape(text)}: {escape(target)}</p>"


def _html_line(line: Line) -> str:
    pieces = []
    for part in line:
        piece = _html_number(part) if isinstance(part, Number) else escape(part)
        pieces.append(piece)
    return "".join(pieces)


def _html_number(number: Number) -> str:
    """A number that shows its origin when the pointer rests on it.

    Args:
        number: with its origin.
    """
    # Inside an attribute, where a quote would end it.
    value = escape(str(number.value), quote=True)
    origin = escape(f"{number.file}#{number.key}", quote=True)
    return f'<data value="{value}" title="{origin}">{escape(number.shown)}</data>'


def _html_table(table: Table) -> str:
    head = "".join(f"<th>{escape(text)}</th>" for text in table.head)
    body = "".join(_html_row(cells) for cells in table.rows)
    whole = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    if table.source:
        # Below the table, because it is read after it.
        whole += f'<p class="source">{escape(table.source)}</p>'
    return whole


def _html_row(cells: list[Line]) -> str:
    columns = "".join(f"<td>{_html_line(cell)}</td>" for cell in cells)
    return f"<tr>{columns}</tr>"


def _html_figure(figure: Figure, svg: str) -> str:
    # As an image, not as inline SVG: the ids of two figures may be the same.
    data = base64.b64encode(svg.encode()).decode()
    caption = escape(figure.caption, quote=True)
    return (
        f'<figure><img alt="{caption}" src="data:image/svg+xml;base64,{data}">'
        f"<figcaption>{caption}</figcaption></figure>"
    )


# --- Markdown ---

TONES = {"good": "✔ ", "bad": "✘ ", "plain": ""}
# What would end a table cell, open a tag or start code. Texts from files include users' requests.
SPECIAL = str.maketrans({"|": "\\|", "<": "&lt;", ">": "&gt;", "\n": " ", "\r": " ", "`": "ˋ"})


def to_markdown(document: Document, *, figures: str) -> str:
    """The document as Markdown.

    Args:
        document: what to write.
        figures: the SVG files' directory as seen from the page.

    Returns:
        GitHub Markdown; texts of files are escaped.
    """
    blocks = [_markdown_block(block, figures) for block in document.blocks]
    return "\n\n".join(blocks) + "\n"


def _markdown_block(block: Block, figures: str) -> str:
    """One block as Markdown.

    Args:
        block: what to write.
        figures: directory of the SVG files.
    """
    match block:
        case Heading(level, text):
            return "#" * level + " " + text
        case Paragraph(line, tone):
            # Markdown has no colours, so the tone is a mark.
            return TONES[tone] + cell(line)
        case Items(lines):
            return "\n".join(f"- {cell(line)}" for line in lines)
        case Table():
            return _markdown_table(block)
        case Figure(name, caption):
            path = PurePosixPath(figures, f"{name}.svg")
            # The caption twice: the first is read aloud, the second is seen.
            return f"![{caption}]({path})\n\n<sub>{caption}</sub>"
        case Link(text, target):
            return f"[{text}]({target})"


def cell(line: Line) -> str:
    """A line inside a table or a list: one line, no markup of its own.

    Args:
        line: words and numbers.

    Returns:
        Text without `|`, `<`, `>`, line breaks and code marks.
    """
    # Spaces at the ends would be part of the table's layout.
    return plain(line).translate(SPECIAL).strip()


def _markdown_table(table: Table) -> str:
    head = "| " + " | ".join(table.head) + " |"
    # Without this line GitHub sees no table.
    rule = "|" + " --- |" * len(table.head)
    lines = [head, rule]
    for cells in table.rows:
        columns = [cell(line) for line in cells]
        lines.append("| " + " | ".join(columns) + " |")
    text = "\n".join(lines)
    if table.source:
        text += f"\n\n<sub>{table.source}</sub>"
    return text
