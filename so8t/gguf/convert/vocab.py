"""A tokenizer's files to `tokenizer.ggml.*` keys, without loading the tokenizer.

Covered: SentencePiece-like vocabularies (tokenizer.model, or tokenizer.json with byte fallback) and
byte-level BPE. `so8t.gguf.verify.tokens` proves the result on real text.

Not covered: Unicode normalisation. llama.cpp does none, so a tokenizer with NFC is accepted, but
only text that is NFC already is tokenised alike.
"""

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from gguf import GGUFValueType, SpecialVocab, TokenType

from so8t.errors import ArtifactError, ToolError
from so8t.gguf_file import Keys, array, boolean, string, uint32
from so8t.model_folder import Json, read_object
from so8t.split_rules import (
    TOKENIZER,
    TOKENIZER_MODEL,
    refuse_normalizer,
    split_rule,
    tokenizer_kind,
)
from so8t.template import chat_template

# llama.cpp turns on its whitespace rule for Phi-3 by the model's name, and then fails to load a
# file without the first four. The last tells Phi-3's vocabulary from Llama 2's.
PHI3_SPM_TOKENS = ("<unk>", "<s>", "</s>", "<|endoftext|>", "<|end|>")

# Texts that llama.cpp's converter takes for control tokens, whatever the tokenizer says.
SPECIAL_TEXTS = ("<pad>", "<mask>", "<2mass>", "[@BOS@]")
SPECIAL_BRACKETS = (("<|", "|>"), ("<｜", "｜>"), ("<unused", ">"))

# The scores that llama.cpp's converter gives. They decide nothing: added and unused tokens are not
# made by merging.
ADDED_SCORE = -1000.0
UNUSED_SCORE = -10000.0

# Where llama.cpp's name of a special token differs; "seperator" is spelt like this in the format.
WIRE_NAMES = {"unk": "unknown", "sep": "seperator", "pad": "padding"}
BYTE_PIECE = re.compile(r"<0x[0-9A-F]{2}>")


class AddedToken(NamedTuple):
    """A token outside the model's own vocabulary; `special` ones are not text."""

    text: str
    special: bool


@dataclass(slots=True)
class Pieces:
    """A vocabulary under construction: text, type and (SentencePiece only) score of every id."""

    tokens: list[bytes]
    types: list[int]
    scores: list[float]

    @classmethod
    def blank(cls, size: int) -> "Pieces":
        """`size` unused ids, named as llama.cpp's converter names them."""
        return cls(
            tokens=[f"[PAD{i}]".encode() for i in range(size)],
            types=[int(TokenType.UNUSED)] * size,
            scores=[UNUSED_SCORE] * size,
        )

    def ids(self) -> dict[str, int]:
        """The id of every text."""
        return {token.decode(): index for index, token in enumerate(self.tokens)}


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """A vocabulary as it is written.

    Attributes:
        keys: `tokenizer.*`, in the order they are written.
        is_sentencepiece: merged by score, not by rank.
        ids: of every token text.
    """

    keys: Keys
    is_sentencepiece: bool
    ids: dict[str, int] = field(repr=False)

    @property
    def is_phi3_sentencepiece(self) -> bool:
        """Whether llama.cpp's whitespace rule for Phi-3 fits (and would not make loading fail)."""
        return self.is_sentencepiece and all(token in self.ids for token in PHI3_SPM_TOKENS)


def read_vocabulary(directory: Path, size: int, *, architecture: str) -> Vocabulary:
    """Read the tokenizer files of a model directory.

    Args:
        directory: holds tokenizer.json, and for some SentencePiece models tokenizer.model.
        size: rows of the embedding.
        architecture: Hugging Face class name; Phi-3 marks added tokens in its own way.

    Raises:
        ArtifactError: no tokenizer, or one that llama.cpp would not follow.
        ToolError: tokenizer.model is there and the package sentencepiece is not.
    """
    tokenizer = read_object(directory, TOKENIZER, required=False)
    if tokenizer_kind(tokenizer, directory) == "sentencepiece":
        is_phi3 = architecture == "Phi3ForCausalLM"
        return _sentencepiece(directory, tokenizer, size, is_phi3=is_phi3)
    return _byte_level(directory, tokenizer, size)


def _looks_special(token: str) -> bool:
    """Whether llama.cpp's converter would take the text for a control token."""
    if token in SPECIAL_TEXTS:
        return True
    for opening, closing in SPECIAL_BRACKETS:
        if token.startswith(opening) and token.endswith(closing):
            return True
    return False


def _with_spaces(text: str) -> str:
    """SentencePiece writes a space as U+2581, and llama.cpp wants to see the space."""
    return text.replace("▁", " ")


def _token_type(*, is_control: bool) -> int:
    """Type of an added token."""
    return int(TokenType.CONTROL if is_control else TokenType.USER_DEFINED)


def _added_in_json(tokenizer: Json) -> dict[int, AddedToken]:
    """Added tokens of tokenizer.json by id."""
    added = {}
    for entry in tokenizer.get("added_tokens") or []:
        special = bool(entry.get("special"))
        added[int(entry["id"])] = AddedToken(str(entry["content"]), special)
    return added


def _added_anywhere(directory: Path, tokenizer: Json) -> dict[int, AddedToken]:
    """Added tokens of all files by id; tokenizer.json wins over the older files."""
    added: dict[int, AddedToken] = {}
    # The oldest form does not say which tokens are special.
    oldest = read_object(directory, "added_tokens.json", required=False)
    for text, index in oldest.items():
        added[int(index)] = AddedToken(str(text), False)
    config = read_object(directory, "tokenizer_config.json", required=False)
    decoder = config.get("added_tokens_decoder") or {}
    for index, entry in decoder.items():
        special = bool(entry.get("special"))
        added[int(index)] = AddedToken(str(entry["content"]), special)
    return added | _added_in_json(tokenizer)


def _require_in_range(ids: list[int], size: int, directory: Path) -> None:
    """Refuse a tokenizer that has more tokens than the model has rows."""
    if ids and max(ids) >= size:
        raise ArtifactError(
            f"token id {max(ids)} lies outside the vocabulary of {size}",
            where=str(directory),
            fix="resize the embedding, or use the model's own tokenizer files",
        )


# -- SentencePiece ----------------------------------------------------------------------------


def _sentencepiece(directory: Path, tokenizer: Json, size: int, *, is_phi3: bool) -> Vocabulary:
    """A vocabulary whose texts are merged by score."""
    pieces = Pieces.blank(size)
    model_file = directory / TOKENIZER_MODEL
    if model_file.is_file():
        _pieces_from_model(model_file, pieces, size)
    else:
        _pieces_from_json(tokenizer["model"], pieces, size, directory)
    added = _added_anywhere(directory, tokenizer)
    _require_in_range(list(added), size, directory)
    # Last, because an added token may take the id of a piece.
    for index, (text, special) in added.items():
        # As in llama.cpp's converter, which takes Phi-3's added tokens as they are declared.
        is_control = special or (not is_phi3 and _looks_special(text))
        is_literal = is_control or is_phi3
        shown = text if is_literal else _with_spaces(text)
        pieces.tokens[index] = shown.encode()
        pieces.scores[index] = ADDED_SCORE
        pieces.types[index] = _token_type(is_control=is_control)
    keys = _common_keys("llama", "default", pieces)
    keys["tokenizer.ggml.scores"] = array(pieces.scores, GGUFValueType.FLOAT32)
    prefix = _space_prefix(directory, tokenizer, is_phi3=is_phi3)
    if prefix is not None:
        keys["tokenizer.ggml.add_space_prefix"] = boolean(prefix)
    keys |= _special_keys(directory, tokenizer, size, merges=False)
    return Vocabulary(keys, True, pieces.ids())


def _pieces_from_model(path: Path, pieces: Pieces, size: int) -> None:
    """Pieces with their scores and types, from the file that SentencePiece trained."""
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
    # The order of these questions is llama.cpp's: an unknown piece is no control piece.
    for index in range(model.vocab_size()):
        pieces.tokens[index] = model.id_to_piece(index).encode()
        pieces.scores[index] = model.get_score(index)
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


def _pieces_from_json(model: Json, pieces: Pieces, size: int, directory: Path) -> None:
    """Pieces, and scores that merge them in the same order.

    SentencePiece merges the pair with the best score; tokenizer.json gives the order of the merges.
    So a piece's score is minus the rank of the first merge that makes it.
    """
    vocabulary = model["vocab"]
    _require_in_range(list(vocabulary.values()), size, directory)
    ranks: dict[str, int] = {}
    # Several merges may make one piece; the first of them is applied first.
    for rank, merge in enumerate(model["merges"]):
        # Older files have "a b", newer ones ["a", "b"].
        pair = merge if isinstance(merge, list) else merge.split(" ", 1)
        ranks.setdefault("".join(pair), rank)
    for token, index in vocabulary.items():
        pieces.tokens[index] = token.encode()
        pieces.scores[index] = -float(ranks[token]) if token in ranks else 0.0
        kind = TokenType.NORMAL
        if BYTE_PIECE.fullmatch(token):
            kind = TokenType.BYTE
        elif token == model.get("unk_token"):
            kind = TokenType.UNKNOWN
        pieces.types[index] = int(kind)


def _space_prefix(directory: Path, tokenizer: Json, *, is_phi3: bool) -> bool | None:
    """Whether a space is put before a text.

    None where llama.cpp's default (a space) is right and its own converter writes nothing.
    """
    config = read_object(directory, "tokenizer_config.json", required=False)
    stated = config.get("add_prefix_space")
    if stated is not None and not is_phi3:
        return bool(stated)
    if not tokenizer:
        return None
    # tokenizer.json adds the space in one of two places; if in neither, there is none.
    normalizer = json.dumps(tokenizer.get("normalizer"))
    if "Prepend" not in normalizer and tokenizer.get("pre_tokenizer") is None:
        return False
    return None


# -- byte-level BPE ---------------------------------------------------------------------------


def _byte_level(directory: Path, tokenizer: Json, size: int) -> Vocabulary:
    """A vocabulary whose bytes are merged by rank (GPT-2 and its heirs)."""
    vocabulary = tokenizer["model"]["vocab"]
    rule = split_rule(tokenizer, directory)
    refuse_normalizer(tokenizer, directory)
    pieces = Pieces.blank(size)
    _require_in_range(list(vocabulary.values()), size, directory)
    for token, index in vocabulary.items():
        pieces.tokens[index] = token.encode()
        pieces.types[index] = int(TokenType.NORMAL)
    # Only tokenizer.json counts here: every byte-level model has one.
    added = _added_in_json(tokenizer)
    _require_in_range(list(added), size, directory)
    for index, (text, special) in added.items():
        is_control = special or _looks_special(text)
        shown = text if is_control else _with_spaces(text)
        pieces.tokens[index] = shown.encode()
        pieces.types[index] = _token_type(is_control=is_control)
    keys = _common_keys("gpt2", rule, pieces)
    keys |= _special_keys(directory, tokenizer, size, merges=True)
    return Vocabulary(keys, False, pieces.ids())


# -- keys both kinds have ---------------------------------------------------------------------


def _common_keys(model: str, rule: str, pieces: Pieces) -> Keys:
    """Keys that llama.cpp needs of every vocabulary."""
    tokens = [token.decode() for token in pieces.tokens]
    return {
        "tokenizer.ggml.model": string(model),
        "tokenizer.ggml.pre": string(rule),
        "tokenizer.ggml.tokens": array(tokens, GGUFValueType.STRING),
        "tokenizer.ggml.token_type": array(pieces.types, GGUFValueType.INT32),
    }


def _special_keys(directory: Path, tokenizer: Json, size: int, *, merges: bool) -> Keys:
    """Merges, ids of special tokens, whether they are added to a text, and the chat template."""
    # gguf reads the special tokens from whichever of the model's files has them.
    special = SpecialVocab(directory, load_merges=merges, n_vocab=size)
    # Stated even where nothing asks for it, because llama.cpp's own default is often to add one.
    special.add_special_token.setdefault("bos", not tokenizer)
    keys: Keys = {}
    if special.merges:
        keys["tokenizer.ggml.merges"] = array(special.merges, GGUFValueType.STRING)
    for kind, index in special.special_token_ids.items():
        # A causal model has no classification token.
        if kind == "cls":
            continue
        name = WIRE_NAMES.get(kind, kind)
        keys[f"tokenizer.ggml.{name}_token_id"] = uint32(index)
    # The order of these keys is that of gguf's `SpecialVocab`.
    for kind, is_added in special.add_special_token.items():
        keys[f"tokenizer.ggml.add_{kind}_token"] = boolean(bool(is_added))
    # The one that training renders with; gguf's own reader looks into the files in another order.
    template = chat_template(directory)
    if template is not None:
        keys["tokenizer.chat_template"] = string(template)
    return keys
