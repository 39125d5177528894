"""What each supported architecture writes: hyper-parameter keys, and which tensor becomes which.

Names and values equal those of llama.cpp's own converter (`tests/parity/test_reference_keys.py`). Anything that
llama.cpp would compute differently from Hugging Face is refused by name, never guessed.

Covered: Phi-3/3.5, Phi-4-mini, Llama 2/3, Mistral, Qwen2/2.5, Qwen3 (dense); rope default, linear, yarn, llama3,
longrope; grouped-query, partial rotary and tied embeddings.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import gguf
import numpy as np
from gguf import GGUFValueType
from numpy.typing import NDArray

from so8t.errors import ArtifactError
from so8t.gguf.convert.source import Source, SourceTensor
from so8t.gguf_file import KeyValue

ContextProfile = Literal["short", "stock"]
ARCHITECTURES = {
    "Phi3ForCausalLM": gguf.MODEL_ARCH.PHI3,
    "LlamaForCausalLM": gguf.MODEL_ARCH.LLAMA,
    "MistralForCausalLM": gguf.MODEL_ARCH.LLAMA,
    "Qwen2ForCausalLM": gguf.MODEL_ARCH.QWEN2,
    "Qwen3ForCausalLM": gguf.MODEL_ARCH.QWEN3,
}
IGNORED_SUFFIXES = (".attention.masked_bias", ".attention.bias", ".rotary_emb.inv_freq")


@dataclass(frozen=True, slots=True)
class Planned:
    """One tensor to write: from the source, or `values` made here (float32); `heads` > 0 un-permutes Llama's rows."""

    name: str
    source: SourceTensor | None
    shape: tuple[int, ...]
    always_float32: bool
    heads: int = 0
    values: NDArray[np.float32] | None = None


@dataclass(frozen=True, slots=True)
class Model:
    """A checked config.json: the numbers that every architecture has, and its rope."""

    architecture: str
    arch: gguf.MODEL_ARCH
    config: dict[str, Any]
    rope: dict[str, Any]

    @property
    def prefix(self) -> str:
        """GGUF name of the architecture."""
        return str(gguf.MODEL_ARCH_NAMES[self.arch])

    @property
    def head_dim(self) -> int:
        """Width of a head."""
        return int(
            self.config.get("head_dim")
            or self.config["hidden_size"] // self.config["num_attention_heads"]
        )

    @property
    def kv_heads(self) -> int:
        """Key and value heads."""
        return int(self.config.get("num_key_value_heads") or self.config["num_attention_heads"])

    @property
    def rope_type(self) -> str:
        """default, linear, yarn, llama3 or longrope."""
        kind = str(self.rope.get("rope_type") or self.rope.get("type") or "default").lower()
        return "longrope" if kind == "su" else kind

    @property
    def rope_dims(self) -> int:
        """Rotated dimensions of a head (Phi's partial rotary factor)."""
        share = float(self.rope.get("partial_rotary_factor", 1.0))
        return int(share * self.config["hidden_size"]) // int(self.config["num_attention_heads"])

    @property
    def original_context(self) -> int:
        """Context of the original training."""
        return int(
            self.rope.get("original_max_position_embeddings")
            or self.config["max_position_embeddings"]
        )


def read_model(config: dict[str, Any], where: Path) -> Model:
    """Check a config and name its architecture.

    Raises:
        ArtifactError: unknown architecture, missing number, or a setting that llama.cpp does not follow.
    """
    names = config.get("architectures") or ["(none)"]
    fix = f"convert it with llama.cpp's own script: python convert_hf_to_gguf.py {where.name}"
    if names[0] not in ARCHITECTURES:
        raise ArtifactError(
            f"architecture {names[0]} is not supported; known: {', '.join(ARCHITECTURES)}",
            where=str(where),
            fix=fix,
        )
    needed = (
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "vocab_size",
        "max_position_embeddings",
        "rms_norm_eps",
    )
    if missing := [key for key in needed if config.get(key) is None]:
        raise ArtifactError(
            f"config.json has no {', '.join(missing)}",
            where=str(where),
            fix="give the model's own config.json",
        )
    model = Model(names[0], ARCHITECTURES[names[0]], config, _rope(config))
    if refusals := _refusals(model):
        raise ArtifactError("; ".join(refusals), where=str(where), fix=fix)
    return model


def _rope(config: dict[str, Any]) -> dict[str, Any]:
    """Rope settings of transformers 4 (`rope_scaling` and top-level keys) and 5 (`rope_parameters`), as one table."""
    rope = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
    for key in ("rope_theta", "partial_rotary_factor", "original_max_position_embeddings"):
        if rope.get(key) is None and config.get(key) is not None:
            rope[key] = config[key]
    return rope


def _refusals(model: Model) -> list[str]:
    config, found = model.config, []
    known_ropes = (
        {"default", "longrope"}
        if model.arch == gguf.MODEL_ARCH.PHI3
        else {"default", "linear", "yarn", "llama3"}
    )
    if model.rope_type not in known_ropes:
        found.append(f"rope type {model.rope_type} is not supported for {model.architecture}")
    if config.get("quantization_config"):
        found.append("the checkpoint is quantised; convert from the unquantised one")
    if config.get("hidden_act", "silu") != "silu":
        found.append(f"activation {config['hidden_act']} is not silu")
    if model.arch == gguf.MODEL_ARCH.PHI3 and config.get("attention_bias"):
        found.append("llama.cpp's phi3 has no attention bias")
    if (
        model.arch == gguf.MODEL_ARCH.PHI3
        and model.head_dim * config["num_attention_heads"] != config["hidden_size"]
    ):
        found.append("llama.cpp's phi3 needs heads x head_dim = hidden_size")
    if (
        model.arch != gguf.MODEL_ARCH.PHI3
        and float(model.rope.get("partial_rotary_factor", 1.0)) != 1.0
    ):
        found.append("a partial rotary factor is only known for Phi")
    return found


def context_length(model: Model, profile: ContextProfile) -> int:
    """Context the file promises. `short` stops where llama.cpp would stop computing what Hugging Face computes:
    at the original context of longrope models (T2 in research/gguf.md) and at the sliding window."""
    stock = int(model.config["max_position_embeddings"])
    if profile == "stock":
        return stock
    limits = [stock]
    if model.rope_type == "longrope":
        limits.append(model.original_context)
    window = model.config.get("sliding_window")
    if window and model.config.get("use_sliding_window", True):
        limits.append(int(window))
    return min(limits)


def hyper_keys(model: Model, profile: ContextProfile) -> dict[str, KeyValue]:
    """Hyper-parameter keys of the architecture."""
    config, rope = model.config, model.rope
    values: list[tuple[str, Any, GGUFValueType]] = [
        ("block_count", config["num_hidden_layers"], GGUFValueType.UINT32),
        ("context_length", context_length(model, profile), GGUFValueType.UINT32),
        ("embedding_length", config["hidden_size"], GGUFValueType.UINT32),
        ("feed_forward_length", config["intermediate_size"], GGUFValueType.UINT32),
        ("attention.head_count", config["num_attention_heads"], GGUFValueType.UINT32),
        ("attention.head_count_kv", model.kv_heads, GGUFValueType.UINT32),
        ("attention.layer_norm_rms_epsilon", float(config["rms_norm_eps"]), GGUFValueType.FLOAT32),
        ("rope.freq_base", float(rope.get("rope_theta", 10000.0)), GGUFValueType.FLOAT32),
    ]
    values += _phi3_values(model) if model.arch == gguf.MODEL_ARCH.PHI3 else _llama_values(model)
    return {f"{model.prefix}.{key}": KeyValue(value, kind) for key, value, kind in values}


def _phi3_values(model: Model) -> list[tuple[str, Any, GGUFValueType]]:
    values: list[tuple[str, Any, GGUFValueType]] = [
        ("rope.scaling.original_context_length", model.original_context, GGUFValueType.UINT32),
        ("rope.dimension_count", model.rope_dims, GGUFValueType.UINT32),
        (
            "attention.sliding_window",
            int(model.config.get("sliding_window") or 0),
            GGUFValueType.UINT32,
        ),
    ]
    if model.rope_type == "longrope":
        scale, original = (
            model.config["max_position_embeddings"] / model.original_context,
            model.original_context,
        )
        factor = math.sqrt(1 + math.log(scale) / math.log(original)) if scale > 1 else 1.0
        values.append(("rope.scaling.attn_factor", factor, GGUFValueType.FLOAT32))
    return values


def _llama_values(model: Model) -> list[tuple[str, Any, GGUFValueType]]:
    values: list[tuple[str, Any, GGUFValueType]] = []
    if model.config.get("head_dim") is not None:
        values += [
            ("attention.key_length", model.head_dim, GGUFValueType.UINT32),
            ("attention.value_length", model.head_dim, GGUFValueType.UINT32),
        ]
    if model.arch == gguf.MODEL_ARCH.LLAMA:
        values += [
            ("vocab_size", model.config["vocab_size"], GGUFValueType.UINT32),
            ("rope.dimension_count", model.head_dim, GGUFValueType.UINT32),
        ]
    if model.rope_type in ("linear", "yarn"):
        values += [
            ("rope.scaling.type", model.rope_type, GGUFValueType.STRING),
            ("rope.scaling.factor", float(model.rope["factor"]), GGUFValueType.FLOAT32),
        ]
    if model.rope_type == "yarn":
        values += _yarn_values(model)
    return values


def _yarn_values(model: Model) -> list[tuple[str, Any, GGUFValueType]]:
    values: list[tuple[str, Any, GGUFValueType]] = [
        ("rope.scaling.original_context_length", model.original_context, GGUFValueType.UINT32)
    ]
    for hf_name, name in (
        ("extrapolation_factor", "yarn_ext_factor"),
        ("attention_factor", "yarn_attn_factor"),
        ("beta_fast", "yarn_beta_fast"),
        ("beta_slow", "yarn_beta_slow"),
    ):
        if model.rope.get(hf_name) is not None:
            values.append(
                (f"rope.scaling.{name}", float(model.rope[hf_name]), GGUFValueType.FLOAT32)
            )
    return values


def plan_tensors(model: Model, source: Source, profile: ContextProfile) -> list[Planned]:
    """Every tensor to write, in order.

    Raises:
        ArtifactError: a tensor that the architecture does not have, two for one name, or a missing one.
    """
    names = gguf.get_tensor_name_map(model.arch, model.config["num_hidden_layers"])
    plan = _rope_tensors(model, profile, source.directory)
    for tensor in source.tensors.values():
        if tensor.name.endswith(IGNORED_SUFFIXES) or (
            tensor.name == "lm_head.weight" and model.config.get("tie_word_embeddings")
        ):
            continue
        name = names.get_name(tensor.name, try_suffixes=(".weight", ".bias"))
        if name is None:
            raise ArtifactError(
                f"tensor {tensor.name} has no place in {model.architecture}",
                where=str(source.directory),
                fix="save a stock model: merge adapters, drop extra heads",
            )
        float32 = len(tensor.shape) < 2 or name.endswith("_norm.weight")
        plan.append(
            Planned(name, tensor, tensor.shape, float32, heads=_permuted_heads(model, tensor.name))
        )
    _check_plan(plan, model, source)
    return plan


def _permuted_heads(model: Model, name: str) -> int:
    if model.arch == gguf.MODEL_ARCH.LLAMA and name.endswith(("q_proj.weight", "q_proj.bias")):
        return int(model.config["num_attention_heads"])
    if model.arch == gguf.MODEL_ARCH.LLAMA and name.endswith(("k_proj.weight", "k_proj.bias")):
        return model.kv_heads
    return 0


def _check_plan(plan: list[Planned], model: Model, source: Source) -> None:
    names = [item.name for item in plan]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ArtifactError(
            f"two tensors become {twice[0]}", where=str(source.directory), fix="save a stock model"
        )
    blocks = {name.split(".")[1] for name in names if name.startswith("blk.")}
    needed = {"token_embd.weight", "output_norm.weight"} | (
        set() if model.config.get("tie_word_embeddings") else {"output.weight"}
    )
    if missing := sorted(needed - set(names)):
        raise ArtifactError(
            f"no tensor becomes {', '.join(missing)}",
            where=str(source.directory),
            fix="fetch the model again",
        )
    if len(blocks) != model.config["num_hidden_layers"]:
        raise ArtifactError(
            f"{len(blocks)} layers in the weights, {model.config['num_hidden_layers']} in config.json",
            where=str(source.directory),
            fix="fetch the model again",
        )
    embedding = next(item for item in plan if item.name == "token_embd.weight")
    if embedding.shape != (model.config["vocab_size"], model.config["hidden_size"]):
        raise ArtifactError(
            f"the embedding is {embedding.shape}, config.json says vocab_size {model.config['vocab_size']}",
            where=str(source.directory),
            fix="fetch the model again",
        )


def _rope_tensors(model: Model, profile: ContextProfile, where: Path) -> list[Planned]:
    if model.rope_type == "llama3":
        return [_extra("rope_freqs.weight", _llama3_factors(model))]
    if model.rope_type != "longrope":
        return []
    factors = {}
    for kind in ("long", "short"):
        values = np.asarray(model.rope.get(f"{kind}_factor") or [], dtype=np.float32)
        if values.shape != (model.rope_dims // 2,):
            raise ArtifactError(
                f"{kind}_factor has {values.size} numbers, {model.rope_dims // 2} are needed",
                where=str(where),
                fix="give the model's own config.json",
            )
        factors[kind] = values
    if profile == "short":
        factors["long"] = factors["short"]
    return [_extra(f"rope_factors_{kind}.weight", values) for kind, values in factors.items()]


def _extra(name: str, values: NDArray[np.float32]) -> Planned:
    return Planned(name, None, values.shape, always_float32=True, values=values)


def _llama3_factors(model: Model) -> NDArray[np.float32]:
    """Frequency divisors of Llama 3.1's rope, [head_dim / 2], computed as the reference does (float32 frequencies)."""
    rope, dims = model.rope, model.head_dim
    base = float(rope.get("rope_theta", 10000.0))
    frequencies = np.float32(1.0) / np.float32(base) ** (
        np.arange(0, dims, 2, dtype=np.float32) / np.float32(dims)
    )
    factor, low, high = (
        float(rope["factor"]),
        float(rope["low_freq_factor"]),
        float(rope["high_freq_factor"]),
    )
    length = float(rope["original_max_position_embeddings"])
    result = []
    for wavelength in (2 * math.pi / float(f) for f in frequencies):
        if wavelength < length / high:
            result.append(1.0)
        elif wavelength > length / low:
            result.append(factor)
        else:
            smooth = (length / wavelength - low) / (high - low)
            result.append(1 / ((1 - smooth) / factor + smooth))
    return np.asarray(result, dtype=np.float32)
