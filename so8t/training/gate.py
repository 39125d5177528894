"""The SO(8) gate: a trained rotation before the o_proj of chosen layers, `y = (W + s B A)(R z)`.

z are the concatenated attention heads, R rotates them in blocks of eight (so8t.rotation), and
W + s B A is the output projection with its LoRA update. The gate is a plain module with a forward
pre-hook and not a PEFT tuner, because PEFT refuses rotation and LoRA together on 4-bit models and
cannot save the pair. On a full-rank o_proj this is orthogonal fine-tuning; it adds no
expressiveness to it.

A `Bank` computes the exponentials of all gates as one batched product, once per optimiser step, and
the heads' rows beside them. Micro-batches, checkpointed recomputation and chunks of the loss all
read the same R; gradients gather on it and go back through the exponential once, when the step
ends. (At Phi-3.5-mini's shapes, rebuilding the exponential for every use cost 9 % of a step.)
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from so8t import rotation
from so8t.base.load import bare, chosen_layers, decoder_layers, o_projection
from so8t.errors import ArtifactError
from so8t.training.heads import Heads


class Gate(nn.Module):
    """Block-diagonal rotation of a vector of `width` numbers; the identity at the start.

    Attributes:
        theta: float32 parameter [width / 8, 28], the generators of the blocks.
        held: R of the current step, lent by a `Bank`; None outside a step.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        blocks = width // rotation.BLOCK
        # float32 whatever the base is stored in: 16 bits would lose small angles.
        zeros = torch.zeros(blocks, rotation.FREE, dtype=torch.float32)
        self.theta = nn.Parameter(zeros)
        self.held: Tensor | None = None

    def matrix(self) -> Float[Tensor, "blocks 8 8"]:
        """R, in float32."""
        return rotation.exponential(rotation.skew(self.theta.float()))

    def forward(self, x: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch width"]:
        """R x, in x's dtype."""
        matrix = self.held
        if matrix is None:
            matrix = self.matrix()
        return rotation.rotate(x, matrix)


# --- installing gates ---


def install(model: Any, layers: str | list[int]) -> dict[int, Gate]:
    """Put a gate before the o_proj of each chosen layer.

    Args:
        model: a transformers decoder, inside its PEFT wrapper or not.
        layers: "all", a range such as "4-11", or a list of indices.

    Returns:
        The gates by layer index.

    Raises:
        ParamsError: a layer that does not exist.
        ArtifactError: heads whose width is not a multiple of eight.
    """
    head_width = _head_width(model)
    # A block that straddles two heads would mix what attention computed apart.
    if head_width % rotation.BLOCK:
        raise ArtifactError(
            f"head width {head_width} is not a multiple of {rotation.BLOCK}",
            fix="gates.enabled: false",
        )
    stack = decoder_layers(model)
    gates: dict[int, Gate] = {}
    for index in chosen_layers(layers, len(stack)):
        gates[index] = _install_one(stack[index])
    return gates


def _head_width(model: Any) -> int:
    config = bare(model).config
    # Some configs have `head_dim: null`, others no such key.
    stated = getattr(config, "head_dim", None)
    return int(stated or config.hidden_size // config.num_attention_heads)


def _install_one(layer: Any) -> Gate:
    projection: Any = o_projection(layer)
    # The width of the concatenated heads, which need not be that of the hidden state (Qwen3).
    gate = Gate(int(projection.in_features))
    gate.to(_device_of(layer))
    # As a submodule of the layer it is found by `named_parameters` and moved with the layer.
    layer.self_attn.so8t_gate = gate

    def rotate_first(_module: nn.Module, args: Any) -> Any:
        states, *others = args
        return (gate(states), *others)

    projection.register_forward_pre_hook(rotate_first)
    return gate


def _device_of(layer: nn.Module) -> torch.device:
    """Where the layer's weights are; the CPU when they are streamed (and so on "meta" now)."""
    device = next(layer.parameters()).device
    if device.type == "meta":
        return torch.device("cpu")
    return device


def monitors(gates: dict[int, Gate]) -> dict[str, float]:
    """Largest and mean rotation angle in radians, and the largest orthogonality error."""
    if not gates:
        return {"max_angle": 0.0, "mean_angle": 0.0, "orthogonality": 0.0}
    angles = []
    errors = []
    for gate in gates.values():
        angles.append(rotation.angles(gate.theta))
        # Of R as it is computed in training, in float32, whose rounding is what is monitored.
        matrix = gate.matrix().detach()
        errors.append(rotation.orthogonality_error(matrix))
    all_angles = torch.cat(angles)
    return {
        "max_angle": float(all_angles.max()),
        "mean_angle": float(all_angles.mean()),
        "orthogonality": max(errors),
    }


# --- one exponential per optimiser step ---


# Whatever a Bank lends to, with what it lends.
Lent = tuple[Gate | Heads, Tensor]


class Bank:
    """Lends every gate its R and the heads their rows for one optimiser step."""

    def __init__(self, gates: dict[int, Gate], heads: Heads | None = None) -> None:
        self.gates = [gate for _, gate in sorted(gates.items())]
        self.heads = heads

    @contextmanager
    def step(self) -> Iterator[None]:
        """Passes inside the block share what is lent.

        When the block ends, the gates' and heads' parameters have their gradients. After an
        exception they have none.
        """
        computed = self._computed()
        try:
            for owner, tensor in computed:
                # A leaf of its own, on which the gradients of all passes add up.
                leaf = tensor.detach().clone()
                owner.held = leaf.requires_grad_(tensor.requires_grad)
            yield
            _send_gradients_back(computed)
        finally:
            for owner, _ in computed:
                owner.held = None

    def _computed(self) -> list[Lent]:
        """Each gate with its R and the heads with their rows, attached to the graph."""
        computed: list[Lent] = []
        if self.gates:
            thetas = torch.cat([gate.theta for gate in self.gates])
            rotations = rotation.exponential(rotation.skew(thetas.float()))
            blocks = [len(gate.theta) for gate in self.gates]
            parts = torch.split(rotations, blocks)
            computed.extend(zip(self.gates, parts, strict=True))
        if self.heads is not None:
            computed.append((self.heads, self.heads.rows()))
        return computed


def _send_gradients_back(computed: list[Lent]) -> None:
    """From what was lent to the parameters, in one backward pass."""
    tensors = []
    gradients = []
    for owner, tensor in computed:
        assert owner.held is not None
        # None has one after validation, which makes no backward pass.
        if owner.held.grad is not None:
            tensors.append(tensor)
            gradients.append(owner.held.grad)
    if tensors:
        torch.autograd.backward(tensors, gradients)
