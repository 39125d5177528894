"""What every section of params.yaml is made of.

Sections about the data: the generator, sources, splits.

Sections about the model and its training: what is trained beside the base, and what differs between machines (profiles).

Sections about what follows training: quantised types, readings, certificate, metrics, release, report.
"""

import re
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Probability = Annotated[float, Field(gt=0.0, lt=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
Count = Annotated[int, Field(ge=0)]
QuantType = Literal["Q8_0", "Q6_K", "Q5_K_M", "Q5_0", "Q4_K_M", "Q4_K_S", "Q4_0", "Q4_1"]
FileType = Literal["F16", "Q8_0", "Q6_K", "Q5_K_M", "Q5_0", "Q4_K_M", "Q4_K_S", "Q4_0", "Q4_1"]
Readout = Literal["prefill", "cue"]


class Section(BaseModel):
    """A section of params.yaml: every key spelled, no other key allowed."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, populate_by_name=True, allow_inf_nan=False
    )


class Synthesize(Section):
    """The synthetic generator."""

    rows: int = Field(ge=100, description="rows to make, all distinct")
    domains: list[str] = Field(min_length=1, description="domains of the factor grammar")


class Source(Section):
    """One place rows come from."""

    path: str = Field(description="file, glob or directory")
    weight: Positive = Field(
        description="share of its rows that is used; above 1 repeats training rows"
    )
    use: Literal["auto", "train", "calibration", "test"] = Field(
        description="auto = split by group"
    )


class Split(Section):
    """Shares of groups; they must add up to 1."""

    train: Share
    valid: Share
    calibration: Share
    test_iid: Share
    test_cells: Share
    test_phrases: Share

    @model_validator(mode="after")
    def _adds_up(self) -> "Split":
        total = sum(self.model_dump().values())
        if abs(total - 1.0) > 1e-9:
            raise ValueError(f"shares add up to {total:g}, not 1")
        return self


class Data(Section):
    """Ingestion, rendering and splits."""

    sources: list[Source] = Field(min_length=1)
    system: str = Field(description="system prompt of every conversation")
    format: Literal["heading", "quadruple"] = Field(
        description="thinking format of the training targets"
    )
    max_chars: int = Field(gt=0, description="longer instructions are dropped")
    language: Literal["ja", "any"] = Field(
        description="ja = rows whose text is not Japanese are dropped"
    )
    held_out_domain: str | None = Field(
        description="a domain kept wholly for test_cells; null = none"
    )
    near_duplicate: Share = Field(
        description="Jaccard similarity from which rows are near-duplicates"
    )
    split: Split


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
        description="once more the language loss of the tokens that spell the verdict after the cue",
    )


class Names(Section):
    """Names under which models are registered."""

    a: str
    b: str


class RoleTokens(Section):
    """Reserved vocabulary tokens whose lm_head rows carry the heads; `[PADn]` names row n of the matrices where no token has it."""

    allow: str
    escalate: str
    deny: str
    handle: str
    human: str


def spare_row(name: str, tokens: int, rows: int) -> int | None:
    """The id that `[PADn]` names (llama.cpp's own text for such rows), if it lies behind the vocabulary's last token.

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
        description="oft = PEFT's OFT, exact Cayley, block 8, rate gate_lr, on lora_targets; for comparison"
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
        description="null = newest valid checkpoint; step-N of this run; or a checkpoint folder of another run"
    )
    explode: float = Field(
        gt=1.0,
        description="stop when a step's loss exceeds this multiple of the mean of the first ten steps",
    )
    launcher: Literal["none", "torchrun"] = Field(
        description="torchrun = `processes` processes on this machine"
    )
    processes: int = Field(ge=1)
    shard: bool = Field(
        description="FSDP: with several processes, each holds its share of the frozen base's layers; quantization: none"
    )
    valid_steps: int = Field(ge=1)
    threads: Count = Field(description="CPU threads; 0 = torch's own choice")
    seed: int | None = Field(
        description="of training alone (start values, order, dropout); null = the file's seed, which also makes data and base"
    )

    @model_validator(mode="after")
    def _full_has_no_lora(self) -> "Train":
        if self.quantization == "full" and self.adapter != "lora":
            raise ValueError("quantization: full trains the base itself: set adapter: lora")
        if self.shard and self.quantization != "none":
            raise ValueError(
                "shard: true shares out an unquantised frozen base: set quantization: none, or shard: false (4-bit bases fit everywhere)"
            )
        if self.quantization == "full" and self.lora_r:
            raise ValueError("quantization: full trains the base itself: set lora_r: 0")
        return self


class Profile(Section):
    """What differs between machines."""

    names: Names
    base: Base
    scratch: Scratch | None
    loss: Loss
    train: Train

    @model_validator(mode="after")
    def _scratch_given(self) -> "Profile":
        if (self.base.kind == "scratch") != (self.scratch is not None):
            raise ValueError(
                "base.kind scratch needs a `scratch` section, local needs `scratch: null`"
            )
        return self


class Quant(Section):
    """Quantised types made by libllama."""

    types: list[QuantType] = Field(min_length=1)
    imatrix: bool = Field(
        description="weigh the columns of each weight by how strongly training conversations use them"
    )
    imatrix_rows: int = Field(
        ge=1, description="training conversations that the importance matrix is computed from"
    )


class ReadoutOf(Section):
    """The released readout of each model."""

    a: Readout
    b: Readout


class Scoring(Section):
    """Reading verdicts from GGUF files."""

    types: list[FileType] = Field(min_length=1)
    readout: ReadoutOf
    threads: int = Field(
        ge=1, description="CPU threads of one reader; part of what a card was made with"
    )
    readers: int = Field(
        ge=1, le=64, description="prompts read side by side; the results do not depend on it"
    )
    n_ctx: int = Field(
        ge=256,
        le=4096,
        description="allocated context; above 4096 llama.cpp switches longrope factors",
    )
    max_samples: int | None = Field(description="per split; every output is then stamped `sampled`")


class Temperature(Section):
    """Temperature fit."""

    min: Positive
    max: Positive
    grid_min: Positive
    grid_max: Positive
    grid_steps: int = Field(ge=2)


class Cost(Section):
    """Cost of each wrong decision (optional objective)."""

    false_allow: float = Field(ge=0.0)
    needless_escalation: float = Field(ge=0.0)
    false_deny: float = Field(ge=0.0)


class Calibration(Section):
    """Certificate and thresholds."""

    alpha: Probability = Field(description="largest false-allow rate")
    delta: Probability = Field(description="chance that the certificate is wrong")
    alpha_deny: Probability | None = Field(
        description="stricter limit for true DENY alone; null = none"
    )
    guarantee: Literal["worst_domain", "pooled"]
    cost: Cost | None
    floor_allow: Probability = Field(
        description="ALLOW needs at least this calibrated probability, certified or not"
    )
    residual_mass_max: Share = Field(
        description="above this mass outside the labels the decision is ESCALATE (cue readout)"
    )
    unparsed_max: Share = Field(
        description="share of rows without a readable verdict above which nothing counts as measured"
    )
    bootstrap: int = Field(ge=100, description="draws for intervals that are not binomial")
    temperature: Temperature


class Evaluation(Section):
    """Metrics on the test splits, generation and speed."""

    bootstrap: int = Field(ge=100)
    generate_rows: Count
    generate_tokens: Count
    long_rows: Count
    long_tokens: Count
    speed_rows: Count
    retention_rows: Count = Field(description="valid rows whose answers' perplexity is measured")


class Compare(Section):
    """A against B."""

    alpha: Probability
    bootstrap: int = Field(ge=100)
    margin: Probability = Field(
        description="increase of the false-allow rate that still counts as not worse"
    )
    primary: list[Literal["false_allow_rate", "macro_f1", "accuracy"]] = Field(min_length=1)


class Verify(Section):
    """GGUF against Hugging Face."""

    prompts: int = Field(ge=1)
    top1_min: Share
    verdict_probability_max_error: Share
    reserved_mass_max: Share


class Replies(Section):
    """What the user reads when nothing is generated."""

    escalate: str = Field(min_length=1)
    deny: str = Field(min_length=1)


class Release(Section):
    """What is released and how it is served."""

    model: Literal["a", "b"]
    type: FileType
    num_ctx: int = Field(ge=256, le=4096)
    temperature: Positive = Field(
        description="sampling temperature of prose; not the verdict temperature"
    )
    top_p: Probability
    top_k: int = Field(ge=1)
    think_tokens: int = Field(ge=1, description="most tokens of private thinking in `so8t ask`")
    answer_tokens: int = Field(ge=1, description="most tokens of an answer")
    replies: Replies


class Report(Section):
    """The report."""

    language: Literal["ja", "en"]
    target_allow_rate: Share = Field(
        description="share of true ALLOW a useful file allows; the report says so when it is missed"
    )
    worst_flips: Count = Field(description="flips toward ALLOW listed by id")
