"""What one training run holds: the model under training, its gates and heads, and the optimiser over exactly those."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from so8t.errors import ArtifactError
from so8t.params import Params, Train
from so8t.template import Template
from so8t.tuning import adapter, gate
from so8t.tuning.bank import Bank
from so8t.tuning.heads import Heads, role_token_ids
from so8t.tuning.load import DTYPES, load_for_training
from so8t.tuning.objective import Objective

BETAS = (0.9, 0.95)
GROUPS = ("lora", "gate", "head")  # `lora` holds the base's own weights in full fine-tuning


@dataclass(slots=True)
class Trainee:
    """Everything one run holds."""

    objective: Objective
    gates: dict[int, gate.Gate]
    bank: Bank
    heads: Heads | None
    tensors: dict[str, Tensor]
    optimizer: torch.optim.Optimizer
    template: Template
    pad: int
    device: torch.device
    rows: list[dict[str, Any]] = field(default_factory=list)


def build(folder: Path, params: Params, template: Template) -> Trainee:
    """Load the base, put LoRA, gates and heads on it, and make the optimiser."""
    settings = params.active.train
    torch.manual_seed(params.train_seed)
    model = adapter.attach_lora(load_for_training(folder, settings), settings)
    gates = gate.install(model, params.gates.layers) if params.gates.enabled else {}
    device = next(model.parameters()).device
    heads = None
    if params.heads.enabled:
        ids = role_token_ids(params.active.base.tokens, template.tokenizer, model.config.vocab_size)
        heads = Heads(model.config.hidden_size, ids, params.heads.mode, params.train_seed).to(device)
    if settings.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.enable_input_require_grads()
    objective = Objective(model, heads, use_pet=params.pet.weight > 0, autocast=_autocast(settings))
    tensors = adapter.trainable(model, heads, full=settings.quantization == "full")
    if not tensors:
        raise ArtifactError("nothing is trained: no LoRA, no gates, no heads", where="params.yaml", fix="set train.lora_r, gates.enabled or heads.enabled")
    pad = int(getattr(model.config, "pad_token_id", None) or 0)
    return Trainee(objective, gates, Bank(gates, heads), heads, tensors, _optimizer(tensors, settings), template, pad, device)


def _autocast(settings: Train) -> torch.dtype | None:
    """Full fine-tuning keeps float32 weights and computes in a narrower type; adapters store the base in that type."""
    dtype = DTYPES[settings.compute_dtype]
    return dtype if settings.quantization == "full" and dtype != torch.float32 else None


def _optimizer(tensors: dict[str, Tensor], settings: Train) -> torch.optim.Optimizer:
    groups = {"lora": (settings.lr, settings.weight_decay), "gate": (settings.gate_lr, 0.0), "head": (settings.head_lr, 0.0)}
    members: dict[str, list[Tensor]] = {name: [] for name in GROUPS}
    for name, tensor in tensors.items():
        members[group_of(name)].append(tensor)
    return torch.optim.AdamW([{"params": members[name], "lr": lr, "peak": lr, "weight_decay": decay, "name": name}
                              for name, (lr, decay) in groups.items() if members[name]], betas=BETAS)


def group_of(name: str) -> str:
    """The optimiser group of a trained tensor; rotations, OFT's included, have the gate's rate and no decay."""
    return "head" if name.startswith("heads.") else "gate" if "so8t_gate" in name or ".oft_" in name else "lora"


def summary_of(tensors: dict[str, Tensor]) -> dict[str, int]:
    """Trained numbers by group."""
    counts = dict.fromkeys(GROUPS, 0)
    for name, tensor in tensors.items():
        counts[group_of(name)] += tensor.numel()
    return counts
