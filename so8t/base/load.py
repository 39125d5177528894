"""Loading base models, full precision or quantised; their small files; their parts' names.

`trust_remote_code` is never set, and an `auto_map` in a config (which names code that the model's
author ships) is ignored: the class that transformers has for the architecture is used.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from so8t.errors import ArtifactError, ParamsError
from so8t.params import Train

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# Parts of the names of parameters that PEFT adds and trains.
OWN = (".lora_", ".oft_")
# Endings of the small files that belong to a model: config, tokenizer, chat template, licence.
SMALL_FILES = frozenset({".json", ".model", ".jinja", ".txt"})
# What transformers raises for a folder that it cannot load, depending on what is wrong there.
LOAD_ERRORS = (OSError, ValueError, KeyError, RuntimeError)
SUPPORTED = "use a Phi-3, Llama, Mistral or Qwen style decoder"


def settle(threads: int) -> None:
    """Make torch's results repeatable on this machine.

    Args:
        threads: processor threads that torch uses; 0 is torch's own choice.
    """
    if threads:
        torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True, warn_only=True)
    # Deterministic mode also fills new memory with NaN, to make reads of it visible. Nothing here
    # reads such memory, and filling it costs 3 to 6 % of the operators' time.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


# --- folders ---


def small_files(folder: Path) -> Iterator[Path]:
    """The model's files that are not weights, in name order."""
    for file in sorted(folder.iterdir()):
        if file.is_file() and file.suffix in SMALL_FILES:
            yield file


# --- models ---


def load_full(folder: Path, dtype: torch.dtype = torch.float32) -> Any:
    """The stock, unquantised causal model in `folder`, in eval mode, on the CPU.

    Raises:
        ArtifactError: transformers cannot load it.
    """
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging as library_logging

    library_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        model: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=dtype,
            local_files_only=True,
            trust_remote_code=False,
            attn_implementation="sdpa",
        )
    except LOAD_ERRORS as error:
        raise _unreadable(folder, error) from error
    model.eval()
    return model


def _unreadable(folder: Path, error: Exception) -> ArtifactError:
    kind = type(error).__name__
    return ArtifactError(
        f"this model cannot be loaded ({kind}: {first_line(error)[:200]})",
        where=str(folder),
        fix="check that the folder is complete; a cut-off download must be fetched again",
    )


def first_line(error: Exception) -> str:
    """The first line of an error's message; the name of its class where it has none."""
    text = str(error).strip()
    if not text:
        return type(error).__name__
    return text.splitlines()[0]


def load_for_training(folder: Path, train: Train) -> Any:
    """The model to train on, on the current CUDA device or the CPU.

    By `train.quantization`: NF4, LLM.int8 or full precision, all with frozen weights; or, with
    `full`, the whole model in float32 and all of it trained.

    Raises:
        ArtifactError: transformers cannot load it.
    """
    from transformers import AutoModelForCausalLM

    dtype = DTYPES[train.compute_dtype]
    trains_the_base = train.quantization == "full"
    if trains_the_base:
        # The optimiser's small steps would be lost in 16-bit weights.
        dtype = torch.float32
    device: int | str = "cpu"
    if torch.cuda.is_available():
        device = torch.cuda.current_device()
    try:
        model = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=dtype,
            quantization_config=_quantization_config(train.quantization, dtype),
            device_map={"": device},
            local_files_only=True,
            trust_remote_code=False,
            attn_implementation="sdpa",
        )
    except LOAD_ERRORS as error:
        raise _unreadable(folder, error) from error
    keep_cpu_weights_plain(model)
    return model.requires_grad_(trains_the_base)


def _quantization_config(quantization: str, dtype: torch.dtype) -> Any:
    from transformers import BitsAndBytesConfig

    if quantization == "nf4":
        return BitsAndBytesConfig(  # type: ignore[no-untyped-call]
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
    if quantization == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)  # type: ignore[no-untyped-call]
    return None


def keep_cpu_weights_plain(model: nn.Module) -> None:
    """Stop bitsandbytes from repacking 4-bit weights in place on CPUs with AVX512-BF16.

    One evaluation pass otherwise destroys the weights for dequantisation and blocks the gradient
    below them (bitsandbytes 0.50.2, nn/modules.py; shown by tests/parity/test_quantised.py).
    """
    from bitsandbytes.nn.modules import Linear4bit

    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False


# --- parts of a model ---


def bare(model: Any) -> Any:
    """The transformers model inside a PEFT wrapper, or the model itself."""
    if hasattr(model, "get_base_model"):
        return model.get_base_model()
    return model


def decoder_layers(model: Any) -> nn.ModuleList:
    """The decoder's layers, in order.

    Raises:
        ArtifactError: the architecture keeps them elsewhere.
    """
    inner = bare(model)
    decoder = getattr(inner, "model", None)
    layers = getattr(decoder, "layers", None)
    if not isinstance(layers, nn.ModuleList):
        raise ArtifactError(f"{type(inner).__name__} has no `model.layers`", fix=SUPPORTED)
    return layers


def o_projection(layer: nn.Module) -> nn.Module:
    """A layer's outermost `self_attn.o_proj` (with LoRA installed: the LoRA layer).

    Raises:
        ArtifactError: the architecture has none.
    """
    try:
        return layer.get_submodule("self_attn.o_proj")
    except AttributeError:
        name = type(layer).__name__
        raise ArtifactError(f"{name} has no self_attn.o_proj", fix=SUPPORTED) from None


def chosen_layers(spec: str | list[int], count: int) -> list[int]:
    """Resolve "all", a range "4-11" (both ends included) or a list of indices.

    Args:
        spec: `gates.layers` of params.yaml.
        count: how many layers the model has.

    Returns:
        Indices in rising order.

    Raises:
        ParamsError: a malformed range, no index, an index out of range or named twice.
    """
    if spec == "all":
        return list(range(count))
    if isinstance(spec, str):
        spec = _range_of(spec)
    fits = all(0 <= index < count for index in spec)
    if not spec or len(set(spec)) != len(spec) or not fits:
        raise ParamsError(
            f"gates.layers: {spec} does not fit {count} layers (0-{count - 1})",
            where="params.yaml",
            fix="name each layer once, from 0",
        )
    return sorted(spec)


def _range_of(text: str) -> list[int]:
    try:
        first, last = (int(part) for part in text.split("-"))
    except ValueError:
        raise ParamsError(
            f"gates.layers: {text!r} is not a range",
            where="params.yaml",
            fix='write all, "4-11" or a list',
        ) from None
    return list(range(first, last + 1))
