"""A document as GitHub Markdown."""

from so8t.report.document import Block, Document, Figure, Heading, Items, Paragraph, Table, plain
from so8t.report.sources import Line

TONES = {"good": "✔ ", "bad": "✘ ", "plain": ""}
SPECIAL = str.maketrans({"|": "\\|", "<": "&lt;", ">": "&gt;", "\n": " ", "\r": " ", "`": "ˋ"})


def cell(line: Line) -> str:
    """A line inside a table or a list: one line, no markup of its own."""
    return plain(line).translate(SPECIAL).strip()


def _table(table: Table) -> str:
    lines = ["| " + " | ".join(table.head) + " |", "|" + " --- |" * len(table.head)]
    lines += ["| " + " | ".join(cell(one) for one in row) + " |" for row in table.rows]
    source = f"\n\n<sub>{table.source}</sub>" if table.source else ""
    return "\n".join(lines) + source


def _block(block: Block, figures: str) -> str:
    match block:
        case Heading(level, text):
            return "#" * level + " " + text
        case Paragraph(line, tone):
            return TONES[tone] + cell(line)
        case Items(lines):
            return "\n".join(f"- {cell(line)}" for line in lines)
        case Table():
            return _table(block)
        case Figure(name, caption):
            return f"![{caption}]({figures}/{name}.svg)\n\n<sub>{caption}</sub>"


def to_markdown(document: Document, *, figures: str) -> str:
    """The document as Markdown; `figures` is the directory of the SVG files as seen from the page."""
    return "\n\n".join(_block(block, figures) for block in document.blocks) + "\n"
