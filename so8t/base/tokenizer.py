"""The demo's tokenizer: byte-pair encoding in Phi-3.5's form, learnt from the training split.

With that form the demo takes the same way through every later stage as the real model.
"""

from pathlib import Path
from typing import Any

from so8t.errors import DataError
from so8t.files import write_json

END = "<|end|>"
EOS = "<|endoftext|>"
# Phi-3.5's own added tokens in its own order. All but EOS swallow the white space after them.
ADDED = [
    EOS,
    "<|assistant|>",
    "<|placeholder1|>",
    "<|placeholder2|>",
    "<|placeholder3|>",
    "<|placeholder4|>",
    "<|system|>",
    END,
    "<|placeholder5|>",
    "<|placeholder6|>",
    "<|user|>",
]
# SentencePiece writes a space as U+2581.
SPACE = "\u2581"
# Longer pieces would swallow whole phrases of the synthetic requests.
MAX_TOKEN_CHARS = 4
CHAT = (
    "{% for message in messages %}"
    "{% if message['role'] == 'system' and message['content'] %}"
    "{{'<|system|>\n' + message['content'] + '<|end|>\n'}}"
    "{% elif message['role'] == 'user' %}"
    "{{'<|user|>\n' + message['content'] + '<|end|>\n'}}"
    "{% elif message['role'] == 'assistant' %}"
    "{{'<|assistant|>\n' + message['content'] + '<|end|>\n'}}"
    "{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)
CONTEXT = 2048


def train_tokenizer(
    folder: Path,
    texts: list[str],
    size: int,
) -> None:
    """Write `tokenizer.json` and its config into `folder`: byte-pair encoding in Phi-3.5's form.

    That form is SentencePiece's, with byte fallback for unknown characters.

    Args:
        folder: where to write.
        texts: what the pieces are learnt from.
        size: tokens in the vocabulary, the added ones included.

    Raises:
        DataError: `size` is too small for the characters of the texts.
    """
    heads = ["<unk>", "<s>", "</s>"]
    heads += [f"<0x{byte:02X}>" for byte in range(256)]
    room = size - len(heads) - len(ADDED)
    pieces = _learn_pieces(texts, room) if room > 0 else []
    # The learner keeps every character, even beyond the size that it was given.
    if not 0 < len(pieces) <= room:
        raise DataError(
            f"the training text has more characters than fit {size} tokens",
            fix="raise scratch.vocab_size",
        )
    vocabulary = {piece: number for number, piece in enumerate([*heads, *pieces])}
    merges = _merges(pieces, vocabulary)
    first_added = size - len(ADDED)
    # Short texts have few pieces; the added tokens must still have the last ids.
    for filler in range(len(vocabulary), first_added):
        vocabulary[f"<unused{filler}>"] = filler
    write_json(folder / "tokenizer.json", _tokenizer(vocabulary, merges, first_added))
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


def _learn_pieces(texts: list[str], size: int) -> list[str]:
    """Characters, then merged pieces, in the order they were learnt."""
    from tokenizers import Tokenizer, models, trainers

    # Line by line: a newline stays a byte, as in Phi-3.5.
    lines = set()
    for text in texts:
        for line in text.split("\n"):
            if line:
                lines.add(SPACE + line.replace(" ", SPACE))
    trainer = trainers.BpeTrainer(
        vocab_size=size, show_progress=False, max_token_length=MAX_TOKEN_CHARS
    )
    learner = Tokenizer(models.BPE())
    learner.train_from_iterator(sorted(lines), trainer)
    # Ids are given in the order of learning.
    order = learner.get_vocab()
    return sorted(order, key=lambda piece: order[piece])


def _merges(pieces: list[str], vocabulary: dict[str, int]) -> list[list[str]]:
    """Every way to make a piece from two shorter ones, earlier pieces first."""
    merges = []
    for piece in pieces:
        for cut in range(1, len(piece)):
            left = piece[:cut]
            right = piece[cut:]
            if left in vocabulary and right in vocabulary:
                merges.append([left, right])
    return merges


def _tokenizer(
    vocabulary: dict[str, int],
    merges: list[list[str]],
    first_added: int,
) -> dict[str, Any]:
    """The content of tokenizer.json."""
    added = [
        _added(0, "<unk>", rstrip=False),
        _added(1, "<s>", rstrip=False),
        _added(2, "</s>", rstrip=True, special=False),
    ]
    for number, token in enumerate(ADDED, start=first_added):
        added.append(_added(number, token, rstrip=token != EOS))
    return {
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
    }


def _added(
    number: int,
    content: str,
    *,
    rstrip: bool,
    special: bool = True,
) -> dict[str, Any]:
    return {
        "id": number,
        "content": content,
        "single_word": False,
        "lstrip": False,
        "rstrip": rstrip,
        "normalized": False,
        "special": special,
    }
