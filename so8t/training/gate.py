"""The SO(8) gate: `y = (W + s B A)(R z)` on the chosen layers' o_proj, installed outside LoRA.

A plain module with a forward pre-hook, not a PEFT tuner: PEFT refuses rotation and LoRA together on 4-bit models and
cannot save the pair. On a full-rank o_proj this is orthogonal fine-tuning; it adds no expressiveness to it.
`tuning.bank` takes the exponential of all layers' blocks at once, once per optimiser step.

One exponential per optimiser step: all gates' blocks as one batched product, and the heads' rows beside them.

Micro-batches, checkpointed recomputation and chunks of the loss all read the same R; gradients gather on it and go back
through the exponential once, when the step ends. (At Phi-3.5-mini's shapes a rebuilt exponential per use cost 9 %.)
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from so8t import rotation
from so8t.errors import ArtifactError
from so8t.training.heads import Heads
from so8t.training.load import bare, chosen_layers, decoder_layers, o_projection


class Gate(nn.Module):
    """Block-diagonal rotation of a vector of `width` numbers; identity at the start."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.theta = nn.Parameter(
            torch.zeros(width // rotation.BLOCK, rotation.FREE, dtype=torch.float32)
        )
        self.held: Tensor | None = None  # R of the current step, lent by a Bank

    def matrix(self) -> Float[Tensor, "blocks 8 8"]:
        """R, in float32."""
        return rotation.exponential(rotation.skew(self.theta.float()))

    def forward(self, x: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch width"]:
        """R x."""
        return rotation.rotate(x, self.matrix() if self.held is None else self.held)


def _head_width(model: Any) -> int:
    config = bare(model).config
    return int(
        getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    )


def install(model: Any, layers: str | list[int]) -> dict[int, Gate]:
    """Put a gate before the o_proj of each chosen layer; returns them by layer index.

    Raises:
        ParamsError: a layer that does not exist.
        ArtifactError: heads whose width is not a multiple of eight, so that blocks would straddle them.
    """
    if _head_width(model) % rotation.BLOCK:
        raise ArtifactError(
            f"head width {_head_width(model)} is not a multiple of {rotation.BLOCK}",
            fix="gates.enabled: false",
        )
    stack = decoder_layers(model)
    gates: dict[int, Gate] = {}
    for index in chosen_layers(layers, len(stack)):
        projection = o_projection(stack[index])
        width: Any = projection.in_features  # of the concatenated heads, not of the hidden state
        gate = Gate(int(width)).to(_device_of(stack[index]))
        stack[index].self_attn.so8t_gate = gate  # type: ignore[union-attr]
        projection.register_forward_pre_hook(
            lambda _module, args, gate=gate: (gate(args[0]), *args[1:])
        )
        gates[index] = gate
    return gates


def _device_of(layer: nn.Module) -> torch.device:
    """Where the layer's weights are; the CPU when they are streamed."""
    device = next(layer.parameters()).device
    return torch.device("cpu") if device.type == "meta" else device


def monitors(gates: dict[int, Gate]) -> dict[str, float]:
    """Largest and mean rotation angle in radians, and the orthogonality error."""
    if not gates:
        return {"max_angle": 0.0, "mean_angle": 0.0, "orthogonality": 0.0}
    angles = torch.cat([rotation.angles(gate.theta) for gate in gates.values()])
    error = max(rotation.orthogonality_error(gate.matrix().detach()) for gate in gates.values())
    return {
        "max_angle": float(angles.max()),
        "mean_angle": float(angles.mean()),
        "orthogonality": error,
    }


class Bank:
    """Lends every gate its R and the heads their rows for one optimiser step."""

    def __init__(self, gates: dict[int, Gate], heads: Heads | None = None) -> None:
        self.gates = [gate for _, gate in sorted(gates.items())]
        self.heads = heads

    @contextmanager
    def step(self) -> Iterator[None]:
        """Forward and backward passes inside share what is lent; parameters have their gradients when the block ends."""
        made, lent = self._made(), []
        try:
            for owner, tensor in made:
                owner.held = tensor.detach().clone().requires_grad_(tensor.requires_grad)
                lent.append((tensor, owner.held))
            yield
            used = [(tensor, held.grad) for tensor, held in lent if held.grad is not None]
            if used:
                torch.autograd.backward([tensor for tensor, _ in used], [grad for _, grad in used])
        finally:
            for owner, _ in made:
                owner.held = None

    def _made(self) -> list[tuple[Gate | Heads, Tensor]]:
        made: list[tuple[Gate | Heads, Tensor]] = []
        if self.gates:
            thetas = torch.cat([gate.theta for gate in self.gates])
            rotations = rotation.exponential(rotation.skew(thetas.float()))
            made += zip(
                self.gates,
                torch.split(rotations, [len(gate.theta) for gate in self.gates]),
                strict=True,
            )
        if self.heads is not None:
            made.append((self.heads, self.heads.rows()))
        return made
