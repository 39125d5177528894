"""A tiny random Phi-3 GGUF, written key by key: real enough for libllama, small enough for every test."""

from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np

TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'system' and message['content'] %}{{'<|system|>\n' + message['content'] + '<|end|>\n'}}"
    "{% elif message['role'] == 'user' %}{{'<|user|>\n' + message['content'] + '<|end|>\n'}}"
    "{% elif message['role'] == 'assistant' %}{{'<|assistant|>\n' + message['content'] + '<|end|>\n'}}"
    "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)
SPECIALS = [
    "<|endoftext|>",
    "<|system|>",
    "<|user|>",
    "<|assistant|>",
    "<|end|>",
    *(f"<|placeholder{i}|>" for i in range(1, 6)),
    "⟦turn⟧",
]  # the last: a control token of no known family
MERGES = ["A L", "AL L", "ALL O", "ALLO W", "E S", "D E", "N Y", "Ġ t", "h e"]
RESERVED = {"allow": 1, "escalate": 2, "deny": 3, "handle": 4, "human": 5}
CONTEXT = 1024


@dataclass(frozen=True)
class Size:
    """Shape of the network; multiples of 256 can be K-quantised."""

    dim: int = 256
    ffn: int = 512
    layers: int = 2
    heads: int = 4


def byte_alphabet() -> list[str]:
    """The 256 characters by which byte-level BPE spells bytes."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    spelled = {b: chr(b) for b in plain}
    for extra, b in enumerate(b for b in range(256) if b not in spelled):
        spelled[b] = chr(256 + extra)
    return [spelled[b] for b in range(256)]


def tokens() -> list[str]:
    """The vocabulary: bytes, merged pieces, control tokens."""
    return [*byte_alphabet(), *(merge.replace(" ", "") for merge in MERGES), *SPECIALS]


def write_tiny(
    path: Path,
    *,
    seed: int = 0,
    dtype: type = np.float16,
    template: str = TEMPLATE,
    reserved: bool = True,
    size: Size | None = None,
) -> Path:
    """Write the file; the same arguments give the same bytes."""
    size = size or Size()
    writer = gguf.GGUFWriter(path, "phi3")
    _write_keys(writer, template, size)
    if reserved:
        first = len(tokens()) - len(SPECIALS) + 4
        writer.add_array(
            "so8t.verdict.token_ids", [first + RESERVED[r] for r in ("allow", "escalate", "deny")]
        )
        writer.add_array(
            "so8t.authority.token_ids", [first + RESERVED[r] for r in ("handle", "human")]
        )
    for name, array in _tensors(seed, size).items():
        writer.add_tensor(name, array.astype(np.float32 if array.ndim == 1 else dtype))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _write_keys(writer: gguf.GGUFWriter, template: str, size: Size) -> None:
    vocabulary = tokens()
    writer.add_name("so8t-tiny")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(size.dim)
    writer.add_feed_forward_length(size.ffn)
    writer.add_block_count(size.layers)
    writer.add_head_count(size.heads)
    writer.add_head_count_kv(size.heads)
    writer.add_rope_dimension_count(size.dim // size.heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(vocabulary)
    writer.add_token_types([3 if t in SPECIALS else 1 for t in vocabulary])
    writer.add_token_merges(MERGES)
    writer.add_eos_token_id(vocabulary.index("<|end|>"))
    writer.add_pad_token_id(vocabulary.index("<|endoftext|>"))
    writer.add_add_bos_token(False)
    writer.add_chat_template(template)


def _tensors(seed: int, size: Size) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)

    def matrix(rows: int, columns: int, scale: float) -> np.ndarray:
        return random.standard_normal((rows, columns), dtype=np.float32) * scale

    dim, ffn = size.dim, size.ffn
    made = {"token_embd.weight": matrix(len(tokens()), dim, 1.0)}
    for i in range(size.layers):
        made[f"blk.{i}.attn_norm.weight"] = np.ones(dim, np.float32)
        made[f"blk.{i}.attn_qkv.weight"] = matrix(3 * dim, dim, 0.1)
        made[f"blk.{i}.attn_output.weight"] = matrix(dim, dim, 0.06)
        made[f"blk.{i}.ffn_norm.weight"] = np.ones(dim, np.float32)
        made[f"blk.{i}.ffn_up.weight"] = matrix(2 * ffn, dim, 0.06)
        made[f"blk.{i}.ffn_down.weight"] = matrix(dim, ffn, 0.05)
    made["output_norm.weight"] = np.ones(dim, np.float32)
    made["output.weight"] = matrix(len(tokens()), dim, 0.2)
    return made
