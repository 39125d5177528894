"""The training loss: a weighted sum of language, verdict, authority, label and smoothness parts.

    loss = cmd_weight x language + safety_weight x (safety + authority) + label_weight x label +
    lambda x PET

* Language: cross-entropy over completion tokens, with the reserved columns as the baked model will
  compute them.
* Safety and authority: cross-entropy of the verdict heads at the end of each prompt.
* Label: once more the language loss of the few tokens that spell the verdict. Without it, those
  tokens are lost among the many others of an answer.
* PET: the penalty on the second difference of hidden states along time (so8t.pet).

Cross-entropy is always over the full vocabulary. Each part is a sum; `weigh` divides it by the
count of the whole step.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

from so8t import pet
from so8t.base.batches import IGNORE, Batch
from so8t.base.load import bare, decoder_layers
from so8t.params import Loss
from so8t.training.heads import Heads

# Completion tokens per piece of cross-entropy. It bounds the logits that are held at once.
CHUNK = 1024


@dataclass(slots=True)
class Parts:
    """The loss parts of one micro-batch, each a scalar sum, and what validation counts.

    Verdicts are judged by the heads. Without heads, a verdict is right when its label is spelt
    right token by token.

    Attributes:
        lm: language loss.
        safety: verdict loss of the heads.
        authority: authority loss of the heads.
        label: language loss of the tokens that spell verdicts.
        pet: PET, normalised by the variance of the states; the only one of the two with a gradient.
        pet_raw: PET of the states as they are.
        lm_count: completion tokens.
        verdict_hits: prompts whose verdict is right.
        verdict_count: prompts whose verdict is known.
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


class _Label(NamedTuple):
    """Label loss, prompts that spell their verdict right, and prompts that have one."""

    loss: Tensor
    right: Tensor
    prompts: Tensor


class _Roles(NamedTuple):
    """Head losses, prompts whose verdict is right, and prompts whose verdict is known."""

    safety: Tensor
    authority: Tensor
    right: Tensor
    prompts: Tensor


class PetTap:
    """Forward hooks on the decoder's layers that sum PET while the hidden states are alive.

    Keeping every layer's states until the end would cost the memory of all of them.
    """

    samples: Tensor | None
    total: Tensor | None
    valid: Tensor

    def __init__(self, model: Any) -> None:
        self.samples = None
        self.total = None
        self.layers = len(decoder_layers(model))
        for layer in decoder_layers(model):
            layer.register_forward_hook(self._hook)

    def begin(self, samples: Tensor) -> None:
        """Start to sum over a batch.

        Args:
            samples: the sample of each position, [batch, time]; -1 is padding.
        """
        self.samples = samples
        self.total = None
        self.valid = pet.valid_triples(samples)

    def take(self) -> Float[Tensor, "2"]:
        """The sums of the normalised and the raw penalty over all layers; ends the tap."""
        assert self.total is not None
        total = self.total
        self.samples = None
        self.total = None
        return total

    def _hook(
        self,
        _module: nn.Module,
        _args: Any,
        output: Any,
    ) -> None:
        # Checkpointed layers run again in backward, after `take`: those passes must not count.
        if self.samples is None:
            return
        # Some decoders return (states, cache), others the states alone.
        states = output[0] if isinstance(output, tuple) else output
        sums = pet.penalty_sums(states, self.samples, self.valid)
        if self.total is None:
            self.total = sums
        else:
            self.total = self.total + sums


class Objective(nn.Module):
    """The model under training with its heads; calling it gives the loss parts of a batch.

    Args:
        model: a stock causal model, with or without LoRA and gates.
        heads: the verdict heads, if there are any.
        use_pet: whether PET is summed.
        autocast: type in which a float32 model computes; None computes in the model's own.
    """

    def __init__(
        self,
        model: Any,
        heads: Heads | None,
        use_pet: bool,
        autocast: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.heads = heads
        self.autocast = autocast
        self.tap = None
        if use_pet:
            self.tap = PetTap(model)

    def hidden(self, batch: Batch) -> Float[Tensor, "batch time width"]:
        """Final normed hidden states.

        No attention mask is passed: positions restart with each sample, and transformers derives
        from them which positions may see each other.
        """
        device = batch.ids.device.type
        with torch.autocast(device, dtype=self.autocast, enabled=self.autocast is not None):
            out = bare(self.model).model(
                input_ids=batch.ids, position_ids=batch.positions, use_cache=False
            )
        states: Tensor = out.last_hidden_state
        return states

    def logits(self, hidden: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch vocab"]:
        """Full-vocabulary logits as the baked model will give them."""
        output = bare(self.model).get_output_embeddings()
        # The last norm may leave the states in another type than the matrix has.
        plain: Tensor = output(hidden.to(output.weight.dtype))
        if self.heads is None:
            return plain
        return self.heads.into(plain, hidden)

    def forward(self, batch: Batch) -> Parts:
        """Every part of the loss, summed."""
        if self.tap is not None:
            self.tap.begin(batch.samples)
        hidden = self.hidden(batch)
        pet_sums = torch.zeros(2, device=hidden.device)
        if self.tap is not None:
            pet_sums = self.tap.take()
        lm, lm_count = self._language(hidden, batch)
        label = self._label(hidden, batch)
        roles = self._roles(hidden, batch)
        judged = label if self.heads is None else roles
        return Parts(
            lm=lm,
            safety=roles.safety,
            authority=roles.authority,
            label=label.loss,
            pet=pet_sums[0],
            pet_raw=pet_sums[1],
            lm_count=lm_count,
            verdict_hits=judged.right,
            verdict_count=judged.prompts,
        )

    def _language(self, hidden: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Loss of the completion tokens, and how many there are."""
        # The state at position t predicts the token at t + 1.
        targets = batch.labels[:, 1:]
        chosen = targets != IGNORE
        states = hidden[:, :-1][chosen]
        labels = targets[chosen]
        total = hidden.new_zeros((), dtype=torch.float32)
        for start in range(0, len(labels), CHUNK):
            piece = slice(start, start + CHUNK)
            # Logits are computed again in backward instead of being kept: they are by far the
            # largest tensors.
            total = total + checkpoint(
                self._piece_loss, states[piece], labels[piece], use_reentrant=False
            )
        return total, chosen.sum()

    def _piece_loss(self, states: Tensor, labels: Tensor) -> Tensor:
        return cross_entropy(self.logits(states).float(), labels, reduction="sum")

    def _label(self, hidden: Tensor, batch: Batch) -> _Label:
        rows, positions, prompts = batch.spelt.unbind(1)
        # float(): softmax over a whole vocabulary loses too much in 16 bits.
        logits = self.logits(hidden[rows, positions - 1]).float()
        targets = batch.ids[rows, positions]
        misses = (logits.argmax(1) != targets).long()
        misses_by_prompt = torch.zeros_like(batch.verdicts).index_add(0, prompts, misses)
        spelt = torch.unique(prompts)
        return _Label(
            loss=cross_entropy(logits, targets, reduction="sum"),
            right=(misses_by_prompt[spelt] == 0).sum(),
            prompts=torch.tensor(len(spelt), device=hidden.device),
        )

    def _roles(self, hidden: Tensor, batch: Batch) -> _Roles:
        if self.heads is None:
            zero = hidden.new_zeros((), dtype=torch.float32)
            return _Roles(zero, zero, zero, zero)
        logits = self.heads(hidden[batch.ends[:, 0], batch.ends[:, 1]])
        verdicts = logits[:, :3]
        authorities = logits[:, 3:]
        # A row without a label has -1.
        safety = cross_entropy(verdicts, batch.verdicts, reduction="sum", ignore_index=-1)
        authority = cross_entropy(authorities, batch.authorities, reduction="sum", ignore_index=-1)
        return _Roles(
            safety=safety,
            authority=authority,
            right=(verdicts.argmax(1) == batch.verdicts).sum(),
            prompts=(batch.verdicts >= 0).sum(),
        )


def weigh(
    parts: Parts,
    counts: dict[str, float],
    weights: Loss,
    pet_weight: float,
) -> Tensor:
    """The micro-batch's share of the step's loss, a scalar.

    Args:
        parts: sums over the micro-batch.
        counts: terms that each part has in the whole step, over all micro-batches and processes.
        weights: the profile's `loss` section.
        pet_weight: lambda of this step.
    """
    # max(..., 1): a step may hold no term of a kind, and its sum is then 0.
    language = weights.cmd_weight * parts.lm / max(counts["lm"], 1.0)
    safety = parts.safety / max(counts["safety"], 1.0)
    authority = parts.authority / max(counts["authority"], 1.0)
    loss = language + weights.safety_weight * (safety + authority)
    # Parts of weight 0 stay out of the graph, so that training without them is the same to the bit.
    if weights.label_weight:
        loss = loss + weights.label_weight * parts.label / max(counts["label"], 1.0)
    if pet_weight:
        loss = loss + pet_weight * parts.pet / max(counts["pet"], 1.0)
    return loss
