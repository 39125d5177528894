"""Documents as passages with provenance, for training and retrieval.

Plain text, Markdown, HTML and PDF are read; HTML goes through trafilatura and PDF through pypdf
(extra `documents`). Passages break at paragraphs, then at sentences.

Covered: text. Not covered: scanned pages (there is no text in the file), tables, pictures.
"""

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from so8t.data.ingest import utf16_name
from so8t.errors import DataError, ToolError
from so8t.files import files_below as all_files_below
from so8t.files import sha256_file, unreadable

SUFFIXES = (".txt", ".md", ".html", ".htm", ".pdf")
# Where a sentence ends: behind its mark, which stays with it.
SENTENCE = re.compile(r"(?<=[。！？])")


def rows(
    paths: list[Path], *, license_name: str, domain: str, max_chars: int
) -> Iterator[dict[str, Any]]:
    """Passages of every document, in the order given.

    Args:
        paths: the documents.
        license_name: written into every row.
        domain: written into every row.
        max_chars: of one passage.

    Yields:
        {"id", "text", "title", "part", "source", "sha256", "license", "domain"}; `part` counts the
        passages of a document from 0.

    Raises:
        DataError: a document that cannot be read.
        ToolError: the package that reads this kind of document is not installed.
    """
    for path in paths:
        digest = sha256_file(path)
        for part, text in enumerate(passages(extract(path), max_chars)):
            # From content, not from the path: a document that was moved keeps its rows' ids.
            name = hashlib.sha256(f"{digest}|{part}".encode()).hexdigest()[:16]
            yield {
                "id": f"doc-{name}",
                "text": text,
                "title": path.stem,
                "part": part,
                "source": path.name,
                "sha256": digest,
                "license": license_name,
                "domain": domain,
            }


def files_below(source: Path) -> list[Path]:
    """One document, or every document below a directory, in name order."""
    found = [source]
    if source.is_dir():
        below = all_files_below(source, once=True, kind=DataError)
        found = [path for path in below if path.suffix.lower() in SUFFIXES]
    if not found or not found[0].exists():
        raise DataError(
            "no document found", where=str(source), fix=f"documents end in {', '.join(SUFFIXES)}"
        )
    return found


def extract(path: Path) -> str:
    """The text of one document.

    Raises:
        DataError: unknown kind, wrong encoding, unreadable, or no text in it.
    """
    kind = path.suffix.lower()
    if kind not in SUFFIXES:
        raise DataError(
            "this kind of document is not read",
            where=str(path),
            fix=f"convert it to one of {', '.join(SUFFIXES)}",
        )
    if kind == ".pdf":
        text = _pdf_text(path)
    elif kind in (".html", ".htm"):
        text = html_text(_decoded(path))
    else:
        text = _decoded(path)
    # PDFs hold NUL where a font has no character for a glyph.
    text = text.replace("\r\n", "\n").replace("\0", "").strip()
    if not text:
        raise DataError(
            "no text in the document",
            where=str(path),
            fix="scanned pages need OCR first; otherwise leave it out",
        )
    return text


def html_text(page: str) -> str:
    """The main text of an HTML page, without menus and scripts; "" where there is none."""
    try:
        import trafilatura
    except ModuleNotFoundError:
        raise _missing("trafilatura", Path("html")) from None
    # Readers' comments are not the page's own text. Recall is favoured over precision: a menu line
    # too many is seen in the rows, a paragraph too few is not.
    text = trafilatura.extract(page, include_comments=False, favor_recall=True)
    return text or ""


def _pdf_text(path: Path) -> str:
    try:
        from pypdf import PdfReader
        from pypdf.errors import PdfReadError
    except ModuleNotFoundError:
        raise _missing("pypdf", path) from None
    try:
        pages = [page.extract_text() for page in PdfReader(path).pages]
    except (PdfReadError, OSError, ValueError) as error:
        raise DataError(
            f"not a readable PDF ({type(error).__name__})",
            where=str(path),
            fix="open it and save it again, without a password",
        ) from None
    # An empty line, so that no passage's paragraph runs over a page's end.
    return "\n\n".join(pages)


def _decoded(path: Path) -> str:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise unreadable(error, path, DataError, "check the path") from None
    utf16 = utf16_name(data)
    if utf16:
        raise DataError(
            f"{utf16}, not UTF-8",
            where=str(path),
            fix=f"iconv -f {utf16} -t UTF-8 FILE > NEW",
        )
    try:
        # Windows' editors begin UTF-8 files with a byte order mark, which is no text.
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"not UTF-8 (byte {error.start})",
            where=str(path),
            fix="iconv -f CP932 -t UTF-8 FILE > NEW",
        ) from None


def _missing(name: str, path: Path) -> ToolError:
    return ToolError(
        f"the package {name} is not installed", where=str(path), fix="pip install 'so8t[documents]'"
    )


def passages(text: str, max_chars: int) -> Iterator[str]:
    """Paragraphs joined up to `max_chars` characters.

    A longer paragraph is cut at sentences, a longer sentence where it must be.
    """
    held = ""
    for piece in _pieces(text, max_chars):
        if not held:
            held = piece
        elif len(held) + 1 + len(piece) <= max_chars:
            held = f"{held}\n{piece}"
        else:
            yield held
            held = piece
    if held:
        yield held


def _pieces(text: str, max_chars: int) -> Iterator[str]:
    for paragraph in re.split(r"\n\s*\n", text):
        plain = " ".join(paragraph.split())
        sentences = [plain]
        if len(plain) > max_chars:
            sentences = SENTENCE.split(plain)
        for sentence in sentences:
            # A table or a list without marks may be one "sentence" of any length.
            for start in range(0, len(sentence), max_chars):
                yield sentence[start : start + max_chars]
