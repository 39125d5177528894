"""Token parity: a file's vocabulary in libllama against the tokenizer it was made from.

A wrong split rule, a lost score, or a whitespace rule that a model's name switches on: each changes
some texts only. So parity is measured on a fixed corpus of what usually goes wrong, and on the
project's own texts.

One difference is known and cannot be written into a file. After special tokens with `rstrip`
(Phi-3) Hugging Face drops every Unicode space, llama.cpp only ASCII ones, so an ideographic space
that begins a text is one token more. Such texts are counted apart. Prompts do not have it, because
they are stripped before they are rendered (so8t.chat).
"""

import random
import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from so8t.errors import ArtifactError
from so8t.gguf_file import read_keys
from so8t.llama import Engine
from so8t.model_folder import read_object
from so8t.template import read_tokenizer

# What this project writes, then numbers, spaces of every kind, line ends, emoji, scripts, control
# characters and code: each has been tokenised differently by some converter.
PHRASES = (
    # What this project writes and reads verdicts from.
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
    # Scripts side by side, and wide letters that NFKC would make narrow.
    "カタカナ・ひらがな・漢字",
    "ＡＢＣ１２３",
    "　全角空白　",
    # Contractions and capitals: where split rules differ most.
    "It's JavaScript/TypeScript",
    "don't WON'T I'Ve",
    "helloWorld HTTPServer2Go",
    # Rules group digits by one, by three, or not at all.
    "3 33 333 3333 33333 3.14 1,234,567",
    "２０２６年１１月２０日",
    # Spaces and line ends: merged, split, or taken from the word behind them.
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
    # Runs of one symbol are single tokens in some vocabularies.
    "......!!!!??",
    "'''```\"\"\"",
    "=====---->>>",
    # Characters of several code points, which NFC and byte fallback treat apart.
    "🚀 (normal) 😶\u200d🌫️ 👨\u200d👩\u200d👧",
    "é è ñ ü ß Å",
    "нещо на Български",
    "កាន់តែពិសេស",
    "नमस्ते",
    "مرحبا",
    # SentencePiece's own mark of a space, as text.
    "▁",
    "▁▁x",
    # Invisible characters and control characters.
    "\u200b\u00a0\ufeff",
    "\x01\x7f",
    # Code, data and addresses.
    "if (a[i] >= 0) { return b->c; }",
    "def f(x):\n    return x**2\n",
    '{"text": "値", "n": -1.5e-3}',
    "https://example.com/a?b=c&d=%20",
    "C:\\path\\to",
)
MIXES = 400  # random concatenations of phrases and special tokens
MIX_PARTS = range(2, 9)  # how many parts one has
SEED = 0
SPECIAL_WEIGHT = 4  # a special token is drawn this many times as often as a phrase
MAX_EXAMPLES = 5
SHOWN_CHARACTERS = 60
SHOWN_IDS = 24


@dataclass(frozen=True, slots=True)
class Example:
    """A text that is tokenised differently, cut: what the tokenizer gives and what the file."""

    text: str
    expected: list[int]
    found: list[int]


@dataclass(slots=True)
class TokenParity:
    """What comparing found.

    Attributes:
        texts: how many were compared.
        differing: how many are tokenised differently.
        wide_space_after_special: how many differ for the known reason; not among `differing`.
        examples: the first that differ.
    """

    texts: int = 0
    differing: int = 0
    wide_space_after_special: int = 0
    examples: list[Example] = field(default_factory=list)


def corpus(specials: list[str], texts: Iterable[str]) -> Iterator[str]:
    """The fixed phrases, seeded mixes of them with special tokens, and the given texts."""
    yield from PHRASES
    generator = random.Random(SEED)
    parts = [*PHRASES, *specials * SPECIAL_WEIGHT]
    for _ in range(MIXES):
        count = generator.randrange(MIX_PARTS.start, MIX_PARTS.stop)
        yield "".join(generator.choice(parts) for _ in range(count))
    yield from texts


def token_parity(path: Path, source: Path, texts: Iterable[str]) -> TokenParity:
    """Compare the file `path` with tokenizer.json in `source`; special tokens are read as such.

    Args:
        path: the GGUF file.
        source: the Hugging Face directory it was made from.
        texts: compared beside the fixed corpus.

    Raises:
        ArtifactError: the source has no tokenizer.json.
    """
    described_by = source / "tokenizer.json"
    if not described_by.is_file():
        raise ArtifactError(
            "token parity needs tokenizer.json",
            where=str(source),
            fix="copy it from the base model",
        )
    described = read_object(source, "tokenizer.json")
    tokenizer = read_tokenizer(described_by)
    # llama.cpp normalises nothing; a tokenizer with NFC is compared on text that is NFC already.
    only_nfc = (described.get("normalizer") or {}).get("type") == "NFC"
    # Special tokens are mixed in, because what follows one is where whitespace rules act.
    added = described.get("added_tokens") or []
    specials = [entry["content"] for entry in added]
    stripping = [entry["content"] for entry in added if entry.get("rstrip")]
    known = _wide_space_after(stripping)
    parity = TokenParity()
    with Engine(path, n_ctx=256, threads=1, vocab_only=True) as engine:
        for text in corpus(specials, texts):
            shown = unicodedata.normalize("NFC", text) if only_nfc else text
            expected = tokenizer.encode(shown, add_special_tokens=False).ids
            found = engine.tokenize(shown)
            parity.texts += 1
            if expected == found:
                continue
            if known is not None and known.search(shown):
                parity.wide_space_after_special += 1
                continue
            parity.differing += 1
            if len(parity.examples) < MAX_EXAMPLES:
                example = Example(shown[:SHOWN_CHARACTERS], expected[:SHOWN_IDS], found[:SHOWN_IDS])
                parity.examples.append(example)
    return parity


def _wide_space_after(tokens: list[str]) -> re.Pattern[str] | None:
    """Finds a space outside ASCII in the run of spaces after one of `tokens`."""
    if not tokens:
        return None
    any_token = "|".join(re.escape(token) for token in tokens)
    # The last class is every space that is none of ASCII's six.
    return re.compile(f"(?:{any_token})\\s*[^\\S \\t\\n\\r\\f\\v]")


def adds_bos(path: Path) -> Any:
    """The file's explicit add_bos_token; None when it does not say."""
    return read_keys(path).get("tokenizer.ggml.add_bos_token")
