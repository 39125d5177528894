"""An in-process llama-server for tests: the routes that scoring uses, with the numbers of the real file.

Field names as in llama.cpp's tools/server/README.md (2025 and later): `completion_probabilities`, one entry per
generated token, with `top_logprobs` of `id`, `token`, `bytes`, `logprob`: the softmax of the raw logits, whatever the
sampler is set to. tests/parity/test_served_scoring.py runs the same tests on a real server where SO8T_LLAMA_SERVER is set.
"""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import numpy as np

from so8t.llama import Engine
from tests.fakes.http import serving


@dataclass
class Fake:
    """State of the server: the file, the requests seen, and what is wrong with it."""

    file: Path
    engine: Engine
    turn: threading.Lock = field(default_factory=threading.Lock)
    requests: list[dict[str, Any]] = field(default_factory=list)
    hidden: frozenset[int] = frozenset()  # token ids that are never shown
    status: int = 200
    old: bool = False  # the names of 2024
    address: str = ""


class Handler(BaseHTTPRequestHandler):
    fake: Fake

    def log_message(self, *_: Any) -> None:
        return

    def do_GET(self) -> None:
        if self.path == "/props":
            return self._json(
                200, {"model_path": str(self.fake.file), "build_info": "b0-test", "total_slots": 1}
            )
        return self._json(
            404, {"error": {"code": 404, "message": "File Not Found", "type": "not_found_error"}}
        )

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)))
        if self.fake.status != 200:
            return self._json(
                self.fake.status,
                {
                    "error": {
                        "code": self.fake.status,
                        "message": "Loading model",
                        "type": "unavailable_error",
                    }
                },
            )
        self.fake.requests.append(body)
        return self._json(200, self._completed(body))

    def _completed(self, body: dict[str, Any]) -> dict[str, Any]:
        with self.fake.turn:
            engine = self.fake.engine
            engine.forget()
            row = engine.logits(body["prompt"]).astype(np.float64)
            values = row - (row.max() + np.log(np.exp(row - row.max()).sum()))
            biased = row.copy()
            for token, bias in body.get("logit_bias", []):
                biased[token] += 0.0 if token in self.fake.hidden else bias
            taken = int(biased.argmax())
            best = np.argsort(-values, kind="stable")[: body["n_probs"]].tolist()
            shown = [
                self._entry(engine, i, float(values[i])) for i in best if i not in self.fake.hidden
            ]
            own = self._entry(engine, taken, float(values[taken]))
            if is_half(engine.detokenize([taken])):  # held back, and with it everything about it
                return {"content": "\ufffd", "stop": True, "stop_type": "limit", "truncated": False}
        if self.fake.old:
            return {
                "content": shown[0]["token"],
                "completion_probabilities": [
                    {
                        "content": shown[0]["token"],
                        "probs": [
                            {"tok_str": e["token"], "prob": float(np.exp(e["logprob"]))}
                            for e in shown
                        ],
                    }
                ],
            }
        return {
            "content": own["token"],
            "stop": True,
            "stop_type": "limit",
            "truncated": False,
            "tokens_evaluated": len(body["prompt"]),
            "completion_probabilities": [{**own, "top_logprobs": shown}],
        }

    @staticmethod
    def _entry(engine: Engine, token: int, value: float) -> dict[str, Any]:
        piece = engine.detokenize([token])
        return {
            "id": token,
            "token": piece.decode("utf-8", "replace"),
            "bytes": list(piece),
            "logprob": value,
        }

    def _json(self, status: int, value: Any) -> None:
        content = json.dumps(value, ensure_ascii=False).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


def is_half(piece: bytes) -> bool:
    """Whether the bytes end inside a UTF-8 character."""
    try:
        piece.decode("utf-8")
    except UnicodeDecodeError as error:
        return error.reason == "unexpected end of data"
    return False


@contextmanager
def running(file: Path) -> Iterator[Fake]:
    """A fake server on a free port of this machine; `fake.address` is its URL."""
    with (
        Engine(file, n_ctx=1024, threads=1) as engine,
        serving(Handler, Fake(file, engine)) as fake,
    ):
        yield fake
