"""Ask the released model: a calibrated decision, and for ALLOW the final answer.

Fails closed: without a readable card every request escalates; a card that is not for this file, template or engine is
refused; whatever cannot be read as a verdict escalates; ESCALATE and DENY answer with the deployment's own words; an
answer that may not be shown becomes an escalation. Thinking never leaves `speech.speak`.

Not covered: users, clearance, audit (the server's).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from so8t import card as cards
from so8t.errors import ArtifactError
from so8t.identity import semantic_digest
from so8t.llama import Engine
from so8t.prompts import Prompt
from so8t.release.manifest import CARD, Manifest, read_manifest
from so8t.scoring.reader import GgufReader, Reading
from so8t.serving.two_phase import Limits, Show, speak
from so8t.verdict import AUTHORITIES, VERDICTS, Verdict


@dataclass(frozen=True, slots=True)
class Answer:
    """What the user gets. `reason` says why, when it is not the model's own decision; `cut`: out of tokens."""

    verdict: Verdict
    probabilities: tuple[float, float, float] | None
    authority: dict[str, float] | None
    text: str
    reason: str = ""
    cut: bool = False

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        named = (
            None
            if self.probabilities is None
            else dict(zip(map(str, VERDICTS), self.probabilities, strict=True))
        )
        return {
            "decision": str(self.verdict),
            "probabilities": named,
            "authority": self.authority,
            "answer": self.text,
            "reason": self.reason,
            "cut": self.cut,
        }


class Assistant:
    """A release, opened and checked. Use as a context manager.

    Raises:
        ArtifactError: the release is incomplete, or its card is for another file, template or engine.
    """

    def __init__(self, folder: Path) -> None:
        self.manifest: Manifest = read_manifest(folder)
        self.engine: Engine | None = None
        try:
            self.card: cards.Card | None = cards.read(folder / CARD)
            self.refusal = ""
        except ArtifactError as error:
            self.card, self.refusal = None, f"no valid calibration card ({error.problem})"
            return
        self._open(folder / self.manifest.file, self.card)

    def _open(self, file: Path, card: cards.Card) -> None:
        settings = card.engine
        try:
            self.engine = Engine(
                file,
                n_ctx=settings["n_ctx"],
                threads=settings["threads"],
                n_batch=settings["n_batch"],
                kv=settings["type_k"],
            )
        except KeyError as error:
            raise ArtifactError(
                f"the card names no engine setting {error}", where=card.file, fix=cards.FIX
            ) from None
        self.reader = GgufReader(self.engine, self.manifest.system)
        try:
            cards.require_match(
                card,
                semantic_digest=semantic_digest(file),
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
            decided: called once with the decision, before anything is generated; its `text` is empty for ALLOW.
            show: called with pieces of the answer while it is written (ALLOW only). What it was given is the answer's
                text, or, when the answer is withheld in the end (ESCALATE), a beginning to be taken back.

        Raises:
            DataError: the request does not fit the context.
        """
        first, prompt = self._decide(text)
        if decided:
            decided(first)
        if prompt is None:
            return first
        limits = Limits(self.manifest.think_tokens, self.manifest.answer_tokens)
        spoken = speak(
            self.reader.prompter,
            prompt,
            text,
            self.manifest.format,
            reserved=self.reader.reserved,
            limits=limits,
            show=show,
        )
        if spoken.text is None:
            return replace(
                first,
                verdict=Verdict.ESCALATE,
                text=self._reply(Verdict.ESCALATE),
                reason=spoken.reason,
            )
        return replace(first, text=spoken.text, cut=spoken.cut)

    def _decide(self, text: str) -> tuple[Answer, Prompt | None]:
        """The decision, with the deployment's own reply; for ALLOW no text yet, and the prompt to go on from."""
        if self.card is None or self.engine is None:
            return Answer(
                Verdict.ESCALATE, None, None, self.manifest.replies.escalate, self.refusal
            ), None
        prompt = self.reader.prompter.prompt(text)
        reading = self.reader.read_prompt(prompt)
        decision = cards.apply(self.card, self._numbers(reading), reading.residual)
        authority = self._authority(reading)
        if decision.verdict is Verdict.ALLOW:
            return Answer(decision.verdict, decision.probabilities, authority, ""), prompt
        return Answer(
            decision.verdict,
            decision.probabilities,
            authority,
            self._reply(decision.verdict),
            self._why(decision),
        ), None

    def _numbers(self, reading: Reading) -> tuple[float, ...]:
        assert self.card is not None
        return reading.cue if self.card.readout == "cue" else reading.prefill or ()

    def _authority(self, reading: Reading) -> dict[str, float] | None:
        """Softmax of the authority rows (not calibrated); None where those rows were never trained."""
        if (
            reading.authority is None
            or self.manifest.model == "a"
            or not all(map(math.isfinite, reading.authority))
        ):
            return None
        top = max(reading.authority)
        raised = [math.exp(value - top) for value in reading.authority]
        return {
            str(name): value / sum(raised) for name, value in zip(AUTHORITIES, raised, strict=True)
        }

    def _reply(self, verdict: Verdict) -> str:
        return (
            self.manifest.replies.deny
            if verdict is Verdict.DENY
            else self.manifest.replies.escalate
        )

    def _why(self, decision: cards.Decision) -> str:
        assert self.card is not None
        if decision.probabilities is None:
            return "the verdict could not be read"
        return (
            ""
            if self.card.status == "certified"
            else "the card is not certified: the ALLOW gate is closed"
        )

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
