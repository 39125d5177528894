"""Paragraphs of a local Wikipedia dump as plain-text rows with provenance and licence.

The dump is MediaWiki XML (`.xml`, `.xml.bz2`, `.xml.gz`) or JSONL with `title` and `text`; nothing is fetched. A page gives
its first paragraphs, and the founders' filters decide: length window, share of symbols, no bare links.
Covered: markup that ordinary paragraphs use. Not covered: tables, templates, references, which are left out.
"""

import bz2
import gzip
import html
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote
from xml.etree import ElementTree as ET

from so8t.data import ingest
from so8t.errors import DataError

SYMBOL = re.compile(r"[^\w\s、。，．「」『』（）・ー〜？！]")
LINK = re.compile(r"https?://", re.IGNORECASE)
INNER_TEMPLATE = re.compile(r"\{\{[^{}]*\}\}|\{\|(?:(?!\{\||\|\}).)*\|\}", re.DOTALL)
DROPPED = re.compile(
    r"<!--.*?-->|<ref[^>/]*/>|<(ref|math|gallery|table|code|syntaxhighlight)\b.*?</\1>",
    re.DOTALL | re.IGNORECASE,
)
MEDIA = re.compile(
    r"\[\[(?:File|Image|ファイル|画像|Category|カテゴリ):(?:[^\[\]]|\[\[[^\[\]]*\]\])*\]\]",
    re.IGNORECASE,
)
INTERNAL, EXTERNAL = (
    re.compile(r"\[\[(?:[^\[\]|]*\|)?([^\[\]|]*)\]\]"),
    re.compile(r"\[https?://\S+ ([^\]]*)\]"),
)
LEFT_OVER = re.compile(r"<[^>]+>|'{2,}|__[A-Z]+__")
NOT_PROSE = ("=", "*", "#", ":", ";", "|", "!", "{", "}")


@dataclass(frozen=True, slots=True)
class Filters:
    """What a paragraph must be like."""

    min_chars: int
    max_chars: int
    symbol_share: float


def plain(markup: str) -> str:
    """Prose paragraphs of wiki markup, one per line."""
    text = DROPPED.sub("", markup)
    while (shorter := INNER_TEMPLATE.sub("", text)) != text:
        text = shorter
    text = EXTERNAL.sub(r"\1", INTERNAL.sub(r"\1", MEDIA.sub("", text)))
    lines = (
        html.unescape(LEFT_OVER.sub("", line)).strip()
        for line in text.split("\n")
        if not line.startswith(NOT_PROSE)
    )
    return "\n".join(line for line in lines if line)


def verdict_on(text: str, filters: Filters) -> str | None:
    """Why a text is left out; None if it is kept."""
    if not filters.min_chars <= len(text) <= filters.max_chars:
        return "length"
    if LINK.search(text):
        return "link"
    return "symbols" if len(SYMBOL.findall(text)) > filters.symbol_share * len(text) else None


def rows(
    path: Path, license_name: str, filters: Filters, dropped: Counter[str]
) -> Iterator[dict[str, Any]]:
    """Rows {"id","text","title","url","source","license","domain"}; reasons of what was left out are counted in `dropped`.

    Raises:
        DataError: the dump is damaged or is neither XML nor JSONL.
    """
    for title, markup in _pages(path):
        text = _lead(plain(markup), filters.max_chars)
        if reason := verdict_on(text, filters):
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
    """As many whole paragraphs from the beginning as fit."""
    kept = ""
    for paragraph in text.split("\n"):
        if kept and len(kept) + len(paragraph) + 1 > max_chars:
            break
        kept = f"{kept}\n{paragraph}" if kept else paragraph
    return kept


def _pages(path: Path) -> Iterator[tuple[str, str]]:
    if path.name.endswith(ingest.SUFFIXES[:3]):
        for where, row in ingest.read(path):
            if not isinstance(row.get("title"), str) or not isinstance(row.get("text"), str):
                raise DataError(
                    "a page without title or text",
                    where=where,
                    fix='write {"title": "...", "text": "..."}',
                )
            yield row["title"], row["text"]
        return
    try:
        with path.open("rb") as raw:
            opened: dict[str, Callable[[], Any]] = {
                ".bz2": lambda: bz2.BZ2File(raw),
                ".gz": lambda: gzip.GzipFile(fileobj=raw),
            }
            yield from _xml_pages(opened.get(path.suffix, lambda: raw)())
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


def _xml_pages(file: IO[bytes]) -> Iterator[tuple[str, str]]:
    """Title and text of every article; redirects and other name spaces are passed over. Memory: one page."""
    events = ET.iterparse(file, events=("start", "end"))  # expat limits entity expansion
    _, root = next(events)
    for event, element in events:
        if event == "start" or element.tag.rpartition("}")[2] != "page":
            continue
        fields = {child.tag.rpartition("}")[2]: child.text or "" for child in element.iter()}
        if fields.get("ns", "0") == "0" and "redirect" not in fields:
            yield fields.get("title", ""), fields.get("text", "")
        root.clear()
