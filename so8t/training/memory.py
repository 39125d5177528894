"""Graphics memory and disk that a training run needs, from the model's config alone.

The activations of one real Phi-3.5-mini layer were measured with saved-tensor hooks at 2,048
tokens: 366 MiB with an NF4 base, LoRA in float32 and the gate. `_layer_activations` gives 372 MiB
there. Everything else is counted.

Not covered: memory lost to fragmentation beyond SLACK, several cards, FSDP. No total has been
checked on a CUDA card.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from so8t.errors import ResourceError
from so8t.params import Train
from so8t.rotation import BLOCK, FREE

GIB = float(1 << 30)
# Bytes per quantised weight: NF4 in blocks of 64 with double quantisation, int8 with one scale a
# row.
WEIGHT_BYTES = {"nf4": 0.5157, "int8": 1.0}
# A trained float32 number with its gradient and AdamW's two moments.
STATE_BYTES = 16
# In a checkpoint: the same number and its two moments. Gradients are not saved.
CHECKPOINT_BYTES = 12
ADAPTER_BYTES = 4
# What a CUDA context takes before the first tensor.
CONTEXT = 0.6 * GIB
# Cross-entropy runs in pieces of objective.CHUNK rows, each with its 16-bit logits, their float32
# copy and gradients.
LOGIT_BYTES = 12
LOGIT_ROWS = 1024
# The smoothness penalty (PET) holds about six float32 copies of pet.CHUNK numbers.
PET_BYTES = 6 * 4 * (1 << 22)
SLACK = 1.08
# Checkpoints kept beside `train.keep`: the best by loss and the best by verdict.
BEST_CHECKPOINTS = 2


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes in a decoder's config that memory depends on.

    Attributes:
        hidden: width of the hidden state.
        inner: width inside the MLP.
        layers: decoder layers.
        attention: width of all query heads together.
        keys: width of all key heads together (fewer than query heads with grouped-query attention).
        vocab: rows of the embedding.
        tied: the output matrix is the embedding itself.
    """

    hidden: int
    inner: int
    layers: int
    attention: int
    keys: int
    vocab: int
    tied: bool

    @classmethod
    def of(cls, config: dict[str, Any], vocab: int) -> "Shape":
        """Read a Hugging Face config; `vocab` 0 takes the config's own."""
        hidden = int(config["hidden_size"])
        heads = int(config["num_attention_heads"])
        key_heads = int(config.get("num_key_value_heads") or heads)
        head_width = int(config.get("head_dim") or hidden // heads)
        return cls(
            hidden=hidden,
            inner=int(config["intermediate_size"]),
            layers=int(config["num_hidden_layers"]),
            attention=heads * head_width,
            keys=key_heads * head_width,
            vocab=vocab or int(config["vocab_size"]),
            tied=bool(config.get("tie_word_embeddings", False)),
        )

    def linears(self) -> list[tuple[int, int]]:
        """(in, out) of one layer's projections, fused as in Phi-3: qkv, o, gate and up, down."""
        return [
            (self.hidden, self.attention + 2 * self.keys),
            (self.attention, self.hidden),
            (self.hidden, 2 * self.inner),
            (self.inner, self.hidden),
        ]

    @property
    def linear_numbers(self) -> int:
        """Weights of all layers' projections."""
        return self.layers * sum(width * out for width, out in self.linears())

    @property
    def embedding_numbers(self) -> int:
        """Weights of the embedding and the output matrix."""
        matrices = 1 if self.tied else 2
        return self.vocab * self.hidden * matrices


@dataclass(frozen=True, slots=True)
class Estimate:
    """What one training run needs.

    Attributes:
        parts: bytes on the graphics card, by what they are for.
        trained: trained numbers, by what they belong to.
        checkpoint_bytes: disk for every checkpoint that may exist at once.
        adapter_bytes: disk for the adapter.
    """

    parts: dict[str, float]
    trained: dict[str, int]
    checkpoint_bytes: int
    adapter_bytes: int

    @property
    def total(self) -> float:
        """Bytes on the graphics card, slack included."""
        return SLACK * sum(self.parts.values())

    @property
    def gib(self) -> float:
        """`total` in GiB, to two decimals."""
        return round(self.total / GIB, 2)

    @property
    def disk(self) -> int:
        """Bytes on disk."""
        return self.checkpoint_bytes + self.adapter_bytes


def trained_numbers(shape: Shape, train: Train) -> dict[str, int]:
    """How many numbers are trained, by what they belong to; `base` is for full fine-tuning.

    The adapter is counted on every projection, which is an upper bound when `train.lora_targets`
    names fewer. Gates are counted on every layer.
    """
    linears = shape.linears()
    if train.adapter == "oft":
        # One rotation of the input, in blocks of eight with 28 free numbers each.
        adapter = FREE * shape.layers * sum(width for width, _ in linears) // BLOCK
    else:
        adapter = train.lora_r * shape.layers * sum(width + out for width, out in linears)
    base = 0
    if train.quantization == "full":
        base = shape.linear_numbers + shape.embedding_numbers
    return {
        "lora": adapter,
        "gates": FREE * shape.layers * shape.attention // BLOCK,
        # Three prototypes and one generator: the larger of the two kinds of heads.
        "heads": 3 * shape.hidden + FREE * shape.hidden // BLOCK,
        "base": base,
    }


def estimate(
    config: dict[str, Any],
    train: Train,
    vocab: int = 0,
) -> Estimate:
    """Count memory and disk of a run.

    Args:
        config: the base model's config.json.
        train: the `train` section of the active profile.
        vocab: vocabulary size; 0 takes the config's own.
    """
    shape = Shape.of(config, vocab)
    trained = trained_numbers(shape, train)
    count = sum(trained.values())
    wide = 4 if train.compute_dtype == "float32" else 2
    tokens = train.batch_size * train.max_length
    # In full fine-tuning every weight is a trained number and is counted there.
    frozen = train.quantization != "full"
    unpacked = 0.0
    if train.quantization in WEIGHT_BYTES:
        # One projection is dequantised at a time; the fused gate and up matrix is the largest.
        unpacked = 2.0 * shape.inner * shape.hidden * wide
    parts = {
        "weights": _stored_bytes(train, wide) * shape.linear_numbers,
        "embeddings": float(wide * shape.embedding_numbers) if frozen else 0.0,
        "trained": float(STATE_BYTES * count),
        "activations": float(_activations(shape, train, wide, tokens)),
        "logits": float(LOGIT_BYTES * min(tokens, LOGIT_ROWS) * shape.vocab),
        "unpacked": unpacked,
        "pet": float(PET_BYTES),
        "context": CONTEXT,
    }
    # One more checkpoint exists while it is written, before an old one is removed.
    checkpoints = train.keep + BEST_CHECKPOINTS + 1
    return Estimate(
        parts=parts,
        trained=trained,
        checkpoint_bytes=checkpoints * CHECKPOINT_BYTES * count,
        adapter_bytes=ADAPTER_BYTES * count,
    )


def _stored_bytes(train: Train, wide: int) -> float:
    """Bytes of one frozen projection weight."""
    if train.quantization == "full":
        return 0.0
    return WEIGHT_BYTES.get(train.quantization, wide)


def _activations(
    shape: Shape,
    train: Train,
    wide: int,
    tokens: int,
) -> float:
    """Bytes kept for the backward pass."""
    layer = _layer_activations(shape, train, wide) * tokens
    if not train.gradient_checkpointing:
        return shape.layers * layer
    # Every layer's input is kept, and one layer at a time is computed again.
    return shape.layers * tokens * shape.hidden * wide + layer


def _layer_activations(
    shape: Shape,
    train: Train,
    wide: int,
) -> float:
    """Bytes that one layer keeps per token for its backward pass."""
    states = 4 * shape.hidden + 3 * shape.attention + 2 * shape.keys + 4 * shape.inner
    lora = 0
    if train.lora_r and wide == 2:
        # LoRA works in float32, so that each projection's 16-bit input is kept once more at four
        # bytes.
        lora = 4 * (2 * shape.hidden + shape.attention + shape.inner)
    return float(wide * states + lora)


def _savings(train: Train) -> Iterator[tuple[dict[str, str], Train]]:
    """Yield changes that save memory as (overrides, changed settings), the harmless ones first.

    Each one includes those before it. None changes the effective batch (`batch_size` times
    `accumulation`) by more than rounding up.
    """
    if not train.gradient_checkpointing:
        train = train.model_copy(update={"gradient_checkpointing": True})
        yield {"train.gradient_checkpointing": "true"}, train
    if train.quantization == "full":
        train = train.model_copy(update={"quantization": "none", "lora_r": 32})
        yield {"train.quantization": "none", "train.lora_r": "32"}, train
    while train.batch_size > 1:
        half = train.batch_size // 2
        more = math.ceil(train.batch_size * train.accumulation / half)
        train = train.model_copy(update={"batch_size": half, "accumulation": more})
        yield {"train.batch_size": f"{half}", "train.accumulation": f"{more}"}, train
    if train.compute_dtype == "float32":
        train = train.model_copy(update={"compute_dtype": "bfloat16"})
        yield {"train.compute_dtype": "bfloat16"}, train
    if train.quantization in {"none", "int8"}:
        train = train.model_copy(update={"quantization": "nf4"})
        yield {"train.quantization": "nf4"}, train
    while train.max_length > 512:
        length = train.max_length // 2
        train = train.model_copy(update={"max_length": length})
        yield {"train.max_length": f"{length}"}, train
    while train.lora_r > 8:
        # Alpha shrinks with the rank, so that the scale alpha / r of the update stays.
        rank = train.lora_r // 2
        alpha = train.lora_alpha / 2
        train = train.model_copy(update={"lora_r": rank, "lora_alpha": alpha})
        yield {"train.lora_r": f"{rank}", "train.lora_alpha": f"{alpha:g}"}, train


def overrides(
    config: dict[str, Any],
    train: Train,
    available: float,
    vocab: int = 0,
) -> list[str] | None:
    """The fewest changes, in order, after which the run fits.

    Args:
        config: the base model's config.json.
        train: the settings as they are.
        available: bytes free on the card.
        vocab: vocabulary size; 0 takes the config's own.

    Returns:
        `key=value` texts, empty when the run fits as it is; None when no change makes it fit.
    """
    if estimate(config, train, vocab).total <= available:
        return []
    latest: dict[str, str] = {}
    for changes, changed in _savings(train):
        latest.update(changes)
        if estimate(config, changed, vocab).total <= available:
            return [f"{key}={value}" for key, value in latest.items()]
    return None


def require_disk(
    config: dict[str, Any],
    train: Train,
    free: float,
) -> None:
    """Refuse a run whose checkpoints will not fit on the disk.

    Raises:
        ResourceError: with what would make room.
    """
    needed = estimate(config, train).disk
    if needed > free:
        raise ResourceError(
            f"checkpoints and adapter need {needed / 1e9:.1f} GB of disk, "
            f"{free / 1e9:.1f} GB are free",
            where="train",
            fix="free some space, set SO8T_DATABASE to another disk, "
            "or lower train.keep or train.lora_r",
        )


def require(
    config: dict[str, Any],
    train: Train,
    profile: str,
    available: float,
) -> None:
    """Refuse a run that will not fit on the graphics card, before it is started.

    Args:
        config: the base model's config.json.
        train: the settings of `profile`.
        profile: name of the active profile, for the command in the error.
        available: bytes free on the card.

    Raises:
        ResourceError: with the exact overrides that make it fit.
    """
    wanted = overrides(config, train, available)
    if wanted == []:
        return
    needed = estimate(config, train).gib
    fix = "no setting makes it fit: use a smaller base model or a larger card"
    if wanted is not None:
        flags = " ".join(f"-S profiles.{profile}.{change}" for change in wanted)
        fix = f"dvc exp run {flags}"
    raise ResourceError(
        f"training needs about {needed:.1f} GiB of graphics memory, "
        f"{available / GIB:.1f} GiB are free",
        where="train",
        fix=fix,
    )
