"""One GGUF file in libllama, with exact logits: a number never depends on what was asked before.

A prompt is evaluated in *pieces*: it is cut at the positions the caller names and then every `n_batch` tokens, and each
piece is one `llama_decode`. A piece that was evaluated before is kept in the cache only when it begins and ends at the
same positions and everything up to its end is the same; the rest is removed with `llama_memory_seq_rm`. So the sequence
of matrix shapes that makes a logit is a function of (tokens, cuts) alone, and logits are bit-identical to evaluating
the prompt alone and independent of order. Reusing any longer common prefix would not be exact: libllama's kernels for
one row, for few and for many rows add in different orders (measured on F16: a piece of one row moves logits by 2e-3 of
10, pieces of two and more rows agree). Callers who share a prefix name its end as a cut (`cuts=(len(prefix),)`).

Covered: flash attention off, one sequence, CPU, float32 logits, greedy generation. Not covered: sampling, GPU, batches
of sequences.
"""

import ctypes
import logging
from collections import deque
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from so8t.errors import ArtifactError, DataError, ResourceError, ToolError

log = logging.getLogger(__name__)
Logits = NDArray[np.float32]
_LOG: deque[str] = deque(maxlen=200)  # libllama's last lines, shown only with an error
_KEEP: list[Any] = []  # C holds these callbacks
_KV_TYPES = {"f32": 0, "f16": 1}  # ggml_type
_NO_MEMORY = ("failed to allocate", "unable to allocate", "out of memory")


@cache
def library() -> Any:
    """llama_cpp with its log captured; imported on first use because it takes a second."""
    try:
        import llama_cpp
    except (ImportError, OSError, RuntimeError) as error:
        raise ToolError(
            f"llama-cpp-python cannot be loaded ({error})",
            fix="run `make setup`; it needs a C++ compiler",
        ) from error

    def capture(_level: int, text: bytes | None, _data: Any) -> None:
        _LOG.append((text or b"").decode("utf-8", "replace"))

    callback = llama_cpp.llama_log_callback(capture)
    _KEEP.append(callback)
    llama_cpp.llama_log_set(callback, ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()
    return llama_cpp


def library_version() -> str:
    """Version of llama-cpp-python, which pins the llama.cpp it was built from."""
    return str(library().__version__)


def log_tail(lines: int = 12) -> str:
    """The last lines that libllama logged in this process."""
    return "\n".join("".join(_LOG).strip().split("\n")[-lines:])


class Engine:
    """A loaded GGUF file. Use as a context manager, or call `close`.

    Args:
        path: the file (first part of a split file).
        n_ctx: allocated context in tokens; llama.cpp chooses longrope factors by it, so it belongs to the card.
        threads: CPU threads.
        n_batch: longest piece; part of what makes a logit (see the module's text).
        kv: type of the key and value cache.
        vocab_only: load the tokenizer only; then only the text methods work.

    Raises:
        ArtifactError: the file is missing or libllama cannot load it.
        ResourceError: not enough memory.
    """

    def __init__(
        self,
        path: Path,
        *,
        n_ctx: int,
        threads: int,
        n_batch: int = 512,
        kv: Literal["f16", "f32"] = "f16",
        vocab_only: bool = False,
    ) -> None:
        self.path, self.n_ctx, self.n_batch, self.threads, self.kv = (
            path,
            n_ctx,
            n_batch,
            threads,
            kv,
        )
        self._llama = library()
        self._context: Any = None
        self._model = self._load(vocab_only)
        self._vocab = self._llama.llama_model_get_vocab(self._model)
        self.n_vocab: int = self._llama.llama_vocab_n_tokens(self._vocab)
        self._tokens: list[int] = []  # what the cache holds ...
        self._ends: list[int] = []  # ... and where its pieces end
        if not vocab_only:
            self._open_context()

    def _load(self, vocab_only: bool) -> Any:
        if not self.path.is_file():
            raise ArtifactError(
                "file not found", where=str(self.path), fix="run `dvc repro` or `dvc pull`"
            )
        params = self._llama.llama_model_default_params()
        params.n_gpu_layers, params.vocab_only = 0, vocab_only
        _LOG.clear()
        model = self._llama.llama_model_load_from_file(str(self.path).encode(), params)
        if not model:
            raise self._failure(
                "libllama cannot load this file",
                "run `so8t gguf verify` on it, or convert it again",
            )
        return model

    def _open_context(self) -> None:
        params = self._llama.llama_context_default_params()
        params.n_ctx, params.n_seq_max = self.n_ctx, 1
        params.n_batch = params.n_ubatch = self.n_batch
        params.n_threads = params.n_threads_batch = self.threads
        params.flash_attn_type = self._llama.LLAMA_FLASH_ATTN_TYPE_DISABLED
        params.type_k = params.type_v = _KV_TYPES[self.kv]
        params.swa_full, params.offload_kqv, params.op_offload, params.no_perf = (
            True,
            False,
            False,
            True,
        )
        self._context = self._llama.llama_init_from_model(self._model, params)
        if not self._context:
            self._llama.llama_model_free(self._model)
            raise self._failure(
                "libllama cannot make a context for this file",
                "lower scoring.n_ctx, or convert again",
            )
        self._memory = self._llama.llama_get_memory(self._context)
        self._batch = self._llama.llama_batch_init(self.n_batch, 0, 1)

    def _failure(self, problem: str, fix: str) -> ArtifactError | ResourceError:
        tail = log_tail()
        kind = ResourceError if any(text in tail for text in _NO_MEMORY) else ArtifactError
        return kind(f"{problem}; it says:\n{tail}", where=str(self.path), fix=fix)

    def tokenize(self, text: str, *, special: bool = True, add_special: bool = False) -> list[int]:
        """Token ids of a text.

        Args:
            text: any text.
            special: read `<|end|>` and its like as control tokens; False for text that somebody else wrote.
            add_special: put the BOS and EOS that the file's `add_bos_token` and `add_eos_token` ask for.
        """
        data = text.encode("utf-8")
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
        return b"".join(self._piece(i) for i in ids)

    def _piece(self, token: int) -> bytes:
        size = 64
        while True:
            buffer = ctypes.create_string_buffer(size)
            count = self._llama.llama_token_to_piece(self._vocab, token, buffer, size, 0, True)
            if count >= 0:
                return buffer.raw[:count]
            size = -count

    def token_text(self, token: int) -> str:
        """The token as the vocabulary spells it."""
        if not 0 <= token < self.n_vocab:
            raise ArtifactError(
                f"token id {token} is outside the vocabulary of {self.n_vocab}",
                where=str(self.path),
            )
        return str(self._llama.llama_vocab_get_text(self._vocab, token).decode("utf-8", "replace"))

    def token_id(self, text: str) -> int:
        """Id of the one control or user-defined token spelled exactly `text`.

        Raises:
            ArtifactError: the vocabulary has no such single token.
        """
        ids = self.tokenize(text, special=True)
        if len(ids) != 1 or self.token_text(ids[0]) != text:
            raise ArtifactError(
                f"the vocabulary has no single token {text!r}",
                where=str(self.path),
                fix="check base.tokens in params.yaml",
            )
        return ids[0]

    def is_control(self, token: int) -> bool:
        """Whether the vocabulary marks the token as control or user-defined."""
        wanted = self._llama.LLAMA_TOKEN_ATTR_CONTROL | self._llama.LLAMA_TOKEN_ATTR_USER_DEFINED
        return bool(self._llama.llama_vocab_get_attr(self._vocab, token) & wanted)

    def is_eog(self, token: int) -> bool:
        """Whether the token ends a generation."""
        return bool(self._llama.llama_vocab_is_eog(self._vocab, token))

    def meta(self, key: str) -> str | None:
        """A scalar key of the file as text; arrays are not in libllama's table (`gguf_file.read_keys` has them)."""
        size = 256
        while True:
            buffer = ctypes.create_string_buffer(size)
            count = self._llama.llama_model_meta_val_str(self._model, key.encode(), buffer, size)
            if count < 0:
                return None
            if count < size:
                return buffer.raw[:count].decode("utf-8", "replace")
            size = count + 1

    def settings(self) -> dict[str, Any]:
        """What besides the file makes a logit; belongs on the card."""
        return {
            "llama_cpp": library_version(),
            "flash_attn": False,
            "type_k": self.kv,
            "type_v": self.kv,
            "n_ctx": self.n_ctx,
            "n_batch": self.n_batch,
            "threads": self.threads,
        }

    def logits(
        self,
        ids: Sequence[int],
        *,
        positions: Literal["last", "all"] = "last",
        cuts: Sequence[int] = (),
    ) -> Logits:
        """Next-token logits.

        Args:
            ids: the whole prompt.
            positions: of the last token, or of every token.
            cuts: positions where pieces end, such as the length of a prefix that many prompts share.

        Returns:
            float32 [n_vocab], or [len(ids), n_vocab]. The two may differ by rounding in the last row, because the last
            layer is evaluated for one row or for many.

        Raises:
            DataError: no token, an id outside the vocabulary, or more tokens than the context holds.
        """
        if positions == "all":
            return self.logits_from(ids, 0, cuts=cuts)
        last: Logits = self.logits_from(ids, len(ids) - 1, cuts=cuts)[0]
        return last

    def logits_from(self, ids: Sequence[int], start: int, *, cuts: Sequence[int] = ()) -> Logits:
        """Logits from position `start` on: float32 [len(ids) - start, n_vocab], a function of (ids, start, cuts)."""
        self._check(ids, start)
        ends = self._ends_of(len(ids), cuts)
        kept = self._keep(ids, [end for end in ends if end <= start])
        rows = np.empty((len(ids) - start, self.n_vocab), np.float32)
        begin = kept
        for end in (e for e in ends if e > kept):
            self._decode(ids[begin:end], begin, max(start, begin))
            first = max(start, begin)
            if end > first:
                rows[first - start : end - start] = self._read(end - first)
            begin = end
        return rows

    def forget(self) -> None:
        """Empty the cache; changes no number, only what the next one costs."""
        self._tokens, self._ends = [], []
        if self._context is not None:
            self._llama.llama_memory_clear(self._memory, True)

    def _check(self, ids: Sequence[int], start: int) -> None:
        if self._context is None:
            raise ArtifactError(
                "this engine was opened for its vocabulary only", where=str(self.path)
            )
        if not ids or not 0 <= start < len(ids):
            raise DataError(
                f"nothing to evaluate: {len(ids)} tokens from position {start}",
                where=str(self.path),
            )
        if len(ids) > self.n_ctx:
            raise DataError(
                f"{len(ids)} tokens do not fit the context of {self.n_ctx}",
                where=str(self.path),
                fix="raise scoring.n_ctx, or lower data.max_chars",
            )
        if min(ids) < 0 or max(ids) >= self.n_vocab:
            raise DataError(
                f"a token id is outside the vocabulary of {self.n_vocab}", where=str(self.path)
            )

    def _ends_of(self, length: int, cuts: Sequence[int]) -> list[int]:
        """Ends of the pieces: every cut inside, the length, and every `n_batch` tokens between two of them."""
        ends: list[int] = []
        begin = 0
        for bound in sorted({cut for cut in cuts if 0 < cut < length} | {length}):
            ends += [*range(begin + self.n_batch, bound, self.n_batch), bound]
            begin = bound
        return ends

    def _keep(self, ids: Sequence[int], ends: list[int]) -> int:
        """Shrink the cache to the pieces that this prompt would evaluate the same way; return their length."""
        same = 0
        limit = min(len(ids), len(self._tokens))
        while same < limit and ids[same] == self._tokens[same]:
            same += 1
        count = 0
        while count < min(len(ends), len(self._ends)) and ends[count] == self._ends[count] <= same:
            count += 1
        kept = ends[count - 1] if count else 0
        if kept < len(self._tokens) and not self._llama.llama_memory_seq_rm(
            self._memory, 0, kept, -1
        ):
            count = kept = 0  # a cache that cannot forget a part forgets everything
        if kept == 0:
            self._llama.llama_memory_clear(self._memory, True)
        self._tokens, self._ends = self._tokens[:kept], self._ends[:count]
        return kept

    def _decode(self, piece: Sequence[int], begin: int, first_output: int) -> None:
        batch = self._batch
        batch.n_tokens = len(piece)
        for i, token in enumerate(piece):
            batch.token[i], batch.pos[i], batch.n_seq_id[i] = token, begin + i, 1
            batch.seq_id[i][0] = 0
            batch.logits[i] = 1 if begin + i >= first_output else 0
        status = self._llama.llama_decode(self._context, batch)
        if status:
            self.forget()
            raise self._failure(
                f"llama_decode failed with {status} at token {begin}", "convert the file again"
            )
        self._tokens += piece
        self._ends.append(begin + len(piece))

    def _read(self, count: int) -> Logits:
        pointer = self._llama.llama_get_logits(self._context)
        rows: Logits = np.ctypeslib.as_array(pointer, shape=(count, self.n_vocab))
        return rows

    def stream(
        self, ids: Sequence[int], *, forbid: set[int], cuts: Sequence[int] = ()
    ) -> Iterator[int]:
        """Greedy tokens one by one, until one ends the generation (it is given too) or the context is full.

        Raises:
            ArtifactError: the model gives a logit that is not a number.
        """
        sequence, pieces = list(ids), list(cuts)
        banned = sorted(forbid)
        while len(sequence) <= self.n_ctx:
            row = self.logits(sequence, cuts=pieces)
            if not np.isfinite(row).all():
                raise ArtifactError(
                    "the model gives logits that are not finite",
                    where=str(self.path),
                    fix="run `so8t gguf verify` on it",
                )
            row[banned] = -np.inf
            pieces.append(len(sequence))
            sequence.append(int(row.argmax()))
            yield sequence[-1]
            if self.is_eog(sequence[-1]):
                return

    def generate(
        self,
        ids: Sequence[int],
        *,
        max_tokens: int,
        stop: set[int],
        forbid: set[int],
        cuts: Sequence[int] = (),
    ) -> list[int]:
        """Greedy continuation, at most `max_tokens` long and never past the context.

        A token of `stop`, or one that ends a generation, ends it and is the last element. Tokens of `forbid` are never
        taken.
        """
        made: list[int] = []
        for token in islice(self.stream(ids, forbid=forbid, cuts=cuts), max_tokens):
            made.append(token)
            if token in stop:
                break
        return made

    def close(self) -> None:
        """Free the model; calling it twice is harmless."""
        if self._context is not None:
            self._llama.llama_batch_free(self._batch)
            self._llama.llama_free(self._context)
            self._context = None
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
