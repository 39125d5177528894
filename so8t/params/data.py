"""Sections about the data: the generator, sources, splits; and what every section is made of."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Probability = Annotated[float, Field(gt=0.0, lt=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
Count = Annotated[int, Field(ge=0)]


class Section(BaseModel):
    """A section of params.yaml: every key spelled, no other key allowed."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, populate_by_name=True, allow_inf_nan=False
    )


class Synthesize(Section):
    """The synthetic generator."""

    rows: int = Field(ge=100, description="rows to make, all distinct")
    domains: list[str] = Field(min_length=1, description="domains of the factor grammar")
    tail: Share = Field(description="share of phrasings drawn from the long tail of rare ones")
    foreign: Count = Field(description="rows of each kind of request outside the domains")


class Source(Section):
    """One place rows come from."""

    path: str = Field(description="file, glob or directory")
    weight: Positive = Field(
        description="share of its rows that is used; above 1 repeats training rows"
    )
    use: Literal["auto", "train", "calibration", "test", "probe"] = Field(
        description="auto = split by group; probe = scored and reported, never trained on"
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
    evasions: Count = Field(
        description="unsafe test rows that test_evasion disguises, each in every way"
    )
    near_duplicate: Share = Field(
        description="Jaccard similarity from which rows are near-duplicates"
    )
    split: Split
