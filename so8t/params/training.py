"""Sections about the model and its training: what is learnt beside the base, and how."""

import re
from typing import Literal

from pydantic import Field, model_validator

from so8t.params.data import Count, Positive, Section, Share


class Pet(Section):
    """Second-difference penalty."""

    weight: float = Field(
        alias="lambda",
        ge=0.0,
        description="weight in the main phase; 0 = off, bit-identical to no PET",
    )
    preset: Literal["run_b", "run_l", "run_p", "constant"] = Field(
        description="phase boundaries and multipliers"
    )


class Gates(Section):
    """SO(8) gates on o_proj."""

    enabled: bool
    layers: str | list[int] = Field(description='"all", a range "4-11", or a list of indices')


class Heads(Section):
    """Verdict and authority heads."""

    enabled: bool
    mode: Literal["triality", "plain"]


class Loss(Section):
    """Weights of the loss parts."""

    cmd_weight: float = Field(ge=0.0, description="language model, completion tokens only")
    safety_weight: float = Field(
        ge=0.0, description="verdict and authority cross-entropy at the end of the prompt"
    )
    label_weight: float = Field(
        ge=0.0,
        description="the language loss of the tokens that spell the verdict, once more",
    )


class Names(Section):
    """Names under which models are registered."""

    a: str
    b: str


class RoleTokens(Section):
    """Reserved vocabulary tokens whose lm_head rows carry the heads.

    `[PADn]` names row n of the matrices, where no token has that row.
    """

    allow: str
    escalate: str
    deny: str
    handle: str
    human: str


def spare_row(name: str, tokens: int, rows: int) -> int | None:
    """The id that `[PADn]` names, if it lies behind the vocabulary's last token.

    `[PADn]` is llama.cpp's own text for rows that no token has.

    Args:
        tokens: ids that the tokenizer uses, its highest plus one.
        rows: rows of the embedding.
    """
    found = re.fullmatch(r"\[PAD(\d+)\]", name)
    return int(found[1]) if found and tokens <= int(found[1]) < rows else None


class Base(Section):
    """The base model."""

    kind: Literal["scratch", "local"]
    path: str | None = Field(description="local Hugging Face directory (kind: local)")
    context_profile: Literal["short", "stock"]
    tokens: RoleTokens

    @model_validator(mode="after")
    def _path_given(self) -> "Base":
        if (self.kind == "local") != (self.path is not None):
            raise ValueError("kind: local needs a path, kind: scratch has none")
        return self


class Scratch(Section):
    """The demo's base model, trained from nothing."""

    vocab_size: int = Field(ge=512)
    hidden_size: int = Field(multiple_of=256)
    intermediate_size: int = Field(multiple_of=256)
    layers: int = Field(ge=1)
    heads: int = Field(ge=1)
    kv_heads: int = Field(ge=1)
    epochs: Positive
    batch_size: int = Field(ge=1)
    lr: Positive
    warmup_ratio: Share
    dtype: Literal["float32", "bfloat16"]


class Train(Section):
    """Adapter training."""

    quantization: Literal["nf4", "int8", "none", "full"] = Field(
        description="none = unquantised frozen base; full = the base itself is trained"
    )
    compute_dtype: Literal["float32", "bfloat16", "float16"]
    adapter: Literal["lora", "oft"] = Field(
        description="oft = PEFT's OFT (exact Cayley, block 8, rate gate_lr), to compare with"
    )
    lora_r: int = Field(ge=0, description="0 = no LoRA")
    lora_alpha: Positive
    lora_dropout: Share
    lora_targets: str | list[str] = Field(
        description='"all-linear" or names; a name that matches nothing is an error'
    )
    lr: Positive
    gate_lr: Positive
    head_lr: Positive
    weight_decay: float = Field(ge=0.0)
    warmup_ratio: Share
    max_grad_norm: Positive
    epochs: Positive
    batch_size: int = Field(ge=1)
    accumulation: int = Field(ge=1)
    max_length: int = Field(ge=16)
    gradient_checkpointing: bool
    packing: bool
    save_seconds: Positive
    save_steps: int = Field(ge=1)
    keep: int = Field(ge=1, description="newest checkpoints kept, beside the best ones")
    select: Literal["last", "best_loss", "best_verdict"] = Field(
        description="which step's weights become the adapter"
    )
    resume_from: str | None = Field(
        description="null = newest valid checkpoint; or step-N; or another run's checkpoint"
    )
    explode: float = Field(
        gt=1.0,
        description="stop at a loss above this multiple of the first ten steps' mean",
    )
    launcher: Literal["none", "torchrun"] = Field(
        description="torchrun = `processes` processes on this machine"
    )
    processes: int = Field(ge=1)
    shard: bool = Field(
        description="FSDP: each process holds its share of the frozen, unquantised base"
    )
    valid_steps: int = Field(ge=1)
    threads: Count = Field(description="CPU threads; 0 = torch's own choice")
    seed: int | None = Field(
        description="of training alone; null = the file's seed, which also makes data and base"
    )

    @model_validator(mode="after")
    def _full_has_no_lora(self) -> "Train":
        if self.quantization == "full" and self.adapter != "lora":
            raise ValueError("quantization: full trains the base itself: set adapter: lora")
        if self.shard and self.quantization != "none":
            raise ValueError(
                "shard: true shares out an unquantised frozen base: set quantization: none, "
                "or shard: false (4-bit bases fit everywhere)"
                "or shard: false (4-bit bases fit everywhere)"
            )
        if self.quantization == "full" and self.lora_r:
            raise ValueError("quantization: full trains the base itself: set lora_r: 0")
        return self
