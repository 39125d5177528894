"""Loading base models: the true directory, full precision or quantised, and the names of their parts.

`trust_remote_code` is never set, and an `auto_map` in a config is ignored: the stock class of the architecture is used.
"""

import logging
from pathlib import Path
from typing import Any

import torch
from torch import nn

from so8t.errors import ArtifactError, ParamsError
from so8t.files import read_json
from so8t.params import Base, Train

log = logging.getLogger(__name__)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
OWN = (".lora_", ".oft_")  # what PEFT adds and trains, by name
MANIFEST = "so8t_base.json"  # beside the small files of a local base: names, sizes and digests of all its files


def settle(threads: int) -> None:
    """Make torch's results repeatable on this machine, with `threads` processor threads (0: torch's own choice)."""
    if threads:
        torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # nothing reads it; filling costs 3 to 6 %


def base_dir(base: Base, linked: Path) -> Path:
    """The directory that holds the weights: `linked` itself (scratch), or the local one that it describes."""
    if base.kind == "scratch":
        return linked
    folder = Path(base.path or "")
    for name, fact in read_json(linked / MANIFEST, fix="dvc repro base")["files"].items():
        if not (folder / name).is_file() or (folder / name).stat().st_size != fact["bytes"]:
            raise ArtifactError(
                "the base model changed since it was verified",
                where=str(folder / name),
                fix="dvc repro base",
            )
    return folder


def load_full(folder: Path, dtype: torch.dtype = torch.float32) -> Any:
    """The stock, unquantised causal model in `folder`, in eval mode, on the CPU."""
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
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise _unreadable(folder, error) from error
    model.eval()
    return model


def _unreadable(folder: Path, error: Exception) -> ArtifactError:
    first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return ArtifactError(
        f"this model cannot be loaded ({type(error).__name__}: {first[:200]})",
        where=str(folder),
        fix="check that the folder is complete; a cut-off download must be fetched again",
    )


def load_for_training(folder: Path, train: Train) -> Any:
    """The model to train on: NF4, LLM.int8 or full precision with frozen weights, or all of it in float32 (`full`)."""
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    make: Any = BitsAndBytesConfig
    dtype = torch.float32 if train.quantization == "full" else DTYPES[train.compute_dtype]
    config = {
        "none": None,
        "full": None,
        "nf4": make(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        ),
        "int8": make(load_in_8bit=True),
    }[train.quantization]
    device = {"": torch.cuda.current_device()} if torch.cuda.is_available() else {"": "cpu"}
    try:
        model = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=dtype,
            quantization_config=config,
            device_map=device,
            local_files_only=True,
            trust_remote_code=False,
            attn_implementation="sdpa",
        )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise _unreadable(folder, error) from error
    keep_cpu_weights_plain(model)
    return model.requires_grad_(train.quantization == "full")


def keep_cpu_weights_plain(model: nn.Module) -> None:
    """Stop bitsandbytes from repacking 4-bit weights in place on CPUs with AVX512-BF16.

    One evaluation pass otherwise destroys the weights for dequantisation and blocks the gradient below them
    (bitsandbytes 0.50.2, nn/modules.py; shown by tests/parity/test_quantised.py).
    """
    from bitsandbytes.nn.modules import Linear4bit

    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False


def bare(model: Any) -> Any:
    """The transformers model inside a PEFT wrapper, or the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def decoder_layers(model: Any) -> nn.ModuleList:
    """The decoder's layers, in order.

    Raises:
        ArtifactError: the architecture keeps them elsewhere.
    """
    layers = getattr(getattr(bare(model), "model", None), "layers", None)
    if not isinstance(layers, nn.ModuleList):
        raise ArtifactError(
            f"{type(bare(model)).__name__} has no `model.layers`",
            fix="use a Phi-3, Llama, Mistral or Qwen style decoder",
        )
    return layers


def o_projection(layer: nn.Module) -> nn.Module:
    """A layer's outermost `self_attn.o_proj` (with LoRA installed: the LoRA layer)."""
    try:
        return layer.get_submodule("self_attn.o_proj")
    except AttributeError:
        raise ArtifactError(
            f"{type(layer).__name__} has no self_attn.o_proj",
            fix="use a Phi-3, Llama, Mistral or Qwen style decoder",
        ) from None


def chosen_layers(spec: str | list[int], count: int) -> list[int]:
    """Resolve "all", a range "4-11" or a list of indices against `count` layers.

    Raises:
        ParamsError: a malformed range or an index out of range.
    """
    if spec == "all":
        return list(range(count))
    try:
        if isinstance(spec, str):
            first, last = (int(part) for part in spec.split("-"))
            spec = list(range(first, last + 1))
    except ValueError:
        raise ParamsError(
            f"gates.layers: {spec!r} is not a range",
            where="params.yaml",
            fix='write all, "4-11" or a list',
        ) from None
    if not spec or len(set(spec)) != len(spec) or not all(0 <= index < count for index in spec):
        raise ParamsError(
            f"gates.layers: {spec} does not fit {count} layers (0-{count - 1})",
            where="params.yaml",
            fix="name each layer once, from 0",
        )
    return sorted(spec)
