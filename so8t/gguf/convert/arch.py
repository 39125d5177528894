"""What each supported architecture is: a checked config.json, and the keys that describe it.

Names and values equal those of llama.cpp's own converter, against which
`tests/parity/test_reference_keys.py` compares them. Anything that llama.cpp would compute
differently from Hugging Face is refused by name, never guessed.

Covered: Phi-3/3.5, Phi-4-mini, Llama 2/3, Mistral, Qwen2/2.5, Qwen3 (dense); rope default, linear,
yarn, llama3, longrope; grouped-query attention, partial rotary and tied embeddings. (Rope is the
rotary position embedding: queries and keys are rotated by an angle that grows with the position.)
Which tensor becomes which: so8t.gguf.convert.tensor_plan.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import gguf

from so8t.errors import ArtifactError
from so8t.gguf.convert.source import Json
from so8t.gguf_file import Keys, float32, string, uint32

ContextProfile = Literal["short", "stock"]
Values = Keys  # by the key's name without the architecture's prefix

ARCHITECTURES = {
    "Phi3ForCausalLM": gguf.MODEL_ARCH.PHI3,
    "LlamaForCausalLM": gguf.MODEL_ARCH.LLAMA,
    "MistralForCausalLM": gguf.MODEL_ARCH.LLAMA,
    "Qwen2ForCausalLM": gguf.MODEL_ARCH.QWEN2,
    "Qwen3ForCausalLM": gguf.MODEL_ARCH.QWEN3,
}
NEEDED_SETTINGS = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "vocab_size",
    "max_position_embeddings",
    "rms_norm_eps",
)
PHI3_ROPES = frozenset({"default", "longrope"})
OTHER_ROPES = frozenset({"default", "linear", "yarn", "llama3"})
DEFAULT_ROPE_BASE = 10000.0  # transformers' default for every architecture here


@dataclass(frozen=True, slots=True)
class Model:
    """A checked config.json: the numbers that every architecture has, and its rope.

    Attributes:
        architecture: Hugging Face class name.
        arch: llama.cpp's number of the architecture.
        config: config.json.
        rope: its rope settings, as one table.
    """

    architecture: str
    arch: gguf.MODEL_ARCH
    config: Json
    rope: Json

    @property
    def prefix(self) -> str:
        """GGUF name of the architecture."""
        return str(gguf.MODEL_ARCH_NAMES[self.arch])

    @property
    def is_phi3(self) -> bool:
        """Whether llama.cpp runs it as phi3 (Phi-3, Phi-3.5, Phi-4-mini)."""
        return bool(self.arch == gguf.MODEL_ARCH.PHI3)

    @property
    def heads(self) -> int:
        """Query heads."""
        return int(self.config["num_attention_heads"])

    @property
    def head_dim(self) -> int:
        """Width of a head."""
        stated = self.config.get("head_dim")
        return int(stated or self.config["hidden_size"] // self.heads)

    @property
    def kv_heads(self) -> int:
        """Key and value heads."""
        return int(self.config.get("num_key_value_heads") or self.heads)

    @property
    def rope_type(self) -> str:
        """default, linear, yarn, llama3 or longrope."""
        stated = self.rope.get("rope_type") or self.rope.get("type") or "default"
        kind = str(stated).lower()
        # The name that Phi-3's first configs gave to longrope.
        return "longrope" if kind == "su" else kind

    @property
    def rope_base(self) -> float:
        """Base of the rotation frequencies."""
        return float(self.rope.get("rope_theta", DEFAULT_ROPE_BASE))

    @property
    def rotated_share(self) -> float:
        """Share of a head's dimensions that rope rotates; below 1 for some Phi models."""
        return float(self.rope.get("partial_rotary_factor", 1.0))

    @property
    def rope_dims(self) -> int:
        """Rotated dimensions of a head."""
        # Rounded before the division by the heads, as llama.cpp's converter does.
        return int(self.rotated_share * self.config["hidden_size"]) // self.heads

    @property
    def max_context(self) -> int:
        """The context that config.json claims, in tokens."""
        return int(self.config["max_position_embeddings"])

    @property
    def original_context(self) -> int:
        """Context of the training before it was extended, in tokens."""
        return int(self.rope.get("original_max_position_embeddings") or self.max_context)


def read_model(config: Json, where: Path) -> Model:
    """Check a config and name its architecture.

    Args:
        config: config.json.
        where: the model directory, for errors.

    Raises:
        ArtifactError: an unknown architecture, a missing number, or a setting that llama.cpp does
            not follow.
    """
    # A list for historical reasons; no model has two.
    names = config.get("architectures") or ["(none)"]
    architecture = names[0]
    fix = f"convert it with llama.cpp's own script: python convert_hf_to_gguf.py {where.name}"
    if architecture not in ARCHITECTURES:
        raise ArtifactError(
            f"architecture {architecture} is not supported; known: {', '.join(ARCHITECTURES)}",
            where=str(where),
            fix=fix,
        )
    missing = [key for key in NEEDED_SETTINGS if config.get(key) is None]
    if missing:
        raise ArtifactError(
            f"config.json has no {', '.join(missing)}",
            where=str(where),
            fix="give the model's own config.json",
        )
    model = Model(architecture, ARCHITECTURES[architecture], config, _rope_settings(config))
    refusals = _refusals(model)
    if refusals:
        raise ArtifactError("; ".join(refusals), where=str(where), fix=fix)
    return model


def _rope_settings(config: Json) -> Json:
    """Rope settings as one table.

    transformers 4 wrote `rope_scaling` and keys at the top level, transformers 5 writes
    `rope_parameters`; models of both are about.
    """
    rope = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
    for key in ("rope_theta", "partial_rotary_factor", "original_max_position_embeddings"):
        if rope.get(key) is None and config.get(key) is not None:
            rope[key] = config[key]
    return rope


def _refusals(model: Model) -> list[str]:
    """What the config asks for and llama.cpp would silently compute in another way."""
    config = model.config
    found = []
    # llama.cpp would read an unknown rope as the default one.
    known_ropes = PHI3_ROPES if model.is_phi3 else OTHER_ROPES
    if model.rope_type not in known_ropes:
        found.append(f"rope type {model.rope_type} is not supported for {model.architecture}")
    if config.get("quantization_config"):
        found.append("the checkpoint is quantised; convert from the unquantised one")
    # llama.cpp has the activation in its graph and no key for it.
    if config.get("hidden_act", "silu") != "silu":
        found.append(f"activation {config['hidden_act']} is not silu")
    if model.is_phi3:
        if config.get("attention_bias"):
            found.append("llama.cpp's phi3 has no attention bias")
        if model.head_dim * model.heads != config["hidden_size"]:
            found.append("llama.cpp's phi3 needs heads x head_dim = hidden_size")
    elif model.rotated_share != 1.0:
        found.append("a partial rotary factor is only known for Phi")
    return found


def context_length(model: Model, profile: ContextProfile) -> int:
    """The context that the file promises, in tokens.

    `short` stops where llama.cpp would stop computing what Hugging Face computes. One such place is
    the original context of longrope models: llama.cpp takes the long factors when a longer context
    is *allocated*, Hugging Face when one is *used*. The other is the sliding window.
    """
    if profile == "stock":
        return model.max_context
    limits = [model.max_context]
    if model.rope_type == "longrope":
        limits.append(model.original_context)
    window = model.config.get("sliding_window")
    # Qwen2 states a window and says in a second setting that it is not used.
    if window and model.config.get("use_sliding_window", True):
        limits.append(int(window))
    return min(limits)


def hyper_keys(model: Model, profile: ContextProfile) -> Keys:
    """Hyper-parameter keys of the architecture.

    Args:
        model: what they are read from.
        profile: which context the file promises, see `context_length`.

    Returns:
        Keys with their full names, `<architecture>.<name>`, in the order they are written.
    """
    config = model.config
    # The order of the keys is part of the file's bytes.
    values: Values = {
        "block_count": uint32(config["num_hidden_layers"]),
        "context_length": uint32(context_length(model, profile)),
        "embedding_length": uint32(config["hidden_size"]),
        "feed_forward_length": uint32(config["intermediate_size"]),
        "attention.head_count": uint32(config["num_attention_heads"]),
        "attention.head_count_kv": uint32(model.kv_heads),
        "attention.layer_norm_rms_epsilon": float32(float(config["rms_norm_eps"])),
        "rope.freq_base": float32(model.rope_base),
    }
    if model.is_phi3:
        values |= _phi3_values(model)
    else:
        values |= _llama_values(model)
    return {f"{model.prefix}.{key}": value for key, value in values.items()}


def _phi3_values(model: Model) -> Values:
    """What only Phi-3 and its like have."""
    # llama.cpp's converter, too, writes 0 where a Phi model has no window.
    window = int(model.config.get("sliding_window") or 0)
    values = {
        "rope.scaling.original_context_length": uint32(model.original_context),
        "rope.dimension_count": uint32(model.rope_dims),
        "attention.sliding_window": uint32(window),
    }
    if model.rope_type == "longrope":
        values["rope.scaling.attn_factor"] = float32(_longrope_attention_factor(model))
    return values


def _longrope_attention_factor(model: Model) -> float:
    """Factor on the attention scores: sqrt(1 + ln(scale) / ln(original context)).

    LongRoPE, https://arxiv.org/abs/2402.13753; the same lines are in transformers'
    `modeling_rope_utils.py`.
    """
    scale = model.config["max_position_embeddings"] / model.original_context
    if scale <= 1:
        return 1.0
    return math.sqrt(1 + math.log(scale) / math.log(model.original_context))


def _llama_values(model: Model) -> Values:
    """What Llama and its like have: Mistral, Qwen2, Qwen3."""
    values: Values = {}
    # Only where it is stated: otherwise llama.cpp divides the width by the heads, as we would.
    if model.config.get("head_dim") is not None:
        values["attention.key_length"] = uint32(model.head_dim)
        values["attention.value_length"] = uint32(model.head_dim)
    # llama.cpp's converter writes these two for Llama and Mistral only.
    if model.arch == gguf.MODEL_ARCH.LLAMA:
        values["vocab_size"] = uint32(model.config["vocab_size"])
        values["rope.dimension_count"] = uint32(model.head_dim)
    if model.rope_type in ("linear", "yarn"):
        values["rope.scaling.type"] = string(model.rope_type)
        values["rope.scaling.factor"] = float32(float(model.rope["factor"]))
    if model.rope_type == "yarn":
        values |= _yarn_values(model)
    return values


def _yarn_values(model: Model) -> Values:
    """Settings of YaRN, a way to stretch the context (https://arxiv.org/abs/2309.00071)."""
    values = {"rope.scaling.original_context_length": uint32(model.original_context)}
    for hf_name, name in (
        ("extrapolation_factor", "yarn_ext_factor"),
        ("attention_factor", "yarn_attn_factor"),
        ("beta_fast", "yarn_beta_fast"),
        ("beta_slow", "yarn_beta_slow"),
    ):
        # llama.cpp has its own defaults; its converter, too, writes only what is stated.
        if model.rope.get(hf_name) is not None:
            values[f"rope.scaling.{name}"] = float32(float(model.rope[hf_name]))
    return values
