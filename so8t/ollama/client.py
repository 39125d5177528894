"""A careful client of Ollama's HTTP API.

An answer counts only when it says `done: true`: an aborted generation has the status 200, too.
Requests do not stream, so that errors come as statuses and not as lines after a status of 200.
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
FIX = "start it (`ollama serve`), or set OLLAMA_HOST"


class Ollama(Server):
    """One Ollama server. Use as a context manager.

    Args:
        host: its address; default: OLLAMA_HOST, else this machine.
        timeout: seconds without a byte before a request is given up; null: the default of `Server`.
    """

    def __init__(self, host: str | None = None, *, timeout: float | None = None) -> None:
        super().__init__(
            host or os.environ.get("OLLAMA_HOST") or DEFAULT_HOST,
            name="Ollama",
            port=11434,
            fix=FIX,
            setting="OLLAMA_HOST",
            timeout=timeout,
        )

    def version(self) -> str:
        """The server's version."""
        return str(self.call("GET", "/api/version").get("version", ""))

    def upload(self, file: Path) -> tuple[str, bool]:
        """Give the server a file unless it has it.

        Returns:
            The file's digest as `sha256:...`, and whether it was sent.

        Raises:
            ToolError: see `call`.
        """
        digest = f"sha256:{sha256_file(file)}"
        path = f"/api/blobs/{digest}"
        # A file has gigabytes, so the server is asked first whether it has it.
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
        """Create a model from uploaded files.

        Args:
            model: its name on the server.
            files: digest by relative name.
            template: Go template of the prompt.
            system: system prompt.
            parameters: by Ollama's names.

        Raises:
            ToolError: see `call`; also when the server does not say `success`.
        """
        request = {
            "model": model,
            "files": files,
            "template": template,
            "system": system,
            "parameters": parameters,
            "stream": False,
        }
        answer = self.call("POST", "/api/create", request)
        if answer.get("status") != "success":
            raise ToolError(
                f"Ollama did not create {model}", where=self.host, fix="read the server's log"
            )

    def generate(self, model: str, prompt: str, *, options: dict[str, Any]) -> str:
        """Greedy continuation of a raw prompt.

        Args:
            model: its name on the server.
            prompt: passed as it is, no template applied.
            options: by Ollama's names, such as num_predict and stop.

        Raises:
            ToolError: see `call`; also when the answer is not `done: true`, because an aborted
                generation looks like success otherwise.
        """
        request = {
            "model": model,
            "prompt": prompt,
            "raw": True,
            "stream": False,
            "options": {"temperature": 0, "seed": 0, **options},
        }
        answer = self.call("POST", "/api/generate", request)
        text = answer.get("response")
        if answer.get("done") is not True or not isinstance(text, str):
            raise ToolError(
                f"{model} broke off in the middle of an answer",
                where=self.host,
                fix="read the server's log",
            )
        return text

    def rendered(self, model: str, conversation: list[dict[str, str]]) -> str | None:
        """What the server's own template makes of a conversation.

        Returns:
            The prompt; None where the server is too old to say.
        """
        request = {
            "model": model,
            "messages": conversation,
            "stream": False,
            # A server that does not know the next field answers instead; one token is enough then.
            "options": {"num_predict": 1},
            "_debug_render_only": True,
        }
        answer = self.call("POST", "/api/chat", request)
        debug = answer.get("_debug_info") or {}
        prompt = debug.get("rendered_template")
        return prompt if isinstance(prompt, str) else None

    def show(self, model: str) -> dict[str, Any]:
        """What the server knows of a model."""
        return self.call("POST", "/api/show", {"model": model})

    def blob_of(self, model: str) -> Path | None:
        """The server's own copy of the weights, when it lies on this machine and may be read."""
        modelfile = str(self.show(model).get("modelfile", ""))
        for line in modelfile.splitlines():
            if not line.startswith("FROM "):
                continue
            path = Path(line.removeprefix("FROM ").strip())
            readable = path.is_file() and os.access(path, os.R_OK)
            return path if readable else None
        return None

    def delete(self, model: str) -> None:
        """Remove a model."""
        request = json.dumps({"model": model}).encode()
        status, answer = self.send("DELETE", "/api/delete", request)
        if status != http.client.OK:
            raise self.refusal("/api/delete", status, object_of(answer))
