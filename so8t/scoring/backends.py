"""Two servers that can be asked for the next token: llama-server and Ollama.

Neither gives a whole row of logits: an answer holds the most probable next tokens only. What is not
in the answer is *not seen*, and nothing is ever put in its place. Reserved tokens cannot be read
here, because servers print them as empty texts.

llama-server takes token ids, and can be made to show any token (Note [forced token] below). Ollama
(0.12.11 and later; at most 20 tokens, no ids) takes text, so its tokenisation is repeated here
first.

Covered: requests, and doubting the answers. Not covered: which tokens are asked for
(so8t.scoring.server_reader).
"""

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from so8t.errors import ArtifactError, ToolError
from so8t.gguf_file import read_keys
from so8t.llama import Engine

# Takes method, path and body; gives the answer's JSON object (so8t.server.Server.call).
Call = Callable[[str, str, dict[str, Any] | None], dict[str, Any]]

# How many of the most probable tokens llama-server is asked for.
TOP = 64

# Added to a token's logit so that it is sampled: more than any logit.
BIAS = 1e4

# The most that Ollama gives; 21 is refused with status 400.
OLLAMA_TOP = 20

# The GGUF token type of single bytes, for text that the vocabulary cannot spell otherwise.
BYTE = 6

# A log-probability so far above zero is rounding. Farther up, it is no probability.
ROUNDING = 1e-4


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


class LlamaServer:
    """llama-server's own `/completion` endpoint: token ids in, softmax of the raw logits out.

    Note [forced token]: the server shows the most probable tokens only, and nothing at all when the
    token that it samples is half a character (seen on llama.cpp of 2026-10). So a label's token is
    *forced* by a logit bias. The bias acts on sampling; the numbers that are shown stay those of
    the raw logits (measured), and the forced token is always among them.
    """

    def __init__(self, call: Call) -> None:
        self.call = call

    def next(self, place: Place, tokens: Sequence[int]) -> dict[int, float]:
        """Force the first token and take what is shown of all; force those that are missing."""
        seen: dict[int, float] = {}
        for forced in tokens:
            if forced in seen:
                continue
            shown = self._ask(place, forced)
            for token in tokens:
                if token in shown and token not in seen:
                    seen[token] = shown[token]
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
                # A kept prefix would be cut where the request before happened to end.
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
        step = _first_object(answer.get("completion_probabilities"))
        top = step.get("top_logprobs")
        if not isinstance(top, list):
            raise ToolError(
                "llama-server gave no log-probabilities",
                where="/completion",
                fix="use llama.cpp of 2025 or later",
            )
        shown: dict[int, float] = {}
        # The step itself is the entry of the token that was sampled, which is the forced one.
        for entry in (*top, step):
            value = _logprob(entry)
            # `type` rather than isinstance, which takes True for an int.
            if value is not None and type(entry.get("id")) is int:
                shown[entry["id"]] = value
        return shown

    def settings(self) -> dict[str, Any]:
        """What the server says of itself, and what is asked of it."""
        properties = self.call("GET", "/props", None)
        return {
            "server": "llama-server",
            "build": str(properties.get("build_info", "")),
            "prompt": "ids",
            "cache_prompt": False,
        }

    def copy(self) -> Path | None:
        """`model_path` of the server's properties."""
        properties = self.call("GET", "/props", None)
        return _readable(str(properties.get("model_path") or ""))


class OllamaRaw:
    """Ollama's `/api/generate` in raw mode (no template); entries carry text, never ids.

    Args:
        call: asks the server.
        model: its name there.
        vocabulary: of the file that the server runs.
        n_ctx: context in tokens.
    """

    def __init__(self, call: Call, model: str, vocabulary: Engine, n_ctx: int) -> None:
        self.call = call
        self.model = model
        self.vocabulary = vocabulary
        self.n_ctx = n_ctx
        self._tokens_by_bytes: dict[bytes, list[int]] = {}

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
                # The context is given, for Ollama's own default would cut long prompts silently.
                "options": {
                    "num_predict": 1,
                    "temperature": 0,
                    "seed": 0,
                    "num_ctx": self.n_ctx,
                },
            },
        )
        # An answer that ends early is still of status 200.
        if answer.get("done") is not True:
            raise ToolError(
                f"{self.model} broke off in the middle of an answer",
                where="/api/generate",
                fix="read the server's log",
            )
        step = _first_object(answer.get("logprobs"))
        entries = step.get("top_logprobs")
        if not isinstance(entries, list):
            return self._none_shown(answer)
        return self._matched(entries, tokens)

    def _none_shown(self, answer: dict[str, Any]) -> dict[int, float]:
        """What an answer without log-probabilities means."""
        # Without a text either, the turn ended here or half a character was held back.
        if not answer.get("response"):
            return {}
        raise ToolError(
            "Ollama gave no log-probabilities",
            where="/api/generate",
            fix="use Ollama 0.12.11 or later",
        )

    def _matched(self, entries: list[Any], tokens: Sequence[int]) -> dict[int, float]:
        """Log-probabilities of those of `tokens` whose bytes are among the entries."""
        shown: dict[bytes, list[float]] = {}
        for entry in entries:
            piece = _bytes(entry)
            value = _logprob(entry)
            if piece is not None and value is not None:
                shown.setdefault(piece, []).append(value)
        found: dict[int, float] = {}
        for token in tokens:
            values = shown.get(self._piece(token), [])
            # Of two entries with the same bytes, nothing says which one is this token.
            if len(values) == 1:
                found[token] = values[0]
        return found

    def _piece(self, token: int) -> bytes:
        """The token's bytes, which must name it.

        Raises:
            ArtifactError: another token of the vocabulary, not counting byte fallback, has the same
                bytes.
        """
        # Made on first use: it takes the bytes of every token of the vocabulary.
        if not self._tokens_by_bytes:
            self._tokens_by_bytes = self._spellings()
        piece = self.vocabulary.detokenize([token])
        if len(self._tokens_by_bytes.get(piece, [])) > 1:
            raise ArtifactError(
                f"several tokens are spelled {piece!r}, and Ollama names tokens by text",
                where=str(self.vocabulary.path),
                fix="read the cue through llama-server instead",
            )
        return piece

    def _spellings(self) -> dict[bytes, list[int]]:
        """The tokens of each spelling, leaving out byte fallback."""
        vocabulary = self.vocabulary
        keys = read_keys(vocabulary.path)
        kinds = keys.get("tokenizer.ggml.token_type")
        found: dict[bytes, list[int]] = {}
        for token in range(vocabulary.n_vocab):
            # Byte fallback doubles ASCII letters, but a tokenizer uses it only where it must.
            if isinstance(kinds, list) and kinds[token] == BYTE:
                continue
            piece = vocabulary.detokenize([token])
            found.setdefault(piece, []).append(token)
        return found

    def _as_sent(self, place: Place) -> str | None:
        """The text that the server turns into exactly these ids; None if there is none."""
        # The server adds BOS where the file says so. A text that has it already must lose it.
        first = self.vocabulary.detokenize(place.ids[:1]).decode("utf-8", "replace")
        without_first = place.text.removeprefix(first)
        for text in (place.text, without_first):
            ids = self.vocabulary.tokenize(text, special=True, add_special=True)
            if tuple(ids) == place.ids:
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
        shown = self.call("POST", "/api/show", {"model": self.model})
        for line in str(shown.get("modelfile", "")).splitlines():
            if line.startswith("FROM "):
                return _readable(line.removeprefix("FROM ").strip())
        return None


def _readable(path: str) -> Path | None:
    """The file, where this process may read it: a server may run as another user."""
    found = Path(path)
    if path and found.is_file() and os.access(found, os.R_OK):
        return found
    return None


def _first_object(values: Any) -> dict[str, Any]:
    """The first element of a list, if it is an object; else an empty one."""
    if isinstance(values, list) and values and isinstance(values[0], dict):
        return values[0]
    return {}


def _logprob(entry: Any) -> float | None:
    """The entry's log-probability; None where it holds none."""
    if not isinstance(entry, dict):
        return None
    value = entry.get("logprob")
    # True is an int to Python.
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    # Python's JSON reader accepts NaN and Infinity.
    if not math.isfinite(value) or value > ROUNDING:
        return None
    return min(float(value), 0.0)


def _bytes(entry: Any) -> bytes | None:
    """The entry's token as bytes; None for an empty or broken text without them."""
    if not isinstance(entry, dict):
        return None
    raw = entry.get("bytes")
    if isinstance(raw, list) and raw and all(map(_is_byte, raw)):
        return bytes(raw)
    text = entry.get("token")
    # A replacement character stands for bytes that were no UTF-8: half of another character.
    if isinstance(text, str) and text and "\ufffd" not in text:
        return text.encode()
    return None


def _is_byte(value: Any) -> bool:
    return isinstance(value, int) and 0 <= value < 256
