"""Paragraphs of a local Wikipedia dump as plain-text rows with provenance and licence.

The dump is MediaWiki XML (`.xml`, `.xml.bz2`, `.xml.gz`) or JSONL with `title` and `text`; nothing
is fetched. A page gives its first paragraphs, and the filters decide whether they are kept: length,
share of symbols, no bare links.

Covered: markup that ordinary paragraphs use. Not covered: tables, templates, references, which are
left out.
"""

import bz2
import gzip
import html
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast
from urllib.parse import quote
from xml.etree import ElementTree as ET

from so8t.data import ingest
from so8t.errors import DataError

SYMBOL = re.compile(r"[^\w\s、。，．「」『』（）・ー〜？！]")
LINK = re.compile(r"https?://", re.IGNORECASE)
# Templates {{...}} and tables {|...|} nest: the innermost ones match, until none is left.
INNER_TEMPLATE = re.compile(r"\{\{[^{}]*\}\}|\{\|(?:(?!\{\||\|\}).)*\|\}", re.DOTALL)
DROPPED = re.compile(
    r"<!--.*?-->|<ref[^>/]*/>|<(ref|math|gallery|table|code|syntaxhighlight)\b.*?</\1>",
    re.DOTALL | re.IGNORECASE,
)
# A caption may hold links of its own.
MEDIA = re.compile(
    r"\[\[(?:File|Image|ファイル|画像|Category|カテゴリ):(?:[^\[\]]|\[\[[^\[\]]*\]\])*\]\]",
    re.IGNORECASE,
)
INTERNAL = re.compile(r"\[\[(?:[^\[\]|]*\|)?([^\[\]|]*)\]\]")
EXTERNAL = re.compile(r"\[https?://\S+ ([^\]]*)\]")
# Tags, bold and italic quotes, and switches such as __NOTOC__.
LEFT_OVER = re.compile(r"<[^>]+>|'{2,}|__[A-Z]+__")
# Line beginnings of headings, lists, indents, tables and of templates that were cut off.
NOT_PROSE = ("=", "*", "#", ":", ";", "|", "!", "{", "}")


@dataclass(frozen=True, slots=True)
class Filters:
    """What a text must be like: its length in characters, and the largest share of symbols."""

    min_chars: int
    max_chars: int
    symbol_share: float


def plain(markup: str) -> str:
    """Prose paragraphs of wiki markup, one per line."""
    text = _without_templates(DROPPED.sub("", markup))
    # Media first: to the pattern of internal links, a picture is a link to its caption.
    text = MEDIA.sub("", text)
    text = INTERNAL.sub(r"\1", text)
    text = EXTERNAL.sub(r"\1", text)
    paragraphs = []
    for line in text.split("\n"):
        if line.startswith(NOT_PROSE):
            continue
        # Tags before entities: "&lt;b&gt;" is text that shows a tag, not a tag.
        untagged = LEFT_OVER.sub("", line)
        paragraph = html.unescape(untagged).strip()
        if paragraph:
            paragraphs.append(paragraph)
    return "\n".join(paragraphs)


def _without_templates(text: str) -> str:
    while True:
        shorter = INNER_TEMPLATE.sub("", text)
        if shorter == text:
            return text
        text = shorter


def reason_to_drop(text: str, filters: Filters) -> str | None:
    """Why a text is left out; None if it is kept."""
    if not filters.min_chars <= len(text) <= filters.max_chars:
        return "length"
    if LINK.search(text):
        return "link"
    symbols = len(SYMBOL.findall(text))
    if symbols > filters.symbol_share * len(text):
        return "symbols"
    return None


def rows(
    path: Path, license_name: str, filters: Filters, dropped: Counter[str]
) -> Iterator[dict[str, Any]]:
    """Rows {"id", "text", "title", "url", "source", "license", "domain"} of a dump, one a page.

    Args:
        path: of the dump.
        license_name: written into every row.
        filters: which texts are kept.
        dropped: the reasons of the others are counted here.

    Raises:
        DataError: the dump is damaged or is neither XML nor JSONL.
    """
    for title, markup in _pages(path):
        text = _lead(plain(markup), filters.max_chars)
        reason = reason_to_drop(text, filters)
        if reason is not None:
            dropped[reason] += 1
            continue
        yield {
            "id": f"jawiki-{quote(title, safe='')}",
            "text": text,
            "title": title,
            "url": f"https://ja.wikipedia.org/wiki/{quote(title.replace(' ', '_'))}",
            "source": "Wikipedia-ja",
            "license": license_name,
            "domain": "general",
        }


def _lead(text: str, max_chars: int) -> str:
    """As many whole paragraphs from the beginning as fit, and the first one in any case."""
    kept = ""
    for paragraph in text.split("\n"):
        if not kept:
            kept = paragraph
            continue
        if len(kept) + len(paragraph) + 1 > max_chars:
            break
        kept = f"{kept}\n{paragraph}"
    return kept


def _pages(path: Path) -> Iterator[tuple[str, str]]:
    """Title and markup of every page."""
    if path.name.endswith(ingest.JSONL_SUFFIXES):
        yield from _json_pages(path)
        return
    try:
        with path.open("rb") as raw:
            yield from _xml_pages(_decompressed(raw, path.suffix))
    except FileNotFoundError:
        raise DataError(
            "file not found", where=str(path), fix="check the path of the dump"
        ) from None
    except (ET.ParseError, EOFError, OSError) as error:
        raise DataError(
            f"the dump is damaged or not MediaWiki XML ({error})",
            where=str(path),
            fix="fetch it again and compare its checksum",
        ) from None


def _json_pages(path: Path) -> Iterator[tuple[str, str]]:
    for where, row in ingest.read(path):
        title = row.get("title")
        text = row.get("text")
        if not isinstance(title, str) or not isinstance(text, str):
            raise DataError(
                "a page without title or text",
                where=where,
                fix='write {"title": "...", "text": "..."}',
            )
        yield title, text


def _decompressed(raw: IO[bytes], suffix: str) -> IO[bytes]:
    if suffix == ".bz2":
        return bz2.BZ2File(raw)
    if suffix == ".gz":
        return cast(IO[bytes], gzip.GzipFile(fileobj=raw))
    return raw


def _xml_pages(file: IO[bytes]) -> Iterator[tuple[str, str]]:
    """Title and markup of every article; redirects and other name spaces are passed over."""
    events = ET.iterparse(file, events=("start", "end"))  # expat limits entity expansion
    _, root = next(events)
    for event, element in events:
        if event == "start" or _name(element) != "page":
            continue
        fields = {}
        for child in element.iter():
            fields[_name(child)] = child.text or ""
        # Name space 0 holds the articles; the others hold users' pages, talk, templates.
        if fields.get("ns", "0") == "0" and "redirect" not in fields:
            yield fields.get("title", ""), fields.get("text", "")
        # A dump is tens of gigabytes: pages that were read must not stay in the tree.
        root.clear()


def _name(element: ET.Element) -> str:
    """The tag without its XML name space, which changes with the version of the dump format."""
    return element.tag.rpartition("}")[2]
