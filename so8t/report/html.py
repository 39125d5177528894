"""A document as one HTML file: no script, no network, figures inside, every number with its file and key on hover."""

import base64
from collections.abc import Mapping
from html import escape

from so8t.report.document import Block, Document, Figure, Heading, Items, Paragraph, Table, first_sentence
from so8t.report.sources import Line, Number

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


def _table(table: Table) -> str:
    head = "".join(f"<th>{escape(text)}</th>" for text in table.head)
    body = "".join("<tr>" + "".join(f"<td>{_inline(one)}</td>" for one in row) + "</tr>" for row in table.rows)
    source = f'<p class="source">{escape(table.source)}</p>' if table.source else ""
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{source}"


def _figure(figure: Figure, figures: Mapping[str, str]) -> str:
    data = base64.b64encode(figures[figure.name].encode()).decode()
    caption = escape(figure.caption, quote=True)
    return f'<figure><img alt="{caption}" src="data:image/svg+xml;base64,{data}"><figcaption>{caption}</figcaption></figure>'


def _block(block: Block, figures: Mapping[str, str]) -> str:
    match block:
        case Heading(level, text):
            return f"<h{level}>{escape(text)}</h{level}>"
        case Paragraph(line, tone):
            return f'<p class="{tone}">{_inline(line)}</p>'
        case Items(lines):
            return "<ul>" + "".join(f"<li>{_inline(line)}</li>" for line in lines) + "</ul>"
        case Table():
            return _table(block)
        case Figure():
            return _figure(block, figures)


def to_html(document: Document, *, figures: Mapping[str, str]) -> str:
    """The document as HTML; `figures` maps names to SVG text."""
    title = escape(first_sentence(document.blocks))
    body = "\n".join(_block(block, figures) for block in document.blocks)
    return (f'<!doctype html>\n<html lang="{document.language}"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f"<title>{title}</title><style>{STYLE}</style></head><body>\n{body}\n</body></html>\n")
