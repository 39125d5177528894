"""A model server on this machine, spoken to in JSON: careful about every way in which an answer can be none.

Only the standard library; no proxy is used, no redirect is followed, every request has a timeout.
"""

import http.client
import json
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

from so8t.errors import ToolError

TIMEOUT_S = (
    120.0  # seconds without a byte before a request is given up; loading a large model is inside it
)


class Server:
    """One server. Use as a context manager.

    Args:
        host: its address; scheme and port may be missing, and 0.0.0.0 means this machine (as Ollama reads OLLAMA_HOST).
        name: for messages.
        port: where the address names none.
        fix: what to do when it does not answer.
        setting: what the address was given by, for messages.
        timeout: seconds.

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
        self.name, self.fix = name, fix
        self.host = address_of(host, port, setting)
        parts = urlsplit(self.host)
        kind = (
            http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        )
        try:
            self._connection = kind(
                parts.hostname or "", parts.port, timeout=TIMEOUT_S if timeout is None else timeout
            )
        except ValueError:
            raise ToolError(
                f"{setting} is not an address", where=self.host, fix=f"use http://127.0.0.1:{port}"
            ) from None

    def call(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """One JSON request.

        Raises:
            ToolError: no connection, a time-out, a status other than 200 or 201, an `error` field, or no JSON object.
        """
        data = None if body is None else json.dumps(body, ensure_ascii=False).encode()
        status, content = self.send(method, path, data)
        answer = object_of(content)
        if status not in (200, 201) or "error" in answer:
            raise self.refusal(path, status, answer)
        return answer

    def send(self, method: str, path: str, body: Any, size: int | None = None) -> tuple[int, bytes]:
        """One request of any kind: status and body.

        Raises:
            ToolError: no connection, or a time-out.
        """
        headers = (
            {"Content-Type": "application/json"} if size is None else {"Content-Length": str(size)}
        )
        try:
            self._connection.request(method, path, body, headers)
            response = self._connection.getresponse()
            return response.status, response.read()
        except TimeoutError:
            raise ToolError(
                f"{self.name} did not answer in time", where=f"{self.host}{path}", fix=self.fix
            ) from None
        except (OSError, http.client.HTTPException) as error:
            raise ToolError(
                f"no answer from {self.name} ({error})", where=f"{self.host}{path}", fix=self.fix
            ) from None
        finally:
            self._connection.close()

    def refusal(self, path: str, status: int, answer: dict[str, Any]) -> ToolError:
        """The error for an answer that says no, with the server's own words."""
        return ToolError(
            _words(self.name, answer.get("error"), status), where=f"{self.host}{path}", fix=self.fix
        )

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
    """The address as scheme://name:port."""
    text = host if "//" in host else f"http://{host}"
    parts = urlsplit(text)
    name = "127.0.0.1" if parts.hostname in ("0.0.0.0", "::") else parts.hostname
    name = f"[{name}]" if name and ":" in name else name
    try:
        found = parts.port or (443 if parts.scheme == "https" else port)
    except ValueError:
        raise ToolError(
            f"{setting} is not an address", where=host, fix=f"use http://127.0.0.1:{port}"
        ) from None
    if not name or parts.scheme not in ("http", "https"):
        raise ToolError(
            f"{setting} is not an address", where=host, fix=f"use http://127.0.0.1:{port}"
        )
    return f"{parts.scheme}://{name}:{found}"


def object_of(content: bytes) -> dict[str, Any]:
    """The JSON object of an answer; of several lines (a stream) the last one, or the first that holds an error."""
    found: dict[str, Any] = {}
    for line in content.splitlines() or [b""]:
        try:
            value = json.loads(line) if line.strip() else {}
        except ValueError:
            return {"error": "the answer is not JSON"}
        found = value if isinstance(value, dict) else {}
        if "error" in found:
            return found
    return found


def _words(name: str, error: Any, status: int) -> str:
    text = (
        error.get("message") if isinstance(error, dict) else error
    )  # llama-server wraps its message
    return (
        f"{name} says: {text[:300]}"
        if isinstance(text, str) and text
        else f"{name} answered with status {status}"
    )
