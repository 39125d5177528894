"""A model folder's tokenizer and chat template: the one way from a prepared row to text and ids.

Read without transformers, which is slow to import and, in some releases, rewrites a tokenizer that
it loads.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from so8t.chat import neutralise, prompt_of, render
from so8t.errors import ArtifactError, DataError
from so8t.model_folder import read_object, refuse_pointer

TOKENIZER = "tokenizer.json"
CONFIG = "tokenizer_config.json"
OWN_FILE = "chat_template.jinja"  # where newer releases of transformers write it
DEFAULT = "default"


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
            ArtifactError: no tokenizer files, or damaged ones.
            DataError: they hold no chat template.
        """
        config = read_object(folder, CONFIG)
        chat = chat_template(folder)
        if chat is None:
            raise DataError(
                "the tokenizer has no chat template",
                where=str(folder),
                fix="use an instruct model",
            )
        tokenizer = read_tokenizer(folder / TOKENIZER)
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
        if chat_template(folder) is None:
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


def chat_template(folder: Path) -> str | None:
    """The one chat template of a model folder; None where it has none.

    A file of its own wins over the tokenizer's config, as in transformers. Of several templates
    the one named `default` is taken, as transformers does without tools.

    Raises:
        ArtifactError: several templates, none of which is the default; a damaged config.
    """
    own_file = folder / OWN_FILE
    if own_file.is_file():
        refuse_pointer(own_file)
        return own_file.read_text(encoding="utf-8")
    stated = read_object(folder, CONFIG, required=False).get("chat_template")
    if stated is None or isinstance(stated, str):
        return stated
    return _default_of(stated, folder / CONFIG)


def _default_of(stated: Any, where: Path) -> str:
    """The template named `default` of a list of named ones."""
    named: dict[str, str] = {}
    if isinstance(stated, dict):
        named = {str(name): str(text) for name, text in stated.items()}
    elif isinstance(stated, list):
        entries = [entry for entry in stated if isinstance(entry, dict)]
        named = {str(entry.get("name")): str(entry.get("template")) for entry in entries}
    if DEFAULT not in named:
        names = ", ".join(sorted(named)) or "nothing"
        raise ArtifactError(
            f"chat templates named {names}, and none named {DEFAULT}",
            where=str(where),
            fix=f"name the one that is to be used {DEFAULT}",
        )
    return named[DEFAULT]


def read_tokenizer(path: Path) -> Any:
    """A `tokenizers.Tokenizer` from tokenizer.json.

    Raises:
        ArtifactError: missing, cut off, or of a form that the library does not know.
    """
    from tokenizers import Tokenizer

    # First as JSON: that says where a file was cut off.
    read_object(path.parent, path.name)
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # noqa: BLE001 (the library raises no other class)
        raise ArtifactError(
            f"not a tokenizer ({error})",
            where=str(path),
            fix="copy the base model's tokenizer files unchanged",
        ) from None


def _text(token: Any) -> str:
    """A special token's text, which configurations write as a string or as an object."""
    if isinstance(token, dict):
        return str(token["content"])
    return str(token or "")
