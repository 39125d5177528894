"""What the prepared splits hold, counted from the files as they were written.

`census` counts rows by every field and factor, `token_lengths` measures the conversations in tokens
of the base model, as training renders them. Rows that a weight above 1 repeats are counted as often
as they stand there.

The demo's tokenizer is trained on the data after `prepare`, so there lengths are in characters
only; a local base model has its tokenizer from the start.

Not covered: verdicts by domain, dropped rows, lengths in characters (counted by `prepare` itself);
truncation and packing (`so8t.training`).
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

from so8t.files import sha256_file
from so8t.rows import SPLITS, Row, read_rows
from so8t.template import Template

MOST_VALUES = 64  # a factor with more values is only said to have many: it is a text or a number
MOST_TOKENISED = 20_000  # rows of each split at most; the page says how many
BATCH = 500  # rows tokenised at once
PARTS = ("prompt", "response", "conversation")

# Value -> rows, or size -> groups.
ByValue: TypeAlias = dict[str, int]
# Value of a factor -> verdict -> rows.
FactorCounts: TypeAlias = defaultdict[str, Counter[str]]


def census(folder: Path) -> dict[str, Any]:
    """Counts by split of each field, by verdict of each factor's values, and how large groups are.

    Returns:
        `fields` {field: {split: {value: rows}}}, `factors` {name: {value: {verdict: rows}}, or null
        for more than `MOST_VALUES` values}, `group_sizes` {split: {rows in a group: groups}}.
    """
    fields: dict[str, dict[str, ByValue]] = {}
    factors: dict[str, FactorCounts] = {}
    sizes: dict[str, ByValue] = {}
    for split in SPLITS:
        groups: Counter[str] = Counter()
        authorities: Counter[str] = Counter()
        sources: Counter[str] = Counter()
        licenses: Counter[str] = Counter()
        thinking: Counter[str] = Counter()
        for row in read_rows(folder / f"{split}.jsonl"):
            groups[row.group] += 1
            authorities[row.authority or "none"] += 1
            sources[row.source or "none"] += 1
            licenses[row.license or "none"] += 1
            # Whether there is any: the reasoning itself is private and is not shown.
            thinking["yes" if row.thinking else "no"] += 1
            _add_factors(factors, row)
        counted = {
            "authority": authorities,
            "source": sources,
            "license": licenses,
            "thinking": thinking,
        }
        for name, values in counted.items():
            fields.setdefault(name, {})[split] = _plain(values)
        sizes[split] = _sizes(groups)
    plain_factors = {}
    for name, counts in sorted(factors.items()):
        plain_factors[name] = _plain_factor(counts)
    return {
        "fields": fields,
        "factors": plain_factors,
        "group_sizes": sizes,
    }


def _add_factors(factors: dict[str, FactorCounts], row: Row) -> None:
    verdict = row.verdict or "none"
    for name, value in row.factors.items():
        counts = factors.setdefault(name, defaultdict(Counter))
        # One value beyond the limit is enough to know that there are too many.
        if len(counts) <= MOST_VALUES:
            counts[str(value)][verdict] += 1


def _plain_factor(counts: FactorCounts) -> dict[str, ByValue] | None:
    if len(counts) > MOST_VALUES:
        return None
    plain = {}
    for value, verdicts in sorted(counts.items()):
        plain[value] = _plain(verdicts)
    return plain


def _plain(counts: Counter[str]) -> ByValue:
    """Counts by value in the order of the values, so that the same data give the same bytes."""
    plain = {}
    for value, number in sorted(counts.items()):
        # Authority and Verdict are subclasses of str; the metrics hold plain text.
        plain[str(value)] = number
    return plain


def _sizes(groups: Counter[str]) -> ByValue:
    """How many groups there are of each size; the sizes are text, as keys of JSON are."""
    by_size = Counter(groups.values())
    sizes = {}
    for size, number in sorted(by_size.items()):
        sizes[str(size)] = number
    return sizes


def token_lengths(folder: Path, model: Path | None, system: str) -> dict[str, Any] | None:
    """Lengths of the prepared conversations in tokens of a base model.

    Args:
        folder: prepared splits.
        model: Hugging Face directory, or None.
        system: the system prompt of every conversation.

    Returns:
        {"tokenizer": SHA-256, "rows": n, "prompt" | "response" | "conversation": {length: rows}},
        or None where there is no tokenizer with a chat template.
    """
    if model is None:
        return None
    template = Template.find(model)
    if template is None:
        return None
    prompts: Counter[int] = Counter()
    responses: Counter[int] = Counter()
    conversations: Counter[int] = Counter()
    for split in SPLITS:
        for batch in _batches(folder / f"{split}.jsonl"):
            prompt_texts = []
            whole_texts = []
            for row in batch:
                prompt_texts.append(template.prompt(system, row.text))
                whole_texts.append(template.conversation(system, row.text, row.response))
            asked = _token_counts(template, prompt_texts)
            whole = _token_counts(template, whole_texts)
            prompts.update(asked)
            conversations.update(whole)
            for prompt, conversation in zip(asked, whole, strict=True):
                # A conversation begins with its prompt; the rest is the response and its end.
                responses[conversation - prompt] += 1
    return {
        "tokenizer": sha256_file(model / "tokenizer.json"),
        "rows": prompts.total(),
        "prompt": dict(sorted(prompts.items())),
        "response": dict(sorted(responses.items())),
        "conversation": dict(sorted(conversations.items())),
    }


def _batches(path: Path) -> Iterator[list[Row]]:
    rows = islice(read_rows(path), MOST_TOKENISED)
    while batch := list(islice(rows, BATCH)):
        yield batch


def _token_counts(template: Template, texts: Sequence[str]) -> list[int]:
    # The chat template has written the special tokens already.
    encoded = template.tokenizer.encode_batch(texts, add_special_tokens=False)
    return [len(encoding.ids) for encoding in encoded]
