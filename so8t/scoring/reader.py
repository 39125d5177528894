"""One prompt to one reading: the logits of the reserved rows, and the log-probabilities of the labels after the cue.

prefill: raw logits of the five reserved tokens at the end of the prompt; no token is generated.
cue: the prompt, `# 判定` and a newline are fed; log-probability of each whole label with its newline.
Both are exact (so8t.llama): the prompt is always cut at the frame's end, the prompt's end and the cue's end.

Not covered: what is decided (so8t.calibration).
"""

import math
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from so8t.chat import CUE
from so8t.errors import ArtifactError
from so8t.gguf_file import read_keys
from so8t.llama import Engine
from so8t.prompts import LABELS, Prompt, Prompter
from so8t.verdict import AUTHORITIES, VERDICTS

VERDICT_IDS, AUTHORITY_IDS = "so8t.verdict.token_ids", "so8t.authority.token_ids"


@dataclass(frozen=True, slots=True)
class Reading:
    """What a model says of one prompt.

    `prefill` and `authority`: raw logits, in the order of VERDICTS and AUTHORITIES, None where the backend has no token
    ids. `cue`: summed log-probabilities of the labels. `residual`: probability outside the three labels.
    `reserved_mass`: probability of the reserved tokens as next token.
    """

    prefill: tuple[float, ...] | None
    authority: tuple[float, ...] | None
    cue: tuple[float, ...]
    residual: float
    reserved_mass: float | None

    def row(self) -> dict[str, Any]:
        """As JSON; a number that is not finite becomes null, which decides ESCALATE."""
        return {
            "prefill": _finite(self.prefill),
            "authority_logits": _finite(self.authority),
            "cue": _finite(self.cue),
            "residual": _number(self.residual),
            "reserved_mass": _number(self.reserved_mass),
        }


class Reader(Protocol):
    """Anything that reads verdicts: a GGUF in process, a Hugging Face model (hf), a server (served)."""

    prompter: Prompter[Any]

    def read(self, text: str) -> Reading:
        """Read the verdict of one user's text."""

    def read_prompt(self, prompt: Prompt) -> Reading:
        """Read the verdict after a prompt."""


class GgufReader:
    """Reads verdicts from an opened GGUF file."""

    def __init__(self, engine: Engine, system: str) -> None:
        self.engine = engine
        self.prompter = Prompter(engine, system)
        self.verdict_ids, self.authority_ids = reserved_ids(read_keys(engine.path), engine)

    @property
    def reserved(self) -> set[int]:
        """Ids that are read and never emitted."""
        return {*self.verdict_ids, *self.authority_ids}

    def read(self, text: str) -> Reading:
        """Read both readouts of one user's text."""
        return self.read_prompt(self.prompter.prompt(text))

    def read_prompt(self, prompt: Prompt) -> Reading:
        """Read both readouts after a prompt."""
        logits = self.engine.logits(prompt.ids, cuts=prompt.cuts).astype(np.float64)
        cue = self._cue(prompt)
        reserved = np.exp(log_softmax(logits)[sorted(self.reserved)]).sum()
        return Reading(
            tuple(logits[self.verdict_ids]),
            tuple(logits[self.authority_ids]),
            cue,
            residual_of(cue),
            float(reserved),
        )

    def _cue(self, prompt: Prompt) -> tuple[float, ...]:
        fed = self.prompter.after(prompt, CUE)
        first = log_softmax(self.engine.logits(fed.ids, cuts=fed.cuts).astype(np.float64))
        return tuple(self._label(fed, label, first) for label in LABELS)

    def _label(self, fed: Prompt, label: str, first: NDArray[np.float64]) -> float:
        """Log-probability of a label's tokens, given those of the token after the cue."""
        whole = self.prompter.after(fed, label)
        tokens = whole.ids[len(fed.ids) :]
        total = float(first[tokens[0]])
        if len(tokens) > 1:
            rows = self.engine.logits_from(whole.ids[:-1], len(fed.ids), cuts=whole.cuts).astype(
                np.float64
            )
            total += sum(
                float(log_softmax(row)[token]) for row, token in zip(rows, tokens[1:], strict=True)
            )
        return total


def reserved_ids(keys: dict[str, Any], engine: Engine) -> tuple[list[int], list[int]]:
    """The token ids whose rows carry the heads, from the file's own keys.

    Raises:
        ArtifactError: the keys are missing, or hold other than three and two distinct ids of the vocabulary.
    """
    verdict, authority = keys.get(VERDICT_IDS), keys.get(AUTHORITY_IDS)
    sizes = (len(VERDICTS), len(AUTHORITIES))
    if (
        not isinstance(verdict, list)
        or not isinstance(authority, list)
        or (len(verdict), len(authority)) != sizes
    ):
        raise ArtifactError(
            f"the keys {VERDICT_IDS} and {AUTHORITY_IDS} are missing",
            where=str(engine.path),
            fix="convert the model again with so8t (`dvc repro convert`)",
        )
    ids = [*verdict, *authority]
    if len(set(ids)) != len(ids) or not all(
        isinstance(i, int) and 0 <= i < engine.n_vocab for i in ids
    ):
        raise ArtifactError(
            "the reserved token ids are not distinct ids of the vocabulary",
            where=str(engine.path),
            fix="convert the model again with so8t",
        )
    return verdict, authority


def log_softmax(row: NDArray[np.float64]) -> NDArray[np.float64]:
    """Log-probabilities of one row of logits, float64 [n_vocab]; NaN in, NaN out."""
    top = row.max()
    shifted: NDArray[np.float64] = row - (top + math.log(float(np.exp(row - top).sum())))
    return shifted


def residual_of(cue: tuple[float, ...]) -> float:
    """Probability that is left when the labels are taken away; rounding below zero is zero, a label not seen is NaN."""
    rest = 1.0 - sum(math.exp(value) for value in cue)
    return rest if math.isnan(rest) else max(0.0, rest)


def _number(value: float | None) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None


def _finite(values: tuple[float, ...] | None) -> list[float | None] | None:
    return None if values is None else [_number(value) for value in values]
