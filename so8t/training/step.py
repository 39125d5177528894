"""One optimiser step: forward and backward passes, clipping, guards, update, a row of the log.

Every loss part is divided by its count over the whole step, so that accumulation and several
processes change nothing.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from so8t.base.batches import EPOCH_SEED_STRIDE, IGNORE, Batch, Example, collate
from so8t.errors import GateError
from so8t.params import Params
from so8t.pet import PRESETS, valid_triples
from so8t.training import gate
from so8t.training.objective import Parts, weigh
from so8t.training.ranks import Ranks
from so8t.training.trainee import Trainee, by_group

PARTS = ("lm", "safety", "authority", "label", "pet", "pet_raw")
ANGLES = ("max_angle", "mean_angle", "orthogonality")
# Steps whose mean loss says from where a loss counts as exploded.
OPENING = 10
# Rotation angles are measured this often: they take an eigenvalue problem for every block.
MONITOR_STEPS = 10


@dataclass(frozen=True, slots=True)
class Moment:
    """Where a run stands: steps that are done, and steps of the whole run."""

    step: int
    steps: int

    @property
    def progress(self) -> float:
        """Share of the run that is done when this step begins."""
        return self.step / self.steps

    @property
    def label(self) -> str:
        """For error messages; counted from 1."""
        return f"train, step {self.step + 1} of {self.steps}"


def rate_at(moment: Moment, warmup: float) -> float:
    """Share of the peak learning rate: linear over the `warmup` share, then cosine to zero."""
    rise = max(1, round(warmup * moment.steps))
    if moment.step < rise:
        return (moment.step + 1) / rise
    fall = max(1, moment.steps - rise)
    angle = math.pi * (moment.step - rise) / fall
    return 0.5 * (1.0 + math.cos(angle))


def run_step(
    t: Trainee,
    micro: list[list[list[Example]]],
    moment: Moment,
    params: Params,
    ranks: Ranks,
) -> dict[str, Any]:
    """Do one optimiser step and return its row of the log.

    Args:
        t: what is trained.
        micro: micro-batches of rows of examples (several in one row when packed).
        moment: where the run stands.
        params: of the run.
        ranks: this process among all that train; every one gets the whole `micro`.

    Raises:
        GateError: a loss or gradient that is not finite, or a loss that has exploded; the weights
            are still those before.
    """
    settings = params.active.train
    rate = rate_at(moment, settings.warmup_ratio)
    for group in t.optimizer.param_groups:
        group["lr"] = group["peak"] * rate
    phases = PRESETS[params.pet.preset]
    pet_weight = phases.weight(params.pet.weight, moment.progress)
    # Dropout becomes a function of step and rank, so that a resumed run drops the same numbers.
    number = moment.step * ranks.world + ranks.rank
    torch.manual_seed(params.train_seed * EPOCH_SEED_STRIDE + number)
    t.objective.train()
    whole = [collate(rows, t.pad) for rows in micro]
    mine = []
    for rows, batch in zip(micro, whole, strict=True):
        mine.append(_share(rows, batch, t.pad, ranks))
    spare = None
    if settings.shard:
        # With a sharded base a rank without rows must still take part in every pass.
        spare = collate(micro[0][:1], t.pad)

    counts = _counts(t, whole)

    def loss_of(parts: Parts) -> Tensor:
        return weigh(parts, counts, params.active.loss, pet_weight)

    sums = _backward(t, mine, spare, counts, loss_of)
    ranks.add_gradients(t.tensors.values())
    sums = ranks.totals(sums, t.device)
    norms = _clip(t, settings.max_grad_norm)
    _guard(t, sums, norms, moment, params)
    t.optimizer.step()
    t.optimizer.zero_grad(set_to_none=True)
    return {
        "step": moment.step + 1,
        "progress": (moment.step + 1) / moment.steps,
        "lr": settings.lr * rate,
        **sums,
        "lambda": pet_weight,
        **norms,
        **_angles(t, moment),
        "tokens": sum(batch.tokens for batch in whole),
        "valid_loss": None,
        "valid_verdict": None,
    }


def _share(
    rows: list[list[Example]],
    whole: Batch,
    pad: int,
    ranks: Ranks,
) -> Batch | None:
    """This rank's part of a micro-batch, if there are rows for it."""
    if ranks.world == 1:
        return whole
    mine = ranks.share(rows)
    return collate(mine, pad) if mine else None


def idle(row: list[Example], pad: int) -> Batch:
    """A batch that counts for nothing: every position is padding and no verdict is known."""
    batch = collate([row], pad)
    return replace(
        batch,
        labels=torch.full_like(batch.labels, IGNORE),
        samples=torch.full_like(batch.samples, -1),
        spelt=batch.spelt[:0],
        verdicts=torch.full_like(batch.verdicts, -1),
        authorities=torch.full_like(batch.authorities, -1),
    )


def _counts(t: Trainee, micro: list[Batch]) -> dict[str, float]:
    """How many terms each loss part has over the whole step, all ranks together."""
    counts = dict.fromkeys(PARTS, 0)
    tap = t.objective.tap
    for batch in micro:
        # The first token of a row is never predicted.
        targets = batch.labels[:, 1:]
        counts["lm"] += int((targets >= 0).sum())
        # Negative classes are unknown ones.
        counts["safety"] += int((batch.verdicts >= 0).sum())
        counts["authority"] += int((batch.authorities >= 0).sum())
        counts["label"] += len(batch.spelt)
        if tap is not None:
            triples = int(valid_triples(batch.samples).sum())
            # The same triples are penalised after every layer.
            counts["pet"] += triples * tap.layers
    counts["pet_raw"] = counts["pet"]
    return {name: float(count) for name, count in counts.items()}


def _backward(
    t: Trainee,
    micro: list[Batch | None],
    spare: Batch | None,
    counts: dict[str, float],
    loss_of: Callable[[Parts], Tensor],
) -> dict[str, float]:
    """Gradients of the step, and its loss and loss parts as this rank's shares of the means.

    Args:
        t: what is trained.
        micro: this rank's micro-batches; None where it has no rows.
        spare: what a rank without rows runs, where the others need its weights.
        counts: terms of each part over the whole step.
        loss_of: the loss of a micro-batch's parts.
    """
    sums = dict.fromkeys(("loss", *PARTS), 0.0)
    parts: Parts
    with t.bank.step():
        for batch in micro:
            if batch is None:
                if spare is not None:
                    parts = t.objective(spare.to(t.device))
                    # Times zero: the pass happens, and the gradients stay.
                    nothing = 0.0 * parts.lm
                    nothing.backward()  # type: ignore[no-untyped-call]
                continue
            parts = t.objective(batch.to(t.device))
            loss = loss_of(parts)
            loss.backward()  # type: ignore[no-untyped-call]
            sums["loss"] += loss.item()
            for name in PARTS:
                part: Tensor = getattr(parts, name)
                count = max(counts[name], 1.0)
                sums[name] += float(part.detach()) / count
    return sums


def _clip(t: Trainee, limit: float) -> dict[str, float]:
    """Clip the gradient's norm over all groups; return each group's norm before that."""
    norms = {}
    for name, members in by_group(t.tensors).items():
        grads = [tensor.grad for tensor in members if tensor.grad is not None]
        norms[f"grad_norm_{name}"] = 0.0
        if grads:
            norms[f"grad_norm_{name}"] = float(torch.nn.utils.get_total_norm(grads))
    # Over all groups together, so that the update keeps its direction.
    trained = list(t.tensors.values())
    torch.nn.utils.clip_grad_norm_(trained, limit)
    return norms


def _guard(
    t: Trainee,
    sums: dict[str, float],
    norms: dict[str, float],
    moment: Moment,
    params: Params,
) -> None:
    """Stop before an update that would spoil the weights."""
    loss = sums["loss"]
    fix = "lower train.lr, train.gate_lr or train.head_lr; the last checkpoint is kept"
    # Norms are checked too: a finite loss can have a gradient that is not.
    watched = [loss, *norms.values()]
    if not all(math.isfinite(value) for value in watched):
        measured = {}
        for name, value in (sums | norms).items():
            # Four digits: the message is for people.
            measured[name] = float(f"{value:.4g}")
        raise GateError(
            f"the loss or its gradient is not finite ({measured})", where=moment.label, fix=fix
        )
    opening = [row["loss"] for row in t.rows[:OPENING]]
    if len(opening) < OPENING:
        return
    start = sum(opening) / OPENING
    explode = params.active.train.explode
    if loss > explode * start:
        raise GateError(
            f"the loss has exploded: {loss:.4g} after {start:.4g} at the start "
            f"(limit train.explode = {explode:g} times)",
            where=moment.label,
            fix=fix,
        )


def _angles(t: Trainee, moment: Moment) -> dict[str, float]:
    """The gates' monitors, measured now or, between measurements, as in the row before."""
    is_due = moment.step % MONITOR_STEPS == 0
    is_last = moment.step + 1 >= moment.steps
    # A resumed run has the rows of its checkpoint; only a new one has none.
    if is_due or is_last or not t.rows:
        return gate.monitors(t.gates)
    return {name: t.rows[-1][name] for name in ANGLES}


@torch.no_grad()
def validate(
    t: Trainee,
    valid: list[Example],
    size: int,
    ranks: Ranks,
) -> dict[str, float]:
    """Language loss per completion token, and share of right verdicts.

    Args:
        t: what is trained.
        valid: examples of the validation split.
        size: examples in a batch.
        ranks: this process among all that train; each takes every n-th batch.
    """
    t.objective.eval()
    totals = dict.fromkeys(("lm", "lm_count", "verdict_hits", "verdict_count"), 0.0)
    batches = []
    for start in range(0, len(valid), size):
        batches.append(valid[start : start + size])
    with t.bank.step():
        for turn in range(0, len(batches), ranks.world):
            mine = turn + ranks.rank
            if mine < len(batches):
                rows = [[example] for example in batches[mine]]
                batch = collate(rows, t.pad)
            else:
                # A sharded base needs every rank in every pass.
                batch = idle([valid[0]], t.pad)
            parts: Parts = t.objective(batch.to(t.device))
            for name in totals:
                totals[name] += float(getattr(parts, name))
    totals = ranks.totals(totals, t.device)
    return {
        "valid_loss": totals["lm"] / max(totals["lm_count"], 1.0),
        "valid_verdict": totals["verdict_hits"] / max(totals["verdict_count"], 1.0),
    }
