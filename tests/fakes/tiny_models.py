"""Tiny random Hugging Face models of every architecture the converter knows, with real or freshly trained tokenizers."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

PHI35 = Path(__file__).parents[3] / "shared" / "fixtures" / "phi-3.5-mini"
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "added_tokens.json",
    "special_tokens_map.json",
)
LETTERS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
REGEX = {
    "qwen2": rf"(?i:'s|'t|'re|'ve|'m|'ll|'d)|{LETTERS}|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "llama-bpe": rf"(?i:'s|'t|'re|'ve|'m|'ll|'d)|{LETTERS}|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "gpt-4o": (
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
        r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    ),
}
SPECIALS = [
    "<|endoftext|>",
    "<|system|>",
    "<|user|>",
    "<|assistant|>",
    "<|end|>",
    *(f"<|placeholder{i}|>" for i in range(1, 6)),
]
TEMPLATE = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>\\n' + m['content'] + '<|end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}"
)
TEXTS = [
    "依頼を仕分ける日本語アシスタントです。",
    "# 判定\nALLOW\n# 最終回答\n可能です。",
    "It's JavaScript/TypeScript 2026, hello  world!",
    "  先頭の空白と\t タブ\n\n改行",
    "防衛システムの機密情報を教えてください。" * 2,
    "don't helloWorld ESCALATE DENY 12345",
]


def train_bpe(
    directory: Path, *, vocab_size: int, pre: str = "qwen2", ignore_merges: bool = False
) -> None:
    """Train a byte-level BPE tokenizer on a few sentences and write tokenizer.json and tokenizer_config.json."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(REGEX[pre]), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=SPECIALS,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.save(str(directory / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
        "bos_token": "<|endoftext|>",
        "chat_template": TEMPLATE,
        "model_max_length": 2048,
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(config))


def phi35_tokenizer(directory: Path) -> None:
    """Copy the real Phi-3.5 tokenizer; skip where the fixtures are absent."""
    if not PHI35.is_dir():
        pytest.skip("the Phi-3.5 tokenizer fixtures (../shared/fixtures/phi-3.5-mini) are absent")
    for name in TOKENIZER_FILES:
        shutil.copyfile(PHI35 / name, directory / name)


def _save(directory: Path, config: Any, dtype: str, shard: str | None) -> Path:
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = AutoModelForCausalLM.from_config(config).to(getattr(torch, dtype))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if (
                parameter.ndim == 1
            ):  # norms and biases that differ from 1 and 0, so that a lost one is seen
                parameter.add_(torch.randn_like(parameter) * 0.1)
            elif "layers" in name:
                parameter.mul_(4.0)
    model.config.architectures = [type(model).__name__]
    model.save_pretrained(directory, max_shard_size=shard or "5GB")
    return directory


def longrope(dims: int, original: int = 256, factor: int = 32) -> dict[str, Any]:
    """A longrope table with `dims` rotated dimensions whose short and long factors differ."""
    return {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "original_max_position_embeddings": original,
        "factor": float(factor),
        "short_factor": [1.0 + 0.05 * i for i in range(dims // 2)],
        "long_factor": [1.0 + 0.9 * i for i in range(dims // 2)],
    }


def phi3(
    directory: Path,
    *,
    dtype: str = "float32",
    shard: str | None = None,
    real_tokenizer: bool = False,
    **changes: Any,
) -> Path:
    """The demo's shape by default: 2 layers, hidden 256, intermediate 768, 8 heads, byte-level BPE."""
    from transformers import Phi3Config

    directory.mkdir(parents=True, exist_ok=True)
    if real_tokenizer:
        phi35_tokenizer(directory)
    else:
        train_bpe(directory, vocab_size=512, pre=changes.pop("pre", "qwen2"))
    size = 32064 if real_tokenizer else 512
    settings: dict[str, Any] = {
        "vocab_size": size,
        "hidden_size": 256,
        "intermediate_size": 768,
        "num_hidden_layers": 2,
        "num_attention_heads": 8,
        "num_key_value_heads": 8,
        "max_position_embeddings": 2048,
        "original_max_position_embeddings": 2048,
        "sliding_window": None,
        "rms_norm_eps": 1e-5,
        "bos_token_id": 1 if real_tokenizer else 0,
        "eos_token_id": 32000 if real_tokenizer else 0,
        "pad_token_id": 32000 if real_tokenizer else 0,
        "tie_word_embeddings": False,
    }
    return _save(directory, Phi3Config(**(settings | changes)), dtype, shard)


def phi4(directory: Path, *, dtype: str = "float32") -> Path:
    """Phi-4-mini's shape in small: grouped-query, 3/4 rotary, tied embeddings, o200k split rule, longrope."""
    rope = longrope(24) | {"partial_rotary_factor": 0.75}
    path = phi3(
        directory,
        dtype=dtype,
        pre="gpt-4o",
        num_attention_heads=8,
        num_key_value_heads=2,
        tie_word_embeddings=True,
        max_position_embeddings=8192,
        original_max_position_embeddings=256,
        rope_parameters=rope,
        partial_rotary_factor=0.75,
    )
    config = json.loads((path / "tokenizer_config.json").read_text()) | {
        "tokenizer_class": "GPT2Tokenizer"
    }
    (path / "tokenizer_config.json").write_text(json.dumps(config))
    return path


def other(directory: Path, kind: str, *, dtype: str = "float32", **changes: Any) -> Path:
    """llama, mistral, qwen2 or qwen3: 2 layers, grouped-query."""
    from transformers import LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config

    directory.mkdir(parents=True, exist_ok=True)
    pre = "qwen2" if kind.startswith("qwen") else "llama-bpe"
    train_bpe(directory, vocab_size=512, pre=pre, ignore_merges=pre == "llama-bpe")
    settings: dict[str, Any] = {
        "vocab_size": 512,
        "hidden_size": 256,
        "intermediate_size": 512,
        "num_hidden_layers": 2,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-6,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "pad_token_id": 0,
        "tie_word_embeddings": False,
    }
    settings |= {"head_dim": 64} if kind == "qwen3" else {}
    settings |= {"sliding_window": None} if kind == "mistral" else {}
    kinds = {
        "llama": LlamaConfig,
        "mistral": MistralConfig,
        "qwen2": Qwen2Config,
        "qwen3": Qwen3Config,
    }
    return _save(directory, kinds[kind](**(settings | changes)), dtype, None)


def llama3(directory: Path) -> Path:
    """Llama 3.1's rope."""
    return other(
        directory,
        "llama",
        max_position_embeddings=8192,
        rope_parameters={
            "rope_type": "llama3",
            "rope_theta": 5e5,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 512,
        },
    )


def phi35(directory: Path) -> Path:
    """Phi-3.5's real tokenizer and longrope, 2 layers."""
    return phi3(
        directory,
        real_tokenizer=True,
        max_position_embeddings=8192,
        original_max_position_embeddings=256,
        rope_parameters=longrope(32),
        sliding_window=4096,
    )


REFERENCE_MODELS = {  # name -> (builder, the split rule that the reference is told)
    "phi35": (phi35, ""),
    "phi4": (phi4, "gpt-4o"),
    "llama": (lambda d: other(d, "llama"), "llama-bpe"),
    "llama3": (llama3, "llama-bpe"),
    "llama-yarn": (
        lambda d: other(
            d,
            "llama",
            rope_parameters={
                "rope_type": "yarn",
                "rope_theta": 1e4,
                "factor": 4.0,
                "original_max_position_embeddings": 512,
                "beta_fast": 32.0,
                "beta_slow": 1.0,
            },
        ),
        "llama-bpe",
    ),
    "mistral": (lambda d: other(d, "mistral"), "llama-bpe"),
    "qwen2": (lambda d: other(d, "qwen2"), "qwen2"),
    "qwen3": (lambda d: other(d, "qwen3", tie_word_embeddings=True), "qwen2"),
}


def by_scores(directory: Path) -> Path:
    """A Phi-3 whose tokenizer merges by scores and falls back to bytes: the demo's own form."""
    from so8t.base.tokenizer import train_tokenizer

    path = phi3(directory)
    train_tokenizer(path, TEXTS, 512)
    return path


LINEAR = {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 1e4,
    "factor": 4.0,
    "original_max_position_embeddings": 128,
}
VARIANTS = {  # what the table of docs/models.md claims beyond the models that the reference has run
    "phi3-scores": by_scores,
    "llama-linear": lambda d: other(d, "llama", rope_parameters=LINEAR),
    "mistral-yarn": lambda d: other(
        d, "mistral", rope_parameters=YARN, max_position_embeddings=512
    ),
    "qwen2-yarn": lambda d: other(d, "qwen2", rope_parameters=YARN, max_position_embeddings=512),
    "qwen3-linear": lambda d: other(d, "qwen3", rope_parameters=LINEAR),
    "llama-biases": lambda d: other(d, "llama", attention_bias=True, mlp_bias=True),
    "llama-head-dim": lambda d: other(d, "llama", head_dim=64),
}
OURS_ALONE = {
    "so8t.seal",
    "tokenizer.ggml.add_bos_token",
    "general.name",
}  # explicit where the reference is silent
THEIRS_ALONE = (
    "general.name",
    "general.basename",
    "general.finetune",
    "general.version",
    "general.quantized_by",
    "general.organization",
    "general.sampling.",
)


def differences(model: str, reference: dict[str, Any], ours: dict[str, Any]) -> list[str]:
    """What differs between the reference's file and ours, apart from descriptive keys; tensor bytes where both have them."""
    found = []
    for name in sorted({*reference["keys"], *ours["keys"]}):
        theirs, mine = reference["keys"].get(name), ours["keys"].get(name)
        excused = (
            (theirs is None and name in OURS_ALONE)
            or (mine is None and name.startswith(THEIRS_ALONE))
            or name == "general.name"
        )
        if not excused and not _same(theirs, mine):
            found.append(f"{model}: key {name}: reference {theirs}, ours {mine}")
    for name in sorted({*reference["tensors"], *ours["tensors"]}):
        theirs, mine = reference["tensors"].get(name), ours["tensors"].get(name)
        if theirs and mine and theirs[2] is None:  # a golden without bytes
            theirs, mine = theirs[:2], mine[:2]
        if theirs != mine and not (
            name == "rope_freqs.weight" and theirs and mine and theirs[:2] == mine[:2]
        ):
            found.append(f"{model}: tensor {name}: reference {theirs}, ours {mine}")
    return found


def _same(theirs: Any, mine: Any) -> bool:
    return bool(theirs == mine) or (
        theirs is not None
        and mine is not None
        and theirs[0] == mine[0] == "FLOAT32"
        and abs(theirs[2] - mine[2]) <= 1e-7 * abs(theirs[2])
    )
