"""The keys that describe each supported architecture in a GGUF file.

Names and values equal those of llama.cpp's own converter, against which
`tests/parity/test_reference_keys.py` compares them. What is supported at all: so8t.architectures.
Which tensor becomes which: so8t.gguf.convert.tensor_plan.
"""

import gguf

from so8t.architectures import Model
from so8t.gguf_file import Keys, float32, string, uint32
from so8t.model_check import ContextProfile
from so8t.rope_settings import longrope_attention_factor

Values = Keys  # by the key's name without the architecture's prefix


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
    if model.window is not None:
        limits.append(model.window)
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
        factor = longrope_attention_factor(model.max_context, model.original_context)
        values["rope.scaling.attn_factor"] = float32(factor)
    return values


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
        ("beta_fast", "yarn_beta_fast"),
        ("beta_slow", "yarn_beta_slow"),
    ):
        # llama.cpp has its own defaults; its converter, too, writes only what is stated. It also
        # writes a stated attention factor, which llama.cpp would then apply twice.
        if model.rope.get(hf_name) is not None:
            values[f"rope.scaling.{name}"] = float32(float(model.rope[hf_name]))
    return values
