"""A careful client of Ollama's HTTP API: what a real server does is in research/serving.md section 2.

An answer counts only when it says `done: true`; a status of 200 does not. Requests do not stream, so that errors come
as statuses.
"""

import http.client
import json
import os
from pathlib import Path
from typing import Any

from so8t.errors import ToolError
from so8t.files import sha256_file
from so8t.server import Server, object_of

DEFAULT_HOST = "http://127.0.0.1:11434"
READY_FIX = "start it (`ollama serve`), or set OLLAMA_HOST"


class Ollama(Server):
    """One Ollama server. Use as a context manager."""

    def __init__(self, host: str | None = None, *, timeout: float | None = None) -> None:
        super().__init__(
            host or os.environ.get("OLLAMA_HOST") or DEFAULT_HOST,
            name="Ollama",
            port=11434,
            fix=READY_FIX,
            setting="OLLAMA_HOST",
            timeout=timeout,
        )

    def version(self) -> str:
        """The server's version."""
        return str(self.call("GET", "/api/version").get("version", ""))

    def upload(self, file: Path) -> tuple[str, bool]:
        """Give the server a file unless it has it; return (`sha256:...`, whether it was sent).

        Raises:
            ToolError: see `call`.
        """
        digest = f"sha256:{sha256_file(file)}"
        path = f"/api/blobs/{digest}"
        status, _ = self.send("HEAD", path, None)
        if status == http.client.OK:
            return digest, False
        with file.open("rb") as content:
            status, answer = self.send("POST", path, content, file.stat().st_size)
        if status not in (http.client.OK, http.client.CREATED):
            raise self.refusal(path, status, object_of(answer))
        return digest, True

    def create(
        self,
        model: str,
        *,
        files: dict[str, str],
        template: str,
        system: str,
        parameters: dict[str, Any],
    ) -> None:
        """Create a model from uploaded files ({relative name: digest}).

        Raises:
            ToolError: see `call`; also when the server does not say `success`.
        """
        answer = self.call(
            "POST",
            "/api/create",
            {
                "model": model,
                "files": files,
                "template": template,
                "system": system,
                "parameters": parameters,
                "stream": False,
            },
        )
        if answer.get("status") != "success":
            raise ToolError(
                f"Ollama did not create {model}", where=self.host, fix="read the server's log"
            )

    def generate(self, model: str, prompt: str, *, options: dict[str, Any]) -> str:
        """Greedy continuation of a raw prompt.

        Raises:
            ToolError: see `call`; also when the answer is not `done: true` (an aborted generation looks like success).
        """
        answer = self.call(
            "POST",
            "/api/generate",
            {
                "model": model,
                "prompt": prompt,
                "raw": True,
                "stream": False,
                "options": {"temperature": 0, "seed": 0, **options},
            },
        )
        if answer.get("done") is not True or not isinstance(answer.get("response"), str):
            raise ToolError(
                f"{model} broke off in the middle of an answer",
                where=self.host,
                fix="read the server's log",
            )
        return str(answer["response"])

    def rendered(self, model: str, conversation: list[dict[str, str]]) -> str | None:
        """What the server's own template makes of a conversation; None where the server is too old to say."""
        answer = self.call(
            "POST",
            "/api/chat",
            {
                "model": model,
                "messages": conversation,
                "stream": False,
                "options": {"num_predict": 1},
                "_debug_render_only": True,
            },
        )
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
        status, answer = self.send("DELETE", "/api/delete", json.dumps({"model": model}).encode())
        if status != http.client.OK:
            raise self.refusal("/api/delete", status, object_of(answer))
