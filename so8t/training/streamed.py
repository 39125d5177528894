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
from so8t.files import read_json

# Gives the tensor of a stock weight's name, such as `model.layers.0.self_attn.o_proj.weight`.
Source = Callable[[str], Tensor]
# dtype as safetensors writes it, such as `F32`, and shape.
Kind = tuple[str, tuple[int, ...]]
INDEX = "model.safetensors.index.json"


class Shards:
    """The tensors of a safetensors folder by name, read on demand.

    A file is mapped into memory only while one of its tensors is in use.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._file_of: dict[str, str] = {}
        for shard in shard_names(folder):
            with self._open(shard) as file:
                for name in file.keys():  # noqa: SIM118 (not a dict)
                    self._file_of[name] = shard

    def _open(self, shard: str) -> Any:
        from safetensors import safe_open

        return safe_open(self.folder / shard, framework="pt")

    def __call__(self, name: str) -> Tensor:
        """The tensor as it is stored."""
        with self._open(self._file_of[name]) as file:
            tensor: Tensor = file.get_tensor(name)
        return tensor

    def shapes(self) -> dict[str, Kind]:
        """(dtype, shape) of every tensor by name, in name order; no tensor is read."""
        found: dict[str, Kind] = {}
        shards = sorted(set(self._file_of.values()))
        for shard in shards:
            with self._open(shard) as file:
                for name in file.keys():  # noqa: SIM118 (not a dict)
                    piece = file.get_slice(name)
                    shape = tuple(piece.get_shape())
                    found[name] = (piece.get_dtype(), shape)
        return dict(sorted(found.items()))


def shard_names(folder: Path) -> list[str]:
    """The safetensors files of a folder, in name order."""
    if not (folder / INDEX).is_file():
        return ["model.safetensors"]
    # A large model is cut into several files; its index says which tensor is in which.
    index = read_json(folder / INDEX)
    return sorted(set(index["weight_map"].values()))


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
