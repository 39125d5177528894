"""A model server on this machine, spoken to in JSON.

A server can fail in many ways: no connection, no answer in time, a status, an `error` field in an
answer of status 200, no JSON. All of them are a ToolError. Only the standard library is used; no
proxy is used, no redirect is followed, every request has a timeout.
"""

import http.client
import json
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

from so8t.errors import ToolError

# Seconds without a byte before a request is given up. Loading a large model happens inside it.
TIMEOUT_S = 120.0


class Server:
    """One server. Use as a context manager.

    Args:
        host: its address. Scheme and port may be missing, and 0.0.0.0 means this machine (as
            Ollama reads OLLAMA_HOST).
        name: for messages.
        port: where the address names none.
        fix: what to do when it does not answer.
        setting: what the address was given by, for messages.
        timeout: seconds; TIMEOUT_S unless given.

    Raises:
        ToolError: the host is not an address.
    """

    def __init__(
        self,
        host: str,
        *,
        name: str,
        port: int,
        fix: str,
        setting: str,
        timeout: float | None = None,
    ) -> None:
        self.name = name
        self.fix = fix
        self.host = address_of(host, port, setting)
        if timeout is None:
            timeout = TIMEOUT_S
        parts = urlsplit(self.host)
        kind: type[http.client.HTTPConnection] = http.client.HTTPConnection
        if parts.scheme == "https":
            kind = http.client.HTTPSConnection
        try:
            self._connection = kind(parts.hostname or "", parts.port, timeout=timeout)
        except ValueError:
            raise _no_address(self.host, port, setting) from None

    def call(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """One JSON request.

        Raises:
            ToolError: no connection, a time-out, a status other than 200 or 201, an `error` field,
                or no JSON object.
        """
        data = None
        if body is not None:
            data = json.dumps(body, ensure_ascii=False).encode()
        status, content = self.send(method, path, data)
        answer = object_of(content)
        # Ollama reports what goes wrong in the middle of an answer with status 200.
        if status not in (200, 201) or "error" in answer:
            raise self.refusal(path, status, answer)
        return answer

    def send(self, method: str, path: str, body: Any, size: int | None = None) -> tuple[int, bytes]:
        """One request of any kind: status and body.

        Args:
            method: of HTTP.
            path: on the server.
            body: bytes of JSON; or, with `size`, a file to be sent as it is.
            size: bytes of the file, which is then sent in one piece; without it http.client would
                send a file in chunks.

        Raises:
            ToolError: no connection, or a time-out.
        """
        headers = {"Content-Type": "application/json"}
        if size is not None:
            headers = {"Content-Length": str(size)}
        where = f"{self.host}{path}"
        try:
            self._connection.request(method, path, body, headers)
            response = self._connection.getresponse()
            return response.status, response.read()
        except TimeoutError:
            raise ToolError(
                f"{self.name} did not answer in time", where=where, fix=self.fix
            ) from None
        except (OSError, http.client.HTTPException) as error:
            raise ToolError(
                f"no answer from {self.name} ({error})", where=where, fix=self.fix
            ) from None
        finally:
            # A connection that failed half-way cannot be used again. A closed one opens itself.
            self._connection.close()

    def refusal(self, path: str, status: int, answer: dict[str, Any]) -> ToolError:
        """The error for an answer that says no, with the server's own words."""
        problem = _words(self.name, answer.get("error"), status)
        return ToolError(problem, where=f"{self.host}{path}", fix=self.fix)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def address_of(host: str, port: int, setting: str) -> str:
    """The address as scheme://name:port.

    Raises:
        ToolError: it is none.
    """
    text = host if "//" in host else f"http://{host}"
    parts = urlsplit(text)
    name = parts.hostname
    # A server listens on these addresses, but nothing can connect to them everywhere.
    if name in ("0.0.0.0", "::"):
        name = "127.0.0.1"
    if name and ":" in name:
        name = f"[{name}]"
    # The port given is the one for plain HTTP.
    usual = 443 if parts.scheme == "https" else port
    try:
        found = parts.port or usual
    except ValueError:
        raise _no_address(host, port, setting) from None
    if not name or parts.scheme not in ("http", "https"):
        raise _no_address(host, port, setting)
    return f"{parts.scheme}://{name}:{found}"


def _no_address(host: str, port: int, setting: str) -> ToolError:
    return ToolError(
        f"{setting} is not an address",
        where=host,
        fix=f"use http://127.0.0.1:{port}",
    )


def object_of(content: bytes) -> dict[str, Any]:
    """The JSON object of an answer.

    Of several lines (a stream) it is the last one, or the first that holds an error.
    """
    found: dict[str, Any] = {}
    for line in content.splitlines():
        value: Any = {}
        if line.strip():
            try:
                value = json.loads(line)
            except ValueError:
                return {"error": "the answer is not JSON"}
        found = value if isinstance(value, dict) else {}
        if "error" in found:
            return found
    return found


def _words(name: str, error: Any, status: int) -> str:
    # llama-server wraps its message in an object, Ollama gives the text alone.
    text = error.get("message") if isinstance(error, dict) else error
    if isinstance(text, str) and text:
        return f"{name} says: {text[:300]}"
    return f"{name} answered with status {status}"
