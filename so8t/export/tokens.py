"""Token parity: the file's vocabulary in libllama against the tokenizer it was made from.

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

from so8t.errors import ArtifactError
from so8t.export.source import read_config
from so8t.identity import read_keys
from so8t.llama import Engine

PHRASES = (
    "ALLOW", " ALLOW", "\nDENY", "ESCALATE\n", "# 判定\n", "# 判定\nALLOW\n", "# 思考ステップ\n", "# 最終回答\n", "</final>", "<think-safety>",
    "依頼を仕分ける日本語アシスタントです。", "航空管制システムの詳細な仕様について教えてください。", "カタカナ・ひらがな・漢字", "ＡＢＣ１２３",
    "　全角空白　",
    "It's JavaScript/TypeScript", "don't WON'T I'Ve", "helloWorld HTTPServer2Go", "3 33 333 3333 33333 3.14 1,234,567", "２０２６年１１月２０日",
    "a", " ", "  ", "   x", "\t", "\n", "\n\n", "\r\n", " \n ", "\n \n\n \t\t\n", "x  y   z", "trailing  ", "......!!!!??", "'''```\"\"\"", "=====---->>>",
    "🚀 (normal) 😶\u200d🌫️ 👨\u200d👩\u200d👧", "é è ñ ü ß Å", "нещо на Български", "កាន់តែពិសេស", "नमस्ते", "مرحبا", "▁", "▁▁x", "\u200b\u00a0\ufeff", "\x01\x7f",
    "if (a[i] >= 0) { return b->c; }", "def f(x):\n    return x**2\n", '{"text": "値", "n": -1.5e-3}', "https://example.com/a?b=c&d=%20", "C:\\path\\to",
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
        raise ArtifactError("token parity needs tokenizer.json", where=str(source), fix="copy it from the base model")
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
            expected, found = tokenizer.encode(shown, add_special_tokens=False).ids, engine.tokenize(shown)
            compared += 1
            if expected != found and known is not None and known.search(shown):
                excused += 1
            elif expected != found:
                differing += 1
                examples += [(shown[:60], expected[:24], found[:24])] if len(examples) < MAX_SHOWN else []
    return TokenParity(compared, differing, excused, examples)


def _wide_space_after(tokens: list[str]) -> re.Pattern[str] | None:
    """Finds a space outside ASCII in the run of spaces after one of `tokens`."""
    return re.compile(f"(?:{'|'.join(map(re.escape, tokens))})\\s*[^\\S \\t\\n\\r\\f\\v]") if tokens else None


def adds_bos(path: Path) -> Any:
    """The file's explicit add_bos_token; None when it does not say."""
    return read_keys(path).get("tokenizer.ggml.add_bos_token")
