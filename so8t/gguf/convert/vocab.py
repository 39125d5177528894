"""A tokenizer's files to `tokenizer.ggml.*` keys, without loading the tokenizer.

Covered: SentencePiece-like vocabularies (tokenizer.model, or tokenizer.json with byte fallback) and byte-level BPE,
whose split rule is recognised by its regular expression. A rule that is not in `SPLIT_RULES` is refused: a wrong one
tokenises some texts differently and says nothing. `so8t.gguf.verify.contents` proves the result on real text.
Not covered: Unicode normalisation (llama.cpp does none, so NFC is accepted but only NFC text is tokenised alike).
"""

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gguf import GGUFValueType, SpecialVocab, TokenType

from so8t.errors import ArtifactError, ToolError
from so8t.gguf.convert.source import read_config
from so8t.gguf_file import KeyValue

LETTERS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
TAIL = r"|\s*[\r\n]+|\s+(?!\S)|\s+"
CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
SYMBOLS = r"| ?[^\s\p{L}\p{N}]+[\r\n]*"
O200K = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    + CONTRACTIONS
    + "?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    + CONTRACTIONS
    + "?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*" + TAIL
)
SPLIT_RULES = {  # regular expression -> (tokenizer.ggml.pre, whether that name ignores merges in llama.cpp)
    f"{CONTRACTIONS}|{LETTERS}|\\p{{N}}{SYMBOLS}{TAIL}": ("qwen2", False),
    f"{CONTRACTIONS}|{LETTERS}|\\p{{N}}{{1,3}}{SYMBOLS}{TAIL}": ("llama-bpe", True),
    O200K: ("gpt-4o", False),
}
PHI3_SPM_TOKENS = ("<unk>", "<s>", "</s>", "<|endoftext|>")
ADDED_SCORE, UNUSED_SCORE = -1000.0, -10000.0


@dataclass(slots=True)
class Pieces:
    """A vocabulary under construction: text, type and (SentencePiece only) score of every id."""

    tokens: list[bytes]
    types: list[int]
    scores: list[float]

    @classmethod
    def blank(cls, size: int) -> "Pieces":
        """`size` unused ids."""
        return cls(
            [f"[PAD{i}]".encode() for i in range(size)],
            [int(TokenType.UNUSED)] * size,
            [UNUSED_SCORE] * size,
        )


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The keys of a vocabulary, and the id of every token text."""

    keys: dict[str, KeyValue]
    is_sentencepiece: bool
    ids: dict[str, int] = field(repr=False)

    @property
    def is_phi3_sentencepiece(self) -> bool:
        """Whether llama.cpp's whitespace rule for Phi-3 fits (and would not make loading fail)."""
        return self.is_sentencepiece and all(
            token in self.ids for token in (*PHI3_SPM_TOKENS, "<|end|>")
        )


def read_vocabulary(directory: Path, size: int, *, architecture: str) -> Vocabulary:
    """Read the tokenizer files of a model directory.

    Args:
        directory: holds tokenizer.json, and tokenizer.model for SentencePiece models that still have it.
        size: rows of the embedding.
        architecture: Hugging Face class name; Phi-3 marks added tokens in its own way.

    Raises:
        ArtifactError: no tokenizer, or one that llama.cpp would not follow.
    """
    tokenizer = read_config(directory, "tokenizer.json", required=False)
    has_model = (directory / "tokenizer.model").is_file()
    if not tokenizer and not has_model:
        raise ArtifactError(
            "neither tokenizer.json nor tokenizer.model",
            where=str(directory),
            fix="copy the base model's tokenizer files unchanged",
        )
    kind = (tokenizer.get("model") or {}).get("type", "BPE")
    if kind != "BPE":
        raise ArtifactError(
            f"tokenizer model {kind!r} is not supported",
            where=str(directory),
            fix=_upstream_fix(directory),
        )
    if has_model or tokenizer["model"].get("byte_fallback"):
        return _sentencepiece(directory, tokenizer, size, phi3=architecture == "Phi3ForCausalLM")
    return _byte_level(directory, tokenizer, size)


def _upstream_fix(directory: Path) -> str:
    return f"convert it with llama.cpp's own script: python convert_hf_to_gguf.py {directory.name} --outtype f16"


def _looks_special(token: str) -> bool:
    return token in ("<pad>", "<mask>", "<2mass>", "[@BOS@]") or any(
        token.startswith(a) and token.endswith(b)
        for a, b in (("<|", "|>"), ("<｜", "｜>"), ("<unused", ">"))
    )


def _added_tokens(directory: Path, tokenizer: dict[str, Any]) -> dict[int, tuple[str, bool]]:
    """Added tokens by id as (text, special); tokenizer.json wins over the older files."""
    added = {
        int(i): (str(t), False)
        for t, i in read_config(directory, "added_tokens.json", required=False).items()
    }
    decoder = (
        read_config(directory, "tokenizer_config.json", required=False).get("added_tokens_decoder")
        or {}
    )
    added |= {
        int(i): (str(entry["content"]), bool(entry.get("special"))) for i, entry in decoder.items()
    }
    added |= {
        int(e["id"]): (str(e["content"]), bool(e.get("special")))
        for e in tokenizer.get("added_tokens") or []
    }
    return added


def _require_in_range(ids: list[int], size: int, directory: Path) -> None:
    if ids and max(ids) >= size:
        raise ArtifactError(
            f"token id {max(ids)} lies outside the vocabulary of {size}",
            where=str(directory),
            fix="resize the embedding, or use the model's own tokenizer files",
        )


# -- SentencePiece ---------------------------------------------------------------------------------------------------


def _sentencepiece(
    directory: Path, tokenizer: dict[str, Any], size: int, *, phi3: bool
) -> Vocabulary:
    pieces = Pieces.blank(size)
    if (directory / "tokenizer.model").is_file():
        _pieces_from_model(directory / "tokenizer.model", pieces, size)
    else:
        _pieces_from_json(tokenizer["model"], pieces, size, directory)
    added = _added_tokens(directory, tokenizer)
    _require_in_range(list(added), size, directory)
    for index, (text, special) in added.items():
        control = special or (not phi3 and _looks_special(text))
        shown = text if control or phi3 else text.replace("▁", " ")
        pieces.tokens[index], pieces.scores[index] = shown.encode(), ADDED_SCORE
        pieces.types[index] = int(TokenType.CONTROL if control else TokenType.USER_DEFINED)
    keys = _common_keys("llama", "default", pieces)
    keys["tokenizer.ggml.scores"] = KeyValue(
        pieces.scores, GGUFValueType.ARRAY, GGUFValueType.FLOAT32
    )
    if (prefix := _space_prefix(directory, tokenizer, phi3=phi3)) is not None:
        keys["tokenizer.ggml.add_space_prefix"] = KeyValue(prefix, GGUFValueType.BOOL)
    keys |= _special_keys(directory, tokenizer, size, merges=False)
    return Vocabulary(keys, True, {t.decode(): i for i, t in enumerate(pieces.tokens)})


def _pieces_from_model(path: Path, pieces: Pieces, size: int) -> None:
    try:
        from sentencepiece import SentencePieceProcessor
    except ImportError:
        raise ToolError(
            "reading tokenizer.model needs the package sentencepiece",
            where=str(path),
            fix="pip install sentencepiece",
        ) from None
    model = SentencePieceProcessor(model_file=str(path))
    _require_in_range([model.vocab_size() - 1], size, path.parent)
    for index in range(model.vocab_size()):
        pieces.tokens[index], pieces.scores[index] = (
            model.id_to_piece(index).encode(),
            model.get_score(index),
        )
        kind = TokenType.NORMAL
        if model.is_unknown(index):
            kind = TokenType.UNKNOWN
        elif model.is_control(index):
            kind = TokenType.CONTROL
        elif model.is_unused(index):
            kind = TokenType.UNUSED
        elif model.is_byte(index):
            kind = TokenType.BYTE
        pieces.types[index] = int(kind)


def _pieces_from_json(model: dict[str, Any], pieces: Pieces, size: int, directory: Path) -> None:
    """SentencePiece merges the pair with the best score; in tokenizer.json that is the pair with the lowest rank."""
    _require_in_range(list(model["vocab"].values()), size, directory)
    ranks: dict[str, int] = {}
    for rank, merge in enumerate(model["merges"]):
        ranks.setdefault("".join(merge if isinstance(merge, list) else merge.split(" ", 1)), rank)
    for token, index in model["vocab"].items():
        pieces.tokens[index] = token.encode()
        pieces.scores[index] = -float(ranks[token]) if token in ranks else 0.0
        is_byte = re.fullmatch(r"<0x[0-9A-F]{2}>", token)
        kind = (
            TokenType.BYTE
            if is_byte
            else TokenType.UNKNOWN
            if token == model.get("unk_token")
            else TokenType.NORMAL
        )
        pieces.types[index] = int(kind)


def _space_prefix(directory: Path, tokenizer: dict[str, Any], *, phi3: bool) -> bool | None:
    """The explicit key, or None where llama.cpp's default (a prefix) is right and the reference writes nothing."""
    stated = read_config(directory, "tokenizer_config.json", required=False).get("add_prefix_space")
    if stated is not None and not phi3:
        return bool(stated)
    if (
        tokenizer
        and "Prepend" not in json.dumps(tokenizer.get("normalizer"))
        and tokenizer.get("pre_tokenizer") is None
    ):
        return False
    return None


# -- byte-level BPE --------------------------------------------------------------------------------------------------


def _byte_level(directory: Path, tokenizer: dict[str, Any], size: int) -> Vocabulary:
    model = tokenizer["model"]
    pre = _split_rule(tokenizer, directory)
    _refuse_normalizer(tokenizer, directory)
    pieces = Pieces.blank(size)
    _require_in_range(list(model["vocab"].values()), size, directory)
    for token, index in model["vocab"].items():
        pieces.tokens[index], pieces.types[index] = token.encode(), int(TokenType.NORMAL)
    added = {
        int(e["id"]): (str(e["content"]), bool(e.get("special")))
        for e in tokenizer.get("added_tokens") or []
    }
    _require_in_range(list(added), size, directory)
    for index, (text, special) in added.items():
        control = special or _looks_special(text)
        pieces.tokens[index] = (text if control else text.replace("▁", " ")).encode()
        pieces.types[index] = int(TokenType.CONTROL if control else TokenType.USER_DEFINED)
    keys = _common_keys("gpt2", pre, pieces) | _special_keys(
        directory, tokenizer, size, merges=True
    )
    return Vocabulary(keys, False, {t.decode(): i for i, t in enumerate(pieces.tokens)})


def _patterns(node: Any) -> list[str]:
    """Every regular expression in a pre-tokenizer, in order."""
    if isinstance(node, dict):
        own = (
            [node["pattern"]["Regex"]]
            if isinstance(node.get("pattern"), dict) and "Regex" in node["pattern"]
            else []
        )
        return own + [p for value in node.values() for p in _patterns(value)]
    return [p for item in node for p in _patterns(item)] if isinstance(node, list) else []


def _split_rule(tokenizer: dict[str, Any], directory: Path) -> str:
    node = tokenizer.get("pre_tokenizer")
    patterns = _patterns(node)
    if "ByteLevel" not in json.dumps(node) or len(patterns) != 1 or patterns[0] not in SPLIT_RULES:
        shown = (patterns or [json.dumps(node)])[0][:160]
        raise ArtifactError(
            f"unknown split rule of the tokenizer: {shown}",
            where=str(directory / "tokenizer.json"),
            fix=f"known are {', '.join(name for name, _ in SPLIT_RULES.values())}; "
            + _upstream_fix(directory),
        )
    name, ignores_merges = SPLIT_RULES[patterns[0]]
    if bool(tokenizer["model"].get("ignore_merges")) != ignores_merges:
        raise ArtifactError(
            f"llama.cpp's rule {name!r} needs ignore_merges={str(ignores_merges).lower()}",
            where=str(directory / "tokenizer.json"),
            fix=_upstream_fix(directory),
        )
    return name


def _refuse_normalizer(tokenizer: dict[str, Any], directory: Path) -> None:
    kind = (tokenizer.get("normalizer") or {}).get("type")
    if kind not in (None, "NFC"):
        raise ArtifactError(
            f"llama.cpp cannot follow the tokenizer's normaliser {kind!r}",
            where=str(directory / "tokenizer.json"),
            fix="use a tokenizer without a normaliser (NFC is tolerated)",
        )


# -- keys both kinds have --------------------------------------------------------------------------------------------


def _common_keys(model: str, pre: str, pieces: Pieces) -> dict[str, KeyValue]:
    return {
        "tokenizer.ggml.model": KeyValue(model, GGUFValueType.STRING),
        "tokenizer.ggml.pre": KeyValue(pre, GGUFValueType.STRING),
        "tokenizer.ggml.tokens": KeyValue(
            [t.decode() for t in pieces.tokens], GGUFValueType.ARRAY, GGUFValueType.STRING
        ),
        "tokenizer.ggml.token_type": KeyValue(
            pieces.types, GGUFValueType.ARRAY, GGUFValueType.INT32
        ),
    }


def _special_keys(
    directory: Path, tokenizer: dict[str, Any], size: int, *, merges: bool
) -> dict[str, KeyValue]:
    special = SpecialVocab(directory, load_merges=merges, n_vocab=size)
    special.add_special_token.setdefault(
        "bos", not tokenizer
    )  # explicit: llama.cpp's own default is often true
    keys: dict[str, KeyValue] = {}
    if special.merges:
        keys["tokenizer.ggml.merges"] = KeyValue(
            special.merges, GGUFValueType.ARRAY, GGUFValueType.STRING
        )
    for kind, index in special.special_token_ids.items():
        wire = {"unk": "unknown", "sep": "seperator", "pad": "padding"}.get(kind, kind)
        if kind != "cls":
            keys[f"tokenizer.ggml.{wire}_token_id"] = KeyValue(index, GGUFValueType.UINT32)
    for kind, add in special.add_special_token.items():
        keys[f"tokenizer.ggml.add_{kind}_token"] = KeyValue(bool(add), GGUFValueType.BOOL)
    if special.chat_template is not None:
        if not isinstance(special.chat_template, str):
            raise ArtifactError(
                "several chat templates", where=str(directory), fix="keep the one that is used"
            )
        keys["tokenizer.chat_template"] = KeyValue(special.chat_template, GGUFValueType.STRING)
    return keys
