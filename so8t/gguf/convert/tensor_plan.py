"""Which tensors a conversion writes, in which order and from where.

Names are those of llama.cpp. Two kinds of tensor are not copied as they are: query and key rows of
Llama models are permuted (`Planned.heads`), and some rope tables are made here (`Planned.values`).
"""

import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np

from so8t.errors import ArtifactError
from so8t.gguf.convert.arch import ContextProfile, Model
from so8t.gguf.convert.source import Floats, Source, SourceTensor

# Old checkpoints carry buffers that are computed again when the model is loaded.
IGNORED_SUFFIXES = (".attention.masked_bias", ".attention.bias", ".rotary_emb.inv_freq")


@dataclass(frozen=True, slots=True)
class Planned:
    """One tensor to write.

    Attributes:
        name: its name in the file.
        source: where it is read; None for one that is made here.
        shape: numpy order.
        always_float32: whether it stays F32 in every file type (norms and vectors).
        heads: over how many heads its rows are permuted, from Hugging Face's order of a Llama head
            to llama.cpp's; 0 for a tensor that is copied as it is.
        values: the numbers of one that is made here, float32.
    """

    name: str
    source: SourceTensor | None
    shape: tuple[int, ...]
    always_float32: bool
    heads: int = 0
    values: Floats | None = None


def plan_tensors(model: Model, source: Source, profile: ContextProfile) -> list[Planned]:
    """Every tensor to write, in order: rope tables first, then the source's own order.

    Args:
        model: what the weights belong to.
        source: the weights.
        profile: which context the file promises; it decides about longrope's tables.

    Raises:
        ArtifactError: a tensor that the architecture does not have, two for one name, or a missing
            one.
    """
    names = gguf.get_tensor_name_map(model.arch, model.config["num_hidden_layers"])
    is_tied = bool(model.config.get("tie_word_embeddings"))
    # First in the file, as llama.cpp's converter has them.
    plan = _rope_tensors(model, profile, source.directory)
    for tensor in source.tensors.values():
        if tensor.name.endswith(IGNORED_SUFFIXES):
            continue
        # A tied output matrix is the embedding again; llama.cpp uses that when there is no other.
        if tensor.name == "lm_head.weight" and is_tied:
            continue
        name = names.get_name(tensor.name, try_suffixes=(".weight", ".bias"))
        if name is None:
            raise ArtifactError(
                f"tensor {tensor.name} has no place in {model.architecture}",
                where=str(source.directory),
                fix="save a stock model: merge adapters, drop extra heads",
            )
        # llama.cpp expects these in float32 whatever the file's type.
        always_float32 = len(tensor.shape) < 2 or name.endswith("_norm.weight")
        heads = _permuted_heads(model, tensor.name)
        plan.append(Planned(name, tensor, tensor.shape, always_float32, heads=heads))
    _check_names(plan, source, is_tied=is_tied)
    _check_sizes(plan, model, source)
    return plan


def _permuted_heads(model: Model, name: str) -> int:
    """Over how many heads the rows of a tensor are permuted; 0 for not at all."""
    # llama.cpp rotates neighbouring rows for Llama, and halves of a head for all others, as
    # Hugging Face does for every model.
    if model.arch != gguf.MODEL_ARCH.LLAMA:
        return 0
    if name.endswith(("q_proj.weight", "q_proj.bias")):
        return model.heads
    if name.endswith(("k_proj.weight", "k_proj.bias")):
        return model.kv_heads
    return 0


def _check_names(plan: list[Planned], source: Source, *, is_tied: bool) -> None:
    """Refuse a plan in which a name is taken twice or a needed one is missing."""
    counts = Counter(item.name for item in plan)
    twice = sorted(name for name, count in counts.items() if count > 1)
    if twice:
        raise ArtifactError(
            f"two tensors become {twice[0]}",
            where=str(source.directory),
            fix="save a stock model",
        )
    needed = {"token_embd.weight", "output_norm.weight"}
    if not is_tied:
        needed.add("output.weight")
    missing = sorted(needed - set(counts))
    if missing:
        raise ArtifactError(
            f"no tensor becomes {', '.join(missing)}",
            where=str(source.directory),
            fix="fetch the model again",
        )


def _check_sizes(plan: list[Planned], model: Model, source: Source) -> None:
    """Refuse weights that do not have the layers and the vocabulary of config.json."""
    by_name = {item.name: item for item in plan}
    blocks = {name.split(".")[1] for name in by_name if name.startswith("blk.")}
    n_layers = model.config["num_hidden_layers"]
    if len(blocks) != n_layers:
        raise ArtifactError(
            f"{len(blocks)} layers in the weights, {n_layers} in config.json",
            where=str(source.directory),
            fix="fetch the model again",
        )
    # A fine-tuning that added tokens and saved an old config.json fails here.
    embedding = by_name["token_embd.weight"]
    vocab_size = model.config["vocab_size"]
    if embedding.shape != (vocab_size, model.config["hidden_size"]):
        raise ArtifactError(
            f"the embedding is {embedding.shape}, config.json says vocab_size {vocab_size}",
            where=str(source.directory),
            fix="fetch the model again",
        )


def _rope_tensors(model: Model, profile: ContextProfile, where: Path) -> list[Planned]:
    """Tables of frequency divisors, which Hugging Face keeps in config.json."""
    if model.rope_type == "llama3":
        return [_made("rope_freqs.weight", _llama3_factors(model))]
    if model.rope_type != "longrope":
        return []
    long_factors = _longrope_factors(model, "long", where)
    short_factors = _longrope_factors(model, "short", where)
    # llama.cpp takes the long table as soon as a long context is allocated. In a file for short
    # contexts both tables are the short one, so that this changes nothing.
    if profile == "short":
        long_factors = short_factors
    return [
        _made("rope_factors_long.weight", long_factors),
        _made("rope_factors_short.weight", short_factors),
    ]


def _longrope_factors(model: Model, kind: str, where: Path) -> Floats:
    """Frequency divisors from config.json, float32 of shape [rope_dims / 2]."""
    factors = np.asarray(model.rope.get(f"{kind}_factor") or [], dtype=np.float32)
    wanted = model.rope_dims // 2
    if factors.shape != (wanted,):
        raise ArtifactError(
            f"{kind}_factor has {factors.size} numbers, {wanted} are needed",
            where=str(where),
            fix="give the model's own config.json",
        )
    return factors


def _made(name: str, values: Floats) -> Planned:
    """A tensor that no file of the model holds."""
    return Planned(name, None, values.shape, always_float32=True, values=values)


def _llama3_factors(model: Model) -> Floats:
    """Frequency divisors of Llama 3.1's rope, float32 of shape [head_dim / 2].

    Long wavelengths are divided by `factor`, short ones by 1, those between by something between:
    `_compute_llama3_parameters` in transformers' `modeling_rope_utils.py`. Frequencies are float32
    and the rest is float64, as in llama.cpp's converter, so that every bit is the same.
    """
    rope = model.rope
    dims = model.head_dim
    exponents = np.arange(0, dims, 2, dtype=np.float32) / np.float32(dims)
    frequencies = np.float32(1.0) / np.float32(model.rope_base) ** exponents
    factor = float(rope["factor"])
    low = float(rope["low_freq_factor"])
    high = float(rope["high_freq_factor"])
    length = float(rope["original_max_position_embeddings"])
    divisors = []
    for frequency in frequencies:
        wavelength = 2 * math.pi / float(frequency)
        if wavelength < length / high:
            divisors.append(1.0)
        elif wavelength > length / low:
            divisors.append(factor)
        else:
            smooth = (length / wavelength - low) / (high - low)
            divisors.append(1 / ((1 - smooth) / factor + smooth))
    return np.asarray(divisors, dtype=np.float32)
