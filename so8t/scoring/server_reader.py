"""The cue readout over a server: llama-server's `/completion`, or Ollama's `/api/generate` in raw mode.

A server says only the most probable next tokens, so a label of k tokens takes k requests, each for one token after the
prompt, the cue and the label so far. What is not among the answers is *not seen*: that label is NaN, the row's `cue`
holds null, and the decision is ESCALATE. Nothing is ever put in its place. The reserved rows cannot be read here:
engines print such tokens as empty texts (prefill is null).

The GGUF file that the server runs is opened here for its vocabulary and template only, so that prompts are the same
token ids as in process. llama-server takes ids and shows every label (Note [forced token]). Ollama (0.12.11 and later;
at most 20 tokens, no ids) takes text: its tokenisation is repeated here first, and a label that would be split
otherwise is not seen either.

Covered: requests, reading answers, doubt. Not covered: whether the server's settings are those of the card
(`settings` says what was asked; a card made from these scores is bound to it).
"""

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from so8t.chat import CUE
from so8t.errors import ArtifactError, ToolError
from so8t.gguf_file import read_keys
from so8t.identity import semantic_digest
from so8t.llama import Engine
from so8t.prompts import LABELS, Prompt, Prompter
from so8t.scoring.reader import Reading, residual_of

Call = Callable[[str, str, dict[str, Any] | None], dict[str, Any]]  # (method, path, body) -> answer
TOP = 64  # tokens that llama-server is asked for
BIAS = 1e4  # more than any logit
OLLAMA_TOP = 20  # the most that Ollama gives; 21 is refused with status 400
BYTE = 6  # token type of byte fallback
UNSEEN = math.nan
ROUNDING = 1e-4  # a log-probability this far above zero is rounding, farther is no probability


@dataclass(frozen=True, slots=True)
class Place:
    """A position to predict from: the text up to it and its token ids."""

    text: str
    ids: tuple[int, ...]


class Backend(Protocol):
    """A server that can be asked for the next token."""

    def next(self, place: Place, tokens: Sequence[int]) -> dict[int, float]:
        """Log-probabilities of those of `tokens` that the server shows."""

    def settings(self) -> dict[str, Any]:
        """What besides the file makes a number."""

    def copy(self) -> Path | None:
        """The file that the server runs, where it says so and this process may read it."""


def require_same(copy: Path | None, digest: str, where: str) -> bool:
    """Whether the server's own copy was found to be the file; False where the server does not show its copy.

    Raises:
        ArtifactError: it runs another file.
    """
    if copy is None:
        return False
    if semantic_digest(copy) != digest:
        raise ArtifactError(
            "the server runs another file",
            where=where,
            fix="give the file that it runs, or register this one: `so8t register`",
        )
    return True


def _readable(path: str) -> Path | None:
    found = Path(path)
    return found if path and found.is_file() and os.access(found, os.R_OK) else None


class ServedReader:
    """Reads the cue of one model on one server."""

    def __init__(self, vocabulary: Engine, system: str, backend: Backend) -> None:
        self.vocabulary, self.backend, self.prompter = (
            vocabulary,
            backend,
            Prompter(vocabulary, system),
        )

    def read(self, text: str) -> Reading:
        """Read the cue of one user's text."""
        return self.read_prompt(self.prompter.prompt(text))

    def read_prompt(self, prompt: Prompt) -> Reading:
        """Read the cue after a prompt; a label that the server does not show is NaN."""
        fed = self.prompter.after(prompt, CUE)
        cue = self._walk(fed)
        return Reading(None, None, cue, residual_of(cue), None)

    def _walk(self, fed: Prompt) -> tuple[float, ...]:
        """Sum the labels' log-probabilities, asking once for every beginning that labels have."""
        rest = [tuple(self.prompter.after(fed, label).ids[len(fed.ids) :]) for label in LABELS]
        totals = [0.0] * len(LABELS)
        for depth in range(max(map(len, rest))):
            for start in dict.fromkeys(tokens[:depth] for tokens in rest if len(tokens) > depth):
                asked = [
                    i
                    for i, tokens in enumerate(rest)
                    if tokens[:depth] == start and len(tokens) > depth and not math.isnan(totals[i])
                ]
                if asked:
                    seen = self.backend.next(
                        self._place(fed, start), [rest[i][depth] for i in asked]
                    )
                    for i in asked:
                        totals[i] += seen.get(rest[i][depth], UNSEEN)
        return tuple(totals)

    def _place(self, fed: Prompt, start: tuple[int, ...]) -> Place:
        said = self.vocabulary.detokenize(start).decode("utf-8")  # labels are ASCII
        return Place(fed.text + said, (*fed.ids, *start))


class LlamaServer:
    """llama-server's own `/completion` endpoint: token ids in, softmax of the raw logits out, no prompt cache.

    Note [forced token]: the server reports nothing when the token it samples is half a character (seen on llama.cpp of
    2026-10), and only the top ones otherwise. So a label's token is *forced* by a logit bias: the bias acts on sampling,
    the reported numbers stay those of the raw logits (measured), and the forced token's own is always among them.
    """

    def __init__(self, call: Call) -> None:
        self.call = call

    def next(self, place: Place, tokens: Sequence[int]) -> dict[int, float]:
        """Force the first token and take what is shown of all; force those that were not shown one by one."""
        seen: dict[int, float] = {}
        for token in tokens:
            if token not in seen:
                shown = self._ask(place, token)
                seen |= {one: shown[one] for one in tokens if one in shown and one not in seen}
        return seen

    def _ask(self, place: Place, forced: int) -> dict[int, float]:
        answer = self.call(
            "POST",
            "/completion",
            {
                "prompt": list(place.ids),
                "n_predict": 1,
                "n_probs": TOP,
                "post_sampling_probs": False,
                "temperature": 0.0,
                "seed": 0,
                "logit_bias": [[forced, BIAS]],
                "cache_prompt": False,
                "stream": False,
            },
        )
        if answer.get("truncated"):
            raise ToolError(
                "llama-server cut the prompt",
                where="/completion",
                fix="start it with a longer context (-c)",
            )
        steps = answer.get("completion_probabilities")
        step = steps[0] if isinstance(steps, list) and steps and isinstance(steps[0], dict) else {}
        if not isinstance(step.get("top_logprobs"), list):
            raise ToolError(
                "llama-server gave no log-probabilities",
                where="/completion",
                fix="use llama.cpp of 2025 or later",
            )
        entries = [
            entry
            for entry in (*step["top_logprobs"], step)
            if isinstance(entry, dict) and type(entry.get("id")) is int
        ]
        return {entry["id"]: value for entry in entries if (value := _logprob(entry)) is not None}

    def settings(self) -> dict[str, Any]:
        """What the server says of itself, and what is asked of it."""
        found = self.call("GET", "/props", None)
        return {
            "server": "llama-server",
            "build": str(found.get("build_info", "")),
            "prompt": "ids",
            "cache_prompt": False,
        }

    def copy(self) -> Path | None:
        """`model_path` of the server's properties."""
        return _readable(str(self.call("GET", "/props", None).get("model_path") or ""))


class OllamaRaw:
    """Ollama's `/api/generate` in raw mode; entries carry text, never ids."""

    def __init__(self, call: Call, model: str, vocabulary: Engine, n_ctx: int) -> None:
        self.call, self.model, self.vocabulary, self.n_ctx = call, model, vocabulary, n_ctx
        self._twins: dict[bytes, list[int]] = {}

    def next(self, place: Place, tokens: Sequence[int]) -> dict[int, float]:
        """Tokens by their bytes; a text that the server would tokenise otherwise shows nothing."""
        prompt = self._as_sent(place)
        if prompt is None:
            return {}
        answer = self.call(
            "POST",
            "/api/generate",
            {
                "model": self.model,
                "prompt": prompt,
                "raw": True,
                "stream": False,
                "logprobs": True,
                "top_logprobs": OLLAMA_TOP,
                "options": {"num_predict": 1, "temperature": 0, "seed": 0, "num_ctx": self.n_ctx},
            },
        )
        if answer.get("done") is not True:
            raise ToolError(
                f"{self.model} broke off in the middle of an answer",
                where="/api/generate",
                fix="read the server's log",
            )
        steps = answer.get("logprobs")
        entries = (
            steps[0].get("top_logprobs")
            if isinstance(steps, list) and steps and isinstance(steps[0], dict)
            else None
        )
        if not isinstance(entries, list):
            return self._none_shown(answer)
        return self._matched(entries, tokens)

    def _none_shown(self, answer: dict[str, Any]) -> dict[int, float]:
        """No text came (the turn ended, or half a character was held back): nothing is seen. With text: an old server."""
        if not answer.get("response"):
            return {}
        raise ToolError(
            "Ollama gave no log-probabilities",
            where="/api/generate",
            fix="use Ollama 0.12.11 or later",
        )

    def _matched(self, entries: list[Any], tokens: Sequence[int]) -> dict[int, float]:
        shown: dict[bytes, list[float]] = {}
        for entry in entries:
            piece, value = _bytes(entry), _logprob(entry)
            if piece is not None and value is not None:
                shown.setdefault(piece, []).append(value)
        found = {}
        for token in tokens:
            values = shown.get(self._piece(token), [])
            if len(values) == 1:  # two tokens of the same bytes: which is which is not said
                found[token] = values[0]
        return found

    def _piece(self, token: int) -> bytes:
        """The token's bytes, which must name it.

        Raises:
            ArtifactError: another token of the vocabulary, not counting byte fallback, has the same bytes.
        """
        if not self._twins:
            kinds = read_keys(self.vocabulary.path).get("tokenizer.ggml.token_type")
            for i in range(self.vocabulary.n_vocab):
                if not isinstance(kinds, list) or kinds[i] != BYTE:
                    self._twins.setdefault(self.vocabulary.detokenize([i]), []).append(i)
        piece = self.vocabulary.detokenize([token])
        if len(self._twins.get(piece, [])) > 1:
            raise ArtifactError(
                f"several tokens are spelled {piece!r}, and Ollama names tokens by text",
                where=str(self.vocabulary.path),
                fix="read the cue through llama-server instead",
            )
        return piece

    def _as_sent(self, place: Place) -> str | None:
        """The text that the server turns into exactly these ids (it adds BOS where the file says so); null if none."""
        first = self.vocabulary.detokenize(place.ids[:1]).decode("utf-8", "replace")
        for text in (place.text, place.text.removeprefix(first)):
            if tuple(self.vocabulary.tokenize(text, special=True, add_special=True)) == place.ids:
                return text
        return None

    def settings(self) -> dict[str, Any]:
        """The server's version, and what is asked of it."""
        found = self.call("GET", "/api/version", None)
        return {
            "server": "ollama",
            "version": str(found.get("version", "")),
            "model": self.model,
            "prompt": "raw text",
            "top_logprobs": OLLAMA_TOP,
            "n_ctx": self.n_ctx,
        }

    def copy(self) -> Path | None:
        """The blob that the model's Modelfile names."""
        text = str(self.call("POST", "/api/show", {"model": self.model}).get("modelfile", ""))
        return next(
            (
                _readable(line.removeprefix("FROM ").strip())
                for line in text.splitlines()
                if line.startswith("FROM ")
            ),
            None,
        )


def _logprob(entry: Any) -> float | None:
    """The entry's log-probability; null where it is none."""
    value = entry.get("logprob") if isinstance(entry, dict) else None
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not math.isfinite(value)
        or value > ROUNDING
    ):
        return None
    return min(float(value), 0.0)


def _bytes(entry: Any) -> bytes | None:
    """The entry's token as bytes; null for an empty or broken text without them."""
    if not isinstance(entry, dict):
        return None
    raw, text = entry.get("bytes"), entry.get("token")
    if isinstance(raw, list) and raw and all(isinstance(b, int) and 0 <= b < 256 for b in raw):
        return bytes(raw)
    return text.encode() if isinstance(text, str) and text and "\ufffd" not in text else None
