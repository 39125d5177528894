"""A small, polite collector of web pages: a list of URLs or a sitemap, one page at a time.

robots.txt decides, and rules that cannot be read mean no: a server error, a timeout or undecodable
rules skip the whole host. Only a plain 404 or 410 means that there are no rules, which is stricter
than RFC 9309, where every 4xx status does. Crawl-delay is kept, the user agent says who it is,
redirects are not followed, and there is no way around a refusal. Every row says where it came from,
when, and under which rules.

Covered: http(s) pages of text or HTML, resuming from a session file. Not covered: JavaScript,
logins, anything evasive.
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

from so8t.data.documents import html_text
from so8t.errors import DataError
from so8t.files import read_json, read_text, write_json

AGENT = "SO8T-collector/1"
MAX_BYTES = 5 << 20  # of one page
TIMEOUT_S = 20.0
NO_RULES = (404, 410)  # HTTP: not found, gone
TOO_LARGE = 413  # HTTP: content too large; here it is the answer, not the request
NO_ANSWER = 0  # no HTTP status
LOCATION = re.compile(r"<loc>\s*(.*?)\s*</loc>", re.DOTALL)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect may lead to a host whose rules were not read: it is reported, not followed."""

    def redirect_request(self, *_: Any) -> None:
        """Refuse."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What a server answered: HTTP status (0 = no answer), content type, body."""

    status: int
    kind: str
    body: bytes


def fetch(url: str, agent: str) -> Reply:
    """One GET, no redirects, at most MAX_BYTES."""
    opener = urllib.request.build_opener(_NoRedirect)
    request = urllib.request.Request(url, headers={"User-Agent": agent})
    try:
        with opener.open(request, timeout=TIMEOUT_S) as answer:
            # One byte more than is taken tells a page that is too large from one that just fits.
            body = answer.read(MAX_BYTES + 1)
            status = TOO_LARGE if len(body) > MAX_BYTES else answer.status
            return Reply(status, answer.headers.get_content_type(), body)
    except urllib.error.HTTPError as error:
        # The error holds the open connection.
        with error:
            return Reply(error.code, "", b"")
    except (urllib.error.URLError, HTTPException, OSError, ValueError):
        return Reply(NO_ANSWER, "", b"")


@dataclass(slots=True)
class Host:
    """Rules of one host: which URLs, seconds between requests, digest of its robots.txt."""

    allows: Callable[[str], bool]
    delay: float
    robots_sha256: str | None
    last: float = 0.0  # monotonic seconds of the last request; 0 = none yet


def host_rules(base: str, agent: str, least_delay: float) -> Host | None:
    """Read robots.txt.

    Args:
        base: scheme and host, such as "https://example.org".
        agent: the user agent that asks.
        least_delay: seconds between requests where the host asks for less.

    Returns:
        None where the rules could not be read, so that nothing of this host is taken.
    """
    from protego import Protego

    reply = fetch(f"{base}/robots.txt", agent)
    if reply.status in NO_RULES:
        return Host(lambda _: True, least_delay, None)
    # A refusal (403) too: a host that hides its rules has not said that they allow anything.
    if reply.status != 200:
        return None
    try:
        rules = Protego.parse(reply.body.decode("utf-8"))
    except UnicodeDecodeError:
        return None
    return Host(
        allows=lambda url: bool(rules.can_fetch(url, agent)),
        delay=max(least_delay, rules.crawl_delay(agent) or 0.0),
        robots_sha256=hashlib.sha256(reply.body).hexdigest(),
    )


@dataclass(slots=True)
class Collector:
    """Works through URLs.

    `done` maps each URL to what became of it ("taken", or why not) and is kept in the session file,
    so that a second run goes on where the first one stopped.
    """

    session: Path
    license_name: str
    agent: str
    least_delay: float
    sleep: Callable[[float], None] = time.sleep
    hosts: dict[str, Host | None] = field(default_factory=dict)
    done: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.session.exists():
            held = read_json(self.session, fix="remove the session file to start again")
            self.done = held["done"]

    def rows(self, urls: list[str]) -> Iterator[dict[str, Any]]:
        """Rows of the URLs that were not done before; the session is written after each."""
        for url in urls:
            if url in self.done:
                continue
            row = self._take(url)
            if isinstance(row, str):
                self.done[url] = row
            else:
                self.done[url] = "taken"
                # The session comes after the row: a run that is killed between the two takes the
                # page twice, which is better than never.
                yield row
            write_json(self.session, {"done": self.done})

    def _take(self, url: str) -> dict[str, Any] | str:
        """The row of one URL, or why there is none."""
        parts = urlsplit(url)
        is_web = parts.scheme in ("http", "https") and parts.netloc
        # Names and passwords in a URL would end up in the rows.
        if not is_web or "@" in parts.netloc:
            return "not_a_plain_url"
        # Rules belong to scheme, host and port together.
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
            text = reply.body.decode("utf-8")
        except UnicodeDecodeError:
            return "not_utf8"
        if reply.kind == "text/html":
            text = html_text(text)
        text = text.strip()
        if not text:
            return "no_text"
        name = hashlib.sha256(url.encode()).hexdigest()[:16]
        return {
            "id": f"web-{name}",
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
    """URLs of a text file (one a line) or of a local sitemap XML, each once.

    Raises:
        DataError: the file is missing or not UTF-8.
    """
    fix = "give a UTF-8 file, one URL a line, or a sitemap"
    text = read_text(listing, kind=DataError, fix=fix)
    if "<loc>" in text:
        found = LOCATION.findall(text)
    else:
        lines = [line for line in text.splitlines() if not line.startswith("#")]
        found = [line.strip() for line in lines if line.strip()]
    # A dict keeps the order of the list; a set would not.
    return list(dict.fromkeys(found))
