"""What cannot be converted is refused before it is trained: by `base`, `so8t plan` and `so8t gguf convert` alike."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import load_file, save_file

from so8t.architectures import ARCHITECTURES, read_model
from so8t.base.local import link_base
from so8t.errors import ArtifactError
from so8t.gguf.convert.write import Recipe, convert
from so8t.model_check import EMBEDDING, OUTPUT, check_base, check_model, expected_shapes
from so8t.model_folder import read_object, stored_tensors, weight_files
from so8t.params import Base, load
from so8t.progress import Progress
from tests.fakes import tiny_models
from tests.fakes.tuning import tiny_base

ROOT = Path(__file__).parents[2]
KINDS = ("phi3", "phi35", "phi4", "llama", "mistral", "qwen2", "qwen3", "tied")
YARN = {
    "rope_type": "yarn",
    "rope_theta": 1e4,
    "factor": 4.0,
    "original_max_position_embeddings": 512,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 5e5,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 512,
}
Folders = Callable[[str], Path]


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {kind: tiny_base(root / kind, kind) for kind in KINDS}


@pytest.fixture
def folder(stock: dict[str, Path], tmp_path: Path) -> Folders:
    """A copy of a tiny model that a test may spoil."""

    def copy(kind: str) -> Path:
        return Path(shutil.copytree(stock[kind], tmp_path / "model"))

    return copy


def edit(path: Path, **changes: Any) -> None:
    value = json.loads(path.read_text())
    value.update(changes)
    path.write_text(json.dumps({key: item for key, item in value.items() if item is not ...}))


def edit_tensors(model: Path, change: Callable[[dict[str, np.ndarray]], object]) -> None:
    tensors = load_file(model / "model.safetensors")
    change(tensors)
    save_file(tensors, model / "model.safetensors")


def base_of(model: Path) -> Base:
    base = load(ROOT / "params.yaml").active.base
    return base.model_copy(update={"kind": "local", "path": str(model), "context_profile": "short"})


def refuse(model: Path, match: str) -> None:
    """All three refuse, with the same words, and write nothing."""
    beside = sorted(path.name for path in model.parent.iterdir())
    said = []
    with pytest.raises(ArtifactError, match=match) as error:
        link_base(base_of(model), model.parent / "linked", Progress("base"))
    said.append(error.value.problem)
    with pytest.raises(ArtifactError, match=match) as error:
        convert(model, model.parent / "out.gguf", Recipe("F16", "m", "short"))
    said.append(error.value.problem)
    assert said[0] == said[1]
    assert error.value.fix
    assert sorted(path.name for path in model.parent.iterdir()) == beside


# --- what is whole passes ---


@pytest.mark.parametrize("kind", KINDS)
def test_every_tensor_of_a_stock_model_is_expected_with_its_shape(
    stock: dict[str, Path], kind: str
) -> None:
    checked = check_base(stock[kind], "short")
    shapes = {
        name: tuple(size.number for size in shape)
        for name, shape in expected_shapes(checked.model).items()
    }
    assert shapes == {name: tensor.shape for name, tensor in checked.tensors.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_each_tensor_that_is_lost_is_named(folder: Folders, kind: str) -> None:
    model = folder(kind)
    whole = load_file(model / "model.safetensors")
    for name in whole:
        save_file({key: whole[key] for key in whole if key != name}, model / "model.safetensors")
        with pytest.raises(ArtifactError, match=f"tensor {name} missing"):
            check_model(model, "short")


def test_base_describes_a_whole_model(folder: Folders, tmp_path: Path) -> None:
    model = folder("qwen2")
    facts = link_base(base_of(model), tmp_path / "linked", Progress("base"))
    numbers = sum(tensor.size for tensor in load_file(model / "model.safetensors").values())
    assert (facts["architecture"], facts["parameters"]) == ("Qwen2ForCausalLM", numbers)
    assert (tmp_path / "linked" / "tokenizer.json").is_file()


# --- flags against the weights ---


def test_a_tied_flag_beside_another_output_matrix_is_refused(folder: Folders) -> None:
    model = folder("llama")
    edit(model / "config.json", tie_word_embeddings=True)
    refuse(model, "tie_word_embeddings is true, and lm_head.weight is not the embedding")


def test_a_tied_matrix_that_is_stored_twice_passes(folder: Folders) -> None:
    model = folder("tied")
    edit_tensors(model, lambda t: t.update({OUTPUT: t[EMBEDDING].copy()}))
    check_base(model, "short")
    edit_tensors(model, lambda t: t[OUTPUT].__setitem__((511, 63), 9.0))
    refuse(model, "not the embedding")


def test_an_untied_flag_without_an_output_matrix_is_refused_with_the_flag_as_fix(
    folder: Folders,
) -> None:
    model = folder("tied")
    edit(model / "config.json", tie_word_embeddings=False)
    with pytest.raises(ArtifactError, match=r"lm_head.weight missing") as error:
        check_model(model, "short")
    assert "tie_word_embeddings to true" in error.value.fix


@pytest.mark.parametrize(
    ("kind", "changes", "match"),
    [
        ("llama", {"vocab_size": 600}, r"embed_tokens.weight is \[512, 64\].* vocab_size 600"),
        ("llama", {"num_key_value_heads": 4}, "k_proj.weight is .* num_key_value_heads 4"),
        ("llama", {"head_dim": 32}, "q_proj.weight is .* head_dim 32"),
        ("llama", {"intermediate_size": 64}, "gate_proj.weight is .* intermediate_size 64"),
        ("llama", {"hidden_size": 32, "head_dim": 16}, "hidden_size 32"),
        ("llama", {"num_hidden_layers": 1}, "2 layers in the weights, 1 in config.json"),
        ("phi3", {"num_key_value_heads": 2}, r"qkv_proj.weight is \[192, 64\]"),
        ("qwen3", {"head_dim": 16}, "q_norm.weight is|q_proj.weight is"),
        ("qwen3", {"head_dim": ...}, "config.json has no head_dim"),
        ("qwen2", {"num_key_value_heads": ...}, "config.json has no num_key_value_heads"),
        ("llama", {"num_key_value_heads": 3}, "4 is no multiple of num_key_value_heads 3"),
        ("llama", {"num_attention_heads": 0}, "num_attention_heads is 0, not a whole number"),
        ("llama", {"num_attention_heads": "4"}, "num_attention_heads is '4'"),
        ("llama", {"attention_bias": True}, "q_proj.bias"),
        ("llama", {"mlp_bias": True}, "gate_proj.bias"),
        ("qwen3", {"attention_bias": True}, "qwen3 has no attention bias"),
        ("llama", {"model_type": "qwen2"}, "model_type is 'qwen2', and LlamaForCausalLM"),
        ("llama", {"model_type": ...}, "model_type is None"),
        (
            "qwen2",
            {"layer_types": ["full_attention", "sliding_attention"]},
            "layer_types names sliding windows, and the other settings none",
        ),
        ("qwen2", {"layer_types": ["full_attention"]}, "names 1 of 2 layers"),
        ("qwen3", {"layer_types": ["linear_attention"] * 2}, "kind linear_attention"),
    ],
)
def test_a_setting_that_the_weights_or_another_setting_deny_is_refused(
    folder: Folders, kind: str, changes: dict[str, Any], match: str
) -> None:
    model = folder(kind)
    edit(model / "config.json", **changes)
    refuse(model, match)


def test_a_qwen2_without_its_biases_is_refused(folder: Folders) -> None:
    model = folder("qwen2")
    names = [f"model.layers.{i}.self_attn.{k}_proj.bias" for i in range(2) for k in "qkv"]
    edit_tensors(model, lambda t: [t.pop(name) for name in names])
    refuse(model, "q_proj.bias, .* and 3 more missing")


def test_biases_that_the_config_denies_are_refused(folder: Folders) -> None:
    model = folder("llama")
    bias = {"model.layers.1.self_attn.o_proj.bias": np.zeros(64, np.float32)}
    edit_tensors(model, lambda t: t.update(bias))
    refuse(model, "o_proj.bias: config.json and LlamaForCausalLM have no place")


def test_a_window_that_a_file_cannot_state_is_refused_for_the_long_context_only(
    folder: Folders,
) -> None:
    model = folder("mistral")
    edit(model / "config.json", sliding_window=256)
    check_model(model, "short")
    with pytest.raises(ArtifactError, match=r"sliding_window 256: llama.cpp's llama has no such"):
        check_model(model, "stock")


def test_qwen2_has_a_window_only_if_it_says_that_it_is_used(folder: Folders) -> None:
    config = read_object(folder("qwen2"))
    config |= {"sliding_window": 256, "layer_types": None}
    assert read_model(config, Path("m")).window is None
    assert read_model(config | {"use_sliding_window": True}, Path("m")).window == 256


# --- architectures and ropes ---


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"architectures": ["MixtralForCausalLM"]}, r"a mixture of experts\); known: Phi3"),
        (
            {"architectures": ["Qwen2VLForConditionalGeneration"], "vision_config": {"depth": 2}},
            "not supported .a model for images or sound.",
        ),
        ({"num_local_experts": 8}, "LlamaForCausalLM with experts is not supported"),
        ({"architectures": []}, r"architecture \(none\) is not supported"),
        ({"architectures": "LlamaForCausalLM"}, r"architecture \(none\) is not supported"),
    ],
)
def test_an_unsupported_architecture_is_named_with_those_that_are(
    folder: Folders, changes: dict[str, Any], match: str
) -> None:
    model = folder("llama")
    edit(model / "config.json", **changes)
    refuse(model, match)
    if "known" in match:
        with pytest.raises(ArtifactError) as error:
            check_model(model, "short")
        assert all(name in error.value.problem for name in ARCHITECTURES)


@pytest.mark.parametrize(
    ("rope", "match"),
    [
        ({"rope_type": "linear", "factor": 0}, "factor must be a number, at least 1; it is 0"),
        ({"rope_type": "linear", "factor": float("inf")}, "factor must be a number"),
        ({"rope_type": "linear", "factor": "4"}, "factor must be a number"),
        ({"rope_type": "linear"}, "rope linear needs factor"),
        ({"rope_type": "dynamic", "factor": 2.0}, "rope type dynamic .* known: default, linear"),
        ({**YARN, "factor": ...}, "rope yarn needs factor"),
        ({**YARN, "attention_factor": 1.5}, "only followed with attention_factor 1.138"),
        ({**YARN, "beta_fast": 16.0}, "only followed with beta_fast 32"),
        ({**YARN, "mscale": 1.0, "mscale_all_dim": 0.5}, "mscale and mscale_all_dim"),
        ({**YARN, "truncate": False}, "truncate false"),
        ({**LLAMA3, "low_freq_factor": ...}, "rope llama3 needs low_freq_factor"),
        ({**LLAMA3, "low_freq_factor": 4.0}, "low_freq_factor below high_freq_factor"),
        ({"rope_theta": 0.0}, "rope_theta must be a number"),
        ({"partial_rotary_factor": 0.5}, "only known for Phi"),
        ({"full_attention": {"rope_theta": 1e4}}, "by kind of layer"),
        ("linear", "rope_parameters is not an object"),
    ],
)
def test_a_rope_that_llama_cpp_does_not_follow_is_refused(
    folder: Folders, rope: Any, match: str
) -> None:
    model = folder("llama")
    if isinstance(rope, dict):
        rope = {key: value for key, value in rope.items() if value is not ...}
    edit(model / "config.json", rope_parameters=rope)
    refuse(model, match)


@pytest.mark.parametrize("kind", ["qwen2", "qwen3"])
def test_a_rope_table_that_qwen_has_no_place_for_is_refused(folder: Folders, kind: str) -> None:
    model = folder(kind)
    edit(model / "config.json", rope_parameters=LLAMA3, max_position_embeddings=4096)
    refuse(model, "rope type llama3 is not supported for Qwen")


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"short_factor": [1.0] * 7}, "short_factor has 7 numbers, 8 are needed"),
        ({"long_factor": [0.0] * 8}, "long_factor has numbers that are not above 0"),
        ({"long_factor": ...}, "rope longrope needs long_factor"),
        ({"factor": 4.0}, "longrope is only followed with factor 32"),
        ({"attention_factor": 2.0}, "longrope is only followed with attention_factor 1.27"),
        ({"original_max_position_embeddings": 512}, "original_max_position_embeddings twice"),
    ],
)
def test_a_longrope_that_contradicts_itself_is_refused(
    folder: Folders, changes: dict[str, Any], match: str
) -> None:
    model = folder("phi35")
    rope = tiny_models.longrope(16) | changes
    rope = {key: value for key, value in rope.items() if value is not ...}
    edit(model / "config.json", rope_parameters=rope)
    refuse(model, match)


def test_two_tables_of_rope_settings_that_differ_are_refused(folder: Folders) -> None:
    model = folder("llama")
    scaling = {"type": "linear", "factor": 2.0}
    edit(model / "config.json", rope_parameters=YARN, rope_scaling=scaling)
    refuse(model, "states factor twice")


# --- weight files ---


def shards_of(model: Path) -> None:
    """Cut model.safetensors into two shards with an index; the single file stays."""
    tensors = load_file(model / "model.safetensors")
    names = sorted(tensors)
    weight_map = {}
    for number, part in enumerate((names[:5], names[5:]), 1):
        file = f"model-0000{number}-of-00002.safetensors"
        save_file({name: tensors[name] for name in part}, model / file)
        weight_map |= dict.fromkeys(part, file)
    index = {"metadata": {}, "weight_map": weight_map}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))


def test_old_shards_beside_a_newer_single_file_are_refused_and_the_single_one_is_read(
    folder: Folders,
) -> None:
    from so8t.base.load import load_full
    from so8t.training.streamed import Shards

    model = folder("llama")
    shards_of(model)
    edit_tensors(model, lambda t: t["model.norm.weight"].fill(3.0))
    with pytest.raises(
        ArtifactError, match=r"two sets of weights: model.safetensors, and 2 shards"
    ):
        link_base(base_of(model), model.parent / "linked", Progress("base"))
    # Whoever reads it all the same reads what transformers does.
    assert [file.name for file in weight_files(model)] == ["model.safetensors"]
    assert float(Shards(model)("model.norm.weight")[0]) == 3.0
    assert load_full(model).model.norm.weight[0].item() == 3.0
    # Shards alone are fine.
    (model / "model.safetensors").unlink()
    check_base(model, "short")
    assert len(weight_files(model)) == 2


def test_shards_of_other_names_that_an_index_lists_are_a_second_set_too(folder: Folders) -> None:
    model = folder("llama")
    save_file({"a": np.zeros(2, np.float32)}, model / "part-a.safetensors")
    index = {"weight_map": {"a": "part-a.safetensors"}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ArtifactError, match="two sets of weights"):
        check_base(model, "short")


def test_an_index_that_was_left_behind_is_no_second_set(folder: Folders) -> None:
    model = folder("llama")
    shards_of(model)
    for file in model.glob("model-*"):
        file.unlink()
    check_base(model, "short")


def test_shards_without_an_index_are_called_that(folder: Folders) -> None:
    model = folder("llama")
    shards_of(model)
    (model / "model.safetensors").unlink()
    (model / "model.safetensors.index.json").unlink()
    refuse(model, r"2 weight files \(model-00001-of-00002.safetensors, ...\) and no model.safe")


@pytest.mark.parametrize(
    ("index", "match"),
    [
        ({}, "the index has no weight_map"),
        ({"weight_map": []}, "the index has no weight_map"),
        ({"weight_map": {"a": 3}}, "outside its directory"),
        ({"weight_map": {"a": "gone.safetensors"}}, "missing weight files"),
        ([], "not a JSON object"),
    ],
)
def test_a_damaged_index_is_refused(folder: Folders, index: Any, match: str) -> None:
    model = folder("llama")
    (model / "model.safetensors").unlink()
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    refuse(model, match)


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json"])
def test_a_git_lfs_pointer_is_called_that(folder: Folders, name: str) -> None:
    model = folder("llama")
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n"
    (model / name).write_text(pointer)
    refuse(model, f"{name}: a git-lfs pointer, not the file itself\n  fix: run `git lfs pull`")


@pytest.mark.parametrize(
    ("header", "match"),
    [
        ([1, 2], "its header is no JSON object"),
        ({"a": 3}, "its entry for a is malformed"),
        ({"a": {"dtype": "F32", "shape": [1]}}, "its entry for a is malformed"),
        ({"a": {"dtype": "F32", "shape": ["x"], "data_offsets": [0, 4]}}, "malformed"),
        ({"a": {"dtype": "F64", "shape": [1], "data_offsets": [0, 8]}}, "F32, F16, BF16 are known"),
        ({"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, -4]}}, "does not fit"),
        ({}, "bytes follow its last tensor"),
    ],
)
def test_a_header_that_is_none_is_refused(folder: Folders, header: Any, match: str) -> None:
    model = folder("llama")
    text = json.dumps(header).encode()
    data = len(text).to_bytes(8, "little") + text + b"\0" * 16
    (model / "model.safetensors").write_bytes(data)
    refuse(model, match)


def test_headers_are_read_without_the_weights(folder: Folders) -> None:
    model = folder("llama")
    tensors = load_file(model / "model.safetensors")
    found = stored_tensors(model)
    assert {name: item.shape for name, item in found.items()} == {
        name: array.shape for name, array in tensors.items()
    }
    one = found["model.norm.weight"]
    data = one.file.read_bytes()[one.offset : one.offset + one.n_bytes]
    assert data == tensors["model.norm.weight"].tobytes()


# --- tokenizer and template ---


def test_a_truncated_tokenizer_is_refused_wherever_it_is_read(folder: Folders) -> None:
    from so8t.template import Template

    model = folder("llama")
    path = model / "tokenizer.json"
    path.write_text(path.read_text()[:-500])
    refuse(model, "not valid JSON")
    # `prepare` and `convert-pt` read it like this.
    with pytest.raises(ArtifactError, match="not valid JSON"):
        Template.find(model)
    path.write_text("{}")
    with pytest.raises(ArtifactError, match="not a tokenizer"):
        Template.of(model)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"model": {"type": "Unigram", "vocab": []}}, "'Unigram' is not supported; known: BPE"),
        ({"model": {"type": "BPE", "merges": []}}, "the tokenizer has no vocabulary"),
        ({"model": None}, "tokenizer model None is not supported"),
        ({"pre_tokenizer": {"type": "Whitespace"}}, "unknown split rule"),
    ],
)
def test_a_tokenizer_that_llama_cpp_does_not_follow_is_refused(
    folder: Folders, changes: dict[str, Any], match: str
) -> None:
    model = folder("llama")
    edit(model / "tokenizer.json", **changes)
    refuse(model, match)


def test_of_named_templates_training_serving_and_the_file_take_the_default(
    folder: Folders, tmp_path: Path
) -> None:
    from so8t import gguf_file
    from so8t.scoring.hf import HfVocabulary
    from so8t.template import Template

    model = folder("llama")
    named = [
        {"name": "tool_use", "template": "tools"},
        {"name": "default", "template": tiny_models.TEMPLATE},
    ]
    edit(model / "tokenizer_config.json", chat_template=named)
    convert(model, tmp_path / "a.gguf", Recipe("F16", "m", "short"))
    written = gguf_file.read_keys(tmp_path / "a.gguf")["tokenizer.chat_template"]
    served = HfVocabulary(model).keys()["tokenizer.chat_template"]
    assert {written, served, Template.of(model).chat} == {tiny_models.TEMPLATE}


def test_named_templates_without_a_default_are_listed(folder: Folders) -> None:
    model = folder("llama")
    named = [{"name": name, "template": "x"} for name in ("tool_use", "rag")]
    edit(model / "tokenizer_config.json", chat_template=named)
    refuse(model, "chat templates named rag, tool_use, and none named default")


def test_a_template_in_a_file_of_its_own_is_the_one_that_is_written(
    folder: Folders, tmp_path: Path
) -> None:
    from so8t import gguf_file
    from so8t.template import Template

    model = folder("llama")
    own = tiny_models.TEMPLATE.replace("<|end|>", "<|endoftext|>")
    (model / "chat_template.jinja").write_text(own)
    convert(model, tmp_path / "a.gguf", Recipe("F16", "m", "short"))
    written = gguf_file.read_keys(tmp_path / "a.gguf")["tokenizer.chat_template"]
    assert written == Template.of(model).chat == own


def test_a_model_without_a_template_is_refused(folder: Folders) -> None:
    model = folder("llama")
    edit(model / "tokenizer_config.json", chat_template=...)
    refuse(model, "no chat template")


def test_what_a_template_says_is_shown_and_what_it_quotes_is_not(folder: Folders) -> None:
    from so8t.chat import render

    model = folder("llama")
    refusing = "{% if messages[0].role == 'system' %}{{ raise_exception('No system role here') }}"
    edit(model / "tokenizer_config.json", chat_template=refusing + "{% endif %}")
    refuse(model, "refuses the conversation: No system role here")
    quoting = "{{ raise_exception('Not a request: ' + messages[0].content) }}"
    message = {"role": "user", "content": "防衛の秘密"}
    with pytest.raises(ArtifactError, match=r"Not a request: \.\.\.\n") as error:
        render(quoting, [message], add_generation_prompt=False)
    assert "防衛" not in str(error.value)


# --- the commands ---


def test_plan_refuses_what_base_refuses(
    folder: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from so8t.plan import cli

    model = folder("llama")
    edit(model / "config.json", rope_parameters={"rope_type": "linear", "factor": 0})
    params = load(ROOT / "params.yaml")
    profile = params.active.model_copy(update={"base": base_of(model), "scratch": None})
    monkeypatch.setattr(type(params), "active", profile)
    monkeypatch.setattr(cli.params_module, "load", lambda: params)
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(cli.plan, [])
    assert isinstance(result.exception, ArtifactError)
    assert "factor must be a number" in str(result.exception)


def test_inspecting_a_directory_is_an_error_that_names_the_command(folder: Folders) -> None:
    from so8t.gguf.describe import inspect_file

    with pytest.raises(ArtifactError, match="a directory, not a GGUF file") as error:
        inspect_file(folder("llama"))
    assert "gguf convert" in error.value.fix


def test_the_check_loads_no_torch() -> None:
    import subprocess
    import sys

    code = (
        "import sys, so8t.model_check; print(sorted({'torch', 'transformers'} & set(sys.modules)))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert result.stdout.strip() == "[]"


# --- docs/models.md ---


def test_every_row_of_the_table_names_a_test_that_runs_it() -> None:
    from tests.parity import test_gguf_logits
    from tools import models_page

    for name, row in ARCHITECTURES.items():
        assert models_page.TESTED_ARCHITECTURES[name], row
    tables = (
        models_page.TESTED_ARCHITECTURES,
        models_page.TESTED_ROPES,
        models_page.TESTED_TOKENIZERS,
    )
    named = {name for table in tables for names in table.values() for name in names}
    assert named <= set(test_gguf_logits.MODELS)
    for test in (models_page.LOGITS, models_page.SOURCES):
        path, _, function = test.partition("::")
        assert f"def {function}(" in (ROOT / path).read_text(encoding="utf-8")


@pytest.mark.parametrize("kind", ["llama-linear", "mistral-yarn", "qwen2-yarn", "llama-biases"])
def test_the_model_of_a_row_has_the_kind_that_the_row_is_about(tmp_path: Path, kind: str) -> None:
    model = check_model(tiny_models.VARIANTS[kind](tmp_path / kind), "short").model
    rope = kind.split("-")[1]
    assert (model.rope_type == rope) or len(model.biases) == 7


def test_every_rope_of_an_architecture_is_a_known_kind() -> None:
    from so8t.rope_settings import ROPE_KINDS

    kinds = {kind for row in ARCHITECTURES.values() for kind in row.ropes}
    assert kinds == set(ROPE_KINDS)
