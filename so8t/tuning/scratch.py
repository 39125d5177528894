"""The demo's base model: a byte-level BPE tokenizer and a tiny Phi-3, trained from nothing on the training split.

It learns the language of the requests and neighbouring tasks (naming asset, intent, authorisation and context), never
a verdict: what the adapter has to learn is then really new to it. Byte-level BPE with Qwen2's splitting is a form that
llama.cpp tokenises exactly as Hugging Face does. Hidden and intermediate sizes are multiples of 256 for K-quants.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from so8t.chat import render
from so8t.errors import DataError
from so8t.files import atomic_dir, read_jsonl, write_json
from so8t.params import Params, Scratch
from so8t.progress import Progress
from so8t.tuning.batches import IGNORE, Example, Template, collate, epoch_order

END, EOS = "<|end|>", "<|endoftext|>"
RESERVED = [f"<|placeholder{i}|>" for i in range(1, 7)]
SPECIAL = [EOS, "<|system|>", "<|user|>", "<|assistant|>", END, *RESERVED]
# Qwen2's splitting, without its NFC step, which llama.cpp does not do.
SPLIT = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
MAX_TOKEN_BYTES = 12  # four kana or kanji: longer pieces would swallow whole template phrases
CHAT = (
    "{% for message in messages %}{% if message['role'] == 'system' and message['content'] %}{{'<|system|>\n' + message['content'] + '<|end|>\n'}}"
    "{% elif message['role'] == 'user' %}{{'<|user|>\n' + message['content'] + '<|end|>\n'}}"
    "{% elif message['role'] == 'assistant' %}{{'<|assistant|>\n' + message['content'] + '<|end|>\n'}}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}")
CONTEXT = 2048
CLIP = 1.0
WEIGHT_DECAY = 0.01
ATTRIBUTES = {"asset": "対象は何ですか。", "sensitivity": "機密度はどれですか。", "intent": "行為は何ですか。",
              "authorisation": "承認の状態はどれですか。", "context": "目的の文脈はどれですか。", "frame": "依頼の形はどれですか。"}


def neighbouring_tasks(row: dict[str, Any], system: str, factor_lines: str) -> Iterator[list[dict[str, str]]]:
    """Conversations around one row that name its factors; none of them holds a verdict or the rule that decides."""
    user = {"role": "user", "content": row["text"]}
    yield [{"role": "system", "content": system}, user, {"role": "assistant", "content": f"# 思考ステップ\n{factor_lines}"}]
    for factor, question in ATTRIBUTES.items():
        if factor in row["factors"]:
            yield [{"role": "system", "content": question}, user, {"role": "assistant", "content": str(row["factors"][factor])}]


def train_tokenizer(folder: Path, texts: list[str], size: int) -> None:
    """Write `tokenizer.json`, its config and template into `folder`."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size, show_progress=False, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in SPECIAL], max_token_length=MAX_TOKEN_BYTES)
    tokenizer.train_from_iterator(texts, trainer)
    if tokenizer.get_vocab_size() > size:
        raise DataError(f"the tokenizer has {tokenizer.get_vocab_size()} tokens, more than {size}", fix="raise scratch.vocab_size")
    tokenizer.save(str(folder / "tokenizer.json"))
    write_json(folder / "tokenizer_config.json", {
        "tokenizer_class": "PreTrainedTokenizerFast", "add_bos_token": False, "add_eos_token": False, "bos_token": None, "eos_token": EOS,
        "pad_token": EOS, "unk_token": None, "model_max_length": CONTEXT, "clean_up_tokenization_spaces": False, "chat_template": CHAT})


def _config(scratch: Scratch, eos: int) -> Any:
    from transformers import Phi3Config

    return Phi3Config(
        vocab_size=scratch.vocab_size, hidden_size=scratch.hidden_size, intermediate_size=scratch.intermediate_size,
        num_hidden_layers=scratch.layers, num_attention_heads=scratch.heads, num_key_value_heads=scratch.kv_heads,
        max_position_embeddings=CONTEXT, original_max_position_embeddings=CONTEXT, pad_token_id=eos, bos_token_id=None,
        eos_token_id=eos, sliding_window=None, tie_word_embeddings=False)


def _example(messages: list[dict[str, str]], template: Template, whole: bool) -> Example:
    prompt = template.ids(render(template.chat, messages[:-1], add_generation_prompt=True, bos="", eos=template.eos))
    ids = template.ids(render(template.chat, messages, add_generation_prompt=False, bos="", eos=template.eos))
    return Example(tuple(ids), 1 if whole else len(prompt), -1, -1)


def corpus(rows: list[dict[str, Any]], system: str, factor_lines: Any, template: Template) -> list[Example]:
    """All neighbouring tasks of all rows; the first conversation of a row also teaches the request's own language."""
    examples = []
    for row in rows:
        lines = factor_lines(row["thinking"]) if row["thinking"] else row["text"]
        for number, messages in enumerate(neighbouring_tasks(row, system, lines)):
            examples.append(_example(messages, template, whole=number == 0))
    return examples


def make_base(train_split: Path, out: Path, params: Params, factor_lines: Any, progress: Progress) -> dict[str, Any]:
    """Train tokenizer and model from the rows of `train_split` and write a stock Hugging Face folder.

    Args:
        factor_lines: gives a row's thinking without the line that decides (corpus.grammar).
    """
    from transformers import GenerationConfig, Phi3ForCausalLM

    scratch = params.active.scratch
    assert scratch is not None
    rows = [row for _, row in read_jsonl(train_split)]
    with atomic_dir(out) as folder:
        train_tokenizer(folder, [f"{row['text']}\n{row['response']}" for row in rows] + [params.data.system, *ATTRIBUTES.values()], scratch.vocab_size)
        template = Template.of(folder)
        torch.manual_seed(params.seed)
        torch.set_num_threads(max(1, params.active.train.threads or torch.get_num_threads()))
        torch.use_deterministic_algorithms(True, warn_only=True)
        model = Phi3ForCausalLM(_config(scratch, template.tokenizer.token_to_id(EOS)))
        examples = corpus(rows, params.data.system, factor_lines, template)
        loss = _fit(model, examples, scratch, params.seed, progress)
        model.generation_config = GenerationConfig(eos_token_id=[template.tokenizer.token_to_id(EOS), template.tokenizer.token_to_id(END)],
                                                   pad_token_id=template.tokenizer.token_to_id(EOS))
        model.to(torch.float32).save_pretrained(folder)
    return {"parameters": sum(p.numel() for p in model.parameters()), "examples": len(examples), "loss": loss}


def _fit(model: Any, examples: list[Example], scratch: Scratch, seed: int, progress: Progress) -> float:
    per_epoch = len(epoch_order(examples, scratch.batch_size, seed, 0))
    steps = round(scratch.epochs * per_epoch)
    optimizer = torch.optim.AdamW(model.parameters(), lr=scratch.lr, betas=(0.9, 0.95), weight_decay=WEIGHT_DECAY)
    average, rise = 0.0, max(1, round(scratch.warmup_ratio * steps))
    model.train()
    order: list[list[int]] = []
    for step in progress.bar(range(steps), total=steps, what="base", unit="step"):
        if step % per_epoch == 0:
            order = epoch_order(examples, scratch.batch_size, seed, step // per_epoch)
        rate = (step + 1) / rise if step < rise else 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))
        optimizer.param_groups[0]["lr"] = scratch.lr * rate
        batch = collate([[examples[i]] for i in order[step % per_epoch]], pad=0)
        with torch.autocast("cpu", torch.bfloat16, enabled=scratch.dtype == "bfloat16"):
            hidden = model.model(input_ids=batch.ids, position_ids=batch.positions, use_cache=False).last_hidden_state
            chosen = batch.labels[:, 1:] != IGNORE
            loss = F.cross_entropy(model.lm_head(hidden[:, :-1][chosen]).float(), batch.labels[:, 1:][chosen])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        average = loss.item() if step == 0 else 0.98 * average + 0.02 * loss.item()
        if step % 20 == 0:
            progress.emit("step", step=step, of=steps, loss=round(average, 4))
    return average
