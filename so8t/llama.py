"""One GGUF file in libllama, with exact logits: a number never depends on what was asked before.

A prompt is evaluated in *pieces*. It is cut at the positions that the caller names (*cuts*), and
between two of them every `n_batch` tokens; each piece is one `llama_decode`. A piece that was
evaluated before stays in the cache only if it begins and ends at the same positions and everything
up to its end is the same. The rest is removed. So the matrix shapes that make a logit are a
function of (tokens, cuts) alone, and the logits have the same bits in any order of prompts.

Reusing any longer common prefix would not be exact: libllama's kernels for one row, for few and for
many rows add in different orders. On an F16 file a piece of one row moves logits of size 10 by
2e-3, while pieces of two and more rows agree (measured). Callers that share a prefix therefore name
its end as a cut: `cuts=(len(prefix),)`.

Covered: one sequence on the CPU, flash attention off, float32 logits, greedy generation.
Not covered: sampling, GPU, batches of sequences.
"""

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from so8t.errors import ArtifactError, DataError
from so8t.libllama import LoadedModel, failure, library_version

Logits = NDArray[np.float32]

# Numbers of the enumeration ggml_type.
_KV_TYPES = {"f32": 0, "f16": 1}


class Engine(LoadedModel):
    """A GGUF file that can be evaluated. Use as a context manager, or call `close`.

    Args:
        path: the file (first part of a split file).
        n_ctx: allocated context in tokens. llama.cpp chooses the factors of a long-context rotary
            embedding (longrope) by it, so it is part of what makes a logit.
        threads: CPU threads.
        n_batch: longest piece in tokens; part of what makes a logit too.
        kv: type of the key and value cache.
        vocab_only: load the tokenizer only; then only the methods of `LoadedModel` work.

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
        self.n_ctx = n_ctx
        self.threads = threads
        self.n_batch = n_batch
        self.kv = kv
        self._context: Any = None
        # What the cache holds, and where its pieces end.
        self._tokens: list[int] = []
        self._ends: list[int] = []
        super().__init__(path, vocab_only=vocab_only)
        if not vocab_only:
            self._open_context()

    def _open_context(self) -> None:
        params = self._llama.llama_context_default_params()
        params.n_ctx = self.n_ctx
        params.n_seq_max = 1
        # One physical batch for each logical one: libllama would else cut a piece once more.
        params.n_batch = self.n_batch
        params.n_ubatch = self.n_batch
        params.n_threads = self.threads
        params.n_threads_batch = self.threads
        # Flash attention adds in another order, and its choice may depend on the machine.
        params.flash_attn_type = self._llama.LLAMA_FLASH_ATTN_TYPE_DISABLED
        params.type_k = _KV_TYPES[self.kv]
        params.type_v = _KV_TYPES[self.kv]
        # A sliding-window cache of full size can forget a tail; a small one cannot.
        params.swa_full = True
        # Nothing may move to a graphics card: its sums differ from those of the CPU.
        params.offload_kqv = False
        params.op_offload = False
        params.no_perf = True
        self._context = self._llama.llama_init_from_model(self._model, params)
        if not self._context:
            super().close()
            raise failure(
                "libllama cannot make a context for this file",
                self.path,
                "lower scoring.n_ctx, or convert again",
            )
        self._memory = self._llama.llama_get_memory(self._context)
        self._batch = self._llama.llama_batch_init(self.n_batch, 0, 1)

    def settings(self) -> dict[str, Any]:
        """What besides the file makes a logit; belongs on the calibration card."""
        # A card holds these and is refused under any others, so a key here is never renamed.
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
            cuts: positions where pieces end, such as the length of a prefix that prompts share.

        Returns:
            float32 [n_vocab], or [len(ids), n_vocab]. The last row of the two may differ by
            rounding, because the last layer is evaluated for one row or for many.

        Raises:
            DataError: no token, an id outside the vocabulary, or more tokens than the context
                holds.
        """
        if positions == "all":
            return self.logits_from(ids, 0, cuts=cuts)
        rows = self.logits_from(ids, len(ids) - 1, cuts=cuts)
        last: Logits = rows[0]
        return last

    def logits_from(self, ids: Sequence[int], start: int, *, cuts: Sequence[int] = ()) -> Logits:
        """Logits from position `start` on.

        Returns:
            float32 [len(ids) - start, n_vocab], a function of (ids, start, cuts) alone.

        Raises:
            DataError: as `logits`.
        """
        self._check(ids, start)
        ends = self._ends_of(len(ids), cuts)
        # The cache keeps no logits: a piece with a position that is asked for is evaluated again.
        reusable = [end for end in ends if end <= start]
        begin = self._keep(ids, reusable)
        rows = np.empty((len(ids) - start, self.n_vocab), np.float32)
        for end in ends:
            if end <= begin:
                continue
            first = max(start, begin)
            self._decode(ids[begin:end], begin, first)
            if end > first:
                rows[first - start : end - start] = self._read(end - first)
            begin = end
        return rows

    def forget(self) -> None:
        """Empty the cache; changes no number, only what the next one costs."""
        self._tokens = []
        self._ends = []
        if self._context is not None:
            self._llama.llama_memory_clear(self._memory, True)

    def _check(self, ids: Sequence[int], start: int) -> None:
        """Refuse what libllama would answer with a crash."""
        where = str(self.path)
        if self._context is None:
            raise ArtifactError("this engine was opened for its vocabulary only", where=where)
        if not ids or not 0 <= start < len(ids):
            raise DataError(
                f"nothing to evaluate: {len(ids)} tokens from position {start}", where=where
            )
        if len(ids) > self.n_ctx:
            raise DataError(
                f"{len(ids)} tokens do not fit the context of {self.n_ctx}",
                where=where,
                fix="raise scoring.n_ctx, or lower data.max_chars",
            )
        if min(ids) < 0 or max(ids) >= self.n_vocab:
            raise DataError(f"a token id is outside the vocabulary of {self.n_vocab}", where=where)

    def _ends_of(self, length: int, cuts: Sequence[int]) -> list[int]:
        """Ends of the pieces: every cut inside, the length, and every `n_batch` between two."""
        # A cut at the end or behind it cuts nothing.
        bounds = {cut for cut in cuts if 0 < cut < length}
        bounds.add(length)
        ends: list[int] = []
        begin = 0
        for bound in sorted(bounds):
            ends += range(begin + self.n_batch, bound, self.n_batch)
            ends.append(bound)
            begin = bound
        return ends

    def _keep(self, ids: Sequence[int], ends: list[int]) -> int:
        """Shrink the cache to the pieces that this prompt shares; return their length in tokens."""
        same = _common_length(ids, self._tokens)
        count = _common_length(ends, self._ends)
        # A piece counts only if it lies wholly within what the two have in common.
        while count and ends[count - 1] > same:
            count -= 1
        kept = ends[count - 1] if count else 0
        if kept < len(self._tokens):
            removed = self._llama.llama_memory_seq_rm(self._memory, 0, kept, -1)
            # Recurrent models cannot forget a part of what they have read.
            if not removed:
                count = 0
                kept = 0
        if kept == 0:
            self._llama.llama_memory_clear(self._memory, True)
        self._tokens = self._tokens[:kept]
        self._ends = self._ends[:count]
        return kept

    def _decode(self, piece: Sequence[int], begin: int, first_output: int) -> None:
        """Evaluate one piece that begins at `begin`, with logits from `first_output` on."""
        batch = self._batch
        batch.n_tokens = len(piece)
        # One by one, because the fields are C arrays behind pointers.
        for offset, token in enumerate(piece):
            position = begin + offset
            batch.token[offset] = token
            batch.pos[offset] = position
            batch.n_seq_id[offset] = 1
            batch.seq_id[offset][0] = 0
            batch.logits[offset] = int(position >= first_output)
        status = self._llama.llama_decode(self._context, batch)
        if status:
            # What a failed call leaves in the cache is not said.
            self.forget()
            raise failure(
                f"llama_decode failed with {status} at token {begin}",
                self.path,
                "convert the file again",
            )
        self._tokens += piece
        self._ends.append(begin + len(piece))

    def _read(self, count: int) -> Logits:
        """The last `count` rows, in libllama's own memory: the next call overwrites them."""
        pointer = self._llama.llama_get_logits(self._context)
        rows: Logits = np.ctypeslib.as_array(pointer, shape=(count, self.n_vocab))
        return rows

    def stream(
        self, ids: Sequence[int], *, forbid: set[int], cuts: Sequence[int] = ()
    ) -> Iterator[int]:
        """Greedy tokens one by one, until one ends the generation or the context is full.

        The token that ends the generation is given too.

        Raises:
            ArtifactError: the model gives a logit that is not a number.
        """
        sequence = list(ids)
        pieces = list(cuts)
        banned = sorted(forbid)
        while len(sequence) <= self.n_ctx:
            row = self.logits(sequence, cuts=pieces)
            # argmax would take the first NaN for the largest number.
            if not np.isfinite(row).all():
                raise ArtifactError(
                    "the model gives logits that are not finite",
                    where=str(self.path),
                    fix="run `so8t gguf verify` on it",
                )
            row[banned] = -np.inf
            token = int(row.argmax())
            # A cut behind everything so far lets the next step evaluate one token only.
            pieces.append(len(sequence))
            sequence.append(token)
            yield token
            if self.is_eog(token):
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

        A token of `stop`, or one that ends a generation, ends it and is the last element. Tokens of
        `forbid` are never taken.

        Raises:
            ArtifactError: the model gives a logit that is not a number.
        """
        made: list[int] = []
        for token in islice(self.stream(ids, forbid=forbid, cuts=cuts), max_tokens):
            made.append(token)
            if token in stop:
                break
        return made

    def close(self) -> None:
        """Free context and model; calling it twice is harmless."""
        if self._context is not None:
            self._llama.llama_batch_free(self._batch)
            self._llama.llama_free(self._context)
            self._context = None
        super().close()


def _common_length(first: Sequence[int], second: Sequence[int]) -> int:
    """How many numbers two sequences have in common at their beginning."""
    count = 0
    for one, other in zip(first, second, strict=False):
        if one != other:
            break
        count += 1
    return count
