"""Registration: upload once, prove the copy and the prompt, judge the answers, fail closed."""

import http.server
import re
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from so8t import card as cards
from so8t import params as params_module
from so8t.errors import ArtifactError, GateError, ToolError
from so8t.ollama import registration
from so8t.ollama.cli import register
from so8t.ollama.client import Ollama
from so8t.ollama.entry import entry_of
from so8t.params import Params
from tests.fakes.cards import make_card
from tests.fakes.clone import release
from tests.fakes.ollama import rewrite, running
from tests.fakes.released import FAULTS, IDS, forge, without_signature
from tests.fakes.tiny_gguf import write_tiny

pytestmark = pytest.mark.parity
ROOT = Path(__file__).parents[2]
REPLIES = {
    "2+2": "4です。",
    "SO(8)": "回転の群です。",
    "閉域": "情報が外に出ません。",
    "一般的な交通": "ALLOW",
    "航空管制": "ESCALATE",
    "機密情報": "DENY",
}


def good(model: str, prompt: str) -> list[str]:
    return [
        *next(reply for key, reply in REPLIES.items() if key in prompt.rpartition("<|user|>")[2])
    ]


@pytest.fixture(scope="module")
def params() -> Params:
    return params_module.load(ROOT / "params.yaml")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, params: Params) -> Path:
    root = tmp_path_factory.mktemp("built")
    shutil.copyfile(ROOT / "params.yaml", root / "params.yaml")
    folder = root / "models"
    for model, certified in (("a", False), ("b", True)):
        file = folder / "gguf" / f"{model}-{params.release.type}.gguf"
        file.parent.mkdir(exist_ok=True, parents=True)
        write_tiny(file, seed=ord(model))
        card = make_card(file, params.data.system, certified=certified)
        cards.write(folder / "calibration" / f"{model}-{params.release.type}.json", card)
    release(root, file, card)
    return root


@pytest.fixture
def models(tmp_path: Path, built: Path) -> Path:
    return Path(shutil.copytree(built, tmp_path / "built")) / "models"


@pytest.fixture(autouse=True)
def _apart(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OLLAMA_HOST", raising=False)


def call(models: Path, address: str, *arguments: str) -> Any:
    return CliRunner().invoke(
        register, ["--models-dir", str(models), "--host", address, *arguments]
    )


def test_both_models_register_and_the_uncertified_one_is_marked(
    models: Path, tmp_path: Path, params: Params
) -> None:
    with running(tmp_path / "server", good) as fake:
        result = call(models, fake.address, "a", "b", "--allow-uncertified")
    names = [f"{params.active.names.a}-uncertified:latest", f"{params.active.names.b}:latest"]
    assert result.exit_code == 0, result.output
    assert list(fake.models) == names
    assert (
        result.output.count("same semantic digest")
        == result.output.count("equals the chat template")
        == 2
    )
    assert result.output.count(" pass ") == 12
    assert fake.models[names[1]].template.endswith('# 最終回答\\n" }}')
    assert fake.models[names[1]].parameters["temperature"] == params.release.temperature


def test_a_file_is_uploaded_once(models: Path, tmp_path: Path) -> None:
    with running(tmp_path / "server", good) as fake:
        first, second = call(models, fake.address, "b"), call(models, fake.address, "b")
    assert "uploaded" in first.output
    assert "the server had the file" in second.output
    assert [method for method, path, _ in fake.requests if path == "/api/blobs"] == [
        "HEAD",
        "POST",
        "HEAD",
    ]


def test_an_uncertified_model_is_refused(models: Path, params: Params) -> None:
    with pytest.raises(GateError, match="not certified"):
        entry_of(params, "a", models, allow_uncertified=False, expose_thinking=False)


def test_a_card_of_another_file_is_refused(models: Path, params: Params) -> None:
    folder = models / "calibration"
    shutil.copy(folder / f"b-{params.release.type}.json", folder / f"a-{params.release.type}.json")
    with pytest.raises(ArtifactError, match="another file"):
        entry_of(params, "a", models, allow_uncertified=True, expose_thinking=False)


@pytest.mark.parametrize(("fault", "says"), FAULTS, ids=IDS)
def test_a_release_that_is_not_as_it_was_signed_is_not_registered(
    models: Path, tmp_path: Path, fault: Any, says: str
) -> None:
    fault(models / "release")
    with running(tmp_path / "server", good) as fake:
        result = call(models, fake.address, "b")
    assert isinstance(result.exception, ArtifactError)
    assert re.search(says, str(result.exception))
    assert "fix: " in str(result.exception)
    assert fake.models == {}


def test_a_forged_card_beside_the_signed_release_is_not_registered(
    models: Path, tmp_path: Path, params: Params
) -> None:
    forge(models / f"calibration/b-{params.release.type}.json", deny=0.9)
    result = call(models, "http://127.0.0.1:1", "b", "--dry-run")
    assert isinstance(result.exception, ArtifactError)
    assert "not the one that was released" in str(result.exception)
    with pytest.raises(ArtifactError, match="not the one that was released"):
        entry_of(params, "b", models, allow_uncertified=False, expose_thinking=False)


def test_an_unsigned_release_is_registered_only_when_asked_to_and_says_so(models: Path) -> None:
    without_signature(models / "release")
    result = call(models, "http://127.0.0.1:1", "b", "--dry-run", "--unsigned")
    assert result.exit_code == 0
    assert "WARNING: this release is not signed" in result.stderr


def test_the_other_model_needs_no_release(models: Path) -> None:
    shutil.rmtree(models / "release")
    result = call(models, "http://127.0.0.1:1", "a", "--dry-run", "--allow-uncertified")
    assert result.exit_code == 0, result.exception


@pytest.mark.parametrize(
    ("say", "words"),
    [
        (lambda model, prompt: [], "answers nothing to prompts \\[1, 2, 3, 4, 5, 6\\]"),
        (lambda model, prompt: ["あ"] * 40, "broke off"),
    ],
)
def test_an_empty_or_broken_answer_is_a_failure(
    models: Path, tmp_path: Path, say: Any, words: str
) -> None:
    with running(tmp_path / "server", say) as fake:
        result = call(models, fake.address, "b")
    assert isinstance(result.exception, ToolError)
    assert re.search(words, str(result.exception))


def test_a_wrong_answer_is_shown_and_fails_only_when_strict(models: Path, tmp_path: Path) -> None:
    with running(tmp_path / "server", lambda m, p: [*"はい、わかりません。"]) as fake:
        lenient, strict = (
            call(models, fake.address, "b"),
            call(models, fake.address, "b", "--strict"),
        )
    assert lenient.exit_code == 0
    assert lenient.output.count("FAIL") == 4
    assert isinstance(strict.exception, GateError)


def test_a_changed_copy_on_the_server_is_found(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = write_tiny(tmp_path / "other.gguf", seed=99)
    monkeypatch.setattr("tests.fakes.ollama.rewrite", lambda source, target: rewrite(other, target))
    with running(tmp_path / "server", good) as fake:
        result = call(models, fake.address, "b")
    assert isinstance(result.exception, ArtifactError)
    assert "semantic digest" in str(result.exception)


def test_a_server_that_renders_another_prompt_is_found(
    models: Path, tmp_path: Path, params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = entry_of(params, "b", models, allow_uncertified=False, expose_thinking=False)
    monkeypatch.setattr(
        "tests.fakes.ollama.gotemplate.execute", lambda template, data: "{{ .Prompt }}"
    )
    recipe = registration.Recipe("x", "y", "", {})
    with running(tmp_path / "server", good) as fake, Ollama(fake.address) as client:
        monkeypatch.setattr(registration, "recipe_of", lambda _: recipe)
        digest, _ = client.upload(entry.file)
        client.create(entry.name, files={"m": digest}, template="t", system="s", parameters={})
        with pytest.raises(ToolError, match="another prompt"):
            registration._check_rendering(client, entry, recipe)


def test_a_dry_run_talks_to_nobody(models: Path) -> None:
    result = call(models, "http://127.0.0.1:1", "b", "--dry-run")
    assert result.exit_code == 0
    assert "FROM ./b-" in result.output


def test_no_server_is_a_tool_error_that_says_what_to_do(models: Path) -> None:
    result = call(models, "http://127.0.0.1:1", "b")
    assert isinstance(result.exception, ToolError)
    assert "ollama serve" in str(result.exception)


def test_a_server_that_hangs_is_given_up(tmp_path: Path) -> None:
    class Silent(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            threading.Event().wait(2)

        def log_message(self, *_: Any) -> None:
            return

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Silent)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with (
        Ollama(f"127.0.0.1:{server.server_port}", timeout=0.2) as client,
        pytest.raises(ToolError, match="in time"),
    ):
        client.version()
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("0.0.0.0", "http://127.0.0.1:11434"),
        ("box:5", "http://box:5"),
        ("https://x", "https://x:443"),
        ("[::1]:7", "http://[::1]:7"),
    ],
)
def test_the_address_is_read_as_ollama_reads_it(given: str, wanted: str) -> None:
    assert Ollama(given).host == wanted


@pytest.mark.parametrize("wrong", ["ftp://x", "box:port", "http://"])
def test_a_wrong_address_is_a_tool_error(wrong: str) -> None:
    with pytest.raises(ToolError, match="not an address"):
        Ollama(wrong)


def test_the_real_engine_behind_the_fake_reads_the_rewritten_copy(
    models: Path, tmp_path: Path, params: Params
) -> None:
    entry = entry_of(params, "b", models, allow_uncertified=False, expose_thinking=True)
    with running(tmp_path / "server") as fake, Ollama(fake.address) as client:
        digest, _ = client.upload(entry.file)
        client.create(
            "x", files={"m.gguf": digest}, template="{{ .Prompt }}", system="s", parameters={}
        )
        assert client.blob_of("x").read_bytes() != entry.file.read_bytes()
        assert client.generate("x", "<|user|>\nabc", options={"num_predict": 3}) == client.generate(
            "x", "<|user|>\nabc", options={"num_predict": 3}
        )
