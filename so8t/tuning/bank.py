"""One exponential per optimiser step: all gates' blocks as one batched product, and the heads' rows beside them.

Micro-batches, checkpointed recomputation and chunks of the loss all read the same R; gradients gather on it and go back
through the exponential once, when the step ends. (At Phi-3.5-mini's shapes a rebuilt exponential per use cost 9 %.)
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from so8t import rotation
from so8t.tuning.gate import Gate
from so8t.tuning.heads import Heads


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
            made += zip(self.gates, torch.split(rotations, [len(gate.theta) for gate in self.gates]), strict=True)
        if self.heads is not None:
            made.append((self.heads, self.heads.rows()))
        return made
