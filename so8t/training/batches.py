"""Prepared rows to token batches: completion-only labels, the tokens that spell the verdict, two ways to batch.

Prompt and completion are tokenised together; the prompt's ids must be a prefix of the whole, or training and serving
would disagree. Packing restarts position ids and passes no attention mask (any other combination mixes samples).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from so8t.chat import CUE
from so8t.errors import DataError
from so8t.files import read_jsonl
from so8t.template import Template
from so8t.verdict import AUTHORITIES, VERDICTS

IGNORE = -100
MEGABATCH = 16  # batches whose rows are sorted by length together


@dataclass(frozen=True, slots=True)
class Example:
    """One conversation: token ids, how many of them are prompt, the class indices (-1 = unknown), and where the label stands."""

    ids: tuple[int, ...]
    prompt: int
    verdict: int
    authority: int
    label: tuple[int, int] = (
        0,
        0,
    )  # first token that spells the verdict after `# 判定`, and the one behind the last


@dataclass(frozen=True, slots=True)
class Batch:
    """Token ids with targets, the sample of each position (-1 = padding), where prompts end and where verdicts are spelt.

    A row of `spelt` is the batch row, the position of a token and the number of its prompt.
    """

    ids: Int[Tensor, "batch time"]
    labels: Int[Tensor, "batch time"]
    samples: Int[Tensor, "batch time"]
    positions: Int[Tensor, "batch time"]
    ends: Int[Tensor, "prompts 2"]
    spelt: Int[Tensor, "spelt 3"]
    verdicts: Int[Tensor, " prompts"]
    authorities: Int[Tensor, " prompts"]

    def to(self, device: torch.device) -> "Batch":
        """The same batch on another device."""
        return Batch(*(getattr(self, name).to(device) for name in self.__slots__))

    @property
    def tokens(self) -> int:
        """Real tokens, padding not counted."""
        return int((self.samples >= 0).sum())


def example_of(row: dict[str, Any], template: Template, system: str) -> Example:
    """Tokenise one prepared row.

    Raises:
        DataError: the prompt's tokens are not a prefix of the conversation's.
    """
    whole = template.conversation(system, row["text"], row["response"])
    encoding = template.tokenizer.encode(whole, add_special_tokens=False)
    asked = template.prompt(system, row["text"])
    prompt = template.ids(asked)
    if encoding.ids[: len(prompt)] != prompt:
        raise DataError(
            "the prompt's tokens change when the answer follows",
            where=row["id"],
            fix="report this row's tokenizer; the chat template must end the prompt with a whole token",
        )
    verdict = VERDICTS.index(row["verdict"]) if row["verdict"] else -1
    authority = AUTHORITIES.index(row["authority"]) if row["authority"] else -1
    label = (
        _spelt(encoding.offsets, whole, len(asked), row["verdict"]) if row["verdict"] else (0, 0)
    )
    return Example(tuple(encoding.ids), len(prompt), verdict, authority, label)


def _spelt(offsets: list[tuple[int, int]], whole: str, asked: int, verdict: str) -> tuple[int, int]:
    """The tokens that spell the verdict after the cue; (0, 0) where the answer does not say it."""
    cue = whole.find(f"{CUE}{verdict}\n", asked)
    if cue < 0:
        return 0, 0
    start, stop = cue + len(CUE), cue + len(CUE) + len(verdict)
    inside = [index for index, (first, last) in enumerate(offsets) if first < stop and last > start]
    return inside[0], inside[-1] + 1


def read_examples(
    path: Path, template: Template, system: str, max_length: int
) -> tuple[list[Example], int]:
    """Examples of a prepared split that fit `max_length`, and how many did not."""
    examples = [example_of(row, template, system) for _, row in read_jsonl(path)]
    kept = [example for example in examples if len(example.ids) <= max_length]
    if not kept:
        raise DataError(
            f"no row fits {max_length} tokens", where=str(path), fix="raise train.max_length"
        )
    return kept, len(examples) - len(kept)


def epoch_order(examples: list[Example], batch_size: int, seed: int, epoch: int) -> list[list[int]]:
    """Index batches of one epoch: shuffled, rows of like length together. Stateless, so a resumed run needs no sampler."""
    random = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    order = torch.randperm(len(examples), generator=random).tolist()
    span = batch_size * MEGABATCH
    batches: list[list[int]] = []
    for start in range(0, len(order), span):
        near = sorted(order[start : start + span], key=lambda index: len(examples[index].ids))
        batches += [near[i : i + batch_size] for i in range(0, len(near), batch_size)]
    return [batches[i] for i in torch.randperm(len(batches), generator=random).tolist()]


def pack(examples: list[Example], order: list[int], capacity: int) -> list[list[int]]:
    """First-fit-decreasing bins of at most `capacity` tokens, in a deterministic order."""
    bins: list[tuple[int, list[int]]] = []
    for index in sorted(order, key=lambda i: (-len(examples[i].ids), i)):
        length = len(examples[index].ids)
        slot = next((k for k, (used, _) in enumerate(bins) if used + length <= capacity), None)
        if slot is None:
            bins.append((length, [index]))
        else:
            used, members = bins[slot]
            bins[slot] = (used + length, [*members, index])
    return [members for _, members in bins]


def collate(rows: list[list[Example]], pad: int) -> Batch:
    """Rows of one or several examples (packed) into one right-padded batch; the padding is a sample of its own."""
    width = max(sum(len(example.ids) for example in row) for row in rows)
    ids = torch.full((len(rows), width), pad)
    labels, samples = torch.full_like(ids, IGNORE), torch.full_like(ids, -1)
    positions = torch.zeros_like(ids)
    ends: list[tuple[int, int]] = []
    verdicts, authorities, spelt = [], [], []
    for r, row in enumerate(rows):
        at = 0
        for number, example in enumerate(row):
            stop = at + len(example.ids)
            ids[r, at:stop] = torch.tensor(example.ids)
            labels[r, at + example.prompt : stop] = ids[r, at + example.prompt : stop]
            samples[r, at:stop] = number
            positions[r, at:stop] = torch.arange(len(example.ids))
            spelt += [(r, at + position, len(ends)) for position in range(*example.label)]
            ends.append((r, at + example.prompt - 1))
            verdicts.append(example.verdict)
            authorities.append(example.authority)
            at = stop
        positions[r, at:] = torch.arange(width - at)
    return Batch(
        ids,
        labels,
        samples,
        positions,
        torch.tensor(ends),
        torch.tensor(spelt, dtype=torch.long).reshape(-1, 3),
        torch.tensor(verdicts),
        torch.tensor(authorities),
    )


def statistics(
    examples: list[Example], dropped: int, plan: list[list[list[int]]]
) -> dict[str, float]:
    """What the model sees in one epoch: rows, tokens, the share that is prompt (not learnt) and the share that is padding."""
    lengths = [len(example.ids) for example in examples]
    total, prompts = sum(lengths), sum(example.prompt for example in examples)
    slots = sum(max(sum(lengths[i] for i in row) for row in rows) * len(rows) for rows in plan)
    return {
        "rows": len(examples),
        "dropped": dropped,
        "tokens": total,
        "completion_tokens": total - prompts,
        "masked_share": prompts / total,
        "padding_share": 1.0 - total / slots,
        "mean_length": total / len(examples),
        "longest": max(lengths),
    }
