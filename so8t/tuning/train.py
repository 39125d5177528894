"""Adapter training: LoRA, SO(8) gates, heads and PET on a frozen, possibly quantised base.

Our own loop: HF Trainer drops the gates on resume without a word. State between steps is (tensors, optimiser, RNG,
step), so that a resumed run equals an uninterrupted one bit for bit on a CPU.
"""

import csv
import io
import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from so8t.errors import GateError, Interrupted
from so8t.files import sha256_file, sha256_tree, write_text
from so8t.params import Params, Train
from so8t.pet import PRESETS
from so8t.progress import Progress
from so8t.tuning import adapter, checkpoint, gate
from so8t.tuning.batches import Batch, Example, Template, batches_of, collate, epoch_order, pack, read_examples
from so8t.tuning.heads import Heads, role_token_ids
from so8t.tuning.load import base_dir, load_for_training
from so8t.tuning.objective import Objective, Parts, weigh

BETAS = (0.9, 0.95)
MODULES = ["so8t.rotation", "so8t.triality", "so8t.pet", "so8t.chat", *(f"so8t.tuning.{name}" for name in (
    "adapter", "batches", "gate", "heads", "load", "objective", "train"))]
COLUMNS = ["step", "progress", "lr", "loss", "lm", "safety", "authority", "pet", "pet_raw", "lambda", "grad_norm_lora",
           "grad_norm_gate", "grad_norm_head", "max_angle", "mean_angle", "orthogonality", "tokens", "valid_loss", "valid_verdict"]


@dataclass(slots=True)
class Trainee:
    """Everything one run holds."""

    objective: Objective
    gates: dict[int, gate.Gate]
    heads: Heads | None
    tensors: dict[str, Tensor]
    optimizer: torch.optim.Optimizer
    template: Template
    pad: int
    device: torch.device
    rows: list[dict[str, Any]] = field(default_factory=list)


def train(base: Path, prepared: Path, out: Path, log_csv: Path, params: Params, progress: Progress) -> dict[str, Any]:
    """Train the adapter in `out` on the base in `base`; resumes an interrupted run with the same inputs.

    Raises:
        Interrupted: SIGINT or SIGTERM; the run is saved.
        GateError: the loss is not finite; the last checkpoint is kept.
    """
    settings = params.active.train
    if settings.threads:
        torch.set_num_threads(settings.threads)
    torch.use_deterministic_algorithms(True, warn_only=True)
    folder = base_dir(params.active.base, base)
    template = Template.of(folder)
    rows = {name: read_examples(prepared / f"{name}.jsonl", template, params.data.system, settings.max_length) for name in ("train", "valid")}
    inputs = _inputs(base, prepared, params)
    with checkpoint.run_directory("train", inputs) as root:
        trainee = build(folder, params, template)
        _loop(trainee, rows["train"][0], rows["valid"][0], root, params, progress)
        config = adapter.describe(params, trainee.heads, inputs["base"], inputs["data"]["train"])
        adapter.save(out, trainee.objective.model, trainee.gates, trainee.heads, config)
        write_text(log_csv, _csv(trainee.rows))
    return _summary(trainee, rows["train"][1])


def _inputs(base: Path, prepared: Path, params: Params) -> dict[str, Any]:
    sections = {name: getattr(params, name).model_dump(by_alias=True) for name in ("pet", "gates", "heads", "loss")}
    data = {name: sha256_file(prepared / f"{name}.jsonl") for name in ("train", "valid")}
    return {"seed": params.seed, **sections, "train": params.active.train.model_dump(), "base": sha256_tree(base), "data": data,
            "tokens": params.active.base.tokens.model_dump(), "system": params.data.system,
            "code": checkpoint.code_digest(MODULES), "torch": torch.__version__}


def build(folder: Path, params: Params, template: Template) -> Trainee:
    """Load the base, put LoRA, gates and heads on it, and make the optimiser."""
    settings = params.active.train
    torch.manual_seed(params.seed)
    model = adapter.attach_lora(load_for_training(folder, settings), settings)
    gates = gate.install(model, params.gates.layers) if params.gates.enabled else {}
    device = next(model.parameters()).device
    heads = None
    if params.heads.enabled:
        ids = role_token_ids(params.active.base.tokens, template.tokenizer)
        heads = Heads(model.config.hidden_size, ids, params.heads.mode, params.seed).to(device)
    if settings.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.enable_input_require_grads()
    objective = Objective(model, heads, use_pet=params.pet.weight > 0)
    tensors = adapter.trainable(model, heads)
    pad = int(getattr(model.config, "pad_token_id", None) or 0)
    return Trainee(objective, gates, heads, tensors, _optimizer(tensors, settings), template, pad, device)


def _optimizer(tensors: dict[str, Tensor], settings: Train) -> torch.optim.Optimizer:
    groups = {"lora": (settings.lr, settings.weight_decay), "gate": (settings.gate_lr, 0.0), "head": (settings.head_lr, 0.0)}
    members: dict[str, list[Tensor]] = {name: [] for name in groups}
    for name, tensor in tensors.items():
        members[_group(name)].append(tensor)
    return torch.optim.AdamW([{"params": members[name], "lr": lr, "peak": lr, "weight_decay": decay, "name": name}
                              for name, (lr, decay) in groups.items() if members[name]], betas=BETAS)


def _group(name: str) -> str:
    return "head" if name.startswith("heads.") else "gate" if "so8t_gate" in name else "lora"


def _plan(examples: list[Example], settings: Train, seed: int, epoch: int) -> list[list[list[int]]]:
    """Micro-batches of one epoch, each a list of rows, each row a list of example indices."""
    if not settings.packing:
        return [[[index] for index in batch] for batch in epoch_order(examples, settings.batch_size, seed, epoch)]
    order = [index for batch in epoch_order(examples, settings.batch_size, seed, epoch) for index in batch]
    bins = pack(examples, order, settings.max_length)
    shuffle = torch.randperm(len(bins), generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch)).tolist()
    return [[bins[i] for i in shuffle[start : start + settings.batch_size]] for start in range(0, len(bins), settings.batch_size)]


def total_steps(examples: list[Example], settings: Train, seed: int) -> int:
    """Optimiser steps of the whole run; the last, incomplete accumulation of an epoch counts as one."""
    per_epoch = math.ceil(len(_plan(examples, settings, seed, 0)) / settings.accumulation)
    return max(1, round(settings.epochs * per_epoch))


def _loop(t: Trainee, examples: list[Example], valid: list[Example], root: Path, params: Params, progress: Progress) -> None:
    settings = params.active.train
    per_epoch = math.ceil(len(_plan(examples, settings, params.seed, 0)) / settings.accumulation)
    steps = total_steps(examples, settings, params.seed)
    done = 0
    if (latest := checkpoint.newest_valid(root)) is not None:
        state = checkpoint.restore(latest, t.tensors, t.optimizer)
        done, t.rows = state["step"], state["rows"]
        progress.emit("resume", step=done)
    saved = time.monotonic()
    plan, planned = [], -1
    with checkpoint.StopFlag() as stop:
        for step in progress.bar(range(done, steps), total=steps - done, what="train", unit="step"):
            if planned != step // per_epoch:
                planned = step // per_epoch
                plan = _plan(examples, settings, params.seed, planned)
            at = (step % per_epoch) * settings.accumulation
            micro = [collate([[examples[i] for i in row] for row in rows], t.pad) for rows in plan[at : at + settings.accumulation]]
            row = _step(t, micro, step, steps, params, progress)
            if (step + 1) % settings.valid_steps == 0 or step + 1 == steps:
                row |= _validate(t, valid, params)
            t.rows.append(row)
            due = time.monotonic() - saved > settings.save_seconds or (step + 1) % settings.save_steps == 0
            if due or stop.signal or step + 1 == steps:
                checkpoint.save(root, step + 1, t.tensors, t.optimizer.state_dict(), {"step": step + 1, "rows": t.rows})
                checkpoint.prune(root, settings.keep)
                saved = time.monotonic()
            if stop.signal:
                raise Interrupted(stop.signal, f"stopped after step {step + 1} of {steps}; the run is saved", fix="run the same command again: it resumes")


def _rate(step: int, steps: int, warmup: float) -> float:
    rise = max(1, round(warmup * steps))
    if step < rise:
        return (step + 1) / rise
    return 0.5 * (1.0 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))


def _counts(micro: list[Batch]) -> dict[str, float]:
    """How many terms each loss part has over the whole step; the PET count is filled in after the forward."""
    return {"lm": float(sum(int((b.labels[:, 1:] >= 0).sum()) for b in micro)),
            "safety": float(sum(int((b.verdicts >= 0).sum()) for b in micro)),
            "authority": float(sum(int((b.authorities >= 0).sum()) for b in micro)), "pet": 0.0}


def _step(t: Trainee, micro: list[Batch], step: int, steps: int, params: Params, progress: Progress) -> dict[str, Any]:
    from so8t.pet import valid_triples

    settings, began = params.active.train, time.monotonic()
    rate = _rate(step, steps, settings.warmup_ratio)
    for group in t.optimizer.param_groups:
        group["lr"] = group["peak"] * rate
    weight = PRESETS[params.pet.preset].weight(params.pet.weight, step / steps)
    counts = _counts(micro)
    if t.objective.tap is not None:
        counts["pet"] = float(sum(int(valid_triples(b.samples).sum()) for b in micro) * t.objective.tap.layers)
    t.objective.train()
    sums = dict.fromkeys(("loss", "lm", "safety", "authority", "pet", "pet_raw"), 0.0)
    for batch in micro:
        parts: Parts = t.objective(batch.to(t.device))
        loss = weigh(parts, counts, params.loss, weight)
        loss.backward()  # type: ignore[no-untyped-call]
        sums["loss"] += loss.item()
        for name in ("lm", "safety", "authority", "pet", "pet_raw"):
            sums[name] += float(getattr(parts, name).detach()) / max(counts["pet" if name == "pet_raw" else name], 1.0)
    norms = _clip(t, settings.max_grad_norm)
    if not math.isfinite(sums["loss"]) or not all(math.isfinite(v) for v in norms.values()):
        raise GateError(f"the loss is not finite at step {step + 1} ({sums})", where="train",
                        fix="lower train.lr and train.gate_lr, or the data's lengths; the last checkpoint is kept")
    t.optimizer.step()
    t.optimizer.zero_grad(set_to_none=True)
    tokens = sum(batch.tokens for batch in micro)
    progress.emit("step", step=step + 1, of=steps, **sums, tokens_per_s=round(tokens / (time.monotonic() - began), 1))
    return {"step": step + 1, "progress": (step + 1) / steps, "lr": settings.lr * rate, **sums, "lambda": weight, **norms,
            **gate.monitors(t.gates), "tokens": tokens, "valid_loss": None, "valid_verdict": None}


def _clip(t: Trainee, limit: float) -> dict[str, float]:
    groups: dict[str, list[Tensor]] = {"lora": [], "gate": [], "head": []}
    for name, tensor in t.tensors.items():
        if tensor.grad is not None:
            groups[_group(name)].append(tensor.grad)
    norms = {f"grad_norm_{name}": float(torch.nn.utils.get_total_norm(grads)) if grads else 0.0 for name, grads in groups.items()}
    torch.nn.utils.clip_grad_norm_(list(t.tensors.values()), limit)
    return norms


@torch.no_grad()
def _validate(t: Trainee, valid: list[Example], params: Params) -> dict[str, float]:
    t.objective.eval()
    lm = lm_count = hits = known = 0.0
    for batch in batches_of(valid, params.active.train.batch_size, t.pad):
        parts: Parts = t.objective(batch.to(t.device))
        lm, lm_count = lm + float(parts.lm), lm_count + float(parts.lm_count)
        hits, known = hits + float(parts.verdict_hits), known + float(parts.safety_count)
    return {"valid_loss": lm / max(lm_count, 1.0), "valid_verdict": hits / max(known, 1.0)}


def _csv(rows: list[dict[str, Any]]) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({key: "" if value is None else f"{value:.8g}" for key, value in row.items()})
    return out.getvalue()


def _summary(t: Trainee, dropped: int) -> dict[str, Any]:
    last = t.rows[-1]
    return {"steps": last["step"], "lm": last["lm"], "valid_loss": last["valid_loss"], "valid_verdict": last["valid_verdict"],
            "max_angle": last["max_angle"], "trainable": sum(tensor.numel() for tensor in t.tensors.values()), "dropped": dropped}
