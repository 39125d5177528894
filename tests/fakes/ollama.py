"""An in-process Ollama for tests, built to the recorded exchanges of a real one (shared/fixtures/ollama_exchanges.json).

What it copies because it matters: NDJSON by default, blob digests, a create that rewrites the file, errors as statuses or
as lines of a stream with status 200, an aborted generation without `done`, option types, the Host check.
"""

import hashlib
import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from so8t.llama import Engine
from so8t.release import gotemplate
from tests.fakes.http import serving

NDJSON, JSON, JSON_UTF8 = (
    "application/x-ndjson",
    "application/json",
    "application/json; charset=utf-8",
)
LOCAL = ("localhost", "127.0.0.1", "[::1]")
OPTION_TYPES = {
    "temperature": (float, "float32"),
    "top_p": (float, "float32"),
    "num_predict": (int, "integer"),
    "num_ctx": (int, "integer"),
    "seed": (int, "integer"),
    "top_k": (int, "integer"),
    "stop": (list, "array"),
}
REPEAT_LIMIT = 30
TIMES = dict.fromkeys(
    ("total_duration", "load_duration", "prompt_eval_duration", "eval_duration"), 1000
)
NOW = "2026-01-01T00:00:00Z"
Say = Callable[[str, str], list[str]]  # (model, prompt) -> pieces of text


@dataclass
class Model:
    blob: Path
    template: str
    system: str
    parameters: dict[str, Any]


@dataclass
class Fake:
    """State of the server: stored files, models, requests seen, and how it speaks (`say`: None = the real file)."""

    folder: Path
    say: Say | None = None
    models: dict[str, Model] = field(default_factory=dict)
    requests: list[tuple[str, str, Any]] = field(default_factory=list)
    broken: bool = False  # every generation dies in the middle
    knows_logprobs: bool = True  # before 0.12.11 the fields are not there
    favoured: frozenset[int] = (
        frozenset()
    )  # token ids shown whatever their rank (with their real numbers)
    address: str = ""

    def blob(self, digest: str) -> Path:
        return self.folder / "blobs" / digest.replace(":", "-")


def full_name(name: str) -> str:
    lowered = name.lower()
    return lowered if ":" in lowered else f"{lowered}:latest"


def rewrite(source: Path, target: Path) -> None:
    """Copy a GGUF as `llama-quantize COPY` does: same tensors in another order, one more key, other bytes."""
    reader = gguf.GGUFReader(source)
    architecture = str(reader.fields["general.architecture"].contents())
    writer = gguf.GGUFWriter(target, architecture)
    for name, item in reader.fields.items():
        if not name.startswith("GGUF.") and name != "general.architecture":
            sub = item.types[-1] if item.types[0] == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(name, item.contents(), item.types[0], sub)
    writer.add_quantization_version(2)
    for tensor in reversed(reader.tensors):
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    fake: Fake

    def log_message(self, *_: Any) -> None:
        return

    def do_GET(self) -> None:
        self._dispatch("GET")

    def do_POST(self) -> None:
        self._dispatch("POST")

    def do_HEAD(self) -> None:
        self._dispatch("HEAD")

    def do_DELETE(self) -> None:
        self._dispatch("DELETE")

    def _dispatch(self, method: str) -> None:
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        host = (self.headers.get("Host") or "").rsplit(":", 1)[0]
        if host not in LOCAL:
            return self._send(403, "", b"")
        if self.path.startswith("/api/blobs/"):
            return self._blob(method, self.path.rpartition("/")[2], raw)
        body = json.loads(raw) if raw else {}
        self.fake.requests.append((method, self.path, body))
        route = {
            "/": self._root,
            "/api/version": self._version,
            "/api/tags": self._tags,
            "/api/ps": self._ps,
            "/api/show": self._show,
            "/api/create": self._create,
            "/api/copy": self._copy,
            "/api/delete": self._delete,
            "/api/generate": self._generate,
            "/api/chat": self._chat,
            "/v1/models": self._v1_models,
            "/v1/chat/completions": self._v1_chat,
        }.get(self.path)
        return (
            self._send(404, "text/plain", b"404 page not found") if route is None else route(body)
        )

    def _send(self, status: int, kind: str, content: bytes) -> None:
        self.send_response(status)
        if kind:
            self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _json(self, status: int, value: Any, kind: str = JSON_UTF8) -> None:
        self._send(status, kind, json.dumps(value, ensure_ascii=False).encode())

    def _lines(self, values: list[Any], status: int = 200) -> None:
        self._send(
            status,
            NDJSON,
            b"".join(json.dumps(v, ensure_ascii=False).encode() + b"\n" for v in values),
        )

    def _error(self, status: int, text: str, kind: str = JSON_UTF8) -> None:
        self._json(status, {"error": text}, kind)

    # -- files and models --

    def _blob(self, method: str, digest: str, raw: bytes) -> None:
        self.fake.requests.append((method, "/api/blobs", digest))
        if not digest.startswith("sha256:"):
            return self._error(400, "invalid digest format")
        path = self.fake.blob(digest)
        if method == "HEAD":
            return (
                self._send(200, "", b"")
                if path.is_file()
                else self._error(404, f'blob "{digest}" not found')
            )
        if path.is_file():
            return self._send(200, "", b"")
        found = f"sha256:{hashlib.sha256(raw).hexdigest()}"
        if found != digest:
            return self._error(400, f'digest mismatch, expected "{digest}", got "{found}"')
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(raw)
        return self._send(201, "", b"")

    def _root(self, _: Any) -> None:
        self._send(200, "text/plain; charset=utf-8", b"Ollama is running")

    def _version(self, _: Any) -> None:
        self._json(200, {"version": "0.0.0"})

    def _create(self, body: dict[str, Any]) -> None:
        if not body.get("model"):
            return self._error(400, "invalid model name")
        if not body.get("files") and not body.get("from"):
            return self._error(400, "neither 'from' or 'files' was specified", JSON)
        if any(name.startswith("/") for name in body["files"]):
            return self._error(400, "file path must be relative")
        lines: list[dict[str, Any]] = [{"status": "parsing GGUF"}]
        status, failure = self._made(body)
        if failure:
            return (
                self._error(status, failure, JSON)
                if body.get("stream") is False
                else self._lines([*lines, {"error": failure}])
            )
        steps = [
            "verifying conversion",
            *(["creating new layer sha256:0"] * 4),
            "writing manifest",
            "success",
        ]
        return (
            self._json(200, {"status": "success"}, JSON)
            if body.get("stream") is False
            else self._lines([*lines, *({"status": step} for step in steps)])
        )

    def _made(self, body: dict[str, Any]) -> tuple[int, str]:
        digest = next(iter(body["files"].values()))
        source = self.fake.blob(digest)
        if not source.is_file():
            return 500, f"open <models>/blobs/{digest.replace(':', '-')}: no such file or directory"
        try:
            gotemplate.execute(
                body.get("template") or "",
                {"Messages": [], "Prompt": "", "System": "", "Response": ""},
            )
        except gotemplate.GoTemplateError as error:
            return 400, f"template error: {error}"
        partial = self.fake.folder / "blobs" / "partial"
        rewrite(source, partial)
        target = self.fake.blob(f"sha256:{hashlib.sha256(partial.read_bytes()).hexdigest()}")
        partial.replace(target)
        self.fake.models[full_name(body["model"])] = Model(
            target,
            body.get("template") or "{{ .Prompt }}",
            body.get("system") or "",
            body.get("parameters") or {},
        )
        return 200, ""

    def _find(self, name: str) -> Model | None:
        return self.fake.models.get(full_name(name))

    def _show(self, body: dict[str, Any]) -> None:
        model = self._find(body["model"])
        if model is None:
            return self._error(404, f"model '{full_name(body['model'])}' not found")
        reader = gguf.GGUFReader(model.blob)
        info = {
            n: f.contents()
            for n, f in reader.fields.items()
            if f.types[:1] != [gguf.GGUFValueType.ARRAY]
            and not n.startswith(("GGUF.", "tokenizer."))
        }
        text = f'# Modelfile generated by "ollama show"\n\nFROM {model.blob}\nTEMPLATE {model.template}\nSYSTEM {model.system}\n'
        return self._json(
            200,
            {
                "modelfile": text,
                "parameters": "\n".join(f"{k} {v}" for k, v in model.parameters.items()),
                "template": model.template,
                "system": model.system,
                "details": details(),
                "model_info": info,
                "tensors": [
                    {"name": t.name, "type": t.tensor_type.name, "shape": t.shape.tolist()}
                    for t in reader.tensors
                ],
                "capabilities": ["completion"],
                "modified_at": NOW,
            },
        )

    def _tags(self, _: Any) -> None:
        self._json(
            200,
            {
                "models": [
                    {
                        "name": name,
                        "model": name,
                        "modified_at": NOW,
                        "size": model.blob.stat().st_size,
                        "digest": "0" * 64,
                        "details": details(),
                        "capabilities": ["completion"],
                    }
                    for name, model in self.fake.models.items()
                ]
            },
        )

    def _ps(self, _: Any) -> None:
        self._json(
            200,
            {
                "models": [
                    {
                        "name": name,
                        "model": name,
                        "size": 1,
                        "digest": "0" * 64,
                        "details": details(),
                        "expires_at": NOW,
                        "size_vram": 0,
                        "context_length": 512,
                    }
                    for name in self.fake.models
                ]
            },
        )

    def _copy(self, body: dict[str, Any]) -> None:
        model = self._find(body["source"])
        if model is None:
            return self._error(404, f'model "{body["source"]}" not found')
        self.fake.models[full_name(body["destination"])] = model
        return self._send(200, "", b"")

    def _delete(self, body: dict[str, Any]) -> None:
        if self.fake.models.pop(full_name(body["model"]), None) is None:
            return self._error(404, f"model '{body['model']}' not found")
        return self._send(200, "", b"")

    # -- speaking --

    def _refusal(self, body: dict[str, Any]) -> tuple[int, str] | None:
        if self._find(body["model"]) is None:
            return 404, f"model '{body['model']}' not found"
        if not 0 <= body.get("top_logprobs", 0) <= 20:
            return 400, "top_logprobs must be between 0 and 20"
        if body.get("raw") and (body.get("system") or body.get("template") or body.get("context")):
            return 400, "raw mode does not support template, system, or context"
        if body.get("think"):
            return 400, f'"{body["model"]}" does not support thinking'
        for name, value in (body.get("options") or {}).items():
            wanted, word = OPTION_TYPES.get(name, (object, ""))
            fits = isinstance(value, int | float) if wanted is float else isinstance(value, wanted)
            if not fits:
                return 500, f'option "{name}" must be of type {word}'
        return None

    def _generate(self, body: dict[str, Any]) -> None:
        if refused := self._refusal(body):
            return self._error(*refused)
        base = {"model": body["model"], "created_at": NOW}
        if not body.get("prompt"):
            reason = "unload" if body.get("keep_alive") == 0 else "load"
            return self._json(200, {**base, "response": "", "done": True, "done_reason": reason})
        prompt = (
            body["prompt"]
            if body.get("raw")
            else self._templated(body, [{"role": "user", "content": body["prompt"]}])
        )
        pieces, reason = self._pieces(body, prompt)
        context = {} if body.get("raw") else {"context": [1, 2, 3]}
        last = {
            "done": True,
            "done_reason": reason,
            **context,
            **TIMES,
            "prompt_eval_count": len(prompt),
            "eval_count": len(pieces),
        }
        extra = (
            (lambda n: {"logprobs": [logprob(p, body["top_logprobs"]) for p in n]})
            if body.get("logprobs")
            else (lambda _: {})
        )
        if (
            body.get("logprobs") and self.fake.say is None and self.fake.knows_logprobs
        ):  # the real file's numbers
            steps = self._steps(body["model"], prompt, len(pieces), body["top_logprobs"])
            extra = lambda n: {"logprobs": steps[: len(n)]}  # noqa: E731
        if not self.fake.knows_logprobs:
            extra = lambda _: {}  # noqa: E731
        if reason == "aborted":
            last = {"done": False}
        if body.get("stream") is False:
            return self._json(200, {**base, "response": "".join(pieces), **last, **extra(pieces)})
        lines = [{**base, "response": piece, "done": False, **extra([piece])} for piece in pieces]
        return self._lines(
            lines if reason == "aborted" else [*lines, {**base, "response": "", **last}]
        )

    def _chat(self, body: dict[str, Any]) -> None:
        if refused := self._refusal(body):
            return self._error(*refused)
        prompt = self._templated(body, body["messages"])
        if body.get("_debug_render_only"):
            return self._json(
                200,
                {
                    "model": body["model"],
                    "created_at": NOW,
                    "message": {"role": "", "content": ""},
                    "done": False,
                    "_debug_info": {"rendered_template": prompt},
                },
            )
        pieces, reason = self._pieces(body, prompt)
        return self._json(
            200,
            {
                "model": body["model"],
                "created_at": NOW,
                "message": {"role": "assistant", "content": "".join(pieces)},
                "done": True,
                "done_reason": reason,
                **TIMES,
                "prompt_eval_count": 1,
                "eval_count": len(pieces),
            },
        )

    def _templated(self, body: dict[str, Any], turns: list[dict[str, str]]) -> str:
        model = self._find(body["model"])
        assert model is not None
        if model.system and turns[0]["role"] != "system":
            turns = [{"role": "system", "content": model.system}, *turns]
        data = {
            **gotemplate.messages(turns),
            "Prompt": turns[-1]["content"],
            "System": model.system,
        }
        return gotemplate.execute(model.template, data)

    def _pieces(self, body: dict[str, Any], prompt: str) -> tuple[list[str], str]:
        options = {
            **self.fake.models[full_name(body["model"])].parameters,
            **(body.get("options") or {}),
        }
        limit = options.get("num_predict", 128)
        said = self._say(body["model"], prompt, limit)
        if self.fake.broken or (
            len(said) > REPEAT_LIMIT and len(set(said[: REPEAT_LIMIT + 1])) == 1
        ):
            return said[: REPEAT_LIMIT + 1], "aborted"
        pieces: list[str] = []
        for piece in said[:limit]:
            pieces.append(piece)
            text = "".join(pieces)
            if cut := [at for stop in options.get("stop", []) if (at := text.find(stop)) >= 0]:
                return [text[: min(cut)]], "stop"
        return pieces, "length" if len(said) >= limit else "stop"

    def _say(self, model: str, prompt: str, limit: int) -> list[str]:
        if self.fake.say is not None:
            return self.fake.say(model, prompt)
        with Engine(self.fake.models[full_name(model)].blob, n_ctx=1024, threads=1) as engine:
            made = engine.generate(
                engine.tokenize(prompt), max_tokens=limit, stop=set(), forbid=set()
            )
            return [
                engine.detokenize([t]).decode("utf-8", "replace")
                for t in made
                if not engine.is_eog(t)
            ]

    def _steps(self, model: str, prompt: str, count: int, top: int) -> list[dict[str, Any]]:
        """Per generated token what a real server says of it: text and bytes, no ids; nothing of the sampler's settings."""
        with Engine(self.fake.models[full_name(model)].blob, n_ctx=1024, threads=1) as engine:
            ids, steps = engine.tokenize(prompt, special=True, add_special=True), []
            for _ in range(count):
                row = engine.logits(ids).astype(np.float64)
                values = row - (row.max() + np.log(np.exp(row - row.max()).sum()))
                best = np.argsort(-values, kind="stable")[:top].tolist()
                shown = list(dict.fromkeys([best[0], *sorted(self.fake.favoured), *best]))[:top]
                entries = [spoken(engine.detokenize([i]), float(values[i])) for i in shown]
                steps.append({**entries[0], "top_logprobs": entries})
                ids = [*ids, best[0]]
            return steps

    # -- the OpenAI-like routes --

    def _v1_models(self, _: Any) -> None:
        self._json(
            200,
            {
                "object": "list",
                "data": [
                    {"id": n, "object": "model", "created": 1, "owned_by": "library"}
                    for n in self.fake.models
                ],
            },
            JSON,
        )

    def _v1_chat(self, body: dict[str, Any]) -> None:
        def refuse(status: int, text: str, name: str, kind: str) -> None:
            self._json(
                status,
                {"error": {"message": text, "type": name, "param": None, "code": None}},
                kind,
            )

        if not body["messages"]:
            return refuse(400, "[] is too short - 'messages'", "invalid_request_error", JSON_UTF8)
        if self._find(body["model"]) is None:
            return refuse(404, f"model '{body['model']}' not found", "not_found_error", JSON)
        pieces, reason = self._pieces(
            {**body, "options": {"num_predict": body.get("max_tokens", 128)}},
            self._templated(body, body["messages"]),
        )
        usage = {
            "prompt_tokens": 1,
            "completion_tokens": len(pieces),
            "total_tokens": 1 + len(pieces),
        }
        head = {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": 1,
            "model": body["model"],
            "system_fingerprint": "fp_ollama",
        }
        if not body.get("stream"):
            choice: dict[str, Any] = {
                "index": 0,
                "message": {"role": "assistant", "content": "".join(pieces)},
                "finish_reason": reason,
            }
            if body.get("logprobs"):
                choice["logprobs"] = {
                    "content": [logprob(p, body.get("top_logprobs", 0)) for p in pieces]
                }
            return self._json(200, {**head, "choices": [choice], "usage": usage}, JSON)
        head["object"] = "chat.completion.chunk"
        deltas: list[dict[str, Any]] = [{"content": piece} for piece in pieces]
        deltas[0] = {"role": "assistant", **deltas[0]}
        events = [
            {**head, "choices": [{"index": 0, "delta": d, "finish_reason": None}]} for d in deltas
        ]
        events += [
            {**head, "choices": [{"index": 0, "delta": {}, "finish_reason": reason}]},
            {**head, "choices": [], "usage": usage},
        ]
        text = "".join(f"data: {json.dumps(event)}\n\n" for event in events) + "data: [DONE]\n\n"
        return self._send(200, "text/event-stream", text.encode())


def spoken(piece: bytes, value: float) -> dict[str, Any]:
    return {"token": piece.decode("utf-8", "replace"), "logprob": value, "bytes": list(piece)}


def logprob(piece: str, top: int) -> dict[str, Any]:
    one = {"token": piece, "logprob": -1.5, "bytes": list(piece.encode())}
    return {**one, "top_logprobs": [dict(one) for _ in range(top)]}


def details() -> dict[str, Any]:
    return {
        "parent_model": "",
        "format": "gguf",
        "family": "phi3",
        "families": ["phi3"],
        "parameter_size": "1M",
        "quantization_level": "unknown",
    }


def running(folder: Path, say: Say | None = None) -> AbstractContextManager[Fake]:
    """A fake server on a free port of this machine; `fake.address` is its URL."""
    return serving(Handler, Fake(folder, say))
