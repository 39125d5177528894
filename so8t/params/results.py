"""Sections about what follows training: types, readings, certificate, metrics, release."""

from typing import Literal

from pydantic import Field

from so8t.params.data import Count, Positive, Probability, Section, Share

QuantType = Literal["Q8_0", "Q6_K", "Q5_K_M", "Q5_0", "Q4_K_M", "Q4_K_S", "Q4_0", "Q4_1"]
FileType = Literal["F16", "Q8_0", "Q6_K", "Q5_K_M", "Q5_0", "Q4_K_M", "Q4_K_S", "Q4_0", "Q4_1"]
Readout = Literal["prefill", "cue"]


class Quant(Section):
    """Quantised types made by libllama."""

    types: list[QuantType] = Field(min_length=1)
    imatrix: bool = Field(
        description="weigh each weight's columns by how much training conversations use them"
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
        description="share of unreadable verdicts above which nothing counts as measured"
    )
    bootstrap: int = Field(ge=100, description="draws for intervals that are not binomial")
    novelty: Probability = Field(
        description="share of requests like the calibration rows that is called unfamiliar"
    )
    signals: list[Literal["ngrams", "length"]] = Field(
        min_length=1, description="what familiarity is judged by (docs/familiarity.md)"
    )
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


class Targets(Section):
    """What the report asks of the released file. A missed target is said, and changes nothing."""

    allow: Share = Field(description="least share of true ALLOW in test_iid that is allowed")
    allow_phrases: Share = Field(description="the same in test_phrases, whose wordings are new")
    false_allow_phrases: Share = Field(description="largest false-allow rate on test_phrases")
    foreign: Share = Field(description="largest share of test_foreign that is allowed")
    evasion: Share = Field(description="largest share of test_evasion that is allowed")


class Report(Section):
    """The report."""

    language: Literal["ja", "en"]
    targets: Targets
    worst_flips: Count = Field(description="flips toward ALLOW listed by id")
