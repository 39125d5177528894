"""One prompt to one reading: what a model says of the verdict, in two ways.

prefill: raw logits of the five reserved tokens at the end of the prompt; nothing is generated.
cue: after the prompt, `# 判定` and a newline are fed; the reading is the log-probability of each
whole label with its newline.
Both are exact (so8t.llama): a prompt is always cut at the frame's end, the prompt's end and the
cue's end, so no number depends on what was read before.

Not covered: what is decided (so8t.card), and how readings are stored (so8t.scoring.score).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from so8t.chat import CUE
from so8t.errors import ArtifactError
from so8t.gguf_file import read_keys
from so8t.llama import Engine
from so8t.prompts import LABELS, Prompt, Prompter
from so8t.request import Request
from so8t.rows import Row, Scored
from so8t.verdict import AUTHORITIES, VERDICTS, most_restrictive

# Keys of a GGUF file that `so8t` converted.
VERDICT_IDS = "so8t.verdict.token_ids"
AUTHORITY_IDS = "so8t.authority.token_ids"


@dataclass(frozen=True, slots=True)
class Reading:
    """What a model says of one prompt.

    `prefill` and `authority`: raw logits, in the order of VERDICTS and AUTHORITIES; None where the
    source gives no logits of reserved tokens. `cue`: log-probabilities of the labels. `residual`:
    probability of anything but the three labels. `reserved_mass`: probability of the reserved
    tokens as next token.
    """

    prefill: tuple[float, ...] | None
    authority: tuple[float, ...] | None
    cue: tuple[float, ...]
    residual: float
    reserved_mass: float | None


@dataclass(frozen=True, slots=True)
class RequestReading:
    """What a model says of a whole request.

    Attributes:
        reading: the most restrictive of the whole and its parts.
        whole: of the whole alone.
        parts: how many were read beside the whole.
        refusal: why the model was not asked, if it was not.
    """

    reading: Reading
    whole: Reading
    parts: int
    refusal: str | None

    def scored(self, row: Row, strangeness: dict[str, float]) -> Scored:
        """The reading of one labelled row as it is stored.

        JSON has no NaN and no infinity. Such a number becomes None, which decides ESCALATE.
        """
        # Rows without a label are never scored.
        assert row.verdict is not None
        alone = None
        if self.parts:
            cue = [_number(value) for value in self.whole.cue]
            alone = {"prefill": _finite(self.whole.prefill), "cue": cue}
        return Scored(
            id=row.id,
            group=row.group,
            domain=row.domain,
            verdict=row.verdict,
            authority=row.authority,
            prefill=_finite(self.reading.prefill),
            authority_logits=_finite(self.reading.authority),
            cue=[_number(value) for value in self.reading.cue],
            residual=_number(self.reading.residual),
            reserved_mass=_number(self.reading.reserved_mass),
            strangeness=strangeness,
            refusal=self.refusal,
            parts=self.parts,
            whole=alone,
        )


# A request that is refused before anything is read: nothing readable escalates.
_NOTHING = (math.nan, math.nan, math.nan)
UNREAD = Reading(
    prefill=_NOTHING, authority=None, cue=_NOTHING, residual=math.nan, reserved_mass=None
)


def read_request(reader: "Reader", request: Request) -> RequestReading:
    """Read a request whole and part by part; one that is refused is not read at all."""
    if request.refusal is not None:
        return RequestReading(UNREAD, UNREAD, 0, request.refusal)
    return read_prompts(reader, prompts_of(reader, request))


def prompts_of(reader: "Reader", request: Request) -> list[Prompt]:
    """The prompt of the whole, then those of the parts."""
    return [reader.prompter.prompt(text) for text in (request.text, *request.parts)]


def read_prompts(reader: "Reader", prompts: Sequence[Prompt]) -> RequestReading:
    """Read the prompts of `prompts_of`."""
    readings = [reader.read_prompt(prompt) for prompt in prompts]
    whole = readings[0]
    return RequestReading(_worst_of(readings), whole, len(readings) - 1, None)


def _worst_of(readings: Sequence[Reading]) -> Reading:
    """Verdict numbers of the most restrictive part; the authority is the whole's."""
    if len(readings) == 1:
        return readings[0]
    cue = np.array([reading.cue for reading in readings], dtype=np.float64)
    prefill = None
    known = [reading.prefill for reading in readings if reading.prefill is not None]
    if len(known) == len(readings):
        prefill = tuple(most_restrictive(np.array(known, dtype=np.float64)).tolist())
    masses = [reading.reserved_mass for reading in readings if reading.reserved_mass is not None]
    return Reading(
        prefill=prefill,
        authority=readings[0].authority,
        cue=tuple(most_restrictive(cue).tolist()),
        residual=max(reading.residual for reading in readings),
        reserved_mass=max(masses, default=None),
    )


class Reader(Protocol):
    """Anything that reads verdicts: a GGUF file in process, a Hugging Face model, a server."""

    prompter: Prompter[Any]

    def read(self, text: str) -> Reading:
        """Read the verdict of one user's text."""

    def read_prompt(self, prompt: Prompt) -> Reading:
        """Read the verdict after a prompt."""


class GgufReader:
    """Reads verdicts from an opened GGUF file.

    Raises:
        ArtifactError: the file has no ids of reserved tokens, or no chat template.
    """

    def __init__(self, engine: Engine, system: str) -> None:
        self.engine = engine
        self.prompter = Prompter(engine, system)
        # From the file itself: a GGUF that other software made has no such keys.
        keys = read_keys(engine.path)
        self.verdict_ids, self.authority_ids = reserved_ids(keys, engine)

    @property
    def reserved(self) -> set[int]:
        """Ids that are read and never emitted."""
        return {*self.verdict_ids, *self.authority_ids}

    def read(self, text: str) -> Reading:
        """Read both readouts of one user's text."""
        return self.read_prompt(self.prompter.prompt(text))

    def read_prompt(self, prompt: Prompt) -> Reading:
        """Read both readouts after a prompt."""
        # In float64, because residuals near zero are differences of numbers near one.
        logits = self.engine.logits(prompt.ids, cuts=prompt.cuts).astype(np.float64)
        cue = self._cue(prompt)
        return Reading(
            prefill=tuple(logits[self.verdict_ids]),
            authority=tuple(logits[self.authority_ids]),
            cue=cue,
            residual=residual_of(cue),
            reserved_mass=mass_of(logits, self.reserved),
        )

    def _cue(self, prompt: Prompt) -> tuple[float, ...]:
        fed = self.prompter.after(prompt, CUE)
        logits = self.engine.logits(fed.ids, cuts=fed.cuts).astype(np.float64)
        # All labels share this evaluation, so it is made once.
        first = log_softmax(logits)
        cue: list[float] = []
        for label in LABELS:
            # Tokenised behind the cue, for alone it could be other tokens.
            whole = self.prompter.after(fed, label)
            cue.append(self._label(whole, len(fed.ids), first))
        return tuple(cue)

    def _label(self, whole: Prompt, begin: int, first: NDArray[np.float64]) -> float:
        """Log-probability of a label.

        Args:
            whole: the prompt with the cue and the label.
            begin: position of the label's first token.
            first: float64 [n_vocab], log-probabilities of the token at that position.
        """
        head, *rest = whole.ids[begin:]
        total = float(first[head])
        if not rest:
            return total
        # The last token predicts nothing that is asked for.
        fed_ids = whole.ids[:-1]
        rows = self.engine.logits_from(fed_ids, begin, cuts=whole.cuts)
        return total + summed_log_probability(rows.astype(np.float64), rest)


def reserved_ids(keys: dict[str, Any], engine: Engine) -> tuple[list[int], list[int]]:
    """The token ids of the three verdicts and of the two authorities, from the file's own keys.

    Their rows of the output matrix are what training turned into classification heads.

    Raises:
        ArtifactError: the keys are missing, or hold other than three and two distinct ids of the
            vocabulary.
    """
    verdict = _ids_at(keys, VERDICT_IDS, len(VERDICTS))
    authority = _ids_at(keys, AUTHORITY_IDS, len(AUTHORITIES))
    if verdict is None or authority is None:
        raise ArtifactError(
            f"the keys {VERDICT_IDS} and {AUTHORITY_IDS} are missing",
            where=str(engine.path),
            fix="convert the model again with so8t (`dvc repro convert`)",
        )
    ids = [*verdict, *authority]
    distinct = len(set(ids)) == len(ids)
    # A damaged key may hold anything, and libllama does not check ids.
    in_vocabulary = all(isinstance(token, int) and 0 <= token < engine.n_vocab for token in ids)
    if not distinct or not in_vocabulary:
        raise ArtifactError(
            "the reserved token ids are not distinct ids of the vocabulary",
            where=str(engine.path),
            fix="convert the model again with so8t",
        )
    return verdict, authority


def _ids_at(keys: dict[str, Any], key: str, count: int) -> list[int] | None:
    found = keys.get(key)
    # Files of other software may have a key of this name with other content.
    if not isinstance(found, list) or len(found) != count:
        return None
    return found


def log_softmax(row: NDArray[np.float64]) -> NDArray[np.float64]:
    """Log-probabilities of one row of logits, float64 [n_vocab]; NaN in, NaN out."""
    # Without subtracting the largest logit, exp would overflow.
    top = row.max()
    total = float(np.exp(row - top).sum())
    shifted: NDArray[np.float64] = row - (top + math.log(total))
    return shifted


def summed_log_probability(rows: NDArray[np.float64], tokens: Sequence[int]) -> float:
    """Log-probability of tokens one after the other.

    Args:
        rows: float64 [t, n_vocab], row i holding the logits that predict token i.
        tokens: t token ids.
    """
    pairs = zip(rows, tokens, strict=True)
    return sum(float(log_softmax(row)[token]) for row, token in pairs)


def mass_of(logits: NDArray[np.float64], tokens: set[int]) -> float:
    """Probability of a set of tokens as next token; `logits` is float64 [n_vocab]."""
    log_probabilities = log_softmax(logits)
    # Sorted, because the order of a set could change the last bit of the sum.
    return float(np.exp(log_probabilities[sorted(tokens)]).sum())


def residual_of(cue: tuple[float, ...]) -> float:
    """Probability that is left when the labels are taken away; NaN if a label was not seen."""
    rest = 1.0 - sum(math.exp(value) for value in cue)
    if math.isnan(rest):
        return rest
    # Rounding can bring it just below zero.
    return max(0.0, rest)


def _number(value: float | None) -> float | None:
    # numpy's numbers become Python's: not all of its types can be written as JSON.
    if value is None or not math.isfinite(value):
        return None
    return float(value)


def _finite(values: tuple[float, ...] | None) -> list[float | None] | None:
    if values is None:
        return None
    return [_number(value) for value in values]
