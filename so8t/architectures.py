"""The model architectures that are supported: a table, and a checked config.json.

All stages that touch a model ask here, so that one which cannot be converted is refused before
anything is trained. Whatever llama.cpp would compute differently from Hugging Face is refused by
name, never guessed. Which tensors a model must have: so8t.model_check. Its GGUF keys:
so8t.gguf.convert.arch. The table as a page, with the test of each row: docs/models.md.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import gguf

from so8t import rope_settings
from so8t.errors import ArtifactError
from so8t.model_folder import Json

ATTENTION = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj")
MLP = ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
STRETCHED = ("default", "linear", "yarn")


@dataclass(frozen=True, slots=True)
class Architecture:
    """One row of the table.

    Attributes:
        name: Hugging Face class name, as in `architectures` of config.json.
        model_type: the word by which transformers chooses the class.
        arch: llama.cpp's number of the architecture.
        ropes: kinds of rope that llama.cpp follows for it.
        needs: settings for which transformers has a default that depends on the class.
        biases: matrices that always have a bias.
        bias_flags: matrices that have one if the setting is true.
        any_head_dim: whether heads x head_dim may differ from hidden_size.
        window_flag: setting without which a stated sliding window is not used; empty for none.
        has_window: whether transformers follows `sliding_window` at all.
    """

    name: str
    model_type: str
    arch: gguf.MODEL_ARCH
    ropes: tuple[str, ...]
    needs: tuple[str, ...] = ()
    biases: tuple[str, ...] = ()
    bias_flags: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    any_head_dim: bool = True
    window_flag: str = ""
    has_window: bool = True

    @property
    def gguf_name(self) -> str:
        """llama.cpp's name, with which the keys of a file begin."""
        return str(gguf.MODEL_ARCH_NAMES[self.arch])

    @property
    def is_phi3(self) -> bool:
        """Whether llama.cpp runs it as phi3 (Phi-3, Phi-3.5, Phi-4-mini)."""
        return bool(self.arch == gguf.MODEL_ARCH.PHI3)


_ROWS = (
    Architecture(
        "Phi3ForCausalLM",
        "phi3",
        gguf.MODEL_ARCH.PHI3,
        ropes=("default", "longrope"),
        any_head_dim=False,
    ),
    Architecture(
        "LlamaForCausalLM",
        "llama",
        gguf.MODEL_ARCH.LLAMA,
        ropes=(*STRETCHED, "llama3"),
        bias_flags={"attention_bias": ATTENTION, "mlp_bias": MLP},
        has_window=False,
    ),
    Architecture(
        "MistralForCausalLM",
        "mistral",
        gguf.MODEL_ARCH.LLAMA,
        ropes=(*STRETCHED, "llama3"),
        needs=("num_key_value_heads",),
    ),
    Architecture(
        "Qwen2ForCausalLM",
        "qwen2",
        gguf.MODEL_ARCH.QWEN2,
        ropes=STRETCHED,
        needs=("num_key_value_heads",),
        biases=ATTENTION[:3],
        any_head_dim=False,
        window_flag="use_sliding_window",
    ),
    Architecture(
        "Qwen3ForCausalLM",
        "qwen3",
        gguf.MODEL_ARCH.QWEN3,
        ropes=STRETCHED,
        needs=("num_key_value_heads", "head_dim"),
        window_flag="use_sliding_window",
    ),
)
ARCHITECTURES = {row.name: row for row in _ROWS}

# Whole numbers above 0, but for the last.
NEEDED_SETTINGS = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "vocab_size",
    "max_position_embeddings",
    "rms_norm_eps",
)
COUNTS = (*NEEDED_SETTINGS[:-1], "num_key_value_heads", "head_dim")
# Settings with which a model routes each token to a few of many parts.
EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts")
VISION = ("vision_config", "audio_config", "img_processor")
DEFAULT_ROPE_BASE = 10000.0  # transformers' default for every architecture here


@dataclass(frozen=True, slots=True)
class Model:
    """A checked config.json: the numbers that every architecture has, and its rope.

    Attributes:
        row: its architecture.
        config: config.json.
        rope: its rope settings, as one table.
    """

    row: Architecture
    config: Json
    rope: Json

    @property
    def architecture(self) -> str:
        """Hugging Face class name."""
        return self.row.name

    @property
    def arch(self) -> gguf.MODEL_ARCH:
        """llama.cpp's number of the architecture."""
        return self.row.arch

    @property
    def prefix(self) -> str:
        """GGUF name of the architecture."""
        return self.row.gguf_name

    @property
    def is_phi3(self) -> bool:
        """Whether llama.cpp runs it as phi3."""
        return self.row.is_phi3

    @property
    def layers(self) -> int:
        """Decoder layers."""
        return int(self.config["num_hidden_layers"])

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
    def is_tied(self) -> bool:
        """Whether config.json says that the output matrix is the embedding."""
        return bool(self.config.get("tie_word_embeddings"))

    @property
    def biases(self) -> frozenset[str]:
        """The matrices of a layer that have a bias, such as `self_attn.q_proj`."""
        found = set(self.row.biases)
        for flag, names in self.row.bias_flags.items():
            if self.config.get(flag):
                found |= set(names)
        return frozenset(found)

    @property
    def window(self) -> int | None:
        """Tokens that each token sees, as transformers computes it; None for all before it."""
        stated = self.config.get("sliding_window")
        flag = self.row.window_flag
        # Qwen2 states a window and says in a second setting whether it is used.
        if not stated or not self.row.has_window or (flag and not self.config.get(flag)):
            return None
        return int(stated)

    @property
    def rope_type(self) -> str:
        """default, linear, yarn, llama3 or longrope."""
        return rope_settings.kind_of(self.rope)

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
        if not self.is_phi3:
            return self.head_dim
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
        ArtifactError: an unknown architecture, a missing number, settings that contradict each
            other, or one that llama.cpp does not follow.
    """
    fix = f"convert it with llama.cpp's own script: python convert_hf_to_gguf.py {where.name}"
    row = _row_of(config, where)
    missing = [key for key in (*NEEDED_SETTINGS, *row.needs) if config.get(key) is None]
    if missing:
        raise ArtifactError(
            f"config.json has no {', '.join(missing)}",
            where=str(where),
            fix="give the model's own config.json",
        )
    model = Model(row, config, rope_settings.settings_of(config))
    wrong = _wrong_numbers(config) or _contradictions(model)
    if wrong:
        raise ArtifactError(
            "; ".join(wrong), where=str(where), fix="give the model's own config.json"
        )
    refusals = [*_rope_refusals(model), *_refusals(model)]
    if refusals:
        raise ArtifactError("; ".join(refusals), where=str(where), fix=fix)
    return model


def _row_of(config: Json, where: Path) -> Architecture:
    """The row of the table that a config names."""
    # A list for historical reasons; no model has two.
    names = config.get("architectures")
    name = str(names[0]) if isinstance(names, list) and names else "(none)"
    if name not in ARCHITECTURES:
        raise ArtifactError(
            f"architecture {name} is not supported{_kind_of_model(name, config)}; "
            f"known: {', '.join(ARCHITECTURES)}",
            where=str(where),
            fix="use a model of one of these architectures (docs/models.md)",
        )
    return ARCHITECTURES[name]


def _kind_of_model(name: str, config: Json) -> str:
    """What is special about an unsupported architecture, in words; empty where it is not known."""
    if _has_experts(config) or "moe" in name.lower() or "mixtral" in name.lower():
        return " (a mixture of experts)"
    if any(config.get(key) for key in VISION):
        return " (a model for images or sound)"
    return ""


def _has_experts(config: Json) -> bool:
    return any(config.get(key) for key in EXPERTS)


def _wrong_numbers(config: Json) -> list[str]:
    """Settings that are not numbers of the right kind, one sentence each."""
    found = []
    for key in COUNTS:
        value = config.get(key)
        is_count = isinstance(value, int) and not isinstance(value, bool) and value > 0
        if value is not None and not is_count:
            found.append(f"{key} is {value!r}, not a whole number above 0")
    epsilon = config["rms_norm_eps"]
    if not isinstance(epsilon, float) or not 0 < epsilon < 1:
        found.append(f"rms_norm_eps is {epsilon!r}, not a number between 0 and 1")
    return found


def _contradictions(model: Model) -> list[str]:
    """Settings of a config that cannot all be true, one sentence each."""
    config = model.config
    found = rope_settings.contradictions(config)
    # transformers goes by the type, llama.cpp's converter by the class.
    if config.get("model_type") != model.row.model_type:
        found.append(
            f"model_type is {config.get('model_type')!r}, and {model.architecture} "
            f"is {model.row.model_type!r}"
        )
    if model.heads % model.kv_heads:
        found.append(
            f"num_attention_heads {model.heads} is no multiple of "
            f"num_key_value_heads {model.kv_heads}"
        )
    if not config.get("head_dim") and config["hidden_size"] % model.heads:
        found.append(f"hidden_size {config['hidden_size']} is no multiple of {model.heads} heads")
    layer_types = config.get("layer_types")
    if layer_types:
        found += _layer_type_problems(model, list(layer_types))
    return found


def _layer_type_problems(model: Model, layer_types: list[str]) -> list[str]:
    """What is wrong with a list of each layer's kind of attention."""
    found = []
    if len(layer_types) != model.layers:
        found.append(f"layer_types names {len(layer_types)} of {model.layers} layers")
    known = {"full_attention", "sliding_attention"}
    strange = sorted(set(layer_types) - known)
    if strange:
        found.append(f"layers of the kind {', '.join(strange)} are not supported")
    if "sliding_attention" in layer_types and model.window is None:
        found.append("layer_types names sliding windows, and the other settings none")
    return found


def _rope_refusals(model: Model) -> list[str]:
    """Rope settings that llama.cpp does not follow, or would read as other ones."""
    # llama.cpp would read an unknown rope as the default one.
    if model.rope_type not in model.row.ropes:
        known = ", ".join(model.row.ropes)
        return [
            f"rope type {model.rope_type} is not supported for {model.architecture}; known: {known}"
        ]
    found = rope_settings.problems(model.rope, model.rope_dims, model.max_context)
    if not found and not model.is_phi3 and model.rotated_share != 1.0:
        found.append("a partial rotary factor is only known for Phi")
    return found


def _refusals(model: Model) -> list[str]:
    """What the config asks for and llama.cpp would silently compute in another way."""
    config = model.config
    found = []
    if config.get("quantization_config"):
        found.append("the checkpoint is quantised; convert from the unquantised one")
    # llama.cpp has the activation in its graph and no key for it.
    if config.get("hidden_act", "silu") != "silu":
        found.append(f"activation {config['hidden_act']} is not silu")
    if _has_experts(config):
        found.append(f"{model.architecture} with experts is not supported")
    # Qwen2 has its three, whatever the setting says.
    may_have_bias = model.row.biases or "attention_bias" in model.row.bias_flags
    if config.get("attention_bias") and not may_have_bias:
        found.append(f"llama.cpp's {model.prefix} has no attention bias")
    if not model.row.any_head_dim and model.head_dim * model.heads != config["hidden_size"]:
        found.append(f"llama.cpp's {model.prefix} needs heads x head_dim = hidden_size")
    return found
