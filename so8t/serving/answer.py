"""Ask the released model: a calibrated decision, and for ALLOW the final answer.

A *card* is the calibration card: thresholds, and which file, template and engine they hold for
(so8t.card). All of this fails closed. A release that is not signed, whole and of one piece is
refused before the engine opens its file (so8t.released), as is a card that is not for this template
or engine. Whatever cannot be read as a verdict escalates. ESCALATE and DENY answer with the
deployment's own words. An answer that may not be shown, or that refuses what was allowed, becomes
an escalation. Thinking never leaves `two_phase.speak`.

Not covered: users, clearance, audit (the server's).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from so8t import card
from so8t.errors import ArtifactError
from so8t.familiarity import Familiarity, judge, text_strangeness
from so8t.llama import Engine
from so8t.prompts import Prompt
from so8t.released import open_release
from so8t.request import Request, request_of
from so8t.scoring.reader import GgufReader, Reading, read_request
from so8t.serving.two_phase import Limits, Show, speak
from so8t.verdict import AUTHORITIES, VERDICTS, Verdict


@dataclass(frozen=True, slots=True)
class Answer:
    """What the user gets.

    `probabilities` are in the order of VERDICTS, None where the verdict could not be read. `reason`
    says why, when it is not the model's own decision. `cut`: it ran out of tokens.
    """

    verdict: Verdict
    probabilities: tuple[float, float, float] | None
    authority: dict[str, float] | None
    text: str
    reason: str = ""
    cut: bool = False
    familiarity: Familiarity | None = None

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        named = None
        if self.probabilities is not None:
            names = map(str, VERDICTS)
            named = dict(zip(names, self.probabilities, strict=True))
        return {
            "decision": str(self.verdict),
            "probabilities": named,
            "authority": self.authority,
            "answer": self.text,
            "reason": self.reason,
            "cut": self.cut,
            "familiarity": self._familiarity(),
        }

    def _familiarity(self) -> dict[str, Any] | None:
        if self.familiarity is None:
            return None
        return {
            "p": self.familiarity.p_value,
            "by_signal": dict(self.familiarity.by_signal),
            "unfamiliar": list(self.familiarity.unfamiliar),
        }


@dataclass(frozen=True, slots=True)
class _First:
    """The decision; for ALLOW without a text yet, and with the prompt to go on from."""

    answer: Answer
    prompt: Prompt | None


class Assistant:
    """A release, opened and checked. Use as a context manager.

    Args:
        folder: models/release, or the same folder elsewhere.
        allow_unsigned: take a release that nobody signed; `warning` then says so.

    Raises:
        ArtifactError: see `open_release`; also a card for another template or engine.
    """

    def __init__(self, folder: Path, *, allow_unsigned: bool = False) -> None:
        self.engine: Engine | None = None
        opened = open_release(folder, allow_unsigned=allow_unsigned)
        self.manifest = opened.manifest
        self.card = opened.card
        self.index = opened.index
        self.warning = opened.warning
        self._open(opened.file)

    def _open(self, file: Path) -> None:
        """Open the file with the engine settings of the card, which belong to its numbers."""
        settings = self.card.engine
        try:
            self.engine = Engine(
                file,
                n_ctx=settings["n_ctx"],
                threads=settings["threads"],
                n_batch=settings["n_batch"],
                kv=settings["type_k"],
            )
        except KeyError as error:
            # A card made over a server has no such settings.
            raise ArtifactError(
                f"the card names no engine setting {error}", where=self.card.file, fix=card.FIX
            ) from None
        self.reader = GgufReader(self.engine, self.manifest.system)
        self.engine_context = int(settings["n_ctx"])
        # The manifest's system prompt is part of the template's digest, so editing it is noticed.
        try:
            card.require_match(
                self.card,
                # `open_release` has found the file's own digest to be this one.
                semantic_digest=self.card.semantic_digest,
                template_sha256=self.reader.prompter.digest,
                engine=self.engine.settings(),
            )
        except ArtifactError:
            self.close()
            raise

    def answer(
        self,
        text: str,
        *,
        decided: Callable[[Answer], None] | None = None,
        show: Show | None = None,
    ) -> Answer:
        """Decide one request and answer it.

        Args:
            text: the request.
            decided: called once with the decision, before anything is generated; its `text` is
                empty for ALLOW.
            show: called with pieces of the answer while it is written (ALLOW only). What it was
                given is the answer's text, or, when the answer is withheld in the end (ESCALATE), a
                beginning to be taken back.

        Raises:
            DataError: the request does not fit the context.
        """
        first = self._decide(text)
        # Generation takes seconds; the decision is known before.
        if decided:
            decided(first.answer)
        if first.prompt is None:
            return first.answer
        spoken = speak(
            self.reader.prompter,
            first.prompt,
            text,
            self.manifest.format,
            reserved=self.reader.reserved,
            limits=Limits(self.manifest.think_tokens, self.manifest.answer_tokens),
            replies=(self.manifest.replies.escalate, self.manifest.replies.deny),
            show=show,
        )
        # The probabilities stay: they are the model's, whatever became of the answer.
        if spoken.text is None:
            return replace(
                first.answer,
                verdict=Verdict.ESCALATE,
                text=self._reply(Verdict.ESCALATE),
                reason=spoken.reason,
            )
        return replace(first.answer, text=spoken.text, cut=spoken.cut)

    def _decide(self, text: str) -> _First:
        request = request_of(text)
        strangeness = text_strangeness(request.text, self.index.reference)
        familiarity = judge(strangeness, self.index)
        reason = self._needs_a_person(request, familiarity)
        if reason:
            # The model is not asked: whatever it says of such a request counts for nothing.
            escalated = Answer(
                verdict=Verdict.ESCALATE,
                probabilities=None,
                authority=None,
                text=self._reply(Verdict.ESCALATE),
                reason=reason,
                familiarity=familiarity,
            )
            return _First(escalated, None)
        found = read_request(self.reader, request)
        numbers = _numbers(self.card, found.reading)
        decision = card.apply(self.card, numbers, found.reading.residual, strangeness)
        answer = Answer(
            verdict=decision.verdict,
            probabilities=decision.probabilities,
            authority=self._authority(found.whole),
            text="",
            familiarity=familiarity,
        )
        if decision.verdict is Verdict.ALLOW:
            return _First(answer, self.reader.prompter.prompt(request.text))
        answer = replace(
            answer,
            text=self._reply(decision.verdict),
            reason=_why(self.card, decision),
        )
        return _First(answer, None)

    def _needs_a_person(self, request: Request, familiarity: Familiarity) -> str:
        """Why a request escalates before the model is asked; empty where it does not."""
        if request.refusal is not None:
            return request.refusal
        if not familiarity.is_familiar:
            signals = ", ".join(familiarity.unfamiliar)
            return f"unlike the requests that the certificate is about ({signals})"
        prompt = self.reader.prompter.prompt(request.text)
        if self.reader.prompter.longest(prompt) > self.engine_context:
            return "longer than the model's context"
        return ""

    def _authority(self, reading: Reading) -> dict[str, float] | None:
        """Softmax of the authority logits (not calibrated); None where they say nothing."""
        # Model A is the base model: its reserved rows were never trained.
        if reading.authority is None or self.manifest.model == "a":
            return None
        if not all(map(math.isfinite, reading.authority)):
            return None
        # Without subtracting the largest logit, exp would overflow.
        top = max(reading.authority)
        raised = [math.exp(value - top) for value in reading.authority]
        total = sum(raised)
        shares = [value / total for value in raised]
        return dict(zip(map(str, AUTHORITIES), shares, strict=True))

    def _reply(self, verdict: Verdict) -> str:
        """The deployment's own words."""
        if verdict is Verdict.DENY:
            return self.manifest.replies.deny
        return self.manifest.replies.escalate

    def close(self) -> None:
        """Free the model."""
        if self.engine is not None:
            self.engine.close()
            self.engine = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _numbers(bound: card.Card, reading: Reading) -> tuple[float, ...]:
    """The three verdict numbers that the card was calibrated on."""
    if bound.readout == "cue":
        return reading.cue
    # No numbers escalate.
    return reading.prefill or ()


def _why(bound: card.Card, decision: card.Decision) -> str:
    """Why the decision is not the model's own; empty where it is."""
    if decision.probabilities is None:
        return "the verdict could not be read"
    if bound.status != "certified":
        return "the card is not certified: the ALLOW gate is closed"
    return ""
