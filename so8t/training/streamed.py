"""A whole model's forward pass with one layer of weights in memory at a time.

The stock class of the architecture runs its own forward pass. Each decoder layer is filled from a
source just before it runs and emptied just after. Several variants of one model (gated, baked,
shipped, quantised) can so be compared at full depth in float32: 3.8B parameters need a few
gigabytes.

Covered: Phi-3, Llama, Mistral and Qwen style decoders. Not covered: key-value caches, gradients.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from so8t.base.load import OWN, bare, decoder_layers
from so8t.errors import ArtifactError
from so8t.model_folder import FETCH_AGAIN, stored_tensors

# Gives the tensor of a stock weight's name, such as `model.layers.0.self_attn.o_proj.weight`.
Source = Callable[[str], Tensor]
# dtype as safetensors writes it, such as `F32`, and shape.
Kind = tuple[str, tuple[int, ...]]


class Shards:
    """The tensors of a safetensors folder by name, read on demand.

    A file is mapped into memory only while one of its tensors is in use.

    Raises:
        ArtifactError: weights are missing or damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._stored = stored_tensors(folder)

    def __call__(self, name: str) -> Tensor:
        """The tensor as it is stored.

        Raises:
            ArtifactError: the folder has none of that name.
        """
        from safetensors import safe_open

        if name not in self._stored:
            raise ArtifactError(
                f"tensor {name} is missing", where=str(self.folder), fix=FETCH_AGAIN
            )
        with safe_open(self._stored[name].file, framework="pt") as file:
            tensor: Tensor = file.get_tensor(name)
        return tensor

    def shapes(self) -> dict[str, Kind]:
        """(dtype, shape) of every tensor by name, in name order; no tensor is read."""
        found: dict[str, Kind] = {}
        for name in sorted(self._stored):
            tensor = self._stored[name]
            found[name] = (tensor.dtype, tensor.shape)
        return found


def skeleton(folder: Path) -> Any:
    """The stock model of a folder in float32 without weights; only its rotary tables are real."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]
            config, dtype=torch.float32, attn_implementation="sdpa", trust_remote_code=False
        )
    # Rotary tables are buffers that no file holds: they must be computed, not loaded.
    rotary = type(model.model.rotary_emb)
    model.model.rotary_emb = rotary(config=model.config)
    return model.eval().requires_grad_(False)


def attach(model: Any, source: Source) -> Any:
    """Connect a skeleton to its weights.

    Embeddings, last norm and output matrix are filled now, each layer whenever it runs. `model` may
    carry LoRA and gates: their own tensors are left alone.
    """
    inner = bare(model)
    _fill(inner.model.embed_tokens, "model.embed_tokens.", source)
    _fill(inner.model.norm, "model.norm.", source)
    if getattr(inner.config, "tie_word_embeddings", False):
        # The file holds one matrix for both.
        inner.lm_head.weight = inner.model.embed_tokens.weight
    else:
        _fill(inner.lm_head, "lm_head.", source)
    for index, layer in enumerate(decoder_layers(model)):
        _fill_while_running(layer, f"model.layers.{index}.", source)
    return model


def _fill_while_running(
    layer: nn.Module,
    prefix: str,
    source: Source,
) -> None:
    """Give a layer its weights just before each forward pass and take them away just after."""
    layer.register_forward_pre_hook(lambda module, _args: _fill(module, prefix, source))
    layer.register_forward_hook(lambda module, _args, _output: _empty(module))


def _is_stock(name: str) -> bool:
    """Whether a parameter is the base model's, and not of LoRA, OFT or a gate."""
    ours = (*OWN, "so8t_gate")
    return not any(part in name for part in ours)


def _fill(
    module: nn.Module,
    prefix: str,
    source: Source,
) -> None:
    for name, old in list(module.named_parameters()):
        if _is_stock(name) and old.is_meta:
            # PEFT keeps the weight that it wraps under `base_layer`.
            stock_name = prefix + name.replace(".base_layer", "")
            _replace(module, name, source(stock_name).float())


def _empty(module: nn.Module) -> None:
    for name, old in list(module.named_parameters()):
        if _is_stock(name):
            # A meta tensor keeps shape and type and holds no memory.
            _replace(module, name, old.to("meta"))


def _replace(
    module: nn.Module,
    name: str,
    tensor: Tensor,
) -> None:
    # A new parameter: a meta tensor has no storage that values could be copied into.
    path, _, last = name.rpartition(".")
    owner = module.get_submodule(path)
    owner._parameters[last] = nn.Parameter(tensor, requires_grad=False)


@torch.no_grad()
def final_states(model: Any, ids: Int[Tensor, "texts time"]) -> Float[Tensor, "texts time width"]:
    """Final normed hidden states of right-padded texts; every layer is read once."""
    states: Tensor = bare(model).model(input_ids=ids, use_cache=False).last_hidden_state
    return states


def drop_layers(model: Any) -> Any:
    """Forget the layers of a model that has run, keeping what its logits need."""
    bare(model).model.layers = nn.ModuleList()
    return model
