"""Lengths of the prepared conversations in tokens, with the base model's own tokenizer, where one exists already.

The demo's tokenizer is trained on the data after `prepare`, so there lengths are in characters only; a local base model
has one from the start. Covered: prompt, response and whole conversation as training renders them.
Not covered: truncation and packing (tuning).
"""

from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

from so8t.chat import neutralise, prompt_of, render
from so8t.corpus.split import SPLITS
from so8t.files import read_json, read_jsonl, sha256_file

ROWS = 20_000  # of each split at most are tokenised; the page says how many
BATCH = 500  # rows tokenised at once


def token_lengths(folder: Path, model: Path | None, system: str) -> dict[str, Any] | None:
    """Counters of lengths: {"tokenizer": SHA-256, "rows": n, "prompt" | "response" | "conversation": {length: rows}}.

    Args:
        folder: prepared splits.
        model: Hugging Face directory, or None.
        system: the system prompt of every conversation.

    Returns:
        None where there is no tokenizer with a chat template.
    """
    if model is None or not (file := model / "tokenizer.json").is_file() or (found := _template(model)) is None:
        return None
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(file))
    counts: dict[str, Counter[int]] = {"prompt": Counter(), "response": Counter(), "conversation": Counter()}
    for split in SPLITS:
        listed = islice((row for _, row in read_jsonl(folder / f"{split}.jsonl")), ROWS)
        while rows := list(islice(listed, BATCH)):
            asked, whole = ([len(e.ids) for e in tokenizer.encode_batch(texts, add_special_tokens=False)] for texts in _rendered(rows, found, system))
            counts["prompt"].update(asked)
            counts["conversation"].update(whole)
            counts["response"].update(b - a for a, b in zip(asked, whole, strict=True))
    return {"tokenizer": sha256_file(file), "rows": counts["prompt"].total()} | {name: dict(sorted(c.items())) for name, c in counts.items()}


def _rendered(rows: list[dict[str, Any]], template: tuple[str, str, str], system: str) -> tuple[list[str], list[str]]:
    """Prompts and whole conversations, as training renders them."""
    chat, bos, eos = template
    texts = [row["text"].strip() for row in rows]
    head = {"role": "system", "content": system}
    turns = [[head, {"role": "user", "content": neutralise(text)}, {"role": "assistant", "content": row["response"]}]
             for text, row in zip(texts, rows, strict=True)]
    return ([prompt_of(chat, system, text, bos=bos, eos=eos) for text in texts],
            [render(chat, turn, add_generation_prompt=False, bos=bos, eos=eos) for turn in turns])


def _template(model: Path) -> tuple[str, str, str] | None:
    """Chat template, beginning and end of text of a Hugging Face directory; None where it has no template."""
    config = read_json(model / "tokenizer_config.json") if (model / "tokenizer_config.json").is_file() else {}
    jinja = model / "chat_template.jinja"
    template = jinja.read_text(encoding="utf-8") if jinja.is_file() else config.get("chat_template")
    marks = [config.get(f"{name}_token") for name in ("bos", "eos")]
    texts = [mark.get("content", "") if isinstance(mark, dict) else mark or "" for mark in marks]
    return (template, texts[0], texts[1]) if isinstance(template, str) else None
