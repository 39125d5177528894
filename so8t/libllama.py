"""libllama, the C library of llama.cpp: loading it, its log, and a GGUF file opened by it.

A `LoadedModel` can do what needs no evaluation: text to tokens, tokens to text, and scalar keys.
Not covered: logits and generation (so8t.llama).
"""

import ctypes
from collections import deque
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from so8t.errors import ArtifactError, DataError, ResourceError, ToolError

# libllama writes hundreds of lines for every file it opens. They are shown only with an error.
_recent_log: deque[str] = deque(maxlen=200)

# C keeps a bare pointer to the callback. Without this reference Python would free it.
_callbacks: list[Any] = []

# libllama reports a failed allocation nowhere but in its log.
_NO_MEMORY = ("failed to allocate", "unable to allocate", "out of memory")


@cache
def library() -> Any:
    """llama_cpp with its log captured. Imported on first use, because that takes a second.

    Raises:
        ToolError: the package is missing or cannot be loaded.
    """
    try:
        import llama_cpp
    except (ImportError, OSError, RuntimeError) as error:
        raise ToolError(
            f"llama-cpp-python cannot be loaded ({error})",
            fix="run `make setup`; it needs a C++ compiler",
        ) from error

    def capture(_level: int, text: bytes | None, _data: Any) -> None:
        line = text or b""
        _recent_log.append(line.decode("utf-8", "replace"))

    callback = llama_cpp.llama_log_callback(capture)
    _callbacks.append(callback)
    llama_cpp.llama_log_set(callback, ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()
    return llama_cpp


def library_version() -> str:
    """Version of llama-cpp-python, which pins the llama.cpp it was built from."""
    return str(library().__version__)


def log_tail(lines: int = 12) -> str:
    """The last lines that libllama logged in this process."""
    logged = "".join(_recent_log).strip().split("\n")
    return "\n".join(logged[-lines:])


def failure(problem: str, path: Path, fix: str) -> ArtifactError | ResourceError:
    """The error for a call that failed, with libllama's own last words in it."""
    words = log_tail()
    message = f"{problem}; it says:\n{words}"
    if any(text in words for text in _NO_MEMORY):
        return ResourceError(message, where=str(path), fix=fix)
    return ArtifactError(message, where=str(path), fix=fix)


class LoadedModel:
    """A GGUF file opened by libllama. Use as a context manager, or call `close`.

    Args:
        path: the file (first part of a split file).
        vocab_only: load the tokenizer only.

    Raises:
        ArtifactError: the file is missing or libllama cannot load it.
        ResourceError: not enough memory.
    """

    def __init__(self, path: Path, *, vocab_only: bool) -> None:
        self.path = path
        self._llama = library()
        self._model = self._load(vocab_only)
        self._vocab = self._llama.llama_model_get_vocab(self._model)
        self.n_vocab: int = self._llama.llama_vocab_n_tokens(self._vocab)

    def _load(self, vocab_only: bool) -> Any:
        if not self.path.is_file():
            raise ArtifactError(
                "file not found",
                where=str(self.path),
                fix="run `dvc repro` or `dvc pull`",
            )
        params = self._llama.llama_model_default_params()
        # Results must be the same on every machine, with or without a graphics card.
        params.n_gpu_layers = 0
        params.vocab_only = vocab_only
        # An error shows the end of the log, which must be about this file.
        _recent_log.clear()
        model = self._llama.llama_model_load_from_file(str(self.path).encode(), params)
        if not model:
            raise failure(
                "libllama cannot load this file",
                self.path,
                "run `so8t gguf verify` on it, or convert it again",
            )
        return model

    def tokenize(self, text: str, *, special: bool = True, add_special: bool = False) -> list[int]:
        """Token ids of a text.

        Args:
            text: any text.
            special: read `<|end|>` and its like as control tokens. Give False for text that
                somebody else wrote.
            add_special: put the BOS and EOS that the file's `add_bos_token` and `add_eos_token`
                ask for.

        Raises:
            DataError: libllama refuses the text.
        """
        data = text.encode("utf-8")
        # No vocabulary gives more tokens than bytes; the rest is room for BOS, EOS and a space.
        size = len(data) + 8
        ids = (self._llama.llama_token * size)()
        count = self._llama.llama_tokenize(
            self._vocab, data, len(data), ids, size, add_special, special
        )
        if count < 0:
            raise DataError(f"the text does not tokenise ({count})", where=str(self.path))
        return list(ids[:count])

    def detokenize(self, ids: Sequence[int]) -> bytes:
        """Bytes of the tokens, control tokens spelled out; may end inside a UTF-8 character."""
        return b"".join(self._piece(token) for token in ids)

    def _piece(self, token: int) -> bytes:
        size = 64
        while True:
            buffer = ctypes.create_string_buffer(size)
            count = self._llama.llama_token_to_piece(self._vocab, token, buffer, size, 0, True)
            if count >= 0:
                return buffer.raw[:count]
            # A negative count is the size that would have been enough.
            size = -count

    def token_text(self, token: int) -> str:
        """The token as the vocabulary spells it.

        Raises:
            ArtifactError: there is no such token.
        """
        # libllama does not check the id: one outside would read foreign memory.
        if not 0 <= token < self.n_vocab:
            raise ArtifactError(
                f"token id {token} is outside the vocabulary of {self.n_vocab}",
                where=str(self.path),
            )
        text: bytes = self._llama.llama_vocab_get_text(self._vocab, token)
        return text.decode("utf-8", "replace")

    def token_id(self, text: str) -> int:
        """Id of the one control or user-defined token spelled exactly `text`.

        Raises:
            ArtifactError: the vocabulary has no such single token.
        """
        ids = self.tokenize(text, special=True)
        # One id is not enough: an unknown text may become the one token for unknown text.
        if len(ids) != 1 or self.token_text(ids[0]) != text:
            raise ArtifactError(
                f"the vocabulary has no single token {text!r}",
                where=str(self.path),
                fix="check base.tokens in params.yaml",
            )
        return ids[0]

    def is_control(self, token: int) -> bool:
        """Whether the vocabulary marks the token as control or user-defined."""
        # Converters differ in which of the two they give to tokens that were added by hand.
        control = self._llama.LLAMA_TOKEN_ATTR_CONTROL
        user_defined = self._llama.LLAMA_TOKEN_ATTR_USER_DEFINED
        attributes = self._llama.llama_vocab_get_attr(self._vocab, token)
        return bool(attributes & (control | user_defined))

    def is_eog(self, token: int) -> bool:
        """Whether the token ends a generation."""
        return bool(self._llama.llama_vocab_is_eog(self._vocab, token))

    def meta(self, key: str) -> str | None:
        """A scalar key of the file as text.

        libllama's own table has no arrays; `so8t.gguf_file.read_keys` reads those.
        """
        size = 256
        while True:
            buffer = ctypes.create_string_buffer(size)
            count = self._llama.llama_model_meta_val_str(self._model, key.encode(), buffer, size)
            if count < 0:
                return None
            # The count leaves out the closing zero byte, so it must be below the size.
            if count < size:
                return buffer.raw[:count].decode("utf-8", "replace")
            size = count + 1

    def close(self) -> None:
        """Free the model; calling it twice is harmless."""
        if self._model is not None:
            self._llama.llama_model_free(self._model)
            self._model = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
