"""A whole model's forward pass with one layer of weights in memory at a time.

The stock class runs its own forward; each decoder layer is filled from a source just before it runs and emptied just
after. Several variants of one model (gated, baked, shipped, quantised) can so be compared at full depth in fp32, at
3.8B parameters in a few gigabytes.

Covered: Phi-3, Llama, Mistral, Qwen style decoders. Not covered: key-value caches, gradients.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from so8t.files import read_json
from so8t.training.load import OWN, bare, decoder_layers

Source = Callable[[str], Tensor]
INDEX = "model.safetensors.index.json"


class Shards:
    """The tensors of a safetensors folder by name, read on demand; a file is mapped only while one of its tensors lives."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._where: dict[str, str] = {}
        for name in shard_names(folder):
            with self._open(name) as file:
                self._where |= dict.fromkeys(file.keys(), name)

    def _open(self, name: str) -> Any:
        from safetensors import safe_open

        return safe_open(self.folder / name, framework="pt")

    def __call__(self, name: str) -> Tensor:
        """The tensor as it is stored."""
        with self._open(self._where[name]) as file:
            tensor: Tensor = file.get_tensor(name)
        return tensor

    def shapes(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        """dtype and shape of every tensor, without reading it."""
        found: dict[str, tuple[str, tuple[int, ...]]] = {}
        for shard in sorted(set(self._where.values())):
            with self._open(shard) as file:
                for name in file.keys():  # noqa: SIM118 (not a dict)
                    piece = file.get_slice(name)
                    found[name] = piece.get_dtype(), tuple(piece.get_shape())
        return dict(sorted(found.items()))


def shard_names(folder: Path) -> list[str]:
    """The safetensors files of a folder, in name order."""
    if (folder / INDEX).is_file():
        return sorted(set(read_json(folder / INDEX)["weight_map"].values()))
    return ["model.safetensors"]


def skeleton(folder: Path) -> Any:
    """The stock model of a folder in float32 without weights; only its rotary tables are real."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]
            config, dtype=torch.float32, attn_implementation="sdpa", trust_remote_code=False
        )
    model.model.rotary_emb = type(model.model.rotary_emb)(config=model.config)
    return model.eval().requires_grad_(False)


def attach(model: Any, source: Source) -> Any:
    """Fill the embeddings, last norm and output matrix of `model` now, and each layer whenever it runs.

    `model` may carry LoRA and gates: their own tensors are left alone.
    """
    inner = bare(model)
    _fill(inner.model.embed_tokens, "model.embed_tokens.", source)
    _fill(inner.model.norm, "model.norm.", source)
    if getattr(inner.config, "tie_word_embeddings", False):
        inner.lm_head.weight = inner.model.embed_tokens.weight
    else:
        _fill(inner.lm_head, "lm_head.", source)
    for index, layer in enumerate(decoder_layers(model)):
        prefix = f"model.layers.{index}."
        layer.register_forward_pre_hook(
            lambda module, _args, prefix=prefix: _fill(module, prefix, source)
        )
        layer.register_forward_hook(lambda module, _args, _output: _empty(module))
    return model


def _is_base(name: str) -> bool:
    return not any(own in name for own in (*OWN, "so8t_gate"))


def _fill(module: nn.Module, prefix: str, source: Source) -> None:
    for name, old in list(module.named_parameters()):
        if _is_base(name) and old.is_meta:
            tensor = source(prefix + name.replace(".base_layer", "")).float()
            _owner(module, name)._parameters[name.rsplit(".", 1)[-1]] = nn.Parameter(
                tensor, requires_grad=False
            )


def _empty(module: nn.Module) -> None:
    for name, old in list(module.named_parameters()):
        if _is_base(name):
            _owner(module, name)._parameters[name.rsplit(".", 1)[-1]] = nn.Parameter(
                old.to("meta"), requires_grad=False
            )


def _owner(module: nn.Module, name: str) -> nn.Module:
    return module.get_submodule(name.rpartition(".")[0])


@torch.no_grad()
def final_states(model: Any, ids: Int[Tensor, "texts time"]) -> Float[Tensor, "texts time width"]:
    """Final normed hidden states of right-padded texts; every layer is read once."""
    states: Tensor = bare(model).model(input_ids=ids, use_cache=False).last_hidden_state
    return states


def drop_layers(model: Any) -> Any:
    """Forget the layers of a model that has run, keeping what its logits need."""
    bare(model).model.layers = nn.ModuleList()
    return model
