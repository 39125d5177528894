"""What one training run holds: model, gates, heads, and the optimiser over exactly what is trained.

Trained tensors fall into three groups with learning rates of their own: LoRA (or, in full
fine-tuning, the base's weights), rotations, and heads.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from so8t.base.load import DTYPES, load_for_training
from so8t.errors import ArtifactError
from so8t.params import Params, Train
from so8t.template import Template
from so8t.training import adapter, gate
from so8t.training.gate import Bank
from so8t.training.heads import Heads, role_token_ids
from so8t.training.objective import Objective

# Optimiser groups. `lora` also holds the base's own weights in full fine-tuning.
GROUPS = ("lora", "gate", "head")
# AdamW's, with a second moment of a shorter memory than torch's default of 0.999.
BETAS = (0.9, 0.95)


@dataclass(slots=True)
class Trainee:
    """Everything one training run holds in memory.

    Attributes:
        objective: the model with its heads and loss.
        gates: SO(8) gates by layer.
        bank: lends the gates their rotations for a step.
        heads: the verdict heads, if there are any.
        tensors: what is trained, by name.
        optimizer: AdamW over `tensors`.
        template: the base's tokenizer and chat template.
        pad: token id of padding.
        device: where the model is.
        rows: the log, one row a step.
    """

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


def build(
    folder: Path,
    params: Params,
    template: Template,
) -> Trainee:
    """Load the base, put LoRA, gates and heads on it, and make the optimiser.

    Raises:
        ArtifactError: nothing is trained, or the base cannot be loaded.
    """
    settings = params.active.train
    # LoRA draws its start values from the global generator.
    torch.manual_seed(params.train_seed)
    model = adapter.attach_lora(load_for_training(folder, settings), settings)
    gates: dict[int, gate.Gate] = {}
    if params.gates.enabled:
        # After LoRA: the gate turns the input of the adapted projection, LoRA included.
        gates = gate.install(model, params.gates.layers)
    device: torch.device = next(model.parameters()).device
    heads = _heads(model.config, params, template, device)
    if settings.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        # The embedding is frozen, and a checkpointed layer needs an input with a gradient.
        model.enable_input_require_grads()
    objective = Objective(model, heads, use_pet=params.pet.weight > 0, autocast=_autocast(settings))
    tensors = adapter.trainable(model, heads, full=settings.quantization == "full")
    if not tensors:
        raise ArtifactError(
            "nothing is trained: no LoRA, no gates, no heads",
            where="params.yaml",
            fix="set train.lora_r, gates.enabled or heads.enabled",
        )
    return Trainee(
        objective=objective,
        gates=gates,
        bank=Bank(gates, heads),
        heads=heads,
        tensors=tensors,
        optimizer=_optimizer(tensors, settings),
        template=template,
        # Padding is masked everywhere, so that any id will do where a config names none.
        pad=int(getattr(model.config, "pad_token_id", None) or 0),
        device=device,
    )


def _heads(
    config: Any,
    params: Params,
    template: Template,
    device: torch.device,
) -> Heads | None:
    if not params.heads.enabled:
        return None
    ids = role_token_ids(params.active.base.tokens, template.tokenizer, config.vocab_size)
    heads = Heads(config.hidden_size, ids, params.heads.mode, params.train_seed)
    return heads.to(device)


def _autocast(settings: Train) -> torch.dtype | None:
    """The type to compute in, where it differs from the weights' own.

    Full fine-tuning keeps float32 weights; an adapter's base is stored in the type it computes in.
    """
    dtype = DTYPES[settings.compute_dtype]
    if settings.quantization == "full" and dtype != torch.float32:
        return dtype
    return None


def _optimizer(tensors: dict[str, Tensor], settings: Train) -> torch.optim.Optimizer:
    # Weight decay would pull the rotations back towards the identity.
    rates = {
        "lora": (settings.lr, settings.weight_decay),
        "gate": (settings.gate_lr, 0.0),
        "head": (settings.head_lr, 0.0),
    }
    members = by_group(tensors)
    groups = []
    for name, (lr, decay) in rates.items():
        if members[name]:
            # `peak` is ours: the schedule multiplies it into `lr` at every step.
            group = {"params": members[name], "lr": lr, "peak": lr, "weight_decay": decay}
            groups.append({**group, "name": name})
    return torch.optim.AdamW(groups, betas=BETAS)


def group_of(name: str) -> str:
    """The optimiser group of a trained tensor.

    All rotations, OFT's included, have the gates' learning rate and no weight decay.
    """
    if name.startswith("heads."):
        return "head"
    if "so8t_gate" in name or ".oft_" in name:
        return "gate"
    return "lora"


def by_group(tensors: dict[str, Tensor]) -> dict[str, list[Tensor]]:
    """Trained tensors of each optimiser group, in order."""
    members: dict[str, list[Tensor]] = {name: [] for name in GROUPS}
    for name, tensor in tensors.items():
        members[group_of(name)].append(tensor)
    return members
