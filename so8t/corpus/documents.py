"""Documents as passages with provenance, for later use by retrieval: plain text, Markdown, HTML, PDF.

HTML goes through trafilatura and PDF through pypdf (extra `documents`). Passages break at paragraphs, then at sentences.
Covered: text. Not covered: scanned pages (no text in the file), tables, pictures.
"""

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from so8t.errors import DataError, ToolError
from so8t.files import sha256_file

SUFFIXES = (".txt", ".md", ".html", ".htm", ".pdf")
SENTENCE = re.compile(r"(?<=[。！？])")


def _missing(name: str, path: Path) -> ToolError:
    return ToolError(f"the package {name} is not installed", where=str(path), fix="pip install 'so8t[documents]'")


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"not UTF-8 (byte {error.start})", where=str(path), fix="iconv -f CP932 -t UTF-8 FILE > NEW") from None


def html_text(page: str) -> str:
    """The main text of an HTML page."""
    try:
        import trafilatura
    except ModuleNotFoundError:
        raise _missing("trafilatura", Path("html")) from None
    return trafilatura.extract(page, include_comments=False, favor_recall=True) or ""


def _pdf(path: Path) -> str:
    try:
        from pypdf import PdfReader
        from pypdf.errors import PdfReadError
    except ModuleNotFoundError:
        raise _missing("pypdf", path) from None
    try:
        return "\n\n".join(page.extract_text() for page in PdfReader(path).pages)
    except (PdfReadError, OSError, ValueError) as error:
        raise DataError(f"not a readable PDF ({type(error).__name__})", where=str(path), fix="open it and save it again, without a password") from None


def extract(path: Path) -> str:
    """The text of one document.

    Raises:
        DataError: unknown kind, wrong encoding, unreadable, or no text in it.
    """
    readers = {".pdf": _pdf, ".html": lambda p: html_text(_text(p)), ".htm": lambda p: html_text(_text(p)), ".txt": _text, ".md": _text}
    if path.suffix.lower() not in readers:
        raise DataError("this kind of document is not read", where=str(path), fix=f"convert it to one of {', '.join(SUFFIXES)}")
    text = readers[path.suffix.lower()](path).replace("\r\n", "\n").replace("\0", "").strip()
    if not text:
        raise DataError("no text in the document", where=str(path), fix="scanned pages need OCR first; otherwise leave it out")
    return text


def passages(text: str, max_chars: int) -> Iterator[str]:
    """Paragraphs joined up to `max_chars`; a longer paragraph is cut at sentences, a longer sentence where it must be."""
    held = ""
    for piece in _pieces(text, max_chars):
        if held and len(held) + 1 + len(piece) > max_chars:
            yield held
            held = ""
        held = f"{held}\n{piece}" if held else piece
    if held:
        yield held


def _pieces(text: str, max_chars: int) -> Iterator[str]:
    for paragraph in re.split(r"\n\s*\n", text):
        plain = " ".join(paragraph.split())
        for sentence in [plain] if len(plain) <= max_chars else SENTENCE.split(plain):
            yield from (sentence[i:i + max_chars] for i in range(0, len(sentence), max_chars))


def rows(paths: list[Path], *, license_name: str, domain: str, max_chars: int) -> Iterator[dict[str, Any]]:
    """Passages {"id","text","title","part","source","sha256","license","domain"} of every document, in the order given."""
    for path in paths:
        digest = sha256_file(path)
        for part, text in enumerate(passages(extract(path), max_chars)):
            name = hashlib.sha256(f"{digest}|{part}".encode()).hexdigest()[:16]
            yield {"id": f"doc-{name}", "text": text, "title": path.stem, "part": part, "source": path.name, "sha256": digest,
                   "license": license_name, "domain": domain}


def files_below(source: Path) -> list[Path]:
    """One document, or every document below a directory, in name order."""
    found = sorted(p for p in source.rglob("*") if p.suffix.lower() in SUFFIXES) if source.is_dir() else [source]
    if not found or not found[0].exists():
        raise DataError("no document found", where=str(source), fix=f"documents end in {', '.join(SUFFIXES)}")
    return found
