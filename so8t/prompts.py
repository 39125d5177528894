"""From a user's text to token ids, exactly as the file itself would be prompted.

The chat template and the vocabulary are the GGUF's own. The *frame* is what all prompts of a file begin with, up to its
last control token (behind it tokens may join with the user's words); its end is a cut (see so8t.llama). Control-token
texts in the user's words are broken up first.

Covered: the prompt, its cut, the cue after it, the digest of all that. Not covered: evaluation (so8t.scoring.reader).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from so8t.chat import CUE, neutralise, prompt_of
from so8t.errors import ArtifactError, DataError
from so8t.files import sha256_json
from so8t.gguf_file import read_keys
from so8t.verdict import VERDICTS

LABELS = tuple(f"{verdict}\n" for verdict in VERDICTS)
PROBES = (
    "あ",
    "0 <",
)  # two users' texts that begin with different bytes: what their prompts share is the frame


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt's text, its token ids and where its pieces end."""

    text: str
    ids: list[int]
    cuts: tuple[int, ...]


def template_digest(chat_template: str, system: str) -> str:
    """SHA-256 of everything that turns a user's text into a verdict prompt, beside the file itself."""
    return sha256_json(
        {"chat_template": chat_template, "system": system, "cue": CUE, "labels": LABELS}
    )


def chat_template_of(keys: dict[str, Any], where: Path) -> str:
    """The chat template stored in a GGUF file.

    Raises:
        ArtifactError: the file has none.
    """
    template = keys.get("tokenizer.chat_template")
    if not isinstance(template, str) or not template:
        raise ArtifactError(
            "the file holds no chat template", where=str(where), fix="convert it again with so8t"
        )
    return template


class Vocabulary(Protocol):
    """What prompts need of a tokenizer: so8t.llama.Engine, or Hugging Face's (so8t.scoring.hf)."""

    path: Path
    n_vocab: int

    def tokenize(self, text: str) -> list[int]:
        """Token ids of a text; control tokens are read as such, no BOS or EOS is added."""

    def token_text(self, token: int) -> str:
        """The token as the vocabulary spells it."""

    def is_control(self, token: int) -> bool:
        """Whether it is a control or user-defined token."""


V = TypeVar("V", bound=Vocabulary)


class Prompter(Generic[V]):
    """Renders and tokenises prompts for one opened file; `keys` are the file's own unless given."""

    def __init__(self, engine: V, system: str, keys: dict[str, Any] | None = None) -> None:
        keys = read_keys(engine.path) if keys is None else keys
        self.engine, self.system = engine, system
        self.template = chat_template_of(keys, engine.path)
        self._bos = _special(engine, keys, "tokenizer.ggml.bos_token_id")
        self._eos = _special(engine, keys, "tokenizer.ggml.eos_token_id")
        marks = {i: engine.token_text(i) for i in range(engine.n_vocab) if engine.is_control(i)}
        self.controls = frozenset(
            i for i, mark in marks.items() if len(mark.strip()) > 1
        )  # some vocabularies: spaces
        self._control_texts = tuple(sorted(marks[i] for i in self.controls))
        first, second = (self._ids(self._text(probe)) for probe in PROBES)
        self.frame = _up_to_last(self.controls, _common(first, second))
        self._frame_controls = sum(i in self.controls for i in first)

    @property
    def digest(self) -> str:
        """The template digest that scores and cards carry."""
        return template_digest(self.template, self.system)

    def prompt(self, text: str) -> Prompt:
        """The prompt for a user's text.

        Raises:
            DataError: the user's words still hold a control token.
        """
        rendered = self._text(text)
        ids = self._ids(rendered)
        if sum(i in self.controls for i in ids) != self._frame_controls:
            raise DataError(
                "the text would reach the model as control tokens",
                fix="remove <|...|> marks from the text",
            )
        shared = len(self.frame)
        return Prompt(rendered, ids, (shared,) if ids[:shared] == self.frame else ())

    def after(self, prompt: Prompt, text: str) -> Prompt:
        """The prompt with the beginning of the assistant's turn; the prompt's end becomes a cut.

        Raises:
            ArtifactError: the vocabulary joins the prompt's last token with the text, so it cannot be read apart.
        """
        ids = self._ids(prompt.text + text)
        if ids[: len(prompt.ids)] != prompt.ids:
            raise ArtifactError(
                "the prompt's last token changes when the turn begins",
                where=str(self.engine.path),
                fix="use a chat template that ends the prompt with a whole token",
            )
        return Prompt(prompt.text + text, ids, (*prompt.cuts, len(prompt.ids)))

    def longest(self, prompt: Prompt) -> int:
        """Tokens that reading both readouts after this prompt needs."""
        fed = self.after(prompt, CUE)
        return max(len(self.after(fed, label).ids) for label in LABELS)

    def _text(self, text: str) -> str:
        harmless = neutralise(
            text.strip(), self._control_texts
        )  # leading wide spaces tokenise otherwise (T8)
        return prompt_of(self.template, self.system, harmless, bos=self._bos, eos=self._eos)

    def _ids(self, text: str) -> list[int]:
        return self.engine.tokenize(text)


def _special(engine: Vocabulary, keys: dict[str, Any], key: str) -> str:
    token = keys.get(key)
    return engine.token_text(token) if isinstance(token, int) else ""


def _up_to_last(controls: frozenset[int], ids: list[int]) -> list[int]:
    """The ids up to and with the last control token; all of them where there is none."""
    ends = [position for position, token in enumerate(ids, start=1) if token in controls]
    return ids[: ends[-1]] if ends else ids


def _common(first: list[int], second: list[int]) -> list[int]:
    count = 0
    while count < min(len(first), len(second)) and first[count] == second[count]:
        count += 1
    return first[:count]
