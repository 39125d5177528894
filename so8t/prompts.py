"""From a user's text to token ids, exactly as the model file itself would be prompted.

Chat template and vocabulary are the file's own. The *frame* is what all prompts of a file begin
with, up to its last control token: behind that, tokens may join with the user's words. The frame's
end is a cut, so that it is evaluated once for all prompts (so8t.llama explains cuts). After the
prompt comes the *cue*, the heading `# 判定`, and then one of three labels. Control-token texts in
the user's words are broken up first.

Covered: the prompt, its cuts, the cue and the labels after it, the digest of all that.
Not covered: evaluation (so8t.scoring.reader).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from so8t.chat import CUE, neutralise, prompt_of
from so8t.errors import ArtifactError, DataError
from so8t.files import sha256_json
from so8t.gguf_file import read_keys
from so8t.request import CANONICAL_FORM, canonical_form
from so8t.verdict import VERDICTS

# The newline belongs to the label: without it `ALLOW` would also count what begins with ALLOW.
LABELS = tuple(f"{verdict}\n" for verdict in VERDICTS)

# Two users' texts that begin with different bytes: what their prompts share is the frame.
_PROBES = ("あ", "0 <")


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt's text, its token ids and where its pieces end (see so8t.llama)."""

    text: str
    ids: list[int]
    cuts: tuple[int, ...]


def template_digest(chat_template: str, system: str) -> str:
    """SHA-256 of everything that turns a user's text into a verdict prompt, beside the file."""
    # Scores and cards carry this digest: another key or order would invalidate all of them.
    content = {
        "chat_template": chat_template,
        "system": system,
        "cue": CUE,
        "labels": LABELS,
        # Another canonical form reads other text, so its scores and cards are others' too.
        "canonical_form": CANONICAL_FORM,
    }
    return sha256_json(content)


def chat_template_of(keys: dict[str, Any], where: Path) -> str:
    """The chat template stored in a GGUF file.

    Raises:
        ArtifactError: the file has none.
    """
    template = keys.get("tokenizer.chat_template")
    if not isinstance(template, str) or not template:
        raise ArtifactError(
            "the file holds no chat template",
            where=str(where),
            fix="convert it again with so8t",
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
    """Renders and tokenises the prompts of one opened file.

    Args:
        engine: the file's tokenizer.
        system: the system prompt.
        keys: metadata by GGUF name; the file's own unless given.

    Raises:
        ArtifactError: the file holds no chat template, or one that cannot be rendered.
    """

    def __init__(self, engine: V, system: str, keys: dict[str, Any] | None = None) -> None:
        if keys is None:
            keys = read_keys(engine.path)
        self.engine = engine
        self.system = system
        self.template = chat_template_of(keys, engine.path)
        self._bos = _special(engine, keys, "tokenizer.ggml.bos_token_id")
        self._eos = _special(engine, keys, "tokenizer.ggml.eos_token_id")
        control_texts = _control_texts(engine)
        self.controls = frozenset(control_texts)
        self._control_texts = tuple(sorted(control_texts.values()))
        # Found by trying, because a template is a program that cannot be read from outside.
        first, second = (self._ids(self._text(probe)) for probe in _PROBES)
        shared = first[: _common_length(first, second)]
        self.frame = _up_to_last(self.controls, shared)
        self._frame_controls = self._count_controls(first)

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
        # The template adds as many in every prompt. More than that came from the user's words,
        # and could end the user's turn and begin an assistant's.
        if self._count_controls(ids) != self._frame_controls:
            raise DataError(
                "the text would reach the model as control tokens",
                fix="remove <|...|> marks from the text",
            )
        shared = len(self.frame)
        # A template may treat some texts otherwise; their prompts share nothing worth keeping.
        begins_with_frame = ids[:shared] == self.frame
        cuts = (shared,) if begins_with_frame else ()
        return Prompt(rendered, ids, cuts)

    def after(self, prompt: Prompt, text: str) -> Prompt:
        """The prompt with the beginning of the assistant's turn; the prompt's end becomes a cut.

        Raises:
            ArtifactError: the vocabulary joins the prompt's last token with the text, so it cannot
                be read apart.
        """
        whole = prompt.text + text
        # Tokenised as a whole, as training saw it, and not as two texts put together.
        ids = self._ids(whole)
        end = len(prompt.ids)
        if ids[:end] != prompt.ids:
            raise ArtifactError(
                "the prompt's last token changes when the turn begins",
                where=str(self.engine.path),
                fix="use a chat template that ends the prompt with a whole token",
            )
        return Prompt(whole, ids, (*prompt.cuts, end))

    def longest(self, prompt: Prompt) -> int:
        """Tokens that reading both readouts after this prompt needs."""
        fed = self.after(prompt, CUE)
        return max(len(self.after(fed, label).ids) for label in LABELS)

    def _text(self, text: str) -> str:
        # Everything reads one form of a request. It also has no space at its ends, about which
        # Hugging Face and llama.cpp disagree right after a special token.
        canonical = canonical_form(text)
        harmless = neutralise(canonical, self._control_texts)
        return prompt_of(self.template, self.system, harmless, bos=self._bos, eos=self._eos)

    def _ids(self, text: str) -> list[int]:
        return self.engine.tokenize(text)

    def _count_controls(self, ids: list[int]) -> int:
        return sum(token in self.controls for token in ids)


def _control_texts(engine: Vocabulary) -> dict[int, str]:
    """Spelling of every control and user-defined token by its id."""
    texts: dict[int, str] = {}
    for token in range(engine.n_vocab):
        if not engine.is_control(token):
            continue
        text = engine.token_text(token)
        # Some vocabularies define runs of spaces so. Breaking those up would change ordinary text.
        if len(text.strip()) > 1:
            texts[token] = text
    return texts


def _special(engine: Vocabulary, keys: dict[str, Any], key: str) -> str:
    """Spelling of the token that a key names; empty where the file has no such key."""
    token = keys.get(key)
    if not isinstance(token, int):
        return ""
    return engine.token_text(token)


def _up_to_last(controls: frozenset[int], ids: list[int]) -> list[int]:
    """The ids up to and with the last control token; all of them where there is none."""
    ends = [position for position, token in enumerate(ids, start=1) if token in controls]
    return ids[: ends[-1]] if ends else ids


def _common_length(first: list[int], second: list[int]) -> int:
    """How many ids two prompts have in common at their beginning."""
    count = 0
    for one, other in zip(first, second, strict=False):
        if one != other:
            break
        count += 1
    return count
