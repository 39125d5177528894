"""A model folder's tokenizer and chat template: the one way from a prepared row to text and to token ids.

Read without transformers, which is slow to import and, in some releases, rewrites a tokenizer that it loads.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from so8t.chat import neutralise, prompt_of, render
from so8t.errors import DataError
from so8t.files import read_json


@dataclass(frozen=True, slots=True)
class Template:
    """A tokenizer with its chat template and the texts that begin and end a conversation."""

    tokenizer: Any
    chat: str
    bos: str
    eos: str

    @classmethod
    def of(cls, folder: Path) -> "Template":
        """Read `tokenizer.json`, `tokenizer_config.json` and, where it stands apart, `chat_template.jinja`.

        Raises:
            ArtifactError: no tokenizer files.
            DataError: they hold no chat template.
        """
        from tokenizers import Tokenizer

        config = read_json(
            folder / "tokenizer_config.json",
            fix="the base model's folder must hold its tokenizer files",
        )
        chat = _chat(folder, config)
        if chat is None:
            raise DataError(
                "the tokenizer has no chat template", where=str(folder), fix="use an instruct model"
            )
        return cls(
            Tokenizer.from_file(str(folder / "tokenizer.json")),
            chat,
            _text(config.get("bos_token")),
            _text(config.get("eos_token")),
        )

    @classmethod
    def find(cls, folder: Path) -> "Template | None":
        """The template of a folder that may have none, or no tokenizer yet."""
        files = [folder / "tokenizer.json", folder / "tokenizer_config.json"]
        return (
            cls.of(folder)
            if all(file.is_file() for file in files)
            and _chat(folder, read_json(files[1])) is not None
            else None
        )

    def ids(self, text: str) -> list[int]:
        """Token ids, nothing added."""
        return list(self.tokenizer.encode(text, add_special_tokens=False).ids)

    def render(self, messages: Sequence[dict[str, str]], *, prompt: bool = False) -> str:
        """The conversation's text; with `prompt`, up to where the assistant begins."""
        return render(self.chat, messages, add_generation_prompt=prompt, bos=self.bos, eos=self.eos)

    def prompt(self, system: str, text: str) -> str:
        """The request as the model is served it; control-token text in it is neutralised."""
        return prompt_of(self.chat, system, text.strip(), bos=self.bos, eos=self.eos)

    def conversation(self, system: str, text: str, response: str) -> str:
        """The request and its answer, as the model is trained on them."""
        user = neutralise(
            text.strip()
        )  # Hugging Face and llama.cpp disagree on wide spaces after a special token
        return self.render(
            [
                {"role": "system", "content": system},
                {"role": "user", "content": user},
                {"role": "assistant", "content": response},
            ]
        )


def _chat(folder: Path, config: dict[str, Any]) -> str | None:
    apart = folder / "chat_template.jinja"
    chat = apart.read_text(encoding="utf-8") if apart.is_file() else config.get("chat_template")
    return chat if isinstance(chat, str) else None


def _text(token: Any) -> str:
    return str(token["content"]) if isinstance(token, dict) else str(token or "")
