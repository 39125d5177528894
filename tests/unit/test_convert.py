"""The converter refuses what it would have to guess, and leaves either a whole file or none."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from so8t import gguf_file, identity
from so8t.errors import ArtifactError, ResourceError
from so8t.gguf.convert import tensors
from so8t.gguf.convert.source import Source
from so8t.gguf.convert.vocab import read_vocabulary
from so8t.gguf.convert.write import Recipe, convert, general_name
from so8t.gguf.verify.contents import against_hf
from tests.fakes import tiny_models

ROOT = Path(__file__).parents[2]
RECIPE = Recipe("F16", "tiny", "short")


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.phi3(tmp_path_factory.mktemp("models") / "phi3")


@pytest.fixture
def model(stock: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(stock, tmp_path / "model"))


def edit(path: Path, **changes: object) -> None:
    value = json.loads(path.read_text())
    path.write_text(json.dumps(value | changes))


def edit_tensors(model: Path, change: object) -> None:
    tensors = load_file(model / "model.safetensors")
    change(tensors)  # type: ignore[operator]
    save_file(tensors, model / "model.safetensors")


def refuse(model: Path, match: str, recipe: Recipe = RECIPE) -> None:
    out = model.parent / "out.gguf"
    with pytest.raises(ArtifactError, match=match):
        convert(model, out, recipe)
    assert [p.name for p in model.parent.iterdir()] == [model.name]


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        (
            {"architectures": ["GemmaForCausalLM"]},
            "GemmaForCausalLM is not supported; known: Phi3ForCausalLM",
        ),
        ({"architectures": None}, "is not supported"),
        ({"rms_norm_eps": None}, "config.json has no rms_norm_eps"),
        ({"hidden_act": "gelu"}, "gelu is not silu"),
        ({"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4}}, "rope type dynamic"),
        (
            {
                "rope_parameters": {
                    "rope_type": "longrope",
                    "long_factor": [1.0],
                    "short_factor": [1.0],
                }
            },
            "long_factor has 1 numbers, 16",
        ),
        ({"quantization_config": {"quant_method": "bitsandbytes"}}, "quantised"),
        ({"attention_bias": True}, "no attention bias"),
        ({"num_hidden_layers": 3}, "2 layers in the weights, 3"),
        ({"vocab_size": 600}, "vocab_size 600"),
        ({"vocab_size": 300}, "vocab_size 300"),
    ],
)
def test_a_config_it_does_not_follow_is_refused_by_name(
    model: Path, changes: dict[str, object], match: str
) -> None:
    edit(model / "config.json", **changes)
    refuse(model, match)


def test_a_strange_tensor_is_refused(model: Path) -> None:
    edit_tensors(
        model,
        lambda t: t.update(
            {"model.layers.0.self_attn.so8t_gate.theta": np.zeros((4, 28), np.float32)}
        ),
    )
    refuse(model, "so8t_gate.theta: .* have no place for it")


def test_a_missing_output_matrix_is_refused(model: Path) -> None:
    edit_tensors(model, lambda t: t.pop("lm_head.weight"))
    refuse(model, "lm_head.weight missing")


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_number_that_is_none_is_refused(model: Path, bad: float) -> None:
    def poison(tensors: dict[str, np.ndarray]) -> None:
        tensors["model.layers.1.mlp.down_proj.weight"][3, 3] = bad

    edit_tensors(model, poison)
    refuse(model, "down_proj.weight holds NaN or infinity")


def test_an_overflow_of_float16_is_refused_and_bf16_takes_it(model: Path, tmp_path: Path) -> None:
    def grow(tensors: dict[str, np.ndarray]) -> None:
        tensors["lm_head.weight"][0, 0] = 7e4

    edit_tensors(model, grow)
    refuse(model, "lm_head.weight overflows float16")
    convert(model, tmp_path / "ok.gguf", Recipe("BF16", "tiny", "short"))


def test_an_unknown_split_rule_is_refused(model: Path) -> None:
    path = model / "tokenizer.json"
    path.write_text(path.read_text().replace("{N}|", "{N}+|"))
    refuse(model, "unknown split rule")


def test_a_rule_whose_merges_llama_cpp_would_ignore_is_refused(model: Path) -> None:
    tiny_models.train_bpe(model, vocab_size=512, pre="llama-bpe", ignore_merges=False)
    refuse(model, "needs ignore_merges=true")


def test_a_token_behind_the_last_row_is_refused(model: Path) -> None:
    tokenizer = json.loads((model / "tokenizer.json").read_text())
    tokenizer["added_tokens"][-1]["id"] = 512
    edit(model / "tokenizer.json", **tokenizer)
    refuse(model, "token id 512 lies outside the vocabulary of 512")


def test_a_normaliser_is_refused(model: Path) -> None:
    edit(model / "tokenizer.json", normalizer={"type": "Lowercase"})
    refuse(model, "normaliser 'Lowercase'")


def test_an_index_that_names_another_directory_is_refused(model: Path) -> None:
    (model / "model.safetensors").rename(model / "model-00001-of-00001.safetensors")
    (model / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"a": "../../etc/passwd"}})
    )
    refuse(model, "outside its directory")


def test_a_cut_off_weight_file_is_refused(model: Path) -> None:
    data = (model / "model.safetensors").read_bytes()
    (model / "model.safetensors").write_bytes(data[:-100])
    refuse(model, "does not fit the file")


def test_a_full_disk_is_said_before_anything_is_written(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: type("Usage", (), {"free": 1000})())
    with pytest.raises(ResourceError, match=r"are needed and 0\.00 GB are free"):
        convert(model, model.parent / "out.gguf", RECIPE)


@pytest.mark.parametrize(
    ("name", "written"),
    [("SO8T Phi-3.5 mini", "SO8T Phi 3.5 mini"), ("my phi3", "my phi 3"), ("plain", "plain")],
)
def test_a_byte_level_vocabulary_is_never_named_phi3(
    model: Path, tmp_path: Path, name: str, written: str
) -> None:
    """llama.cpp would strip whitespace after its special tokens (trap T1)."""
    convert(model, tmp_path / "a.gguf", Recipe("F16", name, "short"))
    assert gguf_file.read_keys(tmp_path / "a.gguf")["general.name"] == written


def test_the_phi35_vocabulary_is_always_named_phi3(tmp_path: Path) -> None:
    tiny_models.phi35_tokenizer(tmp_path)
    vocabulary = read_vocabulary(tmp_path, 32064, architecture="Phi3ForCausalLM")
    assert general_name("SO8T ja", vocabulary) == "SO8T ja phi-3"
    assert general_name("Phi-3.5 tuned", vocabulary) == "Phi-3.5 tuned"


def test_sharded_input_gives_the_same_tensors_and_split_output_the_same_digest(
    stock: Path, tmp_path: Path
) -> None:
    sharded = tiny_models.phi3(tmp_path / "sharded", shard="2MB")
    assert len(list(sharded.glob("*.safetensors"))) > 1
    whole = convert(stock, tmp_path / "a.gguf", RECIPE)
    shards = convert(sharded, tmp_path / "b.gguf", RECIPE)
    split = convert(stock, tmp_path / "c.gguf", Recipe("F16", "tiny", "short", split_bytes=1 << 20))
    assert whole["semantic_digest"] == shards["semantic_digest"] == split["semantic_digest"]
    assert len(split["files"]) > 2
    first = tmp_path / split["files"][0]
    identity.check_seal(first)
    data = bytearray((tmp_path / split["files"][-1]).read_bytes())
    data[-100] ^= 1
    (tmp_path / split["files"][-1]).write_bytes(data)
    with pytest.raises(ArtifactError, match="seal"):
        identity.check_seal(first)


def test_the_same_model_gives_the_same_bytes(stock: Path, tmp_path: Path) -> None:
    for name in ("a.gguf", "b.gguf"):
        convert(stock, tmp_path / name, RECIPE)
    assert (tmp_path / "a.gguf").read_bytes() == (tmp_path / "b.gguf").read_bytes()


def test_small_chunks_give_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunking is invisible, also where rows are permuted by head."""
    source = tiny_models.other(tmp_path / "llama", "llama")
    first = convert(source, tmp_path / "a.gguf", RECIPE)
    monkeypatch.setattr(tensors, "CHUNK_ELEMENTS", 1000)
    assert (
        convert(source, tmp_path / "b.gguf", RECIPE)["semantic_digest"] == first["semantic_digest"]
    )


def test_a_wrong_permutation_of_rows_is_seen_by_the_tensor_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tiny_models.other(tmp_path / "llama", "llama")
    monkeypatch.setattr(tensors, "chunks_of", lambda s, item, rows: s.chunks(item.source, rows))
    convert(source, tmp_path / "a.gguf", RECIPE)
    monkeypatch.undo()
    assert [c.name for c in against_hf(tmp_path / "a.gguf", source, "short") if not c.passes] == [
        f"blk.{i}.attn_{k}.weight" for i in range(2) for k in ("k", "q")
    ]


def test_the_short_context_profile_writes_one_table_twice(tmp_path: Path) -> None:
    """Trap T2: llama.cpp chooses the long factors by allocated context."""
    source = tiny_models.phi3(
        tmp_path / "m",
        max_position_embeddings=8192,
        original_max_position_embeddings=256,
        rope_parameters=tiny_models.longrope(32),
    )
    tables = {}
    for profile, context in (("short", 256), ("stock", 8192)):
        path = tmp_path / f"{profile}.gguf"
        convert(source, path, Recipe("F16", "m", profile))  # type: ignore[arg-type]
        assert gguf_file.read_keys(path)["phi3.context_length"] == context
        tables[profile] = {
            t.name: t.sha256
            for t in gguf_file.tensor_table(path, hashes=True)
            if t.name.startswith("rope_factors")
        }
    assert len(set(tables["short"].values())) == 1
    assert len(set(tables["stock"].values())) == 2


def test_kill_9_in_the_middle_leaves_nothing_under_the_final_name(
    model: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out" / "a.gguf"
    code = (
        "import time\nfrom pathlib import Path\nfrom so8t.gguf.convert.write import *\n"
        f"convert(Path({str(model)!r}), Path({str(out)!r}), Recipe('F16', 'm', 'short'), report=lambda w: (print(w.index, flush=True), time.sleep(30)))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not out.exists()
    assert len(list(out.parent.iterdir())) == 1  # the dead run's temporary directory
    convert(model, out, RECIPE)
    assert [p.name for p in out.parent.iterdir()] == ["a.gguf"]  # and the next run clears it away


def test_importing_the_converter_loads_no_torch() -> None:
    code = (
        "import sys, so8t.gguf.convert.write, so8t.gguf.convert.keys, so8t.gguf.cli, so8t.records.cli\n"
        "print([m for m in ('torch', 'transformers', 'llama_cpp', 'pandas') if m in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert result.stdout.strip() == "[]"


def test_every_bf16_number_becomes_the_float16_that_rounding_gives() -> None:
    bits = np.arange(1 << 16, dtype=np.uint16)
    wanted = (bits.astype(np.uint32) << 16).view(np.float32)
    work = tensors.Target(
        tensors.Planned("t", None, bits.shape, always_float32=False),
        tensors.GGMLQuantizationType.F16,
        0,
    )
    finite = np.abs(wanted) < 65520  # what rounds to infinity is refused
    found = np.frombuffer(tensors.encode(bits[finite], work), np.float16)
    assert np.array_equal(found, wanted[finite].astype(np.float16))
    for bad in (0x7F80, 0x7FC0, 0x4780):  # infinity, NaN, 65536
        with pytest.raises(ArtifactError):
            tensors.encode(np.full(4, bad, np.uint16), work)


def test_a_source_gives_rows_without_loading_the_tensor(stock: Path) -> None:
    source = Source(stock)
    tensor = source.tensors["model.embed_tokens.weight"]
    chunks = list(source.chunks(tensor, 100))
    assert [len(chunk) for chunk in chunks] == [100, 100, 100, 100, 100, 12]
    assert np.array_equal(
        np.concatenate(chunks), load_file(stock / "model.safetensors")["model.embed_tokens.weight"]
    )
