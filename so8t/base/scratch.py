"""The demo's base model: a tokenizer and a tiny Phi-3, trained from nothing on the training split.

The model learns the language of the requests and some neighbouring tasks (naming the asset, the
intent, the authorisation and the context of a request), never a verdict. What the adapter has to
learn later is then really new to it.

Hidden and intermediate sizes are multiples of 256, the block size of K-quants.
"""

import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from so8t.base.batches import EPOCH_SEED_STRIDE, IGNORE, Batch, Example, collate, epoch_order
from so8t.base.load import settle
from so8t.base.tokenizer import CONTEXT, END, EOS, train_tokenizer
from so8t.chat import CUE, FINAL_HEADING, THINKING_HEADING, Message
from so8t.files import atomic_dir
from so8t.params import Params, Scratch
from so8t.progress import Progress
from so8t.rows import Row, read_rows
from so8t.template import Template

CLIP = 1.0
BETAS = (0.9, 0.95)
WEIGHT_DECAY = 0.01
# Shuffled orders of bare values per row.
SHUFFLES = 4
# How often each rule is read. An output row that no text ever asks for cannot be raised later.
WORDINGS = 16


def wordings(rows: list[Row]) -> list[str]:
    """Each rule's sentence between the headings and under its own verdict's name.

    All rules come equally often, and beside no request: the verdict's tokens are learnt as words,
    without what they depend on.
    """
    rules = set()
    for row in rows:
        if row.thinking:
            # The last line of the thinking names the rule that decides.
            rule = row.thinking.splitlines()[-1]
            rules.add((row.verdict, rule))
    texts = []
    for verdict, rule in sorted(rules):
        opening = f"{CUE}{verdict}\n"
        thinking = f"{THINKING_HEADING}{rule}\n\n"
        texts.append(f"{opening}{thinking}{FINAL_HEADING}")
    return texts * WORDINGS


def values_of(factor_lines: str) -> list[str]:
    """The values that lines such as "対象: 車両整備台帳（内部）" name.

    They are asset, level, act, strength, approval, purpose and form.
    """
    return [value.strip() for value in re.findall(r"[:（]([^:（）、\n]+)", factor_lines)]


def neighbouring_tasks(
    row: Row,
    system: str,
    factor_lines: str,
    seed: int,
) -> Iterator[list[Message]]:
    """Conversations around one row that name its factors, but neither verdict nor rule.

    The first answers with the lines of the thinking, the others with bare values in shuffled
    orders. Any value may then come first, so that the state at the end of the prompt must know them
    all, and that is where the verdict will be read.
    """
    head = [
        {"role": "system", "content": system},
        {"role": "user", "content": row.text},
    ]
    yield [*head, {"role": "assistant", "content": f"{THINKING_HEADING}{factor_lines}"}]
    random = torch.Generator().manual_seed(seed)
    values = values_of(factor_lines)
    if not values:
        return
    for _ in range(SHUFFLES):
        order = torch.randperm(len(values), generator=random).tolist()
        shuffled = "、".join(values[index] for index in order)
        yield [*head, {"role": "assistant", "content": shuffled}]


def corpus(
    rows: list[Row],
    params: Params,
    factor_lines: Callable[[str], str],
    template: Template,
) -> list[Example]:
    """Everything the base model is trained on.

    First the distinct answers apart from their requests, then the wordings, then every row's
    neighbouring tasks. A row's first task also teaches the language of its request.
    """
    answers = {f"{FINAL_HEADING}{row.final}" for row in rows}
    sentences = [*sorted(answers), *wordings(rows)]
    examples = [_sentence(text, template) for text in sentences]
    for index, row in enumerate(rows):
        lines = factor_lines(row.thinking) if row.thinking else row.text
        seed = params.seed * EPOCH_SEED_STRIDE + index
        tasks = neighbouring_tasks(row, params.data.system, lines, seed)
        for number, messages in enumerate(tasks):
            examples.append(_conversation(messages, template, whole=number == 0))
    return examples


def _conversation(
    messages: list[Message],
    template: Template,
    *,
    whole: bool,
) -> Example:
    """A conversation that is learnt as a whole, or its last message alone."""
    # Nothing stands before the first token that it could be predicted from.
    start = 1
    if not whole:
        prompt = template.render(messages[:-1], prompt=True)
        start = len(template.ids(prompt))
    ids = template.ids(template.render(messages))
    return Example(tuple(ids), prompt=start, verdict=-1, authority=-1)


def _sentence(text: str, template: Template) -> Example:
    """A text outside any conversation."""
    ids = template.ids(f"{text}{END}\n{EOS}")
    return Example(tuple(ids), prompt=1, verdict=-1, authority=-1)


def make_base(
    train_split: Path,
    out: Path,
    params: Params,
    factor_lines: Callable[[str], str],
    progress: Progress,
) -> dict[str, Any]:
    """Train tokenizer and model, and write a stock Hugging Face folder.

    Args:
        train_split: prepared rows.
        out: the folder, replaced as a whole.
        params: the profile's `scratch` section must be there.
        factor_lines: gives a row's thinking without the line that decides (data.grammar).
        progress: told of every step.

    Returns:
        `parameters`, `examples` and the smoothed last `loss`.
    """
    from transformers import GenerationConfig, Phi3ForCausalLM

    scratch = params.active.scratch
    assert scratch is not None
    rows = list(read_rows(train_split))
    texts = [f"{row.text}\n{row.response}" for row in rows]
    with atomic_dir(out) as folder:
        train_tokenizer(folder, [*texts, params.data.system], scratch.vocab_size)
        template = Template.of(folder)
        end = template.tokenizer.token_to_id(END)
        eos = template.tokenizer.token_to_id(EOS)
        torch.manual_seed(params.seed)
        settle(params.active.train.threads)
        model: Any = Phi3ForCausalLM(_config(scratch, eos))
        examples = corpus(rows, params, factor_lines, template)
        loss = _fit(model, examples, scratch, params.seed, progress)
        model.generation_config = GenerationConfig(  # type: ignore[no-untyped-call]
            eos_token_id=[eos, end], pad_token_id=eos
        )
        model.float().save_pretrained(folder)
    return {
        "parameters": sum(tensor.numel() for tensor in model.parameters()),
        "examples": len(examples),
        "loss": loss,
    }


def _config(scratch: Scratch, eos: int) -> Any:
    from transformers import Phi3Config

    return Phi3Config(
        vocab_size=scratch.vocab_size,
        hidden_size=scratch.hidden_size,
        intermediate_size=scratch.intermediate_size,
        num_hidden_layers=scratch.layers,
        num_attention_heads=scratch.heads,
        num_key_value_heads=scratch.kv_heads,
        max_position_embeddings=CONTEXT,
        original_max_position_embeddings=CONTEXT,
        pad_token_id=eos,
        bos_token_id=1,
        eos_token_id=eos,
        sliding_window=None,
        tie_word_embeddings=False,
    )


def _fit(
    model: Any,
    examples: list[Example],
    scratch: Scratch,
    seed: int,
    progress: Progress,
) -> float:
    """Train for `scratch.epochs`; return the loss, exponentially smoothed over about 50 steps."""
    per_epoch = len(epoch_order(examples, scratch.batch_size, seed, 0))
    steps = round(scratch.epochs * per_epoch)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=scratch.lr, betas=BETAS, weight_decay=WEIGHT_DECAY
    )
    rise = max(1, round(scratch.warmup_ratio * steps))
    average = 0.0
    order: list[list[int]] = []
    model.train()
    for step in progress.bar(range(steps), total=steps, what="base", unit="step"):
        if step % per_epoch == 0:
            order = epoch_order(examples, scratch.batch_size, seed, step // per_epoch)
        group = optimizer.param_groups[0]
        group["lr"] = scratch.lr * _rate(step, steps, rise)
        rows = [[examples[index]] for index in order[step % per_epoch]]
        # Padding is never a target, so that any token id will do.
        batch = collate(rows, pad=0)
        loss = _loss(model, batch, narrow=scratch.dtype == "bfloat16")
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        value = loss.item()
        # From the first loss on: a start at 0 would take a hundred steps to forget.
        average = value if step == 0 else 0.98 * average + 0.02 * value
        if step % 20 == 0:
            progress.emit("step", step=step, of=steps, loss=round(average, 4))
    return average


def _rate(
    step: int,
    steps: int,
    rise: int,
) -> float:
    """Share of the peak learning rate: linear rise, then cosine to zero."""
    if step < rise:
        return (step + 1) / rise
    fall = max(1, steps - rise)
    angle = math.pi * (step - rise) / fall
    return 0.5 * (1 + math.cos(angle))


def _loss(
    model: Any,
    batch: Batch,
    *,
    narrow: bool,
) -> Tensor:
    """Mean cross-entropy over the tokens that are learnt; `narrow` computes in bfloat16."""
    targets = batch.labels[:, 1:]
    chosen = targets != IGNORE
    with torch.autocast("cpu", torch.bfloat16, enabled=narrow):
        out = model.model(input_ids=batch.ids, position_ids=batch.positions, use_cache=False)
        # Logits of the learnt positions alone: the vocabulary is wide beside this model.
        states = out.last_hidden_state[:, :-1][chosen]
        logits = model.lm_head(states)
        return functional.cross_entropy(logits.float(), targets[chosen])
