"""Whether a model folder can go the whole way, to a GGUF file: one check, from headers alone.

`base`, `so8t plan` and `so8t gguf convert` ask it, so that what cannot be converted is refused
before it is trained, and for the same reasons. Checked: the architecture and its settings, each
tensor's name, type and shape, the output matrix against the embedding, the tokenizer and its split
rule, the chat template. What is supported: docs/models.md.

Not covered: whether the numbers are finite (conversion sees each of them), and whether a tokenizer
gives the same tokens in llama.cpp (so8t.gguf.verify).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from so8t.architectures import ATTENTION, MLP, Model, read_model
from so8t.chat import render
from so8t.errors import ArtifactError
from so8t.model_folder import (
    CONFIG,
    StoredTensor,
    read_object,
    refuse_pointer,
    refuse_two_sets,
    stored_tensors,
)
from so8t.split_rules import (
    TOKENIZER,
    TOKENIZER_MODEL,
    highest_id,
    refuse_normalizer,
    split_rule,
    tokenizer_kind,
)
from so8t.template import CONFIG as TOKENIZER_CONFIG
from so8t.template import chat_template

ContextProfile = Literal["short", "stock"]

EMBEDDING = "model.embed_tokens.weight"
OUTPUT = "lm_head.weight"
# Old checkpoints carry buffers that are computed again when the model is loaded.
IGNORED_SUFFIXES = (".attention.masked_bias", ".attention.bias", ".rotary_emb.inv_freq")
# What training reads of a base, beside its weights.
NEEDED = (CONFIG, TOKENIZER, TOKENIZER_CONFIG)
SHOWN = 3  # names of tensors in an error
CHUNK = 8 << 20  # bytes compared at a time
# A conversation of the kind that every file is asked with.
PROBE = (
    {"role": "system", "content": "S"},
    {"role": "user", "content": "U"},
    {"role": "assistant", "content": "A"},
)


class Size(NamedTuple):
    """One dimension of a tensor, and the settings that it follows from."""

    number: int
    said: str


Shape = tuple[Size, ...]


@dataclass(frozen=True, slots=True)
class Checked:
    """A model folder that can be converted: its settings, and its tensors by name."""

    model: Model
    tensors: dict[str, StoredTensor]


def check_base(folder: Path, profile: ContextProfile) -> Checked:
    """Check a folder that is to be trained.

    Args:
        folder: a local Hugging Face directory.
        profile: which context the files made of it will promise.

    Raises:
        ArtifactError: as `check_model`; also a file that training needs is missing, or two sets of
            weights lie there.
    """
    for name in NEEDED:
        if not (folder / name).is_file():
            raise ArtifactError(
                "file not found in the base model",
                where=str(folder / name),
                fix="copy the whole Hugging Face directory",
            )
    refuse_two_sets(folder)
    return check_model(folder, profile)


def check_model(folder: Path, profile: ContextProfile) -> Checked:
    """Check that a folder holds a whole model which llama.cpp computes as transformers does.

    Args:
        folder: a Hugging Face model directory.
        profile: which context the GGUF file will promise.

    Raises:
        ArtifactError: what is missing, contradicts itself or is not supported; for the last, the
            error says what is.
    """
    model = read_model(read_object(folder), folder)
    _require_window(model, profile, folder)
    tensors = stored_tensors(folder)
    _require_tensors(model, tensors, folder)
    _require_one_output(model, tensors, folder)
    _require_tokenizer(model, folder)
    _require_template(folder)
    return Checked(model, tensors)


def _require_window(model: Model, profile: ContextProfile, folder: Path) -> None:
    """Refuse to promise a context beyond a sliding window that the file cannot state."""
    # Only phi3 has a key for it; a file of the short profile ends where the window does.
    if profile == "short" or model.is_phi3 or model.window is None:
        return
    if model.window < model.max_context:
        raise ArtifactError(
            f"sliding_window {model.window}: llama.cpp's {model.prefix} has no such window",
            where=str(folder),
            fix="use the context profile `short`, which ends where the window does",
        )


# --- tensors ---


def expected_shapes(model: Model) -> dict[str, Shape]:
    """Every tensor that a model must have, by Hugging Face name, with its shape.

    A tied model's output matrix is left out: it may be stored or not.
    """
    width = _stated(model, "hidden_size")
    rows = _stated(model, "vocab_size")
    found: dict[str, Shape] = {EMBEDDING: (rows, width)}
    for layer in range(model.layers):
        for name, shape in _layer_shapes(model, width):
            found[f"model.layers.{layer}.{name}"] = shape
    found["model.norm.weight"] = (width,)
    if not model.is_tied:
        found[OUTPUT] = (rows, width)
    return found


def _stated(model: Model, key: str) -> Size:
    """A dimension that config.json states."""
    number = int(model.config[key])
    return Size(number, f"{key} {number}")


def _heads(model: Model, key: str, count: int) -> Size:
    """Rows of a projection to `count` heads."""
    return Size(count * model.head_dim, f"{key} {count} x head_dim {model.head_dim}")


def _layer_shapes(model: Model, width: Size) -> Iterator[tuple[str, Shape]]:
    """The tensors of one layer, by their names inside it."""
    yield "input_layernorm.weight", (width,)
    yield "post_attention_layernorm.weight", (width,)
    for name, rows, columns in _matrices(model, width):
        yield f"{name}.weight", (rows, columns)
        if name in model.biases:
            yield f"{name}.bias", (rows,)
    # Only Qwen3 scales queries and keys, each head alike.
    if model.row.model_type == "qwen3":
        head = Size(model.head_dim, f"head_dim {model.head_dim}")
        yield "self_attn.q_norm.weight", (head,)
        yield "self_attn.k_norm.weight", (head,)


def _matrices(model: Model, width: Size) -> Iterator[tuple[str, Size, Size]]:
    """Name, rows and columns of each matrix of a layer."""
    queries = _heads(model, "num_attention_heads", model.heads)
    keys = _heads(model, "num_key_value_heads", model.kv_heads)
    inner = _stated(model, "intermediate_size")
    if model.is_phi3:
        # Phi-3 stores queries, keys and values as one matrix, and both halves of the gate.
        together = Size(queries.number + 2 * keys.number, f"{queries.said} + 2 x {keys.said}")
        yield "self_attn.qkv_proj", together, width
        yield "self_attn.o_proj", width, queries
        yield "mlp.gate_up_proj", Size(2 * inner.number, f"2 x {inner.said}"), width
        yield "mlp.down_proj", width, inner
        return
    yield from zip(
        (*ATTENTION, *MLP),
        (queries, keys, keys, width, inner, inner, width),
        (width, width, width, queries, width, width, inner),
        strict=True,
    )


def _require_tensors(model: Model, tensors: dict[str, StoredTensor], folder: Path) -> None:
    """Refuse weights that are not those of config.json: missing, additional, or of other shapes."""
    expected = expected_shapes(model)
    layers = {name.split(".")[2] for name in tensors if name.startswith("model.layers.")}
    found = []
    if len(layers) != model.layers:
        found.append(f"{len(layers)} layers in the weights, {model.layers} in config.json")
    missing = [name for name in expected if name not in tensors]
    if missing:
        found.append(f"{_names(missing)} missing")
    extra = [name for name in tensors if name not in expected and not _is_ignored(model, name)]
    if extra:
        found.append(f"{_names(extra)}: config.json and {model.architecture} have no place for it")
    for name, shape in expected.items():
        if name in tensors and tensors[name].shape != _numbers(shape):
            said = ", ".join(size.said for size in shape)
            found.append(f"{name} is {list(tensors[name].shape)}, config.json says {said}")
    if found:
        raise ArtifactError(
            "; ".join(found[: SHOWN + 1]), where=str(folder), fix=_tensor_fix(missing, extra)
        )


def _numbers(shape: Shape) -> tuple[int, ...]:
    return tuple(size.number for size in shape)


def _names(names: list[str]) -> str:
    """The first of the tensors, and how many there are."""
    shown = ", ".join(names[:SHOWN])
    if len(names) > SHOWN:
        shown += f" and {len(names) - SHOWN} more"
    return f"tensor {shown}"


def _is_ignored(model: Model, name: str) -> bool:
    """Whether a tensor that is not expected does no harm."""
    if name == OUTPUT and model.is_tied:
        return True
    return name.endswith(IGNORED_SUFFIXES)


def _tensor_fix(missing: list[str], extra: list[str]) -> str:
    if missing == [OUTPUT]:
        return f"fetch the model again; if it has no {OUTPUT}, set tie_word_embeddings to true"
    if extra and all(name.endswith(".bias") for name in extra):
        return "give the model's own config.json: it denies biases that the weights have"
    if extra and not missing:
        return "save a stock model: merge adapters, drop extra heads"
    return "fetch the model again, with its own config.json"


def _require_one_output(model: Model, tensors: dict[str, StoredTensor], folder: Path) -> None:
    """Refuse a model that is called tied and has an output matrix of its own."""
    if not model.is_tied or OUTPUT not in tensors:
        return
    # transformers trains the two apart then, llama.cpp reads the embedding for both.
    if not _same_bytes(tensors[OUTPUT], tensors[EMBEDDING]):
        raise ArtifactError(
            f"tie_word_embeddings is true, and {OUTPUT} is not the embedding",
            where=str(folder / CONFIG),
            fix="set tie_word_embeddings to false",
        )


def _same_bytes(one: StoredTensor, other: StoredTensor) -> bool:
    """Whether two tensors are the same, numbers and types."""
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    with one.file.open("rb") as first, other.file.open("rb") as second:
        first.seek(one.offset)
        second.seek(other.offset)
        left = one.n_bytes
        while left > 0:
            size = min(left, CHUNK)
            if first.read(size) != second.read(size):
                return False
            left -= size
    return True


# --- tokenizer and template ---


def _require_tokenizer(model: Model, folder: Path) -> None:
    """Refuse a tokenizer that llama.cpp does not follow, or that has tokens beyond the rows."""
    tokenizer = read_object(folder, TOKENIZER, required=False)
    kind = tokenizer_kind(tokenizer, folder)
    if kind == "byte-level":
        split_rule(tokenizer, folder)
        refuse_normalizer(tokenizer, folder)
    if (folder / TOKENIZER_MODEL).is_file():
        refuse_pointer(folder / TOKENIZER_MODEL)
    rows = int(model.config["vocab_size"])
    last = highest_id(tokenizer)
    if last >= rows:
        raise ArtifactError(
            f"token id {last} lies outside the vocabulary of {rows}",
            where=str(folder),
            fix="resize the embedding, or use the model's own tokenizer files",
        )


def _require_template(folder: Path) -> None:
    """Refuse a tokenizer without a chat template, or with one that has no system prompt."""
    template = chat_template(folder)
    if template is None:
        raise ArtifactError(
            "the tokenizer has no chat template", where=str(folder), fix="use an instruct model"
        )
    try:
        render(template, PROBE, add_generation_prompt=False)
    except ArtifactError as error:
        # The same words, with the folder that they are about.
        raise ArtifactError(error.problem, where=str(folder), fix=error.fix) from None
