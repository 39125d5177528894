"""Every form a file can take (F32, F16, BF16, Q8_0, in parts) verifies, loads and computes alike; conversions survive `kill -9`."""

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from so8t import gguf_file, identity, params
from so8t.errors import ArtifactError, GateError, ResourceError
from so8t.files import write_jsonl
from so8t.gguf import cli
from so8t.gguf.convert.key_values import true_keys
from so8t.gguf.convert.write import Recipe, convert
from so8t.gguf.describe import diff_files, inspect_file
from so8t.gguf.quantize import child
from so8t.gguf.quantize.quantize import quantize
from so8t.gguf.verify import verify
from so8t.gguf.verify.contents import against_hf
from so8t.llama import Engine
from so8t.records.ledger import Ledger
from tests.fakes import tiny_models

pytestmark = pytest.mark.parity
ROOT = Path(__file__).parents[2]
IDS = list(range(30, 130))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.phi3(tmp_path_factory.mktemp("m") / "hf", dtype="bfloat16")


def settings() -> params.Params:
    loaded = params.load(ROOT / "params.yaml")
    scoring = loaded.scoring.model_copy(update={"threads": 1, "n_ctx": 512})
    return loaded.model_copy(
        update={"scoring": scoring, "verify": loaded.verify.model_copy(update={"prompts": 2})}
    )


def made(model: Path, out: Path, ftype: Any = "F16", split_bytes: int = 0) -> Path:
    """A converted file with keys; the first part where it is split."""
    manifest = convert(
        model,
        out,
        Recipe(
            ftype, "m", "short", true_keys(model, settings(), base=model, bake=None), split_bytes
        ),
    )
    return out.with_name(manifest["files"][0])


def logits(path: Path) -> np.ndarray:
    with Engine(path, n_ctx=256, threads=1, kv="f32") as engine:
        return np.array(engine.logits(IDS, positions="all"))


def texts(folder: Path) -> Path:
    write_jsonl(
        folder / "texts.jsonl",
        [
            {
                "id": f"r{i}",
                "group": f"g{i}",
                "text": text,
                "response": "# 判定\nALLOW\n# 最終回答\nはい。",
            }
            for i, text in enumerate(tiny_models.TEXTS)
        ],
    )
    return folder / "texts.jsonl"


@pytest.mark.parametrize("ftype", ["F32", "F16", "BF16"])
def test_an_unquantised_file_of_each_type_is_proved_against_its_source(
    model: Path, tmp_path: Path, ftype: str
) -> None:
    path = made(model, tmp_path / "m.gguf", ftype)
    assert verify.claimed_type(path) == ftype
    assert gguf_file.tensor_table(path)[0].type in (ftype, "F32")
    findings = verify.verify(verify.Subject(path, ftype, texts(tmp_path), hf=model), settings())
    assert findings.problems == []
    assert findings.facts["histogram"] == ({"F32": 15} if ftype == "F32" else {"F32": 5, ftype: 10})
    assert all(
        check.nmse == 0 for check in against_hf(path, model, "short") if ftype in ("F32", "BF16")
    )  # a BF16 source loses nothing


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_a_source_of_each_type_is_converted_without_loss(tmp_path: Path, dtype: str) -> None:
    from safetensors import safe_open

    source = tiny_models.phi3(tmp_path / "hf", dtype=dtype)
    with safe_open(source / "model.safetensors", framework="np") as file:
        stored = {file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118
    assert stored == {{"float32": "F32", "float16": "F16", "bfloat16": "BF16"}[dtype]}
    path = made(source, tmp_path / "m.gguf", "F32")
    checks = list(against_hf(path, source, "short"))
    assert len(checks) == 15
    assert {check.nmse for check in checks} == {0}


def test_q8_0_of_the_converter_is_what_libllama_makes_of_f32(model: Path, tmp_path: Path) -> None:
    ours = made(model, tmp_path / "ours.gguf", "Q8_0")
    quantize(made(model, tmp_path / "f32.gguf", "F32"), tmp_path / "theirs.gguf", "Q8_0", threads=1)
    tables = [
        {t.name: (t.type, t.sha256) for t in gguf_file.tensor_table(path, hashes=True)}
        for path in (ours, tmp_path / "theirs.gguf")
    ]
    assert tables[0] == tables[1]


def test_a_file_in_parts_loads_verifies_and_computes_as_the_whole_one(
    model: Path, tmp_path: Path
) -> None:
    whole, first = (
        made(model, tmp_path / "w.gguf"),
        made(model, tmp_path / "s.gguf", split_bytes=1 << 20),
    )
    assert len(gguf_file.shards_of(first)) > 2
    assert np.array_equal(logits(first), logits(whole))
    assert (
        verify.verify(verify.Subject(first, "F16", texts(tmp_path), hf=model), settings()).problems
        == []
    )
    assert diff_files(whole, first)["same_behaviour"]
    assert inspect_file(first)["files"] == len(gguf_file.shards_of(first))
    last = gguf_file.shards_of(first)[-1]
    last.unlink()
    with pytest.raises(ArtifactError):
        identity.check_seal(first)


def test_quantising_needs_its_space_before_it_writes(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = made(model, tmp_path / "f16.gguf")
    said = (
        tmp_path / "patched"
    )  # the child is another process: its own margin becomes larger than any disk
    said.mkdir()
    (said / "sitecustomize.py").write_text(
        "import shutil\nfull = shutil.disk_usage\nshutil.disk_usage = lambda p: full(p)._replace(free=1000)\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{said}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    with pytest.raises(ResourceError, match=r"are needed and 0\.00 GB are free"):
        quantize(source, tmp_path / "q.gguf", "Q8_0", threads=1)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["f16.gguf", "patched"]
    assert child.MARGIN > 0


# --- the command ---


def test_the_verify_command_proves_seal_source_and_reference_and_leaves_with_its_code(
    model: Path, tmp_path: Path
) -> None:
    f16, rows = made(model, tmp_path / "f16.gguf"), str(texts(tmp_path))
    quantize(f16, tmp_path / "q8.gguf", "Q8_0", threads=1)
    run = CliRunner().invoke
    assert "sealed, 15 tensors" in run(cli.gguf, ["verify", str(f16)]).output
    against = run(
        cli.gguf, ["verify", str(f16), "--against", str(model), "--texts", rows, "--json"]
    )
    facts = json.loads(against.stdout)  # progress goes to stderr
    assert {"logits", "tensors", "tokens", "semantic_digest", "histogram"} <= set(facts)
    assert {"perplexity", "kl_mean", "top1"} <= set(facts["logits"])
    reference = run(
        cli.gguf, ["verify", str(tmp_path / "q8.gguf"), "--reference", str(f16), "--texts", rows]
    )
    assert "against F16" in reference.output
    assert reference.exit_code == 0
    other = tiny_models.phi3(tmp_path / "other", dtype="bfloat16", initializer_range=0.5)
    assert isinstance(
        run(cli.gguf, ["verify", str(f16), "--against", str(other), "--texts", rows]).exception,
        GateError,
    )
    data = bytearray(f16.read_bytes())
    data[-9] ^= 1
    f16.write_bytes(data)
    assert isinstance(run(cli.gguf, ["verify", str(f16)]).exception, ArtifactError)


# --- killed, and several at once ---


def converting(model: Path, out: Path, database: Path, body: str = "") -> subprocess.Popen[bytes]:
    """A process that converts within the ledger; `body` runs after each tensor."""
    code = textwrap.dedent(f"""
        import time
        from pathlib import Path
        from so8t.gguf.convert.write import convert_recorded
        from so8t.progress import Progress
        class Slow(Progress):
            def emit(self, event, **fields):
                {body or "pass"}
        convert_recorded(Path({str(model)!r}), Path({str(out)!r}), keys={{}}, name={out.stem!r}, context_profile="short", progress=Slow("t"))
    """)
    return subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(ROOT), "SO8T_DATABASE": str(database)},
    )


def finish(process: subprocess.Popen[bytes]) -> None:
    process.communicate(timeout=180)
    assert process.returncode == 0


def test_kill_9_in_the_middle_of_a_conversion_is_failed_in_the_ledger_at_the_next_start(
    model: Path, tmp_path: Path
) -> None:
    out, database = tmp_path / "out" / "a.gguf", tmp_path / "database"
    process = converting(model, out, database, "print(event, flush=True); time.sleep(60)")
    assert process.stdout is not None
    assert process.stdout.readline() == b"tensor\n"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not out.exists()
    with Ledger(database / "so8t_conversion.db") as book:
        assert [s["conversion_status"] for s in book.sessions()] == ["in_progress"]
    finish(converting(model, out, database))
    assert [p.name for p in out.parent.iterdir()] == ["a.gguf"]
    identity.check_seal(out)
    with Ledger(database / "so8t_conversion.db") as book:
        newest, dead = book.sessions()
    assert (newest["conversion_status"], dead["conversion_status"]) == ("completed", "failed")
    assert dead["error_message"] == "its process died without ending the session"


def test_two_conversions_at_once_are_both_in_the_ledger(model: Path, tmp_path: Path) -> None:
    database = tmp_path / "database"
    running = [
        converting(model, tmp_path / f"{name}.gguf", database, "time.sleep(0.05)") for name in "ab"
    ]
    for process in running:
        finish(process)
    with Ledger(database / "so8t_conversion.db") as book:
        sessions = book.sessions()
        assert {s["model_name"]: s["conversion_status"] for s in sessions} == {
            "a": "completed",
            "b": "completed",
        }
        assert {s["model_name"]: s["semantic_digest"] for s in sessions} == {
            name: identity.semantic_digest(tmp_path / f"{name}.gguf") for name in "ab"
        }
        assert [len(book.rows("layer_conversions", s["session_id"])) for s in sessions] == [15, 15]
