"""A careful client of Ollama's HTTP API: what a real server does is in research/serving.md section 2.

An answer counts only when it says `done: true`; a status of 200 does not. Requests do not stream, so that errors come
as statuses. Only the standard library; no proxy is used; every request has a timeout.
"""

import http.client
import json
import os
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

from so8t.errors import ToolError
from so8t.files import sha256_file

DEFAULT_HOST = "http://127.0.0.1:11434"
TIMEOUT_S = 120.0  # seconds without a byte before a request is given up; loading a large model is inside it
READY_FIX = "start it (`ollama serve`), or set OLLAMA_HOST"


class Ollama:
    """One server. Use as a context manager."""

    def __init__(self, host: str | None = None, *, timeout: float = TIMEOUT_S) -> None:
        self.host = _url(host or os.environ.get("OLLAMA_HOST") or DEFAULT_HOST)
        parts = urlsplit(self.host)
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        try:
            self._connection = kind(parts.hostname or "", parts.port, timeout=timeout)
        except ValueError:
            raise ToolError("OLLAMA_HOST is not an address", where=self.host, fix="use http://127.0.0.1:11434") from None

    def version(self) -> str:
        """The server's version."""
        return str(self.call("GET", "/api/version").get("version", ""))

    def call(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """One JSON request.

        Raises:
            ToolError: no connection, a time-out, a status other than 200 or 201, an `error` field, or no JSON object.
        """
        data = None if body is None else json.dumps(body, ensure_ascii=False).encode()
        status, content = self._send(method, path, data)
        answer = _object(content)
        if status not in (200, 201) or "error" in answer:
            raise ToolError(_words(answer.get("error"), status), where=f"{self.host}{path}", fix=READY_FIX)
        return answer

    def _send(self, method: str, path: str, body: Any, size: int | None = None) -> tuple[int, bytes]:
        headers = {"Content-Type": "application/json"} if size is None else {"Content-Length": str(size)}
        try:
            self._connection.request(method, path, body, headers)
            response = self._connection.getresponse()
            return response.status, response.read()
        except TimeoutError:
            raise ToolError("Ollama did not answer in time", where=f"{self.host}{path}", fix=READY_FIX) from None
        except (OSError, http.client.HTTPException) as error:
            raise ToolError(f"no answer from Ollama ({error})", where=f"{self.host}{path}", fix=READY_FIX) from None
        finally:
            self._connection.close()

    def upload(self, file: Path) -> tuple[str, bool]:
        """Give the server a file unless it has it; return (`sha256:...`, whether it was sent).

        Raises:
            ToolError: see `call`.
        """
        digest = f"sha256:{sha256_file(file)}"
        path = f"/api/blobs/{digest}"
        status, _ = self._send("HEAD", path, None)
        if status == http.client.OK:
            return digest, False
        with file.open("rb") as content:
            status, answer = self._send("POST", path, content, file.stat().st_size)
        if status not in (http.client.OK, http.client.CREATED):
            raise ToolError(_words(_object(answer).get("error"), status), where=f"{self.host}{path}", fix=READY_FIX)
        return digest, True

    def create(self, model: str, *, files: dict[str, str], template: str, system: str, parameters: dict[str, Any]) -> None:
        """Create a model from uploaded files ({relative name: digest}).

        Raises:
            ToolError: see `call`; also when the server does not say `success`.
        """
        answer = self.call("POST", "/api/create", {"model": model, "files": files, "template": template, "system": system,
                                                   "parameters": parameters, "stream": False})
        if answer.get("status") != "success":
            raise ToolError(f"Ollama did not create {model}", where=self.host, fix="read the server's log")

    def generate(self, model: str, prompt: str, *, options: dict[str, Any]) -> str:
        """Greedy continuation of a raw prompt.

        Raises:
            ToolError: see `call`; also when the answer is not `done: true` (an aborted generation looks like success).
        """
        answer = self.call("POST", "/api/generate", {"model": model, "prompt": prompt, "raw": True, "stream": False,
                                                     "options": {"temperature": 0, "seed": 0, **options}})
        if answer.get("done") is not True or not isinstance(answer.get("response"), str):
            raise ToolError(f"{model} broke off in the middle of an answer", where=self.host, fix="read the server's log")
        return str(answer["response"])

    def rendered(self, model: str, conversation: list[dict[str, str]]) -> str | None:
        """What the server's own template makes of a conversation; None where the server is too old to say."""
        answer = self.call("POST", "/api/chat", {"model": model, "messages": conversation, "stream": False,
                                                 "options": {"num_predict": 1}, "_debug_render_only": True})
        found = (answer.get("_debug_info") or {}).get("rendered_template")
        return found if isinstance(found, str) else None

    def show(self, model: str) -> dict[str, Any]:
        """What the server knows of a model."""
        return self.call("POST", "/api/show", {"model": model})

    def blob_of(self, model: str) -> Path | None:
        """The server's own copy of the weights, when it lies on this machine and may be read."""
        for line in str(self.show(model).get("modelfile", "")).splitlines():
            if line.startswith("FROM "):
                path = Path(line.removeprefix("FROM ").strip())
                return path if path.is_file() and os.access(path, os.R_OK) else None
        return None

    def delete(self, model: str) -> None:
        """Remove a model."""
        status, answer = self._send("DELETE", "/api/delete", json.dumps({"model": model}).encode())
        if status != http.client.OK:
            raise ToolError(_words(_object(answer).get("error"), status), where=self.host)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.close()


def _url(host: str) -> str:
    """OLLAMA_HOST as Ollama reads it: scheme and port may be missing, and 0.0.0.0 means this machine."""
    text = host if "//" in host else f"http://{host}"
    parts = urlsplit(text)
    name = "127.0.0.1" if parts.hostname in ("0.0.0.0", "::") else parts.hostname
    name = f"[{name}]" if name and ":" in name else name
    try:
        port = parts.port or (443 if parts.scheme == "https" else 11434)
    except ValueError:
        raise ToolError("OLLAMA_HOST is not an address", where=host, fix="use http://127.0.0.1:11434") from None
    if not name or parts.scheme not in ("http", "https"):
        raise ToolError("OLLAMA_HOST is not an address", where=host, fix="use http://127.0.0.1:11434")
    return f"{parts.scheme}://{name}:{port}"


def _object(content: bytes) -> dict[str, Any]:
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


def _words(error: Any, status: int) -> str:
    text = error if isinstance(error, str) else ""
    return f"Ollama says: {text[:300]}" if text else f"Ollama answered with status {status}"
