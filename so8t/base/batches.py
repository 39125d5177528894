"""Prepared rows to token batches: which tokens are learnt, where verdicts stand, two ways to batch.

Only the answer is learnt: labels cover the completion and not the prompt. Prompt and completion
are tokenised together, and the prompt's ids must be a prefix of the whole; otherwise the model
would be trained on other token ids than it is served.

Rows are batched either one example a row, or packed: several examples in one row. Packing restarts
the position ids at every example and passes no attention mask. Transformers then keeps the
examples apart by themselves; any other combination lets them attend to each other without an error.
"""

from dataclasses import dataclass, fields
from itertools import chain
from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor

from so8t.chat import CUE
from so8t.errors import DataError
from so8t.rows import Row, read_rows
from so8t.template import Template
from so8t.verdict import AUTHORITIES, VERDICTS, Verdict

# The target that torch's cross-entropy leaves out by default.
IGNORE = -100
# Batches whose rows are sorted by length together. More would pad less and shuffle less.
MEGABATCH = 16
# A generator is seeded with `seed * EPOCH_SEED_STRIDE + epoch` (or a step, or a row's number).
# Two runs with neighbouring seeds share no order as long as they have fewer epochs than this; it
# is a prime, so that seeds which are round numbers do not meet either.
EPOCH_SEED_STRIDE = 1_000_003


@dataclass(frozen=True, slots=True)
class Example:
    """One tokenised conversation.

    Attributes:
        ids: token ids of the whole conversation.
        prompt: how many of them are the prompt.
        verdict: index into `VERDICTS`; -1 where the row has none.
        authority: index into `AUTHORITIES` (who handles the request); -1 where the row has none.
        label: the first token that spells the verdict, and the one behind the last; (0, 0) where
            the answer does not spell it.
    """

    ids: tuple[int, ...]
    prompt: int
    verdict: int
    authority: int
    label: tuple[int, int] = (0, 0)


@dataclass(frozen=True, slots=True)
class Batch:
    """Right-padded rows of token ids, and where in them each example's parts are. All int64.

    Attributes:
        ids: token ids.
        labels: the same ids where they are learnt, IGNORE elsewhere.
        samples: number of the example within its row; -1 is padding.
        positions: position ids, which restart at every example and in the padding.
        ends: (row, position) of the last prompt token of each example.
        spelt: (row, position, example) of each token that spells a verdict; examples are numbered
            through the batch, as in `ends`.
        verdicts: class of each example, -1 where there is none.
        authorities: class of each example, -1 where there is none.
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
        moved = {}
        for field in fields(self):
            tensor = getattr(self, field.name)
            moved[field.name] = tensor.to(device)
        return Batch(**moved)

    @property
    def tokens(self) -> int:
        """Real tokens, padding not counted."""
        is_real = self.samples >= 0
        return int(is_real.sum())


# --- rows to examples ---


def example_of(row: Row, template: Template, system: str) -> Example:
    """Tokenise one prepared row.

    Args:
        row: its text is the request, its response the answer that is learnt.
        template: the base model's tokenizer and chat template.
        system: the system prompt.

    Raises:
        DataError: the prompt's tokens are not a prefix of the conversation's.
    """
    prompt = template.prompt(system, row.text)
    conversation = template.conversation(system, row.text, row.response)
    prompt_ids = template.ids(prompt)
    encoding = template.tokenizer.encode(conversation, add_special_tokens=False)
    if encoding.ids[: len(prompt_ids)] != prompt_ids:
        raise DataError(
            "the prompt's tokens change when the answer follows",
            where=row.id,
            fix="report this row's tokenizer; "
            "the chat template must end the prompt with a whole token",
        )
    verdict, label = -1, (0, 0)
    if row.verdict:
        verdict = VERDICTS.index(row.verdict)
        # Searched behind the prompt only: a request may say "# 判定" and a label, too.
        label = _spelt(encoding.offsets, conversation, len(prompt), row.verdict)
    authority = -1
    if row.authority:
        authority = AUTHORITIES.index(row.authority)
    return Example(tuple(encoding.ids), len(prompt_ids), verdict, authority, label)


def _spelt(
    offsets: list[tuple[int, int]], conversation: str, start: int, verdict: Verdict
) -> tuple[int, int]:
    """The tokens that spell the verdict after the cue; (0, 0) where the answer does not say it.

    The cue is the line `# 判定`, with which every answer that has a verdict begins.

    Args:
        offsets: first character of each token, and the one behind its last.
        conversation: the text that the offsets refer to.
        start: the character from which on the cue is searched.
        verdict: the label that must follow the cue.
    """
    cue = conversation.find(f"{CUE}{verdict}\n", start)
    if cue < 0:
        return 0, 0
    first = cue + len(CUE)
    stop = first + len(verdict)
    inside = []
    for number, (begin, end) in enumerate(offsets):
        # A token that only overlaps the label counts: tokenizers may join it with the line's end.
        if begin < stop and end > first:
            inside.append(number)
    return inside[0], inside[-1] + 1


def read_examples(
    path: Path, template: Template, system: str, max_length: int
) -> tuple[list[Example], int]:
    """Examples of a prepared split that fit `max_length` tokens, and how many did not.

    Raises:
        DataError: no row fits, or a row cannot be read or tokenised.
    """
    kept = []
    dropped = 0
    for row in read_rows(path):
        example = example_of(row, template, system)
        # Left out rather than cut: a cut conversation would lose its verdict or its end.
        if len(example.ids) <= max_length:
            kept.append(example)
        else:
            dropped += 1
    if not kept:
        raise DataError(
            f"no row fits {max_length} tokens", where=str(path), fix="raise train.max_length"
        )
    return kept, dropped


# --- which examples stand together ---


def epoch_order(examples: list[Example], batch_size: int, seed: int, epoch: int) -> list[list[int]]:
    """Batches of one epoch, as indices into `examples`: shuffled, rows of like length together.

    The order depends on the arguments alone, so that a resumed run needs no sampler's state.
    """
    random = torch.Generator()
    random.manual_seed(seed * EPOCH_SEED_STRIDE + epoch)
    order = torch.randperm(len(examples), generator=random).tolist()
    batches: list[list[int]] = []
    # Sorting within shuffled spans keeps padding low without fixing who meets whom.
    span = batch_size * MEGABATCH
    for start in range(0, len(order), span):
        near = order[start : start + span]
        near.sort(key=lambda index: len(examples[index].ids))
        for first in range(0, len(near), batch_size):
            batches.append(near[first : first + batch_size])
    # Without a second shuffle every span would run from its short batches to its long ones.
    shuffle = torch.randperm(len(batches), generator=random).tolist()
    return [batches[number] for number in shuffle]


def pack(examples: list[Example], order: list[int], capacity: int) -> list[list[int]]:
    """Put the examples of `order` into rows of at most `capacity` tokens, first fit, longest first.

    An example that is longer than `capacity` gets a row of its own.

    Returns:
        Rows of indices into `examples`; the same for the same set of indices, in any order.
    """
    bins: list[list[int]] = []
    used: list[int] = []

    def longest_first(index: int) -> tuple[int, int]:
        # The index decides between equals, so that the result does not hang on `order`.
        return -len(examples[index].ids), index

    for index in sorted(order, key=longest_first):
        length = len(examples[index].ids)
        slot = _first_with_room(used, length, capacity)
        if slot is None:
            bins.append([index])
            used.append(length)
        else:
            bins[slot].append(index)
            used[slot] += length
    return bins


def _first_with_room(used: list[int], length: int, capacity: int) -> int | None:
    for number, tokens in enumerate(used):
        if tokens + length <= capacity:
            return number
    return None


# --- examples to tensors ---


def collate(rows: list[list[Example]], pad: int) -> Batch:
    """Make one right-padded batch.

    Args:
        rows: one example in each row, or several where they are packed.
        pad: the token id that fills up short rows.
    """
    width = _width_of(rows)
    ids = torch.full((len(rows), width), pad)
    labels = torch.full_like(ids, IGNORE)
    samples = torch.full_like(ids, -1)
    positions = torch.zeros_like(ids)
    ends: list[tuple[int, int]] = []
    spelt: list[tuple[int, int, int]] = []
    for r, row in enumerate(rows):
        start = 0
        for number, example in enumerate(row):
            length = len(example.ids)
            answer = start + example.prompt
            whole = slice(start, start + length)
            learnt = slice(answer, start + length)
            ids[r, whole] = torch.tensor(example.ids)
            labels[r, learnt] = ids[r, learnt]
            samples[r, whole] = number
            positions[r, whole] = torch.arange(length)
            for position in range(*example.label):
                spelt.append((r, start + position, len(ends)))
            # The state of the prompt's last token is what the heads read.
            ends.append((r, answer - 1))
            start += length
        # Padding restarts at 0, too, and so becomes an example of its own: with positions that
        # went on, the attention would take it for a part of the last example.
        positions[r, start:] = torch.arange(width - start)
    examples = list(chain.from_iterable(rows))
    return Batch(
        ids=ids,
        labels=labels,
        samples=samples,
        positions=positions,
        ends=torch.tensor(ends),
        # The shape is given because a batch may spell no verdict at all.
        spelt=torch.tensor(spelt, dtype=torch.long).reshape(-1, 3),
        verdicts=torch.tensor([example.verdict for example in examples]),
        authorities=torch.tensor([example.authority for example in examples]),
    )


def _width_of(rows: list[list[Example]]) -> int:
    """Tokens of the longest row."""
    widest = 0
    for row in rows:
        tokens = sum(len(example.ids) for example in row)
        widest = max(widest, tokens)
    return widest


def statistics(
    examples: list[Example], dropped: int, plan: list[list[list[int]]]
) -> dict[str, float]:
    """What the model sees in one epoch.

    Args:
        examples: those that fit.
        dropped: how many did not.
        plan: the epoch's batches, each a list of rows, each row a list of indices of examples.

    Returns:
        Rows and tokens; `masked_share`, the share of tokens that is prompt and so not learnt;
        `padding_share`, the share of all places in the batches that holds no token.
    """
    lengths = [len(example.ids) for example in examples]
    total = sum(lengths)
    prompts = sum(example.prompt for example in examples)
    places = 0
    for rows in plan:
        width = 0
        for row in rows:
            tokens = sum(lengths[index] for index in row)
            width = max(width, tokens)
        places += width * len(rows)
    return {
        "rows": len(examples),
        "dropped": dropped,
        "tokens": total,
        "completion_tokens": total - prompts,
        "masked_share": prompts / total,
        "padding_share": 1.0 - total / places,
        "mean_length": total / len(examples),
        "longest": max(lengths),
    }
