"""Which examples each optimiser step sees: epochs are planned as micro-batches, packed or not.

A plan depends on the seed and the epoch alone, so that a resumed run needs no saved sampler.
"""

import math

import torch

from so8t.base.batches import EPOCH_SEED_STRIDE, Example, epoch_order, pack
from so8t.params import Train

# Micro-batches of an epoch; each is a list of rows, each row a list of example indices.
Plan = list[list[list[int]]]


def plan_epoch(
    examples: list[Example],
    settings: Train,
    seed: int,
    epoch: int,
) -> Plan:
    """The micro-batches of one epoch: one example a row, or several where rows are packed."""
    batches = epoch_order(examples, settings.batch_size, seed, epoch)
    if not settings.packing:
        return [[[index] for index in batch] for batch in batches]
    order = []
    for batch in batches:
        order += batch
    bins = pack(examples, order, settings.max_length)
    # Packing sorts by length: without a shuffle every epoch would begin with the longest examples.
    random = torch.Generator().manual_seed(seed * EPOCH_SEED_STRIDE + epoch)
    shuffle = torch.randperm(len(bins), generator=random).tolist()
    shuffled = [bins[index] for index in shuffle]
    size = settings.batch_size
    plan = []
    for start in range(0, len(shuffled), size):
        plan.append(shuffled[start : start + size])
    return plan


def _steps_per_epoch(
    examples: list[Example],
    settings: Train,
    seed: int,
) -> int:
    # Every epoch has as many as the first: only their order differs.
    first = plan_epoch(examples, settings, seed, 0)
    return math.ceil(len(first) / settings.accumulation)


def total_steps(
    examples: list[Example],
    settings: Train,
    seed: int,
) -> int:
    """Optimiser steps of the whole run.

    The last, incomplete accumulation of an epoch counts as one.
    """
    per_epoch = _steps_per_epoch(examples, settings, seed)
    # `train.epochs` may be a fraction, and even a tiny one trains.
    return max(1, round(settings.epochs * per_epoch))


class MicroBatches:
    """The micro-batches of any step, planned one epoch at a time."""

    plan: Plan

    def __init__(
        self,
        examples: list[Example],
        settings: Train,
        seed: int,
    ) -> None:
        self.examples = examples
        self.settings = settings
        self.seed = seed
        self.per_epoch = _steps_per_epoch(examples, settings, seed)
        self.epoch = -1

    def of(self, step: int) -> list[list[list[Example]]]:
        """Micro-batches of rows of examples."""
        epoch = step // self.per_epoch
        if self.epoch != epoch:
            self.epoch = epoch
            self.plan = plan_epoch(self.examples, self.settings, self.seed, epoch)
        at = (step % self.per_epoch) * self.settings.accumulation
        micro = []
        for rows in self.plan[at : at + self.settings.accumulation]:
            micro.append([self._row(indices) for indices in rows])
        return micro

    def _row(self, indices: list[int]) -> list[Example]:
        return [self.examples[index] for index in indices]
