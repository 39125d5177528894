"""Graphics memory and disk of a training run, from the model's config alone, before anything is loaded.

The coefficients are those of `research/training.md` 6: activations of one real Phi-3.5-mini layer at 2,048 tokens were
measured by saved-tensor hooks (366 MiB with NF4, LoRA in float32 and the gate; this formula gives 372), the rest is
counting. Not covered: fragmentation beyond SLACK, several cards, FSDP. On CUDA nothing of this has been verified.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from so8t.errors import ResourceError
from so8t.params import Train
from so8t.rotation import BLOCK, FREE

GIB = float(1 << 30)
WEIGHT_BYTES = {
    "nf4": 0.5157,
    "int8": 1.0,
}  # per quantised weight: NF4 in blocks of 64 with double quantisation, int8 by rows
STATE_BYTES = 16  # a trained float32 number: itself, its gradient and two moments
CONTEXT = 0.6 * GIB  # CUDA's own
LOGIT_BYTES, LOGIT_ROWS = (
    12,
    1024,
)  # chunked cross-entropy: 16-bit logits, their float32 copy and gradients (objective.CHUNK)
PET_BYTES = 6 * 4 * (1 << 22)  # pet.CHUNK numbers, a few float32 copies
SLACK = 1.08
DISK_COPIES = 2  # best checkpoints kept beside `keep`


@dataclass(frozen=True, slots=True)
class Shape:
    """What counts in a decoder's config."""

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
        heads = int(config["num_attention_heads"])
        width = int(config.get("head_dim") or config["hidden_size"] // heads)
        keys = int(config.get("num_key_value_heads") or heads) * width
        return cls(
            int(config["hidden_size"]),
            int(config["intermediate_size"]),
            int(config["num_hidden_layers"]),
            heads * width,
            keys,
            vocab or int(config["vocab_size"]),
            bool(config.get("tie_word_embeddings", False)),
        )

    def linears(self) -> list[tuple[int, int]]:
        """(in, out) of one layer's projections, fused as Phi-3 has them."""
        return [
            (self.hidden, self.attention + 2 * self.keys),
            (self.attention, self.hidden),
            (self.hidden, 2 * self.inner),
            (self.inner, self.hidden),
        ]

    @property
    def linear_numbers(self) -> int:
        """Weights of all layers' projections."""
        return self.layers * sum(a * b for a, b in self.linears())

    @property
    def embedding_numbers(self) -> int:
        """Embedding and output matrix."""
        return self.vocab * self.hidden * (1 if self.tied else 2)


def trained_numbers(shape: Shape, train: Train) -> dict[str, int]:
    """Numbers that are trained: LoRA on every projection (an upper bound when fewer are named), gates on every layer, heads."""
    rotated = FREE * shape.layers * sum(a for a, _ in shape.linears()) // BLOCK
    lora = (
        rotated
        if train.adapter == "oft"
        else train.lora_r * shape.layers * sum(a + b for a, b in shape.linears())
    )
    base = shape.linear_numbers + shape.embedding_numbers if train.quantization == "full" else 0
    return {
        "lora": lora,
        "gates": FREE * shape.layers * shape.attention // BLOCK,
        "heads": 3 * shape.hidden + FREE * shape.hidden // BLOCK,
        "base": base,
    }


def estimate(config: dict[str, Any], train: Train, vocab: int = 0) -> dict[str, Any]:
    """Bytes on the graphics card by part, their total, the numbers trained, and bytes on disk.

    Args:
        config: the base model's config.json.
        train: the `train` section of the active profile.
        vocab: vocabulary size; 0 = the config's own.
    """
    shape, trained = Shape.of(config, vocab), trained_numbers(Shape.of(config, vocab), train)
    wide = 4 if train.compute_dtype == "float32" else 2
    stored = WEIGHT_BYTES.get(train.quantization, 0.0 if train.quantization == "full" else wide)
    tokens = train.batch_size * train.max_length
    per_layer = _activations(shape, train, wide) * tokens
    kept = (
        shape.layers * tokens * shape.hidden * wide + per_layer
        if train.gradient_checkpointing
        else shape.layers * per_layer
    )
    parts = {
        "weights": stored * shape.linear_numbers,
        "embeddings": 0.0
        if train.quantization == "full"
        else float(wide * shape.embedding_numbers),
        "trained": float(STATE_BYTES * sum(trained.values())),
        "activations": float(kept),
        "logits": float(LOGIT_BYTES * min(tokens, LOGIT_ROWS) * shape.vocab),
        "unpacked": 2.0 * shape.inner * shape.hidden * wide
        if train.quantization in WEIGHT_BYTES
        else 0.0,
        "pet": float(PET_BYTES),
        "context": CONTEXT,
    }
    total = SLACK * sum(parts.values())
    checkpoint = 12 * sum(trained.values())
    return {
        "parts": parts,
        "total": total,
        "gib": round(total / GIB, 2),
        "trained": trained,
        "disk": {
            "checkpoints": (train.keep + DISK_COPIES + 1) * checkpoint,
            "adapter": 4 * sum(trained.values()),
        },
    }


def _activations(shape: Shape, train: Train, wide: int) -> float:
    """Bytes one layer keeps per token for its backward pass."""
    states = 4 * shape.hidden + 3 * shape.attention + 2 * shape.keys + 4 * shape.inner
    lora = (
        4 * (2 * shape.hidden + shape.attention + shape.inner) if train.lora_r and wide == 2 else 0
    )
    return float(wide * states + lora)


def smaller(train: Train) -> Iterator[tuple[str, Train]]:
    """Changes that save memory, the harmless ones first; each keeps those before it. The effective batch stays."""

    def change(**values: Any) -> Train:
        nonlocal train
        train = train.model_copy(update=values)
        return train

    if not train.gradient_checkpointing:
        yield "train.gradient_checkpointing=true", change(gradient_checkpointing=True)
    if train.quantization == "full":
        yield "train.quantization=none train.lora_r=32", change(quantization="none", lora_r=32)
    while train.batch_size > 1:
        half = train.batch_size // 2
        rise = -(-train.batch_size * train.accumulation // half)
        yield (
            f"train.batch_size={half} train.accumulation={rise}",
            change(batch_size=half, accumulation=rise),
        )
    if train.compute_dtype == "float32":
        yield "train.compute_dtype=bfloat16", change(compute_dtype="bfloat16")
    if train.quantization in {"none", "int8"}:
        yield "train.quantization=nf4", change(quantization="nf4")
    while train.max_length > 512:
        yield f"train.max_length={train.max_length // 2}", change(max_length=train.max_length // 2)
    while train.lora_r > 8:
        yield (
            f"train.lora_r={train.lora_r // 2} train.lora_alpha={train.lora_alpha / 2:g}",
            change(lora_r=train.lora_r // 2, lora_alpha=train.lora_alpha / 2),
        )


def overrides(
    config: dict[str, Any], train: Train, available: float, vocab: int = 0
) -> list[str] | None:
    """The fewest changes, in order, after which the run fits `available` bytes: [] = it fits now, None = it cannot."""
    if estimate(config, train, vocab)["total"] <= available:
        return []
    latest: dict[str, str] = {}
    for text, changed in smaller(train):
        latest |= dict(part.split("=") for part in text.split(" "))
        if estimate(config, changed, vocab)["total"] <= available:
            return [f"{key}={value}" for key, value in latest.items()]
    return None


def require_disk(config: dict[str, Any], train: Train, free: float) -> None:
    """Refuse a run whose checkpoints will not fit on the disk.

    Raises:
        ResourceError: with what would make room.
    """
    needed = sum(estimate(config, train)["disk"].values())
    if needed > free:
        raise ResourceError(
            f"checkpoints and adapter need {needed / 1e9:.1f} GB of disk, {free / 1e9:.1f} GB are free",
            where="train",
            fix="free some space, set SO8T_DATABASE to another disk, or lower train.keep or train.lora_r",
        )


def require(config: dict[str, Any], train: Train, profile: str, available: float) -> None:
    """Refuse a run that will not fit, before it is started.

    Raises:
        ResourceError: with the exact overrides that make it fit.
    """
    wanted, needed = overrides(config, train, available), estimate(config, train)["gib"]
    if wanted == []:
        return
    problem = f"training needs about {needed:.1f} GiB of graphics memory, {available / GIB:.1f} GiB are free"
    if wanted is None:
        raise ResourceError(
            problem,
            where="train",
            fix="no setting makes it fit: use a smaller base model or a larger card",
        )
    flags = " ".join(f"-S profiles.{profile}.{change}" for change in wanted)
    raise ResourceError(problem, where="train", fix=f"dvc exp run {flags}")
