"""What one training run holds: the model under training, its gates and heads, and the optimiser over exactly those.

One optimiser step: forward and backward over micro-batches, guards, clipping, update, and the row of the log.

Every loss part is divided by its count over the whole step, so that accumulation and several processes change nothing.
"""

import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from so8t.errors import ArtifactError, GateError
from so8t.params import Params, Train
from so8t.pet import PRESETS, valid_triples
from so8t.template import Template
from so8t.training import adapter, gate
from so8t.training.batches import IGNORE, Batch, Example, collate
from so8t.training.gate import Bank
from so8t.training.heads import Heads, role_token_ids
from so8t.training.load import DTYPES, load_for_training
from so8t.training.objective import Objective, Parts, weigh
from so8t.training.ranks import Ranks

BETAS = (0.9, 0.95)
GROUPS = ("lora", "gate", "head")  # `lora` holds the base's own weights in full fine-tuning


@dataclass(slots=True)
class Trainee:
    """Everything one run holds."""

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


def build(folder: Path, params: Params, template: Template) -> Trainee:
    """Load the base, put LoRA, gates and heads on it, and make the optimiser."""
    settings = params.active.train
    torch.manual_seed(params.train_seed)
    model = adapter.attach_lora(load_for_training(folder, settings), settings)
    gates = gate.install(model, params.gates.layers) if params.gates.enabled else {}
    device = next(model.parameters()).device
    heads = None
    if params.heads.enabled:
        ids = role_token_ids(params.active.base.tokens, template.tokenizer, model.config.vocab_size)
        heads = Heads(model.config.hidden_size, ids, params.heads.mode, params.train_seed).to(
            device
        )
    if settings.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.enable_input_require_grads()
    objective = Objective(model, heads, use_pet=params.pet.weight > 0, autocast=_autocast(settings))
    tensors = adapter.trainable(model, heads, full=settings.quantization == "full")
    if not tensors:
        raise ArtifactError(
            "nothing is trained: no LoRA, no gates, no heads",
            where="params.yaml",
            fix="set train.lora_r, gates.enabled or heads.enabled",
        )
    pad = int(getattr(model.config, "pad_token_id", None) or 0)
    return Trainee(
        objective,
        gates,
        Bank(gates, heads),
        heads,
        tensors,
        _optimizer(tensors, settings),
        template,
        pad,
        device,
    )


def _autocast(settings: Train) -> torch.dtype | None:
    """Full fine-tuning keeps float32 weights and computes in a narrower type; adapters store the base in that type."""
    dtype = DTYPES[settings.compute_dtype]
    return dtype if settings.quantization == "full" and dtype != torch.float32 else None


def _optimizer(tensors: dict[str, Tensor], settings: Train) -> torch.optim.Optimizer:
    groups = {
        "lora": (settings.lr, settings.weight_decay),
        "gate": (settings.gate_lr, 0.0),
        "head": (settings.head_lr, 0.0),
    }
    members: dict[str, list[Tensor]] = {name: [] for name in GROUPS}
    for name, tensor in tensors.items():
        members[group_of(name)].append(tensor)
    return torch.optim.AdamW(
        [
            {"params": members[name], "lr": lr, "peak": lr, "weight_decay": decay, "name": name}
            for name, (lr, decay) in groups.items()
            if members[name]
        ],
        betas=BETAS,
    )


def group_of(name: str) -> str:
    """The optimiser group of a trained tensor; rotations, OFT's included, have the gate's rate and no decay."""
    return (
        "head"
        if name.startswith("heads.")
        else "gate"
        if "so8t_gate" in name or ".oft_" in name
        else "lora"
    )


def summary_of(tensors: dict[str, Tensor]) -> dict[str, int]:
    """Trained numbers by group."""
    counts = dict.fromkeys(GROUPS, 0)
    for name, tensor in tensors.items():
        counts[group_of(name)] += tensor.numel()
    return counts


PARTS = ("lm", "safety", "authority", "label", "pet", "pet_raw")
OPENING = 10  # steps whose mean loss says what an exploded loss is
MONITOR_STEPS = 10  # rotation angles are measured this often: an eigenvalue problem for every block
PRIME = 1_000_003


@dataclass(frozen=True, slots=True)
class Moment:
    """Where a run stands."""

    step: int
    steps: int

    @property
    def progress(self) -> float:
        """Share of the run that is done when this step begins."""
        return self.step / self.steps


def rate_at(moment: Moment, warmup: float) -> float:
    """Share of the peak learning rate: linear rise, then cosine to zero."""
    rise = max(1, round(warmup * moment.steps))
    if moment.step < rise:
        return (moment.step + 1) / rise
    return 0.5 * (1.0 + math.cos(math.pi * (moment.step - rise) / max(1, moment.steps - rise)))


def run_step(
    t: Trainee, micro: list[list[list[Example]]], moment: Moment, params: Params, ranks: Ranks
) -> dict[str, Any]:
    """Do one step on `micro` (micro-batches of rows of examples) and return its row of the log.

    Raises:
        GateError: a loss or gradient that is not finite, or a loss that has exploded; weights are still those before.
    """
    rate = rate_at(moment, params.active.train.warmup_ratio)
    for group in t.optimizer.param_groups:
        group["lr"] = group["peak"] * rate
    weight = PRESETS[params.pet.preset].weight(params.pet.weight, moment.progress)
    torch.manual_seed(
        params.train_seed * PRIME + moment.step * ranks.world + ranks.rank
    )  # dropout is a function of the step
    t.objective.train()
    whole = [collate(rows, t.pad) for rows in micro]
    mine = [_share(rows, batch, t.pad, ranks) for rows, batch in zip(micro, whole, strict=True)]
    spare = collate(micro[0][:1], t.pad) if params.active.train.shard else None
    sums = _backward(t, mine, spare, _counts(t, whole), params, weight)
    ranks.add_gradients(t.tensors.values())
    sums = ranks.totals(sums, t.device)
    norms = _clip(t, params.active.train.max_grad_norm)
    _guard(t, sums, norms, moment, params)
    t.optimizer.step()
    t.optimizer.zero_grad(set_to_none=True)
    return {
        "step": moment.step + 1,
        "progress": (moment.step + 1) / moment.steps,
        "lr": params.active.train.lr * rate,
        **sums,
        "lambda": weight,
        **norms,
        **_angles(t, moment),
        "tokens": sum(batch.tokens for batch in whole),
        "valid_loss": None,
        "valid_verdict": None,
    }


def _share(rows: list[list[Example]], whole: Batch, pad: int, ranks: Ranks) -> Batch | None:
    """This rank's part of a micro-batch, if there are rows for it."""
    if ranks.world == 1:
        return whole
    mine = ranks.share(rows)
    return collate(mine, pad) if mine else None


def idle(row: list[Example], pad: int) -> Batch:
    """A row that counts for nothing: every position is padding and no verdict is known."""
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
    pet = (
        sum(int(valid_triples(b.samples).sum()) for b in micro) * t.objective.tap.layers
        if t.objective.tap is not None
        else 0
    )
    return {
        "lm": float(sum(int((b.labels[:, 1:] >= 0).sum()) for b in micro)),
        "safety": float(sum(int((b.verdicts >= 0).sum()) for b in micro)),
        "authority": float(sum(int((b.authorities >= 0).sum()) for b in micro)),
        "label": float(sum(len(b.spelt) for b in micro)),
        "pet": float(pet),
        "pet_raw": float(pet),
    }


def _backward(
    t: Trainee,
    micro: list[Batch | None],
    spare: Batch | None,
    counts: dict[str, float],
    params: Params,
    weight: float,
) -> dict[str, float]:
    """Sums of the loss parts; a rank that has no rows of a micro-batch runs `spare` for nothing where the others need its weights."""
    sums = dict.fromkeys(("loss", *PARTS), 0.0)
    with t.bank.step():
        for batch in micro:
            if batch is None:
                if spare is not None:
                    (0.0 * t.objective(spare.to(t.device)).lm).backward()
                continue
            parts: Parts = t.objective(batch.to(t.device))
            loss = weigh(parts, counts, params.active.loss, weight)
            loss.backward()  # type: ignore[no-untyped-call]
            sums["loss"] += loss.item()
            for name in PARTS:
                sums[name] += float(getattr(parts, name).detach()) / max(counts[name], 1.0)
    return sums


def _clip(t: Trainee, limit: float) -> dict[str, float]:
    groups: dict[str, list[Tensor]] = {name: [] for name in GROUPS}
    for name, tensor in t.tensors.items():
        if tensor.grad is not None:
            groups[group_of(name)].append(tensor.grad)
    norms = {
        f"grad_norm_{name}": float(torch.nn.utils.get_total_norm(grads)) if grads else 0.0
        for name, grads in groups.items()
    }
    torch.nn.utils.clip_grad_norm_(list(t.tensors.values()), limit)
    return norms


def _guard(
    t: Trainee, sums: dict[str, float], norms: dict[str, float], moment: Moment, params: Params
) -> None:
    where, kept = f"train, step {moment.step + 1} of {moment.steps}", "the last checkpoint is kept"
    if not math.isfinite(sums["loss"]) or not all(math.isfinite(v) for v in norms.values()):
        raise GateError(
            f"the loss or its gradient is not finite ({ {k: float(f'{v:.4g}') for k, v in (sums | norms).items()} })",
            where=where,
            fix=f"lower train.lr, train.gate_lr or train.head_lr; {kept}",
        )
    opening = [row["loss"] for row in t.rows[:OPENING]]
    if len(opening) == OPENING and sums["loss"] > params.active.train.explode * (
        start := sum(opening) / OPENING
    ):
        limit = f"train.explode = {params.active.train.explode:g} times"
        raise GateError(
            f"the loss has exploded: {sums['loss']:.4g} after {start:.4g} at the start (limit {limit})",
            where=where,
            fix=f"lower train.lr, train.gate_lr or train.head_lr; {kept}",
        )


def _angles(t: Trainee, moment: Moment) -> dict[str, float]:
    if moment.step % MONITOR_STEPS and moment.step + 1 < moment.steps and t.rows:
        return {name: t.rows[-1][name] for name in ("max_angle", "mean_angle", "orthogonality")}
    return gate.monitors(t.gates)


@torch.no_grad()
def validate(t: Trainee, valid: list[Example], size: int, ranks: Ranks) -> dict[str, float]:
    """Language loss per completion token and share of right verdicts on `valid`."""
    t.objective.eval()
    totals = dict.fromkeys(("lm", "lm_count", "verdict_hits", "verdict_count"), 0.0)
    batches = [valid[start : start + size] for start in range(0, len(valid), size)]
    with t.bank.step():
        for turn in range(0, len(batches), ranks.world):
            mine = turn + ranks.rank
            batch = (
                collate([[example] for example in batches[mine]], t.pad)
                if mine < len(batches)
                else idle([valid[0]], t.pad)
            )
            parts: Parts = t.objective(batch.to(t.device))
            for name in totals:
                totals[name] += float(getattr(parts, name))
    totals = ranks.totals(totals, t.device)
    return {
        "valid_loss": totals["lm"] / max(totals["lm_count"], 1.0),
        "valid_verdict": totals["verdict_hits"] / max(totals["verdict_count"], 1.0),
    }
