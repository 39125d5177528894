"""Documents as passages with provenance, for later use by retrieval: plain text, Markdown, HTML, PDF.

HTML goes through trafilatura and PDF through pypdf (extra `documents`). Passages break at paragraphs, then at sentences.
Covered: text. Not covered: scanned pages (no text in the file), tables, pictures.

A small, polite collector: a list of URLs or a sitemap, one page at a time.

robots.txt decides, and what cannot be read means no: a server error, a timeout or undecodable rules skip the whole host
(only a plain 404 or 410 means that there are no rules). Crawl-delay is kept, the user agent says who it is, redirects are
not followed, and there is no way around a refusal. Every row says where it came from, when, and under which rules.

Covered: http(s) pages of text or HTML, resuming from a session file. Not covered: JavaScript, logins, anything evasive.
"""

import hashlib
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from so8t.errors import DataError, ToolError
from so8t.files import read_json, sha256_file, write_json

SUFFIXES = (".txt", ".md", ".html", ".htm", ".pdf")
SENTENCE = re.compile(r"(?<=[。！？])")


def _missing(name: str, path: Path) -> ToolError:
    return ToolError(
        f"the package {name} is not installed", where=str(path), fix="pip install 'so8t[documents]'"
    )


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"not UTF-8 (byte {error.start})",
            where=str(path),
            fix="iconv -f CP932 -t UTF-8 FILE > NEW",
        ) from None


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
        raise DataError(
            f"not a readable PDF ({type(error).__name__})",
            where=str(path),
            fix="open it and save it again, without a password",
        ) from None


def extract(path: Path) -> str:
    """The text of one document.

    Raises:
        DataError: unknown kind, wrong encoding, unreadable, or no text in it.
    """
    readers = {
        ".pdf": _pdf,
        ".html": lambda p: html_text(_text(p)),
        ".htm": lambda p: html_text(_text(p)),
        ".txt": _text,
        ".md": _text,
    }
    if path.suffix.lower() not in readers:
        raise DataError(
            "this kind of document is not read",
            where=str(path),
            fix=f"convert it to one of {', '.join(SUFFIXES)}",
        )
    text = readers[path.suffix.lower()](path).replace("\r\n", "\n").replace("\0", "").strip()
    if not text:
        raise DataError(
            "no text in the document",
            where=str(path),
            fix="scanned pages need OCR first; otherwise leave it out",
        )
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
            yield from (sentence[i : i + max_chars] for i in range(0, len(sentence), max_chars))


def rows(
    paths: list[Path], *, license_name: str, domain: str, max_chars: int
) -> Iterator[dict[str, Any]]:
    """Passages {"id","text","title","part","source","sha256","license","domain"} of every document, in the order given."""
    for path in paths:
        digest = sha256_file(path)
        for part, text in enumerate(passages(extract(path), max_chars)):
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
    found = (
        sorted(p for p in source.rglob("*") if p.suffix.lower() in SUFFIXES)
        if source.is_dir()
        else [source]
    )
    if not found or not found[0].exists():
        raise DataError(
            "no document found", where=str(source), fix=f"documents end in {', '.join(SUFFIXES)}"
        )
    return found


AGENT = "SO8T-collector/1"
MAX_BYTES, TIMEOUT_S = 5 << 20, 20.0
NO_RULES = (404, 410)
LOCATION = re.compile(r"<loc>\s*(.*?)\s*</loc>", re.DOTALL)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect may lead to a host whose rules were not read: it is reported, not followed."""

    def redirect_request(self, *_: Any) -> None:
        """Refuse."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What a server answered; status 0 = no answer."""

    status: int
    kind: str
    body: bytes


def fetch(url: str, agent: str) -> Reply:
    """One GET, no redirects, at most MAX_BYTES."""
    opener = urllib.request.build_opener(_NoRedirect)
    request = urllib.request.Request(url, headers={"User-Agent": agent})
    try:
        with opener.open(request, timeout=TIMEOUT_S) as answer:
            body = answer.read(MAX_BYTES + 1)
            return Reply(
                answer.status if len(body) <= MAX_BYTES else 413,
                answer.headers.get_content_type(),
                body,
            )
    except urllib.error.HTTPError as error:
        with error:
            return Reply(error.code, "", b"")
    except (urllib.error.URLError, HTTPException, OSError, ValueError):
        return Reply(0, "", b"")


@dataclass(slots=True)
class Host:
    """Rules of one host."""

    allows: Callable[[str], bool]
    delay: float
    robots_sha256: str | None
    last: float = 0.0


def host_rules(base: str, agent: str, least_delay: float) -> Host | None:
    """Read robots.txt; None = it could not be read, so nothing of this host is taken."""
    from protego import Protego

    reply = fetch(f"{base}/robots.txt", agent)
    if reply.status in NO_RULES:
        return Host(lambda _: True, least_delay, None)
    if reply.status != 200:
        return None
    try:
        rules = Protego.parse(reply.body.decode("utf-8"))
    except UnicodeDecodeError:
        return None
    delay = max(least_delay, rules.crawl_delay(agent) or 0.0)
    return Host(
        lambda url: bool(rules.can_fetch(url, agent)), delay, hashlib.sha256(reply.body).hexdigest()
    )


@dataclass(slots=True)
class Collector:
    """Works through URLs; `done` maps each URL to what became of it and is kept in the session file."""

    session: Path
    license_name: str
    agent: str
    least_delay: float
    sleep: Callable[[float], None] = time.sleep
    hosts: dict[str, Host | None] = field(default_factory=dict)
    done: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.session.exists():
            self.done = read_json(self.session, fix="remove the session file to start again")[
                "done"
            ]

    def rows(self, urls: list[str]) -> Iterator[dict[str, Any]]:
        """Rows of the URLs that were not done before; the session is written after each."""
        for url in urls:
            if url in self.done:
                continue
            row = self._take(url)
            self.done[url] = "taken" if isinstance(row, dict) else row
            if isinstance(row, dict):
                yield row
            write_json(self.session, {"done": self.done})

    def _take(self, url: str) -> dict[str, Any] | str:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.netloc or "@" in parts.netloc:
            return "not_a_plain_url"
        base = f"{parts.scheme}://{parts.netloc}"
        if base not in self.hosts:
            self.hosts[base] = host_rules(base, self.agent, self.least_delay)
        host = self.hosts[base]
        if host is None:
            return "robots_unreadable"
        if not host.allows(url):
            return "robots_disallow"
        self._wait(host)
        return self._row(url, fetch(url, self.agent), host)

    def _wait(self, host: Host) -> None:
        remaining = host.last + host.delay - time.monotonic()
        if host.last and remaining > 0:
            self.sleep(remaining)
        host.last = time.monotonic()

    def _row(self, url: str, reply: Reply, host: Host) -> dict[str, Any] | str:
        if reply.status != 200:
            return f"status_{reply.status}"
        if reply.kind not in ("text/html", "text/plain"):
            return "not_text"
        try:
            page = reply.body.decode("utf-8")
        except UnicodeDecodeError:
            return "not_utf8"
        text = (html_text(page) if reply.kind == "text/html" else page).strip()
        if not text:
            return "no_text"
        return {
            "id": f"web-{hashlib.sha256(url.encode()).hexdigest()[:16]}",
            "text": text,
            "url": url,
            "source": urlsplit(url).netloc,
            "license": self.license_name,
            "domain": "general",
            "fetched_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "robots_sha256": host.robots_sha256,
            "robots_ok": True,
            "user_agent": self.agent,
            "sha256": hashlib.sha256(reply.body).hexdigest(),
        }


def urls_of(listing: Path) -> list[str]:
    """URLs of a text file (one a line) or of a local sitemap XML, each once."""
    try:
        text = listing.read_text(encoding="utf-8")
    except (FileNotFoundError, UnicodeDecodeError) as error:
        raise DataError(
            f"the list cannot be read ({type(error).__name__})",
            where=str(listing),
            fix="give a UTF-8 file, one URL a line, or a sitemap",
        ) from None
    found = (
        LOCATION.findall(text)
        if "<loc>" in text
        else [
            line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")
        ]
    )
    return list(dict.fromkeys(found))
