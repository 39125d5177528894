"""How far the logits of one variant of a model are from another's, over the same texts."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from so8t.errors import GateError

# Positions whose logits are held at once: a vocabulary of 200,000 in float32 is 0.8 MB a position.
CHUNK = 64
# Final states [positions, width] to logits [positions, vocab].
Logits = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class Variant:
    """One model's final states over the texts, and how it makes logits of them."""

    states: Float[Tensor, "texts time width"]
    logits: Logits


@dataclass(slots=True)
class Distance:
    """How far one variant's logits are from another's, over positions.

    Attributes:
        error: largest absolute difference.
        largest: largest absolute logit of the first variant.
        agree: positions at which both have the same most likely token.
        divergences: KL divergence of each position in nats, piece by piece.
    """

    error: float = 0.0
    largest: float = 0.0
    agree: int = 0
    divergences: list[Tensor] = field(default_factory=list)

    def add(self, want: Tensor, got: Tensor) -> None:
        """Count some positions; both are logits [positions, vocab].

        Raises:
            GateError: a logit is not finite.
        """
        if not (torch.isfinite(want).all() and torch.isfinite(got).all()):
            raise GateError(
                "a logit is not finite",
                fix="train again with a lower rate; "
                "if the base model does this too, its files are damaged",
            )
        self.error = max(self.error, float((want - got).abs().max()))
        self.largest = max(self.largest, float(want.abs().max()))
        self.agree += int((want.argmax(-1) == got.argmax(-1)).sum())
        first = want.double().log_softmax(-1)
        second = got.double().log_softmax(-1)
        divergence = (first.exp() * (first - second)).sum(-1)
        # Rounding can make the divergence of equal distributions slightly negative.
        self.divergences.append(divergence.clamp(min=0.0))

    def facts(self) -> dict[str, float]:
        """KL divergence in nats and top-1 agreement."""
        divergence = torch.cat(self.divergences)
        return {
            "kl_mean": float(divergence.mean()),
            "kl_max": float(divergence.max()),
            "top1_agreement": self.agree / len(divergence),
        }


def distance(
    real: Bool[Tensor, "texts time"],
    one: Variant,
    other: Variant,
) -> Distance:
    """Compare two variants at every position that is real and not padding."""
    found = Distance()
    pieces = torch.split(one.states[real], CHUNK)
    other_pieces = torch.split(other.states[real], CHUNK)
    for states, other_states in zip(pieces, other_pieces, strict=True):
        found.add(one.logits(states), other.logits(other_states))
    return found
