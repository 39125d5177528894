"""Lengths of the prepared conversations in tokens, with the base model's own tokenizer, where one exists already.

The demo's tokenizer is trained on the data after `prepare`, so there lengths are in characters only; a local base model
has one from the start. Covered: prompt, response and whole conversation as training renders them.
Not covered: truncation and packing (tuning).
"""

from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

from so8t.corpus.split import SPLITS
from so8t.files import read_jsonl, sha256_file
from so8t.template import Template

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
    if model is None or (template := Template.find(model)) is None:
        return None
    counts: dict[str, Counter[int]] = {"prompt": Counter(), "response": Counter(), "conversation": Counter()}
    for split in SPLITS:
        listed = islice((row for _, row in read_jsonl(folder / f"{split}.jsonl")), ROWS)
        while rows := list(islice(listed, BATCH)):
            asked = _lengths(template, [template.prompt(system, row["text"]) for row in rows])
            whole = _lengths(template, [template.conversation(system, row["text"], row["response"]) for row in rows])
            counts["prompt"].update(asked)
            counts["conversation"].update(whole)
            counts["response"].update(b - a for a, b in zip(asked, whole, strict=True))
    return {"tokenizer": sha256_file(model / "tokenizer.json"), "rows": counts["prompt"].total(),
            **{name: dict(sorted(c.items())) for name, c in counts.items()}}


def _lengths(template: Template, texts: list[str]) -> list[int]:
    return [len(encoding.ids) for encoding in template.tokenizer.encode_batch(texts, add_special_tokens=False)]
