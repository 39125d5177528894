"""The fake Ollama, or a real one when OLLAMA_HOST is set, answers as the recorded server did: statuses, types, keys."""

import http.client
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from so8t.ollama.client import Ollama
from tests.fakes.ollama import running
from tests.fakes.tiny_gguf import write_tiny

FIXTURE = Path(__file__).parents[2].parent / "shared" / "fixtures" / "ollama_exchanges.json"
RECORDED_BLOB = "sha256:7aeacdc29a563e2a22c3371d196d0210413f548e37f03a63bdbf5af05051c307"
OPEN_KEYS = {"model_info"}  # depends on the file that was created
CASES = (
    {c["name"]: c for c in json.loads(FIXTURE.read_text(encoding="utf-8"))["cases"]}
    if FIXTURE.is_file()
    else {}
)
ON_REAL = pytest.param(
    "real",
    marks=[
        pytest.mark.ollama,
        pytest.mark.skipif(not os.environ.get("OLLAMA_HOST"), reason="OLLAMA_HOST is not set"),
    ],
)
ONLY_FAKE = {"generate_repeat_abort_stream"}  # needs a model that repeats itself

pytestmark = [
    pytest.mark.parity,
    pytest.mark.skipif(not CASES, reason="recorded exchanges not found in ../shared/fixtures"),
]


def say(model: str, prompt: str) -> list[str]:
    return ["�"] * 60 if model == "rep" else ["use", " ша", "x"]


@pytest.fixture(scope="module", params=["fake", ON_REAL])
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, str, bool]]:
    """(address, digest of an uploaded file, is real)."""
    folder = tmp_path_factory.mktemp("ollama")
    file = write_tiny(folder / "m.gguf")
    if request.param == "real":
        with Ollama() as client:
            yield client.host, set_up(client, file), True
            client.delete("g:t")
        return
    with running(folder, say) as fake, Ollama(fake.address) as client:
        yield fake.address, set_up(client, file), False


def set_up(client: Ollama, file: Path) -> str:
    digest, _ = client.upload(file)
    for name in ("g:t", "rep", "so8t-b:q8"):
        client.create(
            name,
            files={"m.gguf": digest},
            template="{{ .Prompt }}",
            system="s",
            parameters={"num_ctx": 512},
        )
    return digest


def send(address: str, request: dict[str, Any], host: str | None = None) -> tuple[int, str, bytes]:
    parts = urlsplit(address)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=60)
    try:
        body = None if request["json"] is None else json.dumps(request["json"]).encode()
        headers = {"Content-Type": "application/json"} | ({"Host": host} if host else {})
        connection.request(request["method"], request["path"], body, headers)
        answer = connection.getresponse()
        return answer.status, answer.getheader("Content-Type") or "", answer.read()
    finally:
        connection.close()


def decoded(kind: str, content: bytes) -> Any:
    if kind.startswith("application/x-ndjson"):
        return [json.loads(line) for line in content.splitlines()]
    if kind.startswith("text/event-stream"):
        events = [e.removeprefix("data: ") for e in content.decode().split("\n\n") if e]
        return [f"data: {e}" if e == "[DONE]" else json.loads(e) for e in events]
    if kind.startswith("application/json") and content:
        return json.loads(content)
    return content.decode()


def shape(value: Any, name: str = "") -> Any:
    """Keys and types, numbers alike; a list is the set of its items' shapes."""
    if name in OPEN_KEYS:
        return "open"
    if isinstance(value, dict):
        return {key: shape(item, key) for key, item in sorted(value.items())}
    if isinstance(value, list):
        shapes = {json.dumps(shape(item), sort_keys=True, default=str) for item in value}
        return sorted(shapes)
    if value in ("<ns>", "<int>") or (
        isinstance(value, int | float) and not isinstance(value, bool)
    ):
        return "number"
    return value if isinstance(value, bool) else type(value).__name__


@pytest.mark.parametrize("name", list(CASES))
def test_the_server_answers_as_recorded(server: tuple[str, str, bool], name: str) -> None:
    case, (address, digest, real) = CASES[name], server
    if real and name in ONLY_FAKE:
        pytest.skip("needs a model that repeats itself")
    request = (
        case.get("request")
        or {
            "blob_post_existing": {"method": "POST", "path": f"/api/blobs/{digest}", "json": None},
            "blob_wrong_digest": {
                "method": "POST",
                "path": f"/api/blobs/sha256:{'0' * 64}",
                "json": None,
            },
        }[name]
    )
    request = json.loads(json.dumps(request).replace(RECORDED_BLOB, digest))
    if name == "delete":
        send(
            address,
            {
                "method": "POST",
                "path": "/api/copy",
                "json": {"source": "g:t", "destination": "g:u"},
            },
        )
    status, kind, content = send(
        address, request, "evil.example" if name == "foreign_host" else None
    )
    assert status == case["status"]
    if case.get("content_type") is not None and request["method"] != "HEAD":
        assert kind == case["content_type"]
    body = decoded(kind, content)
    if name.startswith("create_") and "stream" in name and isinstance(case["body"], list):
        assert body[-1] == case["body"][-1]
    if (
        isinstance(case.get("body"), dict)
        and "error" in case["body"]
        and not name.startswith(("blob", "create_missing"))
    ):
        assert body == case["body"]
    if case.get("body") is not None and status != 403:
        assert shape(body) == shape(case["body"])


def test_an_aborted_stream_never_says_done(server: tuple[str, str, bool]) -> None:
    if server[2]:
        pytest.skip("needs a model that repeats itself")
    request = CASES["generate_repeat_abort_stream"]["request"]
    _, kind, content = send(server[0], request)
    lines = decoded(kind, content)
    assert len(lines) == len(CASES["generate_repeat_abort_stream"]["body"])
    assert not any(line["done"] for line in lines)
