"""The SO(8) gate: `y = (W + s B A)(R z)` on the chosen layers' o_proj, installed outside LoRA.

A plain module with a forward pre-hook, not a PEFT tuner: PEFT refuses rotation and LoRA together on 4-bit models and
cannot save the pair. On a full-rank o_proj this is orthogonal fine-tuning; it adds no expressiveness to it.
`tuning.bank` takes the exponential of all layers' blocks at once, once per optimiser step.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from so8t import rotation
from so8t.errors import ArtifactError
from so8t.tuning.load import bare, chosen_layers, decoder_layers, o_projection


class Gate(nn.Module):
    """Block-diagonal rotation of a vector of `width` numbers; identity at the start."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.zeros(width // rotation.BLOCK, rotation.FREE, dtype=torch.float32))
        self.held: Tensor | None = None  # R of the current step, lent by a Bank

    def matrix(self) -> Float[Tensor, "blocks 8 8"]:
        """R, in float32."""
        return rotation.exponential(rotation.skew(self.theta.float()))

    def forward(self, x: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch width"]:
        """R x."""
        return rotation.rotate(x, self.matrix() if self.held is None else self.held)


def _head_width(model: Any) -> int:
    config = bare(model).config
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def install(model: Any, layers: str | list[int]) -> dict[int, Gate]:
    """Put a gate before the o_proj of each chosen layer; returns them by layer index.

    Raises:
        ParamsError: a layer that does not exist.
        ArtifactError: heads whose width is not a multiple of eight, so that blocks would straddle them.
    """
    if _head_width(model) % rotation.BLOCK:
        raise ArtifactError(f"head width {_head_width(model)} is not a multiple of {rotation.BLOCK}", fix="gates.enabled: false")
    stack = decoder_layers(model)
    gates: dict[int, Gate] = {}
    for index in chosen_layers(layers, len(stack)):
        projection = o_projection(stack[index])
        width: Any = projection.in_features  # of the concatenated heads, not of the hidden state
        gate = Gate(int(width)).to(_device_of(stack[index]))
        stack[index].self_attn.so8t_gate = gate  # type: ignore[union-attr]
        projection.register_forward_pre_hook(lambda _module, args, gate=gate: (gate(args[0]), *args[1:]))
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
    return {"max_angle": float(angles.max()), "mean_angle": float(angles.mean()), "orthogonality": error}
