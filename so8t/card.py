"""The calibration card: what turns a model's verdict numbers into a decision, for one file.

Calibration of one GGUF file ends in one JSON file, its card: a temperature, two thresholds and the
certificate behind them. The card names the file by its semantic digest (a digest of what the file
computes, see `so8t.identity`), the prompt template and the engine's settings, and it carries a
digest of itself, so an edit by hand is noticed.

Applying a card fails closed: whatever is not a readable verdict becomes ESCALATE.

Covered: reading, writing, matching, applying. Not covered: how the numbers were found
(`so8t.calibration`).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from so8t.errors import ArtifactError
from so8t.files import read_json, sha256_json, write_json
from so8t.metrics.quality import ESCALATE, Codes, codes, softmax
from so8t.metrics.scores import Scores
from so8t.verdict import Thresholds, Verdict, decide

# A card of another schema may mean its numbers differently, so it is refused, never converted.
SCHEMA = "so8t.card/2"
# The rule in words, in every card: a card made for another rule must not be applied by this code.
RULE = "DENY if p_deny >= deny; ALLOW only if p_escalate + p_deny < escalate; otherwise ESCALATE"
FIX = "make the card again: dvc repro calibrate"

# (ALLOW, ESCALATE, DENY) of each row; a row of NaN could not be read.
Probabilities = Float[ndarray, "n 3"]


class _Part(BaseModel):
    # A card decides what is allowed, so nothing in it is coerced and no number may be NaN.
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, strict=True)


# What the engine is opened with. A text where a number belongs would fail deep inside it.
ENGINE_TYPES = {"n_ctx": int, "n_batch": int, "threads": int, "type_k": str, "type_v": str}


class CardThresholds(_Part):
    """The two thresholds of the decision rule.

    `allow` is 1 - escalate, the least probability of ALLOW that is allowed, and null when the ALLOW
    gate is closed. Only `deny` and `escalate` are applied.
    """

    deny: float = Field(ge=0.0, le=1.0)
    escalate: float = Field(ge=0.0, le=1.0)
    allow: float | None


class Residual(_Part):
    """The most probability outside the three labels with which a row may still be decided.

    It applies to the cue readout, which reads the labels as text. The prefill readout reads three
    reserved rows of the output matrix, so nothing is outside.
    """

    applies: bool
    max: float = Field(ge=0.0, le=1.0)


class CardFamiliarity(_Part):
    """Which requests the certificate speaks about (so8t.familiarity); all others escalate.

    `limits` has the largest number of each signal that is still familiar, `index` the digest of the
    index that the numbers of a new request are made with.
    """

    budget: float = Field(gt=0.0, lt=1.0)
    # Whether there were calibration groups enough to keep the budget in every domain.
    budget_kept: bool
    limits: dict[str, float]
    index: str = Field(min_length=1)


class Card(_Part):
    """Everything a server needs to decide, and a person to assess the file (table: docs/card.md).

    The order of the fields is the order of the keys in the file.
    """

    # The underscore, because a field `schema` would shadow a method of pydantic's.
    schema_: Literal["so8t.card/2"] = Field(alias="schema")
    status: Literal["certified", "not_certified"]
    reasons: list[str]
    file: str = Field(min_length=1)
    # Of what the file computes, so that renaming it or adding keys leaves the card valid.
    semantic_digest: str = Field(min_length=1)
    template_sha256: str = Field(min_length=1)
    # Settings that change the last bits of logits (flash attention, cache types, llama.cpp
    # version).
    engine: dict[str, Any]
    readout: Literal["prefill", "cue"]
    sampled: bool
    labels: list[str]
    temperature: float = Field(gt=0.0)
    thresholds: CardThresholds
    # Repeated in the file so that a person who reads the card alone can apply it.
    rule: str
    residual: Residual
    familiarity: CardFamiliarity
    metrics: dict[str, float | None]
    measured: dict[str, Any]
    certificate: dict[str, Any]
    false_deny: dict[str, Any]
    temperature_fit: dict[str, Any]
    founding: dict[str, Any]
    advisory: dict[str, Any] | None
    data: dict[str, Any]
    # What the certificate does not cover, as codes, so that no reader has to know.
    limits: list[str]
    # Digest of the card that this one replaced, so that recalibrations form a chain.
    previous: str | None
    digest: str

    @model_validator(mode="after")
    def _consistent(self) -> "Card":
        if self.status == "certified":
            self._check_certified()
        elif self.thresholds.escalate != 0.0 or self.thresholds.allow is not None:
            raise ValueError("a card that is not certified must keep the ALLOW gate closed")
        # Another order of the labels would turn ALLOW into something else without any error.
        same_labels = self.labels == [verdict.value for verdict in Verdict]
        if not same_labels or self.rule != RULE:
            raise ValueError("labels or rule are not the ones this version applies")
        # A card made over a server names other settings; only those that are there are looked at.
        for name, kind in ENGINE_TYPES.items():
            # Not isinstance: True is an int too.
            if name in self.engine and type(self.engine[name]) is not kind:
                raise ValueError(f"engine.{name} is {self.engine[name]!r}, no {kind.__name__}")
        return self

    def _check_certified(self) -> None:
        limit = self.thresholds.escalate
        if self.thresholds.allow != 1.0 - limit:
            raise ValueError("thresholds.allow is not 1 - thresholds.escalate")
        strata = self.certificate.get("strata", [])
        binding = [stratum for stratum in strata if stratum.get("binding")]
        kept = 0
        for stratum in binding:
            own = stratum.get("threshold")
            # Asked this way round, NaN does not count as kept.
            if own is not None and limit <= own:
                kept += 1
        # Without a binding stratum nothing was certified, whatever the status says.
        if not binding or kept < len(binding):
            raise ValueError("the ALLOW threshold is above what the certificate's strata allow")


def build(body: Mapping[str, Any]) -> Card:
    """Make a card of its parts and seal it with its digest.

    Args:
        body: every field except `schema`, `rule`, `labels` and `digest`.

    Raises:
        ValidationError: the parts contradict each other (a mistake in the caller).
    """
    content = {
        "schema": SCHEMA,
        "rule": RULE,
        "labels": [verdict.value for verdict in Verdict],
        **body,
        "digest": "",
    }
    return seal(Card.model_validate(content))


def seal(card: Card) -> Card:
    """The same card with the digest of its content."""
    # Every field except the digest itself, as the file will hold it.
    return card.model_copy(update={"digest": _digest_of(to_dict(card))})


def _digest_of(content: Mapping[str, Any]) -> str:
    return sha256_json({key: value for key, value in content.items() if key != "digest"})


def to_dict(card: Card) -> dict[str, Any]:
    """The card as JSON."""
    return card.model_dump(by_alias=True)


def write(path: Path, card: Card) -> None:
    """Write a card atomically; floats keep every bit, so no threshold is ever rounded."""
    write_json(path, to_dict(card))


def parse(content: Any, where: str) -> Card:
    """Check a card's content: schema, digest, shape, consistency.

    Args:
        content: what the JSON file holds.
        where: the file, for the error.

    Raises:
        ArtifactError: edited, of another schema, or inconsistent.
    """
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        raise ArtifactError(f"not a calibration card of schema {SCHEMA}", where=where, fix=FIX)
    # Before the shape is checked: an edited card is reported as edited, whatever the edit broke.
    if _digest_of(content) != content.get("digest"):
        raise ArtifactError(
            "the card was edited after it was made: its digest does not fit", where=where, fix=FIX
        )
    try:
        return Card.model_validate(content)
    except ValidationError as error:
        what = f"the card is not consistent: {_problems(error)}"
        raise ArtifactError(what, where=where, fix=FIX) from None


def _problems(error: ValidationError) -> str:
    problems = []
    for entry in error.errors():
        place = ".".join(map(str, entry["loc"])) or "card"
        problems.append(f"{place}: {entry['msg']}")
    return "; ".join(problems)


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
    wrong = []
    if card.semantic_digest != semantic_digest:
        wrong.append("semantic_digest")
    if card.template_sha256 != template_sha256:
        wrong.append("template_sha256")
    # Settings that the caller does not name are not compared: a reader of the file alone has none.
    for name, value in sorted((engine or {}).items()):
        if card.engine.get(name) != value:
            wrong.append(f"engine.{name}")
    if wrong:
        what = f"the card is not for this: {', '.join(wrong)} differ"
        raise ArtifactError(what, where=card.file, fix=FIX)


def thresholds_of(card: Card) -> Thresholds:
    """The card's thresholds for `so8t.verdict.decide`."""
    return Thresholds(deny=card.thresholds.deny, escalate=card.thresholds.escalate)


def float32_thresholds(card: Card) -> Thresholds:
    """Thresholds as GGUF float32 keys can hold them.

    Each is rounded down: for `escalate` that is the stricter side, and a lower `deny` denies more.
    """
    return Thresholds(
        deny=_float32_below(card.thresholds.deny),
        escalate=_float32_below(card.thresholds.escalate),
    )


def _float32_below(value: float) -> float:
    """The largest float32 that is not above `value`."""
    # Rounding to nearest may go up, and an `escalate` above the certified one allows too much.
    nearest = np.float32(value)
    if float(nearest) <= value:
        return float(nearest)
    return float(np.nextafter(nearest, np.float32(-1.0)))


def probabilities(
    card: Card, logits: Float[ndarray, "n 3"], residual: Float[ndarray, " n"]
) -> Probabilities:
    """Calibrated probabilities of many rows.

    Args:
        card: its temperature and its residual limit apply.
        logits: (ALLOW, ESCALATE, DENY), raw, as `card.readout` reads them.
        residual: probability outside the labels; ignored for the prefill readout.

    Returns:
        float64 [n, 3]; a row that may not be decided (not finite, too much residual) is NaN.
    """
    # float64 throughout: thresholds are observed hazards, and a float32 sum could fall on the other
    # side.
    rows = np.asarray(logits, dtype=np.float64).reshape(-1, 3)
    outside = np.asarray(residual, dtype=np.float64).reshape(-1)
    usable = np.asarray(np.isfinite(rows).all(axis=1))
    if card.residual.applies:
        # A comparison with NaN is false, so a row whose residual is unknown is not usable.
        with np.errstate(invalid="ignore"):
            usable &= outside <= card.residual.max
    return softmax(np.where(usable[:, None], rows, np.nan), card.temperature)


def familiar_rows(
    limits: Mapping[str, float], strangeness: Mapping[str, Float[ndarray, " n"]], count: int
) -> Bool[ndarray, " n"]:
    """Which rows are like those the certificate was made on.

    Args:
        limits: the largest number of each signal that is still familiar.
        strangeness: the rows' numbers by signal; a signal or a number that is missing is strange.
        count: how many rows there are.
    """
    familiar = np.ones(count, dtype=bool)
    unknown = np.full(count, np.nan)
    for signal, limit in limits.items():
        # A comparison with NaN is false.
        with np.errstate(invalid="ignore"):
            familiar &= strangeness.get(signal, unknown) <= limit
    return familiar


def decided_codes(p: Probabilities, thresholds: Thresholds) -> Codes:
    """Decided verdicts of many rows as codes (ALLOW 0, ESCALATE 1, DENY 2); NaN rows escalate."""
    return codes(decide(p, thresholds))


def most_likely(values: Float[ndarray, "n 3"]) -> Codes:
    """The code with the largest probability or logit in each row; ESCALATE for a row of NaN."""
    readable = np.isfinite(values).all(axis=1)
    largest = np.nan_to_num(values).argmax(axis=1)
    return np.where(readable, largest, ESCALATE)


@dataclass(frozen=True, slots=True)
class DecidedRows:
    """Labelled rows of one split and what a card made of them.

    `probabilities` [n, 3] are calibrated, NaN where nothing was readable or the request is
    unfamiliar; `decided` [n] are codes; `familiar` [n] says which requests the certificate is
    about.
    """

    scores: Scores
    probabilities: Probabilities
    decided: Codes
    familiar: Bool[ndarray, " n"]

    @property
    def readable(self) -> Bool[ndarray, " n"]:
        """Rows that have probabilities."""
        return np.asarray(np.isfinite(self.probabilities).all(axis=1))

    @property
    def most_likely(self) -> Codes:
        """The most probable verdict of each row: the model itself, before any threshold."""
        return most_likely(self.probabilities)


def decide_rows(card: Card, scores: Scores, thresholds: Thresholds | None = None) -> DecidedRows:
    """Decide many rows by a card.

    Args:
        card: its temperature applies, and its thresholds unless others are given.
        scores: read with the card's readout.
        thresholds: those of another card, to see model B under the thresholds of model A.
    """
    p = probabilities(card, scores.logits, scores.residual)
    familiar = familiar_rows(card.familiarity.limits, scores.strangeness, len(scores))
    # No probability is claimed for a request unlike the calibration rows, and so it escalates.
    p = np.where(familiar[:, None], p, np.nan)
    applied = thresholds or thresholds_of(card)
    return DecidedRows(scores, p, decided_codes(p, applied), familiar)


@dataclass(frozen=True, slots=True)
class Decision:
    """A verdict and its calibrated probabilities (ALLOW, ESCALATE, DENY).

    The probabilities are null when there was nothing readable.
    """

    verdict: Verdict
    probabilities: tuple[float, float, float] | None


def apply(
    card: Card,
    logits: Sequence[float] | ndarray,
    residual: float | None,
    strangeness: Mapping[str, float],
) -> Decision:
    """Decide one request from its three verdict numbers and its familiarity.

    Args:
        card: checked with `require_match` first.
        logits: (ALLOW, ESCALATE, DENY), raw, as `card.readout` reads them; any other length
            escalates.
        residual: probability outside the labels. For the cue readout, null or NaN escalates; for
            the prefill readout it is ignored.
        strangeness: its number of every signal that the card limits; anything strange escalates.
    """
    numbers = {name: np.array([value]) for name, value in strangeness.items()}
    if not familiar_rows(card.familiarity.limits, numbers, 1)[0]:
        return Decision(Verdict.ESCALATE, None)
    # A server may answer anything; too few or too many numbers are no reading at all.
    if len(logits) != len(Verdict):
        return Decision(Verdict.ESCALATE, None)
    outside = math.nan if residual is None else residual
    row = np.asarray(logits, dtype=np.float64)[None]
    p = probabilities(card, row, np.array([outside]))
    verdict = decide(p, thresholds_of(card))[0]
    if not np.isfinite(p).all():
        return Decision(verdict, None)
    allow, escalate, deny = p[0].tolist()
    return Decision(verdict, (allow, escalate, deny))
