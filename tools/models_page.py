"""docs/models.md: which models are supported, from the tables in the code, with each row's test.

`tools/docs.py` writes and checks it. A row without a test stops the page, and
`tests/unit/test_model_check.py` stops a test that does not exist.
"""

from so8t.architectures import ARCHITECTURES, Architecture
from so8t.model_folder import ITEM_BYTES
from so8t.rope_settings import ROPE_KINDS
from so8t.split_rules import SPLIT_RULES

LOGITS = "tests/parity/test_gguf_logits.py::"
LOGITS += "test_logits_greedy_text_tensors_and_tokens_equal_hugging_face"
SOURCES = "tests/parity/test_gguf_files.py::test_a_source_of_each_type_is_converted_without_loss"
SCORES = "by scores (SentencePiece)"

# Parameters of the test `LOGITS`, which runs a tiny model in transformers and in llama.cpp.
TESTED_ARCHITECTURES = {
    "Phi3ForCausalLM": ("phi3", "phi35", "phi4"),
    "LlamaForCausalLM": ("llama", "llama3", "llama-biases", "llama-head-dim"),
    "MistralForCausalLM": ("mistral",),
    "Qwen2ForCausalLM": ("qwen2",),
    "Qwen3ForCausalLM": ("qwen3",),
}
TESTED_ROPES = {
    "default": ("phi3", "llama", "mistral", "qwen2", "qwen3"),
    "linear": ("llama-linear", "qwen3-linear"),
    "yarn": ("llama-yarn", "mistral-yarn", "qwen2-yarn"),
    "llama3": ("llama3",),
    "longrope": ("phi35", "phi4"),
}
TESTED_TOKENIZERS = {
    "qwen2": ("phi3", "qwen2", "qwen3"),
    "llama-bpe": ("llama", "mistral"),
    "gpt-4o": ("phi4",),
    SCORES: ("phi35", "phi3-scores"),
}
# Parameters of the test `SOURCES`.
TESTED_TYPES = {"F32": ("float32",), "F16": ("float16",), "BF16": ("bfloat16",)}

HEAD = f"""
# Models

Which models can be trained, converted and certified. Everything else is refused at the first touch,
by `base`, `so8t plan` and `so8t gguf convert` alike (`so8t/model_check.py`), and the error says
what is supported. Each row names the tests that run it on a tiny model, once in transformers and
once in llama.cpp: words in brackets are parameters of
`{LOGITS}`.

A model is a folder with `config.json`, `tokenizer.json`, `tokenizer_config.json` and safetensors:
`model.safetensors`, or the shards that `model.safetensors.index.json` lists. Both at once are
refused; so are contradictions between `config.json` and the weights.
"""


def page() -> str:
    """The page's text."""
    return "\n".join([HEAD, *_architectures(), *_ropes(), *_tokenizers(), *_types(), *_rest(), ""])


def _architectures() -> list[str]:
    lines = [
        "## Architectures",
        "",
        "| class in config.json | model_type | GGUF name | rope | biases | head width | tests |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, row in ARCHITECTURES.items():
        width = "any" if row.any_head_dim else "hidden_size / heads"
        tests = _tests(TESTED_ARCHITECTURES[name])
        lines.append(
            f"| {name} | {row.model_type} | {row.gguf_name} | {', '.join(row.ropes)} "
            f"| {_biases(row)} | {width} | {tests} |"
        )
    return [*lines, ""]


def _biases(row: Architecture) -> str:
    """Which matrices of an architecture have biases, in words."""
    said = [_short(row.biases)] if row.biases else []
    for flag, names in row.bias_flags.items():
        said.append(f"{_short(names)} with {flag}")
    return "; ".join(said) or "none"


def _short(names: tuple[str, ...]) -> str:
    return ", ".join(name.split(".")[-1].removesuffix("_proj") for name in names)


def _ropes() -> list[str]:
    lines = ["## Rope", "", "| kind | settings it needs | tests |", "|---|---|---|"]
    for kind, needs in ROPE_KINDS.items():
        lines.append(f"| {kind} | {', '.join(needs) or 'none'} | {_tests(TESTED_ROPES[kind])} |")
    return [
        *lines,
        "",
        "Factors are at least 1. YaRN is followed with its own attention factor and with beta 32",
        "and 1 only: with others llama.cpp gives other logits, so they are refused.",
        "",
    ]


def _tokenizers() -> list[str]:
    lines = ["## Tokenizers", "", "| split rule | tests |", "|---|---|"]
    names = [rule.name for rule in SPLIT_RULES.values()]
    for name in (*names, SCORES):
        lines.append(f"| {name} | {_tests(TESTED_TOKENIZERS[name])} |")
    return [
        *lines,
        "",
        "A chat template is needed, in `tokenizer_config.json` or in `chat_template.jinja`, which",
        "wins. Of several templates the one named `default` is used, everywhere.",
        "",
    ]


def _types() -> list[str]:
    lines = ["## Types of the weights", "", "| safetensors | tests |", "|---|---|"]
    for name in ITEM_BYTES:
        lines.append(f"| {name} | `{SOURCES}[{TESTED_TYPES[name][0]}]` |")
    return [*lines, ""]


def _rest() -> list[str]:
    return [
        "Not supported: mixtures of experts, models for images or sound, quantised checkpoints,",
        "pickled weights.",
    ]


def _tests(names: tuple[str, ...]) -> str:
    return " ".join(f"[{name}]" for name in names)
