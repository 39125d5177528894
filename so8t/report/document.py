"""A report as blocks, so that Markdown and HTML say the same and neither computes anything.

A document as one HTML file: no script, no network, figures inside, every number with its file and key on hover.

A document as GitHub Markdown.
"""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape

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
    """A table; `source` says which files its numbers are from."""

    head: list[str]
    rows: list[list[Line]]
    source: str = ""
    measured: bool = True  # its cells are numbers, so that without any it is "not run"


@dataclass(frozen=True, slots=True)
class Figure:
    """An SVG in the figures directory."""

    name: str
    caption: str


Block = Heading | Paragraph | Items | Table | Figure


@dataclass(slots=True)
class Document:
    """The blocks in order."""

    language: str
    blocks: list[Block] = field(default_factory=list)

    def add(self, *blocks: Block | None) -> None:
        """Append blocks; null is left out."""
        self.blocks += [block for block in blocks if block is not None]


def row(*cells: str | Line) -> list[Line]:
    """A table row of texts and lines."""
    return [(cell,) if isinstance(cell, str) else cell for cell in cells]


def plain(line: Line) -> str:
    """A line as text."""
    return "".join(part if isinstance(part, str) else part.shown for part in line)


def first_sentence(blocks: Sequence[Block]) -> str:
    """The first paragraph's text."""
    return next(plain(block.line) for block in blocks if isinstance(block, Paragraph))


STYLE = (
    ":root{color-scheme:light dark}body{font-family:system-ui,'Hiragino Sans','Noto Sans JP',sans-serif;line-height:1.6;"
    "max-width:64rem;margin:0 auto;padding:1rem}table{border-collapse:collapse;display:block;overflow-x:auto}"
    "td,th{border:1px solid #8888;padding:.2em .6em;text-align:left;vertical-align:top}"
    "img{max-width:100%;background:#fff}figure{margin:1em 0}.good{border-left:.4em solid #2a8a4a;padding-left:.6em}"
    ".bad{border-left:.4em solid #c0392b;padding-left:.6em}.source,figcaption{font-size:.8em;opacity:.75}"
    "data{border-bottom:1px dotted #8888}"
)


def _inline(line: Line) -> str:
    return "".join(_number(part) if isinstance(part, Number) else escape(part) for part in line)


def _number(number: Number) -> str:
    origin = escape(f"{number.file}#{number.key}", quote=True)
    return f'<data value="{escape(str(number.value), quote=True)}" title="{origin}">{escape(number.shown)}</data>'


def _html_table(table: Table) -> str:
    head = "".join(f"<th>{escape(text)}</th>" for text in table.head)
    body = "".join(
        "<tr>" + "".join(f"<td>{_inline(one)}</td>" for one in row) + "</tr>" for row in table.rows
    )
    source = f'<p class="source">{escape(table.source)}</p>' if table.source else ""
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{source}"


def _figure(figure: Figure, figures: Mapping[str, str]) -> str:
    data = base64.b64encode(figures[figure.name].encode()).decode()
    caption = escape(figure.caption, quote=True)
    return f'<figure><img alt="{caption}" src="data:image/svg+xml;base64,{data}"><figcaption>{caption}</figcaption></figure>'


def _html_block(block: Block, figures: Mapping[str, str]) -> str:
    match block:
        case Heading(level, text):
            return f"<h{level}>{escape(text)}</h{level}>"
        case Paragraph(line, tone):
            return f'<p class="{tone}">{_inline(line)}</p>'
        case Items(lines):
            return "<ul>" + "".join(f"<li>{_inline(line)}</li>" for line in lines) + "</ul>"
        case Table():
            return _html_table(block)
        case Figure():
            return _figure(block, figures)


def to_html(document: Document, *, figures: Mapping[str, str]) -> str:
    """The document as HTML; `figures` maps names to SVG text."""
    title = escape(first_sentence(document.blocks))
    body = "\n".join(_html_block(block, figures) for block in document.blocks)
    return (
        f'<!doctype html>\n<html lang="{document.language}"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{STYLE}</style></head><body>\n{body}\n</body></html>\n"
    )


TONES = {"good": "✔ ", "bad": "✘ ", "plain": ""}
SPECIAL = str.maketrans({"|": "\\|", "<": "&lt;", ">": "&gt;", "\n": " ", "\r": " ", "`": "ˋ"})


def cell(line: Line) -> str:
    """A line inside a table or a list: one line, no markup of its own."""
    return plain(line).translate(SPECIAL).strip()


def _markdown_table(table: Table) -> str:
    lines = ["| " + " | ".join(table.head) + " |", "|" + " --- |" * len(table.head)]
    lines += ["| " + " | ".join(cell(one) for one in row) + " |" for row in table.rows]
    source = f"\n\n<sub>{table.source}</sub>" if table.source else ""
    return "\n".join(lines) + source


def _markdown_block(block: Block, figures: str) -> str:
    match block:
        case Heading(level, text):
            return "#" * level + " " + text
        case Paragraph(line, tone):
            return TONES[tone] + cell(line)
        case Items(lines):
            return "\n".join(f"- {cell(line)}" for line in lines)
        case Table():
            return _markdown_table(block)
        case Figure(name, caption):
            return f"![{caption}]({figures}/{name}.svg)\n\n<sub>{caption}</sub>"


def to_markdown(document: Document, *, figures: str) -> str:
    """The document as Markdown; `figures` is the directory of the SVG files as seen from the page."""
    return "\n\n".join(_markdown_block(block, figures) for block in document.blocks) + "\n"
