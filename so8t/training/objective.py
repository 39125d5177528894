"""The loss: cmd_weight x language + safety_weight x (safety + authority) + label_weight x label + lambda x PET.

Language: cross-entropy over completion tokens, in chunks, with the reserved columns as the baked model will have them.
Safety and authority: cross-entropy over their own rows at the end of each prompt.
Label: the language loss of the few tokens that spell the verdict, which is lost among an answer's other tokens otherwise.
All on full-vocabulary logits.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

from so8t import pet
from so8t.params import Loss
from so8t.training.batches import IGNORE, Batch
from so8t.training.heads import Heads
from so8t.training.load import bare, decoder_layers

CHUNK = 1024  # completion tokens per piece of cross-entropy: bounds the logits held at once


@dataclass(slots=True)
class Parts:
    """Sums of the loss parts of one micro-batch (weights and counts are of the whole step), and what validation counts.

    Verdicts are judged by the heads; without heads, by whether the label is spelt right token by token.
    """

    lm: Tensor
    safety: Tensor
    authority: Tensor
    label: Tensor
    pet: Tensor
    pet_raw: Tensor
    lm_count: Tensor
    verdict_hits: Tensor
    verdict_count: Tensor


class PetTap:
    """Forward hooks on the decoder's layers that sum the penalty while the states are alive."""

    def __init__(self, model: Any) -> None:
        self.samples: Tensor | None = None
        self.total: Tensor | None = None
        self.layers = len(decoder_layers(model))
        for layer in decoder_layers(model):
            layer.register_forward_hook(self._hook)

    def begin(self, samples: Tensor) -> None:
        """Start to sum over a batch with these sample numbers."""
        self.samples, self.total = samples, None
        self.valid = pet.valid_triples(samples)

    def take(self) -> Tensor:
        """Sums of normalised and raw penalty; ends the tap."""
        assert self.total is not None
        total, self.samples, self.total = self.total, None, None
        return total

    def _hook(self, _module: nn.Module, _args: Any, output: Any) -> None:
        if self.samples is not None:
            states = output[0] if isinstance(output, tuple) else output
            sums = pet.penalty_sums(states, self.samples, self.valid)
            self.total = sums if self.total is None else self.total + sums


class Objective(nn.Module):
    """The model under training, its heads, and the sums of its loss parts."""

    def __init__(
        self, model: Any, heads: Heads | None, use_pet: bool, autocast: torch.dtype | None = None
    ) -> None:
        super().__init__()
        self.model = model
        self.heads = heads
        self.autocast = autocast
        self.tap = PetTap(model) if use_pet else None

    def hidden(self, batch: Batch) -> Float[Tensor, "batch time width"]:
        """Final normed hidden states; positions restart per sample, no attention mask (see batches)."""
        with torch.autocast(
            batch.ids.device.type, dtype=self.autocast, enabled=self.autocast is not None
        ):
            out = bare(self.model).model(
                input_ids=batch.ids, position_ids=batch.positions, use_cache=False
            )
        states: Tensor = out.last_hidden_state
        return states

    def logits(self, hidden: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch vocab"]:
        """Full-vocabulary logits as the baked model will give them."""
        plain: Tensor = bare(self.model).get_output_embeddings()(hidden.to(self._head_dtype()))
        return self.heads.into(plain, hidden) if self.heads is not None else plain

    def _head_dtype(self) -> torch.dtype:
        dtype: torch.dtype = bare(self.model).get_output_embeddings().weight.dtype
        return dtype

    def forward(self, batch: Batch) -> Parts:
        """Every part of the loss, summed."""
        if self.tap is not None:
            self.tap.begin(batch.samples)
        hidden = self.hidden(batch)
        pet_sums = self.tap.take() if self.tap is not None else torch.zeros(2, device=hidden.device)
        lm, lm_count = self._language(hidden, batch)
        label, spelt_right, spelt = self._label(hidden, batch)
        safety, authority, hits = self._verdicts(hidden, batch)
        judged = (spelt_right, spelt) if self.heads is None else (hits, (batch.verdicts >= 0).sum())
        return Parts(lm, safety, authority, label, pet_sums[0], pet_sums[1], lm_count, *judged)

    def _language(self, hidden: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        targets = batch.labels[:, 1:]
        chosen = targets != IGNORE
        states, labels = hidden[:, :-1][chosen], targets[chosen]
        total = hidden.new_zeros((), dtype=torch.float32)
        for start in range(0, len(labels), CHUNK):
            piece = slice(start, start + CHUNK)
            total = total + checkpoint(
                self._chunk, states[piece], labels[piece], use_reentrant=False
            )
        return total, chosen.sum()

    def _chunk(self, states: Tensor, labels: Tensor) -> Tensor:
        return cross_entropy(self.logits(states).float(), labels, reduction="sum")

    def _label(self, hidden: Tensor, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Loss of the tokens that spell verdicts, prompts whose verdict is spelt right, and prompts that have one."""
        rows, positions, prompts = batch.spelt.unbind(1)
        logits, targets = (
            self.logits(hidden[rows, positions - 1]).float(),
            batch.ids[rows, positions],
        )
        wrong = torch.zeros_like(batch.verdicts).index_add(
            0, prompts, (logits.argmax(1) != targets).long()
        )
        spelt = torch.unique(prompts)
        return (
            cross_entropy(logits, targets, reduction="sum"),
            (wrong[spelt] == 0).sum(),
            torch.tensor(len(spelt), device=hidden.device),
        )

    def _verdicts(self, hidden: Tensor, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        if self.heads is None:
            return (hidden.new_zeros((), dtype=torch.float32),) * 3
        roles = self.heads(hidden[batch.ends[:, 0], batch.ends[:, 1]])
        safety = cross_entropy(roles[:, :3], batch.verdicts, reduction="sum", ignore_index=-1)
        authority = cross_entropy(roles[:, 3:], batch.authorities, reduction="sum", ignore_index=-1)
        return safety, authority, (roles[:, :3].argmax(1) == batch.verdicts).sum()


def weigh(parts: Parts, counts: dict[str, float], weights: Loss, pet_weight: float) -> Tensor:
    """The micro-batch's share of the step's loss: every part is divided by the whole step's count."""
    language = weights.cmd_weight * parts.lm / max(counts["lm"], 1.0)
    verdicts = parts.safety / max(counts["safety"], 1.0) + parts.authority / max(
        counts["authority"], 1.0
    )
    loss = language + weights.safety_weight * verdicts
    if weights.label_weight:
        loss = loss + weights.label_weight * parts.label / max(counts["label"], 1.0)
    return loss + pet_weight * parts.pet / max(counts["pet"], 1.0) if pet_weight else loss
