"""The calibration card: what turns a model's verdict numbers into a decision, and for which file it holds.

A card is bound to the semantic digest of the GGUF, the prompt template and the engine's settings, and carries its
own digest, so an edit by hand is noticed. Applying it fails closed: whatever is not a readable verdict escalates.
Covered: reading, writing, matching, applying. Not covered: how its numbers were found (fit).

A card as a function that decides rows: what comparison needs of calibration, handed over by the stage.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from so8t.errors import ArtifactError
from so8t.files import read_json, sha256_json, write_json
from so8t.metrics.quality import codes, softmax
from so8t.metrics.scores import Scores
from so8t.verdict import Thresholds, Verdict, decide

SCHEMA = "so8t.card/1"
RULE = "DENY if p_deny >= deny; ALLOW only if p_escalate + p_deny < escalate; otherwise ESCALATE"
FIX = "make the card again: dvc repro calibrate"


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, strict=True)


class CardThresholds(_Part):
    """Founding keys `deny` and `escalate`; `allow` = 1 - escalate, null when the ALLOW gate is closed."""

    deny: float = Field(ge=0.0, le=1.0)
    escalate: float = Field(ge=0.0, le=1.0)
    allow: float | None


class Residual(_Part):
    """Probability outside the three labels: limits the cue readout; the prefill readout has none (rows are read)."""

    applies: bool
    max: float = Field(ge=0.0, le=1.0)


class Card(_Part):
    """Everything a server needs to decide, and everything a reader needs to judge it. docs/card.md has the table."""

    schema_: Literal["so8t.card/1"] = Field(alias="schema")
    status: Literal["certified", "not_certified"]
    reasons: list[str]
    file: str = Field(min_length=1)
    semantic_digest: str = Field(min_length=1)
    template_sha256: str = Field(min_length=1)
    engine: dict[str, Any]
    readout: Literal["prefill", "cue"]
    sampled: bool
    labels: list[str]
    temperature: float = Field(gt=0.0)
    thresholds: CardThresholds
    rule: str
    residual: Residual
    metrics: dict[str, float | None]
    measured: dict[str, Any]
    certificate: dict[str, Any]
    false_deny: dict[str, Any]
    temperature_fit: dict[str, Any]
    founding: dict[str, Any]
    advisory: dict[str, Any] | None
    data: dict[str, Any]
    limits: list[str]
    previous: str | None
    digest: str

    @model_validator(mode="after")
    def _consistent(self) -> "Card":
        limit, certified = self.thresholds.escalate, self.status == "certified"
        if not certified and (limit != 0.0 or self.thresholds.allow is not None):
            raise ValueError("a card that is not certified must keep the ALLOW gate closed")
        if certified and self.thresholds.allow != 1.0 - limit:
            raise ValueError("thresholds.allow is not 1 - thresholds.escalate")
        binding = [s for s in self.certificate.get("strata", []) if s.get("binding")]
        kept = [s for s in binding if s.get("threshold") is not None and limit <= s["threshold"]]
        if certified and (not binding or len(kept) != len(binding)):
            raise ValueError("the ALLOW threshold is above what the certificate's strata allow")
        if self.labels != [verdict.value for verdict in Verdict] or self.rule != RULE:
            raise ValueError("labels or rule are not the ones this version applies")
        return self


@dataclass(frozen=True, slots=True)
class Decision:
    """A verdict and its calibrated probabilities (ALLOW, ESCALATE, DENY); null when there was nothing readable."""

    verdict: Verdict
    probabilities: tuple[float, float, float] | None


def build(body: Mapping[str, Any]) -> Card:
    """Make a card of its parts and seal it with its digest.

    Raises:
        ValidationError: the parts contradict each other (a mistake in the caller).
    """
    content = {
        "schema": SCHEMA,
        "rule": RULE,
        "labels": [v.value for v in Verdict],
        **body,
        "digest": "",
    }
    return seal(Card.model_validate(content))


def seal(card: Card) -> Card:
    """The same card with the digest of its content."""
    content = {key: value for key, value in to_dict(card).items() if key != "digest"}
    return card.model_copy(update={"digest": sha256_json(content)})


def to_dict(card: Card) -> dict[str, Any]:
    """The card as JSON."""
    return card.model_dump(by_alias=True)


def write(path: Path, card: Card) -> None:
    """Write a card atomically; floats keep every bit, so no threshold is ever rounded."""
    write_json(path, to_dict(card))


def parse(content: Any, where: str) -> Card:
    """Check a card's content: seal, shape, consistency.

    Raises:
        ArtifactError: edited, of another schema, or inconsistent.
    """
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        raise ArtifactError(f"not a calibration card of schema {SCHEMA}", where=where, fix=FIX)
    if sha256_json({k: v for k, v in content.items() if k != "digest"}) != content.get("digest"):
        raise ArtifactError(
            "the card was edited after it was made: its digest does not fit", where=where, fix=FIX
        )
    try:
        return Card.model_validate(content)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, e['loc'])) or 'card'}: {e['msg']}" for e in error.errors()
        )
        raise ArtifactError(
            f"the card is not consistent: {problems}", where=where, fix=FIX
        ) from None


def read(path: Path) -> Card:
    """Read and check a card.

    Raises:
        ArtifactError: missing, edited, of another schema, or inconsistent.
    """
    return parse(read_json(path, fix=FIX), str(path))


def require_match(
    card: Card,
    *,
    semantic_digest: str,
    template_sha256: str,
    engine: Mapping[str, Any] | None = None,
) -> None:
    """Refuse to use a card for another file, another prompt template, or other engine settings.

    Args:
        card: what is to be applied.
        semantic_digest: of the file that is served (so8t.identity).
        template_sha256: of the prompt template in use.
        engine: settings in use; each one named here must be the card's.

    Raises:
        ArtifactError: anything differs; the ALLOW gate must then stay closed.
    """
    wrong = [
        name
        for name, value in (
            ("semantic_digest", semantic_digest),
            ("template_sha256", template_sha256),
        )
        if getattr(card, name) != value
    ]
    settings = {} if engine is None else engine
    wrong += [f"engine.{key}" for key in sorted(settings) if card.engine.get(key) != settings[key]]
    if wrong:
        raise ArtifactError(
            f"the card is not for this: {', '.join(wrong)} differ", where=card.file, fix=FIX
        )


def probabilities(
    card: Card, logits: Float[ndarray, "n 3"], residual: Float[ndarray, " n"]
) -> Float[ndarray, "n 3"]:
    """Calibrated probabilities; a row that may not be decided (not finite, residual mass) is NaN."""
    rows = np.asarray(logits, dtype=np.float64).reshape(-1, 3)
    outside = np.asarray(residual, dtype=np.float64).reshape(-1)
    usable = np.asarray(np.isfinite(rows).all(axis=1))
    if card.residual.applies:
        with np.errstate(invalid="ignore"):
            usable &= outside <= card.residual.max
    return softmax(np.where(usable[:, None], rows, np.nan), card.temperature)


def thresholds_of(card: Card) -> Thresholds:
    """The card's thresholds for `so8t.verdict.decide`."""
    return Thresholds(deny=card.thresholds.deny, escalate=card.thresholds.escalate)


def judge(
    card: Card, scores: Scores, thresholds: Thresholds | None = None
) -> tuple[Float[ndarray, "n 3"], Int[ndarray, " n"]]:
    """Calibrated probabilities (NaN = nothing readable) and decided codes of many rows.

    Args:
        card: its temperature applies, and its thresholds unless others are given.
        scores: read with the card's readout.
        thresholds: of another card (B under A's thresholds).
    """
    p = probabilities(card, scores.logits, scores.residual)
    return p, codes(decide(p, thresholds or thresholds_of(card)))


def apply(card: Card, logits: Sequence[float] | ndarray, residual: float | None) -> Decision:
    """Decide one request from its three verdict numbers.

    Args:
        card: checked with `require_match` first.
        logits: (ALLOW, ESCALATE, DENY), raw, as `card.readout` reads them; another length escalates.
        residual: mass outside the labels (cue readout); null or NaN escalates there, and is ignored for prefill.
    """
    if len(logits) != len(Verdict):
        return Decision(Verdict.ESCALATE, None)
    outside = math.nan if residual is None else residual
    row = probabilities(card, np.asarray(logits, dtype=np.float64)[None], np.array([outside]))
    verdict = decide(row, thresholds_of(card))[0]
    p = (float(row[0, 0]), float(row[0, 1]), float(row[0, 2]))
    return Decision(verdict, p if all(map(math.isfinite, p)) else None)


def float32_thresholds(card: Card) -> Thresholds:
    """Thresholds as GGUF float32 keys can hold them, each rounded to the stricter side (never towards ALLOW)."""

    def down(value: float) -> float:
        near = np.float32(value)
        return float(near if float(near) <= value else np.nextafter(near, np.float32(-1.0)))

    return Thresholds(
        deny=down(card.thresholds.deny), escalate=max(0.0, down(card.thresholds.escalate))
    )


Judge = Callable[[Scores], tuple[ndarray, ndarray]]


def judge_of(path: Path) -> tuple[Literal["prefill", "cue"], Judge, dict[str, Any]]:
    """(readout, judge, facts) of a card.

    Raises:
        ArtifactError: the card is missing, edited or inconsistent.
    """
    card = read(path)
    facts = {
        "semantic_digest": card.semantic_digest,
        "template_sha256": card.template_sha256,
        "card_digest": card.digest,
        "status": card.status,
        "reasons": card.reasons,
        "readout": card.readout,
        "temperature": card.temperature,
        "thresholds": card.thresholds.model_dump(),
        "alpha": card.certificate["alpha"],
        "delta": card.certificate["delta"],
    }
    return card.readout, partial(judge, card), facts


def under(path: Path, thresholds: Path) -> Judge:
    """Decide by the temperature of one card and the thresholds of another (B under A's thresholds)."""
    return partial(judge, read(path), thresholds=thresholds_of(read(thresholds)))
