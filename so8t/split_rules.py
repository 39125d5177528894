"""How byte-level tokenizers cut a text into words before they merge bytes: known rules only.

A tokenizer states its rule as a regular expression. llama.cpp has the rules built in and a file
names one of them (`tokenizer.ggml.pre`). A wrong name tokenises some texts differently and says
nothing, so a rule that is not in `SPLIT_RULES` is refused.
"""

import json
from pathlib import Path
from typing import Any, Literal, NamedTuple

from so8t.errors import ArtifactError
from so8t.model_folder import Json

TOKENIZER = "tokenizer.json"
TOKENIZER_MODEL = "tokenizer.model"  # SentencePiece's own file
TokenizerKind = Literal["sentencepiece", "byte-level"]

# Parts of the split rules, letter by letter as the tokenizers write them: they are compared as
# texts, since two regular expressions that mean the same cannot be told to do so.
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


class SplitRule(NamedTuple):
    """llama.cpp's name of a rule (`tokenizer.ggml.pre`), and whether it ignores merges with it."""

    name: str
    ignores_merges: bool


# Qwen2 and Qwen3; Llama 3; Phi-4-mini (OpenAI's o200k).
SPLIT_RULES = {
    f"{CONTRACTIONS}|{LETTERS}|\\p{{N}}{SYMBOLS}{TAIL}": SplitRule("qwen2", False),
    f"{CONTRACTIONS}|{LETTERS}|\\p{{N}}{{1,3}}{SYMBOLS}{TAIL}": SplitRule("llama-bpe", True),
    O200K: SplitRule("gpt-4o", False),
}


def upstream_fix(directory: Path) -> str:
    """What to do with a model that is not covered here."""
    return (
        "convert it with llama.cpp's own script: "
        f"python convert_hf_to_gguf.py {directory.name} --outtype f16"
    )


def tokenizer_kind(tokenizer: Json, directory: Path) -> TokenizerKind:
    """How a tokenizer merges: by score (SentencePiece), or bytes by rank.

    Args:
        tokenizer: tokenizer.json; empty where there is none.
        directory: the model directory, which may hold tokenizer.model.

    Raises:
        ArtifactError: no tokenizer, a damaged one, or one of another model than BPE.
    """
    has_model = (directory / TOKENIZER_MODEL).is_file()
    if not tokenizer and not has_model:
        raise ArtifactError(
            f"neither {TOKENIZER} nor {TOKENIZER_MODEL}",
            where=str(directory),
            fix="copy the base model's tokenizer files unchanged",
        )
    if not tokenizer:
        return "sentencepiece"
    model = tokenizer.get("model")
    kind = model.get("type", "BPE") if isinstance(model, dict) else None
    if kind != "BPE":
        raise ArtifactError(
            f"tokenizer model {kind!r} is not supported; known: BPE, by scores or by bytes",
            where=str(directory / TOKENIZER),
            fix=upstream_fix(directory),
        )
    if not isinstance(tokenizer["model"].get("vocab"), dict):
        raise ArtifactError(
            "the tokenizer has no vocabulary",
            where=str(directory / TOKENIZER),
            fix="copy the base model's tokenizer files unchanged",
        )
    # Only SentencePiece vocabularies fall back to bytes; byte-level ones begin with them.
    by_score = has_model or tokenizer["model"].get("byte_fallback")
    return "sentencepiece" if by_score else "byte-level"


def highest_id(tokenizer: Json) -> int:
    """The highest token id of tokenizer.json; -1 where it has none."""
    model = tokenizer.get("model") or {}
    ids = list((model.get("vocab") or {}).values())
    for entry in tokenizer.get("added_tokens") or []:
        ids.append(int(entry["id"]))
    return max(ids, default=-1)


def _patterns(node: Any) -> list[str]:
    """Every regular expression in a pre-tokenizer, in order."""
    found: list[str] = []
    if isinstance(node, dict):
        pattern = node.get("pattern")
        if isinstance(pattern, dict) and "Regex" in pattern:
            found.append(pattern["Regex"])
        for value in node.values():
            found += _patterns(value)
    elif isinstance(node, list):
        for item in node:
            found += _patterns(item)
    return found


def split_rule(tokenizer: Json, directory: Path) -> str:
    """llama.cpp's name of the tokenizer's split rule.

    Args:
        tokenizer: tokenizer.json.
        directory: where it is, for the error.

    Raises:
        ArtifactError: a rule that is not in `SPLIT_RULES`.
    """
    node = tokenizer.get("pre_tokenizer")
    described = json.dumps(node)
    patterns = _patterns(node)
    is_known = len(patterns) == 1 and patterns[0] in SPLIT_RULES
    if "ByteLevel" not in described or not is_known:
        shown = patterns[0] if patterns else described
        known = ", ".join(rule.name for rule in SPLIT_RULES.values())
        raise ArtifactError(
            f"unknown split rule of the tokenizer: {shown[:160]}",
            where=str(directory / "tokenizer.json"),
            fix=f"known are {known}; {upstream_fix(directory)}",
        )
    rule = SPLIT_RULES[patterns[0]]
    # llama.cpp decides by the name alone whether a whole word in the vocabulary is left whole.
    if bool(tokenizer["model"].get("ignore_merges")) != rule.ignores_merges:
        needed = str(rule.ignores_merges).lower()
        raise ArtifactError(
            f"llama.cpp's rule {rule.name!r} needs ignore_merges={needed}",
            where=str(directory / "tokenizer.json"),
            fix=upstream_fix(directory),
        )
    return rule.name


def refuse_normalizer(tokenizer: Json, directory: Path) -> None:
    """Refuse a tokenizer that changes a text before it cuts it, other than by NFC.

    Raises:
        ArtifactError: there is such a normaliser.
    """
    # NFC is tolerated, because nearly all text is NFC already.
    kind = (tokenizer.get("normalizer") or {}).get("type")
    if kind not in (None, "NFC"):
        raise ArtifactError(
            f"llama.cpp cannot follow the tokenizer's normaliser {kind!r}",
            where=str(directory / "tokenizer.json"),
            fix="use a tokenizer without a normaliser (NFC is tolerated)",
        )
