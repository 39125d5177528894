"""Verify and the five founding tests: a good file passes, and each check fails on a file made for it."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from gguf import GGUFValueType

from so8t import gguf_file, identity, params
from so8t.errors import ArtifactError, GateError
from so8t.files import write_jsonl
from so8t.gguf import cli
from so8t.gguf.batch import read_batch, run_batch
from so8t.gguf.convert.key_values import true_keys
from so8t.gguf.convert.keys import typed
from so8t.gguf.convert.write import Recipe, convert
from so8t.gguf.describe import diff_files, inspect_file
from so8t.gguf.quantize.quantize import quantize
from so8t.gguf.verify import verify
from so8t.gguf.verify.five_tests import five_tests
from so8t.gguf.verify.verify import Subject
from so8t.release.rewrite import rewrite_keys
from tests.fakes import tiny_models

pytestmark = pytest.mark.parity
ROOT = Path(__file__).parents[2]
ROWS = [
    {
        "id": f"r{i}",
        "group": f"g{i}",
        "text": text,
        "response": "# 判定\nALLOW\n# 最終回答\nはい。",
    }
    for i, text in enumerate(tiny_models.TEXTS)
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, its sealed F16 file with keys, texts, and a Q8_0 file."""
    path = tmp_path_factory.mktemp("verify")
    model = tiny_models.phi3(path / "hf")
    convert(
        model,
        path / "f16.gguf",
        Recipe("F16", "m", "short", true_keys(model, settings(), base=model, bake=None)),
    )
    quantize(path / "f16.gguf", path / "q8.gguf", "Q8_0", threads=1)
    write_jsonl(path / "texts.jsonl", ROWS)
    return path


def settings() -> params.Params:
    loaded = params.load(ROOT / "params.yaml")
    scoring = loaded.scoring.model_copy(update={"threads": 1, "n_ctx": 512})
    return loaded.model_copy(
        update={"scoring": scoring, "verify": loaded.verify.model_copy(update={"prompts": 4})}
    )


def subject(folder: Path, name: str = "f16.gguf", kind: str = "F16") -> Subject:
    return Subject(
        folder / name,
        kind,
        folder / "texts.jsonl",
        f16=folder / "f16.gguf" if kind != "F16" else None,
        hf=folder / "hf" if kind == "F16" else None,
    )


def altered(folder: Path, name: str, tensor: str, change: Any) -> Path:
    """A copy of the F16 file with one tensor changed and sealed again, as a wrong converter would write it."""
    path = Path(shutil.copyfile(folder / "f16.gguf", folder / name))
    info = next(t for t in gguf_file.tensor_table(path) if t.name == tensor)
    data = bytearray(path.read_bytes())
    kind = np.float16 if info.type == "F16" else np.float32
    array = (
        np.frombuffer(bytes(data[info.offset : info.offset + info.n_bytes]), kind)
        .reshape(info.shape)
        .copy()
    )
    data[info.offset : info.offset + info.n_bytes] = np.asarray(change(array), kind).tobytes()
    path.write_bytes(data)
    identity.seal(path)
    return path


def poison(array: np.ndarray) -> np.ndarray:
    array[0, 0] = np.nan
    return array


def test_a_true_file_has_no_problems(folder: Path) -> None:
    findings = verify.verify(subject(folder), settings())
    assert findings.problems == []
    facts = findings.facts
    assert facts["tokens"]["differing"] == 0
    assert facts["logits"]["top1"] >= 0.99
    assert facts["logits"]["verdict_probability_max_error"] < 0.01
    assert facts["semantic_digest"] == identity.semantic_digest(folder / "f16.gguf")
    verify.require(findings, folder)
    assert "against Hugging Face" in verify.summary(findings)


def test_a_quantised_file_reports_drift_and_fails_nothing(folder: Path) -> None:
    findings = verify.verify(subject(folder, "q8.gguf", "Q8_0"), settings())
    assert findings.problems == []
    assert 0 < findings.facts["drift"]["kl_mean"] < 0.1
    assert findings.facts["drift"]["perplexity"] > 1
    assert findings.facts["histogram"] == {"F32": 5, "Q8_0": 10}


@pytest.mark.parametrize(
    ("tensor", "change", "problem"),
    [
        ("blk.1.attn_output.weight", np.fliplr, "away from its source"),
        ("blk.0.ffn_down.weight", poison, "holds NaN"),
        ("output.weight", lambda a: np.roll(a, 1, axis=0), "top-1 agreement"),
    ],
)
def test_a_wrong_tensor_fails_the_gate(
    folder: Path, tensor: str, change: Any, problem: str
) -> None:
    altered(folder, "bad.gguf", tensor, change)
    findings = verify.verify(subject(folder, "bad.gguf"), settings())
    assert any(problem in p for p in findings.problems), findings.problems
    with pytest.raises(GateError, match=r"metrics file"):
        verify.require(findings, folder)


def test_loud_reserved_rows_fail_a_baked_file_and_only_that(folder: Path) -> None:
    loud = altered(
        folder,
        "loud.gguf",
        "output.weight",
        lambda a: np.where(np.arange(len(a))[:, None] == 5, a * 60, a),
    )
    keys = typed({"so8t.bake_sha256": "ab" * 32})
    rewrite_keys(loud, folder / "baked.gguf", keys)
    problems = {
        name: verify.verify(subject(folder, name), settings()).problems
        for name in ("loud.gguf", "baked.gguf")
    }
    assert not any("reserved" in p for p in problems["loud.gguf"])
    assert any("greedy decoding picks a reserved token" in p for p in problems["baked.gguf"])


def test_a_broken_seal_stops_before_anything_else(folder: Path) -> None:
    path = Path(shutil.copyfile(folder / "f16.gguf", folder / "flip.gguf"))
    data = bytearray(path.read_bytes())
    data[-3] ^= 4
    path.write_bytes(data)
    with pytest.raises(ArtifactError, match="does not match its seal"):
        verify.verify(subject(folder, "flip.gguf"), settings())


def test_missing_unknown_and_mistyped_keys_are_problems() -> None:
    assert "key so8t.rotation_dim is missing" in verify.key_problems({})
    wrong = {
        "so8t.rotation_dim": gguf_file.KeyValue("8", GGUFValueType.STRING),
        "so8t.invented": gguf_file.KeyValue(1, GGUFValueType.UINT32),
    }
    problems = verify.key_problems(wrong)
    assert "key so8t.rotation_dim has type STRING, not UINT32" in problems
    assert "key so8t.invented is not known" in problems


def test_each_of_the_five_founding_tests_can_fail(folder: Path) -> None:
    assert five_tests(folder / "f16.gguf", folder / "hf", "short")["tests_passed"] == 5
    (folder / "empty.gguf").write_bytes(b"")
    (folder / "cut.gguf").write_bytes((folder / "f16.gguf").read_bytes()[:-1000])
    unsealed = bytearray((folder / "f16.gguf").read_bytes())
    unsealed[
        next(t for t in gguf_file.tensor_table(folder / "f16.gguf") if t.type == "F16").offset
    ] ^= 1  # the last bit of one weight
    (folder / "unsealed.gguf").write_bytes(unsealed)
    convert(folder / "hf", folder / "bare.gguf", Recipe("F16", "m", "short"))
    altered(folder, "other.gguf", "blk.1.attn_output.weight", np.flipud)
    failing = {
        "empty.gguf": "output_file_exists",
        "cut.gguf": "output_file_valid",
        "unsealed.gguf": "conversion_successful",
        "bare.gguf": "metadata_correct",
        "other.gguf": "so8t_structure_preserved",
    }
    for name, test in failing.items():
        results = five_tests(folder / name, folder / "hf", "short")
        assert results[test] is False, name
        assert results["errors"], name
    assert five_tests(folder / "bare.gguf", folder / "hf", "short")["tests_failed"] == 1
    assert five_tests(folder / "other.gguf", folder / "hf", "short")["tests_failed"] == 1
    assert five_tests(folder / "unsealed.gguf", folder / "hf", "short")["tests_failed"] == 1


def test_inspect_and_diff_say_what_is_in_a_file(folder: Path) -> None:
    facts = inspect_file(folder / "f16.gguf")
    assert (facts["seal"], facts["histogram"]) == ("valid", {"F16": 10, "F32": 5})
    assert facts["keys"]["tokenizer.ggml.tokens"]["value"]["count"] == 512
    rewrite_keys(
        folder / "f16.gguf", folder / "card.gguf", typed({"so8t.calibration.temperature": 2.0})
    )
    same = diff_files(folder / "f16.gguf", folder / "card.gguf")
    assert same["same_behaviour"]
    assert set(same["keys"]) == {"so8t.calibration.temperature", identity.SEAL}
    other = diff_files(folder / "f16.gguf", folder / "q8.gguf")
    assert not other["same_behaviour"]
    assert other["tensors"]["output.weight"][1]["type"] == "Q8_0"


def test_the_commands_print_and_fail_with_their_code(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SO8T_DATABASE", str(folder / "database"))
    runner = CliRunner()
    assert (
        "semantic digest" in runner.invoke(cli.gguf, ["inspect", str(folder / "f16.gguf")]).output
    )
    assert (
        json.loads(runner.invoke(cli.gguf, ["inspect", "--json", str(folder / "q8.gguf")]).output)[
            "seal"
        ]
        == "valid"
    )
    assert (
        "behaviour: different"
        in runner.invoke(
            cli.gguf, ["diff", str(folder / "f16.gguf"), str(folder / "q8.gguf")]
        ).output
    )
    made = runner.invoke(
        cli.gguf, ["convert", str(folder / "hf"), str(folder / "cli.gguf"), "--type", "Q8_0"]
    )
    assert "digest" in made.output
    assert isinstance(
        runner.invoke(cli.gguf, ["test", str(folder / "cli.gguf"), str(folder / "hf")]).exception,
        GateError,
    )
    assert json.loads((folder / "cli_test_results.json").read_text())["metadata_correct"] is False


def test_a_batch_goes_on_after_a_failure_and_resumes(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SO8T_DATABASE", str(tmp_path / "database"))
    spec = {
        "out": str(tmp_path / "out"),
        "models": [
            {
                "source": str(folder / "hf"),
                "name": "good",
                "types": ["F16", "Q4_K_M"],
                "context_profile": "short",
            },
            {
                "source": str(folder / "absent"),
                "name": "bad",
                "types": ["F16", "Q8_0"],
                "context_profile": "short",
            },
        ],
    }
    (tmp_path / "models.yaml").write_text(json.dumps(spec))
    batch = read_batch(tmp_path / "models.yaml")
    states = {(o.model, o.type): o.state for o in run_batch(batch, jobs=2, threads=1)}
    assert states == {
        ("good", "F16"): "made",
        ("good", "Q4_K_M"): "made",
        ("bad", "F16"): "failed",
        ("bad", "Q8_0"): "failed",
    }
    (tmp_path / "out" / "good-Q4_K_M.gguf").write_bytes(b"damaged")
    again = {
        (o.model, o.type): o.state for o in run_batch(batch, jobs=1, threads=1) if o.model == "good"
    }
    assert again == {("good", "F16"): "kept", ("good", "Q4_K_M"): "made"}
