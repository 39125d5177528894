"""Every tensor of a file, dequantised chunk by chunk and compared with where it came from.

The error is the normalised mean square error: sum (x - y)^2 / sum x^2 over the tensor. Bounds are four times what each
type does to normally distributed numbers (two to the error of its rounding for the float types).

Token parity: the file's vocabulary in libllama against the tokenizer it was made from.

A wrong split rule, a lost score or a whitespace rule switched on by a name change some texts only, so parity is
measured on a fixed corpus of what usually goes wrong and on the project's own texts.

One difference is known and cannot be written into a file: after special tokens with `rstrip` (Phi-3) Hugging Face drops
every Unicode space, llama.cpp only ASCII ones, so an ideographic space that begins a text is one token more. Such texts
are counted apart; prompts are stripped before rendering (so8t.chat), which avoids it.
"""

import random
import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize
from numpy.typing import NDArray

from so8t import gguf_file, gguf_header
from so8t.errors import ArtifactError
from so8t.gguf.convert.arch import ContextProfile, read_model
from so8t.gguf.convert.source import Source, read_config, to_float32
from so8t.gguf.convert.tensor_plan import Planned, plan_tensors
from so8t.gguf.convert.tensors import chunks_of
from so8t.gguf_file import read_keys
from so8t.gguf_header import TensorInfo
from so8t.llama import Engine

NMSE_BOUND = {
    "F32": 0.0,
    "F16": 1e-6,
    "BF16": 1e-5,
    "Q8_0": 1.2e-4,
    "Q6_K": 1.3e-3,
    "Q5_K": 5.2e-3,
    "Q5_1": 5e-3,
    "Q5_0": 6.8e-3,
    "Q4_K": 2.1e-2,
    "Q4_1": 2.5e-2,
    "Q4_0": 2.9e-2,
}
ELEMENTS = 2 << 20  # numbers in flight


@dataclass(frozen=True, slots=True)
class TensorCheck:
    """One tensor against its source."""

    name: str
    type: str
    nmse: float
    finite: bool

    @property
    def passes(self) -> bool:
        """Whether it is finite and within its type's bound."""
        return self.finite and self.nmse <= NMSE_BOUND[self.type]


def rows_of(path: Path, tensor: TensorInfo, rows: int) -> Iterator[NDArray[np.float32]]:
    """Yield a GGUF tensor as float32 rows, at most `rows` at a time."""
    kind = GGMLQuantizationType[tensor.type]
    block, block_bytes = GGML_QUANT_SIZES[kind]
    flat_rows = int(np.prod(tensor.shape[:-1], dtype=np.int64))
    row_bytes = tensor.shape[-1] // block * block_bytes
    if (
        len(tensor.shape) == 1
    ):  # one row; cut into columns is not possible for block types, and not needed
        rows = 1
    with path.open("rb", buffering=0) as file:
        file.seek(tensor.offset)
        for low in range(0, flat_rows, rows):
            count = min(rows, flat_rows - low)
            raw = np.frombuffer(file.read(count * row_bytes), dtype=np.uint8).reshape(
                count, row_bytes
            )
            yield _to_float32(raw, kind)


def _to_float32(raw: NDArray[np.uint8], kind: GGMLQuantizationType) -> NDArray[np.float32]:
    if kind == GGMLQuantizationType.F32:
        return raw.view("<f4")
    if kind == GGMLQuantizationType.F16:
        return raw.view("<f2").astype(np.float32)
    return dequantize(raw, kind).astype(np.float32, copy=False)


def _step(shape: tuple[int, ...], heads: int = 0) -> int:
    """Rows per chunk; whole heads where rows are permuted."""
    rows = max(1, ELEMENTS // shape[-1])
    head_rows = shape[0] // heads if heads else 1
    return max(1, rows // head_rows) * head_rows


def _compare(
    name: str, kind: str, pairs: Iterator[tuple[NDArray[Any], NDArray[Any]]]
) -> TensorCheck:
    """NMSE over all chunk pairs (source, file)."""
    error = power = 0.0
    finite = True
    for source, found in pairs:
        finite = finite and bool(np.isfinite(found).all())
        difference = found.reshape(-1).astype(np.float64) - source.reshape(-1)
        error += float(difference @ difference)
        power += float(np.square(source, dtype=np.float64).sum())
    nmse = error / power if power > 0 else error
    return TensorCheck(name, kind, nmse if finite else float("inf"), finite)


def against_gguf(path: Path, reference: Path) -> list[TensorCheck]:
    """Every tensor of `path` against the same tensor of the F16 file it was quantised from.

    Raises:
        ArtifactError: the two files do not hold the same tensors.
    """
    originals = {t.name: t for t in gguf_file.tensor_table(reference)}
    tensors = gguf_file.tensor_table(path)
    if {t.name: t.shape for t in tensors} != {n: t.shape for n, t in originals.items()}:
        raise ArtifactError(
            f"the tensors are not those of {reference.name}",
            where=str(path),
            fix="quantise from the right F16 file",
        )
    return [
        _compare(
            t.name,
            t.type,
            zip(
                rows_of(reference, originals[t.name], _step(t.shape)),
                rows_of(path, t, _step(t.shape)),
                strict=True,
            ),
        )
        for t in tensors
    ]


def against_hf(path: Path, directory: Path, profile: ContextProfile) -> list[TensorCheck]:
    """Every tensor of `path` against the Hugging Face directory it was converted from.

    Raises:
        ArtifactError: the file does not hold exactly the tensors that a conversion would write.
    """
    source = Source(directory)
    plan = plan_tensors(read_model(read_config(directory), directory), source, profile)
    found = {
        t.name: (t, file) for file in gguf_file.shards_of(path) for t in gguf_header.parse(file).tensors
    }
    if {p.name: p.shape for p in plan} != {n: t.shape for n, (t, _) in found.items()}:
        raise ArtifactError(
            f"the tensors are not those of {directory.name}", where=str(path), fix="convert again"
        )
    return [
        _compare(item.name, found[item.name][0].type, _pairs(source, item, *found[item.name]))
        for item in plan
    ]


def _pairs(
    source: Source, item: Planned, tensor: TensorInfo, file: Path
) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
    if len(item.shape) == 1:
        originals = np.concatenate(
            [to_float32(c) for c in chunks_of(source, item, item.shape[0])]
        )
        yield originals, next(rows_of(file, tensor, 1))
        return
    step = _step(item.shape, item.heads)
    for original, found in zip(
        chunks_of(source, item, step), rows_of(file, tensor, step), strict=True
    ):
        yield to_float32(original), found


PHRASES = (
    "ALLOW",
    " ALLOW",
    "\nDENY",
    "ESCALATE\n",
    "# 判定\n",
    "# 判定\nALLOW\n",
    "# 思考ステップ\n",
    "# 最終回答\n",
    "</final>",
    "<think-safety>",
    "依頼を仕分ける日本語アシスタントです。",
    "航空管制システムの詳細な仕様について教えてください。",
    "カタカナ・ひらがな・漢字",
    "ＡＢＣ１２３",
    "　全角空白　",
    "It's JavaScript/TypeScript",
    "don't WON'T I'Ve",
    "helloWorld HTTPServer2Go",
    "3 33 333 3333 33333 3.14 1,234,567",
    "２０２６年１１月２０日",
    "a",
    " ",
    "  ",
    "   x",
    "\t",
    "\n",
    "\n\n",
    "\r\n",
    " \n ",
    "\n \n\n \t\t\n",
    "x  y   z",
    "trailing  ",
    "......!!!!??",
    "'''```\"\"\"",
    "=====---->>>",
    "🚀 (normal) 😶\u200d🌫️ 👨\u200d👩\u200d👧",
    "é è ñ ü ß Å",
    "нещо на Български",
    "កាន់តែពិសេស",
    "नमस्ते",
    "مرحبا",
    "▁",
    "▁▁x",
    "\u200b\u00a0\ufeff",
    "\x01\x7f",
    "if (a[i] >= 0) { return b->c; }",
    "def f(x):\n    return x**2\n",
    '{"text": "値", "n": -1.5e-3}',
    "https://example.com/a?b=c&d=%20",
    "C:\\path\\to",
)
MIXES = 400  # random concatenations of phrases and special tokens
MAX_SHOWN = 5


@dataclass(frozen=True, slots=True)
class TokenParity:
    """How many texts were compared, and the first that differ (text, tokenizer ids, file ids)."""

    texts: int
    differing: int
    wide_space_after_special: int
    examples: list[tuple[str, list[int], list[int]]]


def corpus(specials: list[str], texts: Iterable[str]) -> Iterator[str]:
    """The fixed phrases, seeded mixes of them with special tokens, and the given texts."""
    yield from PHRASES
    generator = random.Random(0)
    parts = [*PHRASES, *specials * 4]
    for _ in range(MIXES):
        yield "".join(generator.choice(parts) for _ in range(generator.randrange(2, 9)))
    yield from texts


def token_parity(path: Path, source: Path, texts: Iterable[str]) -> TokenParity:
    """Compare the file `path` with tokenizer.json in `source`, without and with special tokens read as such.

    Raises:
        ArtifactError: the source has no tokenizer.json.
    """
    from tokenizers import Tokenizer

    if not (source / "tokenizer.json").is_file():
        raise ArtifactError(
            "token parity needs tokenizer.json",
            where=str(source),
            fix="copy it from the base model",
        )
    described = read_config(source, "tokenizer.json")
    tokenizer = Tokenizer.from_file(str(source / "tokenizer.json"))
    only_nfc = (described.get("normalizer") or {}).get("type") == "NFC"
    added = described.get("added_tokens") or []
    specials = [entry["content"] for entry in added]
    known = _wide_space_after([entry["content"] for entry in added if entry.get("rstrip")])
    compared, differing, excused = 0, 0, 0
    examples: list[tuple[str, list[int], list[int]]] = []
    with Engine(path, n_ctx=256, threads=1, vocab_only=True) as engine:
        for text in corpus(specials, texts):
            shown = unicodedata.normalize("NFC", text) if only_nfc else text
            expected, found = (
                tokenizer.encode(shown, add_special_tokens=False).ids,
                engine.tokenize(shown),
            )
            compared += 1
            if expected != found and known is not None and known.search(shown):
                excused += 1
            elif expected != found:
                differing += 1
                examples += (
                    [(shown[:60], expected[:24], found[:24])] if len(examples) < MAX_SHOWN else []
                )
    return TokenParity(compared, differing, excused, examples)


def _wide_space_after(tokens: list[str]) -> re.Pattern[str] | None:
    """Finds a space outside ASCII in the run of spaces after one of `tokens`."""
    return (
        re.compile(f"(?:{'|'.join(map(re.escape, tokens))})\\s*[^\\S \\t\\n\\r\\f\\v]")
        if tokens
        else None
    )


def adds_bos(path: Path) -> Any:
    """The file's explicit add_bos_token; None when it does not say."""
    return read_keys(path).get("tokenizer.ggml.add_bos_token")
