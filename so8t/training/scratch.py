"""The demo's base model: a Phi-3.5-style tokenizer and a tiny Phi-3, trained from nothing on the training split.

It learns the language of the requests and neighbouring tasks (naming asset, intent, authorisation and context), never
a verdict: what the adapter has to learn is then really new to it. The tokenizer has the form of Phi-3.5's, so that the
demo goes the way of the real model. Hidden and intermediate sizes are multiples of 256 for K-quants.
"""

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from so8t.chat import CUE, FINAL_HEADING, THINKING_HEADING
from so8t.errors import DataError
from so8t.files import atomic_dir, read_jsonl, write_json
from so8t.params import Params, Scratch
from so8t.progress import Progress
from so8t.template import Template
from so8t.training.batches import IGNORE, Example, collate, epoch_order
from so8t.training.load import settle

END, EOS = "<|end|>", "<|endoftext|>"
# Phi-3.5's own added tokens in Phi-3.5's own order; all but the end of text swallow the white space after them.
ADDED = [
    EOS,
    "<|assistant|>",
    *(f"<|placeholder{i}|>" for i in range(1, 5)),
    "<|system|>",
    END,
    "<|placeholder5|>",
    "<|placeholder6|>",
    "<|user|>",
]
SPACE = "\u2581"
MAX_TOKEN_CHARS = 4  # longer pieces would swallow whole template phrases
CHAT = (
    "{% for message in messages %}{% if message['role'] == 'system' and message['content'] %}{{'<|system|>\n' + message['content'] + '<|end|>\n'}}"
    "{% elif message['role'] == 'user' %}{{'<|user|>\n' + message['content'] + '<|end|>\n'}}"
    "{% elif message['role'] == 'assistant' %}{{'<|assistant|>\n' + message['content'] + '<|end|>\n'}}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)
CONTEXT = 2048
CLIP = 1.0
WEIGHT_DECAY = 0.01
SHUFFLES = 4  # orders of bare values per row
WORDINGS = (
    16  # how often each rule is read: an output row that was never asked for cannot be raised later
)


def wordings(rows: list[dict[str, Any]]) -> list[str]:
    """Each rule's sentence between the headings and under its own verdict's name, equally often and beside no request."""
    rules = sorted(
        {(row["verdict"], row["thinking"].splitlines()[-1]) for row in rows if row["thinking"]}
    )
    return [
        f"{CUE}{verdict}\n{THINKING_HEADING}{rule}\n\n{FINAL_HEADING}" for verdict, rule in rules
    ] * WORDINGS


def values_of(factor_lines: str) -> list[str]:
    """The named values in lines like "対象: 車両整備台帳（内部）": asset, level, act, strength, approval, purpose, form."""
    return [value.strip() for value in re.findall(r"[:（]([^:（）、\n]+)", factor_lines)]


def neighbouring_tasks(
    row: dict[str, Any], system: str, factor_lines: str, seed: int
) -> Iterator[list[dict[str, str]]]:
    """Conversations around one row that name its factors; none of them holds a verdict or the rule that decides.

    Once as the lines of the thinking, then as bare values in shuffled orders: what comes first is then any value, so
    the state at the end of the prompt must know them all, which is where the verdict will be read.
    """
    user = {"role": "user", "content": row["text"]}
    head = [{"role": "system", "content": system}, user]
    yield [*head, {"role": "assistant", "content": f"{THINKING_HEADING}{factor_lines}"}]
    random = torch.Generator().manual_seed(seed)
    values = values_of(factor_lines)
    for _ in range(SHUFFLES if values else 0):
        order = torch.randperm(len(values), generator=random).tolist()
        yield [*head, {"role": "assistant", "content": "、".join(values[i] for i in order)}]


def _learn_pieces(texts: list[str], size: int) -> list[str]:
    """Characters, then merged pieces in the order they were learnt; a newline stays a byte, as in Phi-3.5."""
    from tokenizers import Tokenizer, models, trainers

    lines = sorted(
        {SPACE + line.replace(" ", SPACE) for text in texts for line in text.split("\n") if line}
    )
    learner = Tokenizer(models.BPE())
    learner.train_from_iterator(
        lines,
        trainers.BpeTrainer(vocab_size=size, show_progress=False, max_token_length=MAX_TOKEN_CHARS),
    )
    order = learner.get_vocab()
    return sorted(order, key=lambda piece: order[piece])


def train_tokenizer(folder: Path, texts: list[str], size: int) -> None:
    """Write `tokenizer.json` (SentencePiece-style BPE with byte fallback, Phi-3.5's form) and its config into `folder`.

    Raises:
        DataError: `size` is too small for the characters of the texts.
    """
    heads = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    room = size - len(heads) - len(ADDED)
    pieces = _learn_pieces(texts, room) if room > 0 else []
    if not 0 < len(pieces) <= room:
        raise DataError(
            f"the training text has more characters than fit {size} tokens",
            fix="raise scratch.vocab_size",
        )
    vocabulary = {piece: number for number, piece in enumerate([*heads, *pieces])}
    merges = [
        [piece[:cut], piece[cut:]]
        for piece in pieces
        for cut in range(1, len(piece))
        if piece[:cut] in vocabulary and piece[cut:] in vocabulary
    ]
    first = size - len(ADDED)
    added = [
        _added(0, "<unk>", rstrip=False),
        _added(1, "<s>", rstrip=False),
        _added(2, "</s>", rstrip=True, special=False),
    ]
    added += [_added(first + i, token, rstrip=token != EOS) for i, token in enumerate(ADDED)]
    for filler in range(len(vocabulary), first):
        vocabulary[f"<unused{filler}>"] = filler
    write_json(
        folder / "tokenizer.json",
        {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": added,
            "normalizer": {
                "type": "Sequence",
                "normalizers": [
                    {"type": "Prepend", "prepend": SPACE},
                    {"type": "Replace", "pattern": {"String": " "}, "content": SPACE},
                ],
            },
            "pre_tokenizer": None,
            "post_processor": None,
            "decoder": {
                "type": "Sequence",
                "decoders": [
                    {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
                    {"type": "ByteFallback"},
                    {"type": "Fuse"},
                    {"type": "Strip", "content": " ", "start": 1, "stop": 0},
                ],
            },
            "model": {
                "type": "BPE",
                "dropout": None,
                "unk_token": "<unk>",
                "continuing_subword_prefix": None,
                "end_of_word_suffix": None,
                "fuse_unk": True,
                "byte_fallback": True,
                "ignore_merges": False,
                "vocab": vocabulary,
                "merges": merges,
            },
        },
    )
    write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "add_bos_token": False,
            "add_eos_token": False,
            "bos_token": "<s>",
            "eos_token": EOS,
            "pad_token": EOS,
            "unk_token": "<unk>",
            "model_max_length": CONTEXT,
            "clean_up_tokenization_spaces": False,
            "chat_template": CHAT,
        },
    )


def _added(number: int, content: str, *, rstrip: bool, special: bool = True) -> dict[str, Any]:
    return {
        "id": number,
        "content": content,
        "single_word": False,
        "lstrip": False,
        "rstrip": rstrip,
        "normalized": False,
        "special": special,
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


def _example(messages: list[dict[str, str]], template: Template, whole: bool) -> Example:
    start = 1 if whole else len(template.ids(template.render(messages[:-1], prompt=True)))
    return Example(tuple(template.ids(template.render(messages))), start, -1, -1)


def _sentence(text: str, template: Template) -> Example:
    return Example(tuple(template.ids(f"{text}{END}\n{EOS}")), 1, -1, -1)


def corpus(
    rows: list[dict[str, Any]], params: Params, factor_lines: Any, template: Template
) -> list[Example]:
    """Distinct answers apart from their requests, the wordings, then all neighbouring tasks; a row's first also teaches its request's language."""
    sentences = sorted({f"{FINAL_HEADING}{row['final']}" for row in rows})
    examples = [_sentence(sentence, template) for sentence in [*sentences, *wordings(rows)]]
    for index, row in enumerate(rows):
        lines = factor_lines(row["thinking"]) if row["thinking"] else row["text"]
        for number, messages in enumerate(
            neighbouring_tasks(row, params.data.system, lines, params.seed * 1_000_003 + index)
        ):
            examples.append(_example(messages, template, whole=number == 0))
    return examples


def make_base(
    train_split: Path, out: Path, params: Params, factor_lines: Any, progress: Progress
) -> dict[str, Any]:
    """Train tokenizer and model from the rows of `train_split` and write a stock Hugging Face folder.

    Args:
        factor_lines: gives a row's thinking without the line that decides (corpus.grammar).
    """
    from transformers import GenerationConfig, Phi3ForCausalLM

    scratch = params.active.scratch
    assert scratch is not None
    rows = [row for _, row in read_jsonl(train_split)]
    with atomic_dir(out) as folder:
        train_tokenizer(
            folder,
            [f"{row['text']}\n{row['response']}" for row in rows] + [params.data.system],
            scratch.vocab_size,
        )
        template = Template.of(folder)
        torch.manual_seed(params.seed)
        settle(params.active.train.threads)
        model = Phi3ForCausalLM(_config(scratch, template.tokenizer.token_to_id(EOS)))
        examples = corpus(rows, params, factor_lines, template)
        loss = _fit(model, examples, scratch, params.seed, progress)
        model.generation_config = GenerationConfig(  # type: ignore[no-untyped-call]
            eos_token_id=[template.tokenizer.token_to_id(EOS), template.tokenizer.token_to_id(END)],
            pad_token_id=template.tokenizer.token_to_id(EOS),
        )
        model.float().save_pretrained(folder)  # type: ignore[no-untyped-call]
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "examples": len(examples),
        "loss": loss,
    }


def _fit(
    model: Any, examples: list[Example], scratch: Scratch, seed: int, progress: Progress
) -> float:
    per_epoch = len(epoch_order(examples, scratch.batch_size, seed, 0))
    steps = round(scratch.epochs * per_epoch)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=scratch.lr, betas=(0.9, 0.95), weight_decay=WEIGHT_DECAY
    )
    average, rise = 0.0, max(1, round(scratch.warmup_ratio * steps))
    model.train()
    order: list[list[int]] = []
    for step in progress.bar(range(steps), total=steps, what="base", unit="step"):
        if step % per_epoch == 0:
            order = epoch_order(examples, scratch.batch_size, seed, step // per_epoch)
        rate = (
            (step + 1) / rise
            if step < rise
            else 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))
        )
        optimizer.param_groups[0]["lr"] = scratch.lr * rate
        batch = collate([[examples[i]] for i in order[step % per_epoch]], pad=0)
        with torch.autocast("cpu", torch.bfloat16, enabled=scratch.dtype == "bfloat16"):
            hidden = model.model(
                input_ids=batch.ids, position_ids=batch.positions, use_cache=False
            ).last_hidden_state
            chosen = batch.labels[:, 1:] != IGNORE
            loss = functional.cross_entropy(
                model.lm_head(hidden[:, :-1][chosen]).float(), batch.labels[:, 1:][chosen]
            )
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        average = loss.item() if step == 0 else 0.98 * average + 0.02 * loss.item()
        if step % 20 == 0:
            progress.emit("step", step=step, of=steps, loss=round(average, 4))
    return average
