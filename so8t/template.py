"""A model folder's tokenizer and chat template: the one way from a prepared row to text and ids.

Read without transformers, which is slow to import and, in some releases, rewrites a tokenizer that
it loads.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from so8t.chat import neutralise, prompt_of, render
from so8t.errors import DataError
from so8t.files import read_json

TOKENIZER = "tokenizer.json"
CONFIG = "tokenizer_config.json"


@dataclass(frozen=True, slots=True)
class Template:
    """A tokenizer with its chat template and the texts that begin and end a conversation."""

    tokenizer: Any
    chat: str
    bos: str
    eos: str

    @classmethod
    def of(cls, folder: Path) -> "Template":
        """Read `tokenizer.json`, `tokenizer_config.json` and `chat_template.jinja` if there is one.

        Raises:
            ArtifactError: no tokenizer files.
            DataError: they hold no chat template.
        """
        from tokenizers import Tokenizer

        config = read_json(
            folder / CONFIG, fix="the base model's folder must hold its tokenizer files"
        )
        chat = _chat(folder, config)
        if chat is None:
            raise DataError(
                "the tokenizer has no chat template",
                where=str(folder),
                fix="use an instruct model",
            )
        tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
        bos = _text(config.get("bos_token"))
        eos = _text(config.get("eos_token"))
        return cls(tokenizer, chat, bos, eos)

    @classmethod
    def find(cls, folder: Path) -> "Template | None":
        """The template of a folder that may have none, or no tokenizer yet."""
        config_file = folder / CONFIG
        # A demo's base folder is empty before the `base` stage has trained its tokenizer.
        if not (folder / TOKENIZER).is_file() or not config_file.is_file():
            return None
        if _chat(folder, read_json(config_file)) is None:
            return None
        return cls.of(folder)

    def ids(self, text: str) -> list[int]:
        """Token ids, nothing added."""
        # The chat template writes BOS and the like itself; they would come twice.
        encoded = self.tokenizer.encode(text, add_special_tokens=False)
        return list(encoded.ids)

    def render(self, messages: Sequence[dict[str, str]], *, prompt: bool = False) -> str:
        """The conversation's text; with `prompt`, up to where the assistant begins."""
        return render(self.chat, messages, add_generation_prompt=prompt, bos=self.bos, eos=self.eos)

    def prompt(self, system: str, text: str) -> str:
        """The request as the model is served it; control-token text in it is neutralised."""
        # Stripped, as `conversation` does: a model is asked what it was trained on.
        request = text.strip()
        return prompt_of(self.chat, system, request, bos=self.bos, eos=self.eos)

    def conversation(self, system: str, text: str, response: str) -> str:
        """The request and its answer, as the model is trained on them."""
        # Hugging Face and llama.cpp disagree on wide spaces right after a special token.
        user = neutralise(text.strip())
        messages = [
            {"role": "system", "content": system},
            {"role": "user", "content": user},
            {"role": "assistant", "content": response},
        ]
        return self.render(messages)


def _chat(folder: Path, config: dict[str, Any]) -> str | None:
    """The chat template's text; newer releases of transformers keep it in a file of its own."""
    own_file = folder / "chat_template.jinja"
    if own_file.is_file():
        return own_file.read_text(encoding="utf-8")
    chat = config.get("chat_template")
    return chat if isinstance(chat, str) else None


def _text(token: Any) -> str:
    """A special token's text, which configurations write as a string or as an object."""
    if isinstance(token, dict):
        return str(token["content"])
    return str(token or "")
