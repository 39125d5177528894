"""Which tensors a conversion writes, in which order and from where.

Names are those of llama.cpp. Two kinds of tensor are not copied as they are: query and key rows of
Llama models are permuted (`Planned.heads`), and some rope tables are made here (`Planned.values`).
"""

import math
from dataclasses import dataclass

import gguf
import numpy as np

from so8t.architectures import Model
from so8t.errors import ArtifactError
from so8t.gguf.convert.source import Floats, Source
from so8t.model_check import IGNORED_SUFFIXES, OUTPUT, ContextProfile
from so8t.model_folder import StoredTensor


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
    source: StoredTensor | None
    shape: tuple[int, ...]
    always_float32: bool
    heads: int = 0
    values: Floats | None = None


def plan_tensors(model: Model, source: Source, profile: ContextProfile) -> list[Planned]:
    """Every tensor to write, in order: rope tables first, then the source's own order.

    Args:
        model: what the weights belong to.
        source: the weights, which so8t.model_check found complete.
        profile: which context the file promises; it decides about longrope's tables.

    Raises:
        ArtifactError: a tensor that llama.cpp has no name for.
    """
    names = gguf.get_tensor_name_map(model.arch, model.layers)
    # First in the file, as llama.cpp's converter has them.
    plan = _rope_tensors(model, profile)
    for tensor in source.tensors.values():
        if tensor.name.endswith(IGNORED_SUFFIXES):
            continue
        # A tied output matrix is the embedding again; llama.cpp uses that when there is no other.
        if tensor.name == OUTPUT and model.is_tied:
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


def _rope_tensors(model: Model, profile: ContextProfile) -> list[Planned]:
    """Tables of frequency divisors, which Hugging Face keeps in config.json."""
    if model.rope_type == "llama3":
        return [_made("rope_freqs.weight", _llama3_factors(model))]
    if model.rope_type != "longrope":
        return []
    long_factors = _longrope_factors(model, "long")
    short_factors = _longrope_factors(model, "short")
    # llama.cpp takes the long table as soon as a long context is allocated. In a file for short
    # contexts both tables are the short one, so that this changes nothing.
    if profile == "short":
        long_factors = short_factors
    return [
        _made("rope_factors_long.weight", long_factors),
        _made("rope_factors_short.weight", short_factors),
    ]


def _longrope_factors(model: Model, kind: str) -> Floats:
    """Frequency divisors from config.json, float32 of shape [rope_dims / 2]."""
    return np.asarray(model.rope[f"{kind}_factor"], dtype=np.float32)


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
    length = float(model.original_context)
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
