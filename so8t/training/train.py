"""Adapter training: LoRA, SO(8) gates, heads and PET on a frozen, possibly quantised base (or the whole base, `full`).

Our own loop: HF Trainer drops the gates on resume without a word. State between steps is (tensors, optimiser, RNG,
step), so that a resumed run equals an uninterrupted one bit for bit on a CPU. Several processes (tuning.ranks) run the
same loop; the first one writes.
"""

import math
import shutil
import time
from pathlib import Path
from typing import Any

import torch

from so8t.errors import ArtifactError, Interrupted
from so8t.files import csv_text, read_json, sha256_file, sha256_tree, write_text
from so8t.params import Params, Train
from so8t.progress import Progress
from so8t.template import Template
from so8t.training import adapter, checkpoint, memory, ranks
from so8t.training.batches import Example, epoch_order, pack, read_examples, statistics
from so8t.training.load import base_dir, decoder_layers, settle
from so8t.training.ranks import Ranks
from so8t.training.step import Moment, Trainee, build, run_step, summary_of, validate

MODULES = [
    "so8t.rotation",
    "so8t.triality",
    "so8t.pet",
    "so8t.chat",
    "so8t.template",
    *(
        f"so8t.tuning.{name}"
        for name in (
            "adapter",
            "bank",
            "batches",
            "gate",
            "heads",
            "load",
            "objective",
            "step",
            "train",
            "trainee",
        )
    ),
]
COLUMNS = [
    "step",
    "progress",
    "lr",
    "loss",
    "lm",
    "safety",
    "authority",
    "label",
    "pet",
    "pet_raw",
    "lambda",
    "grad_norm_lora",
    "grad_norm_gate",
    "grad_norm_head",
    "max_angle",
    "mean_angle",
    "orthogonality",
    "tokens",
    "valid_loss",
    "valid_verdict",
]
NOT_THE_RUN = {
    "save_seconds",
    "save_steps",
    "keep",
    "select",
    "resume_from",
    "launcher",
    "processes",
    "shard",
}  # change no step of it


def train(
    base: Path, prepared: Path, out: Path, log_csv: Path, params: Params, progress: Progress
) -> dict[str, Any]:
    """Train the adapter in `out` on the base in `base`; resumes an interrupted run with the same inputs.

    Raises:
        Interrupted: SIGINT or SIGTERM; the run is saved.
        GateError: the loss is not finite or has exploded; the last checkpoint is kept.
    """
    settings, siblings = params.active.train, ranks.join()
    settle(settings.threads)
    folder = base_dir(params.active.base, base)
    template = Template.of(folder)
    (examples, dropped), (valid, _) = (
        read_examples(prepared / f"{name}.jsonl", template, params.data.system, settings.max_length)
        for name in ("train", "valid")
    )
    inputs = inputs_of(base, prepared, params)
    try:
        with checkpoint.run_directory("train", inputs, writes=siblings.leads) as root:
            _preflight(folder, root, params)
            trainee = build(folder, params, template)
            if settings.shard and siblings.world > 1:
                ranks.shard(
                    decoder_layers(trainee.objective.model),
                    trainee.tensors.values(),
                    trainee.device,
                )
            _loop(trainee, examples, valid, root, params, progress, siblings)
            chosen = _choose(trainee, root, settings)
            tokens = statistics(examples, dropped, _plan(examples, settings, params.train_seed, 0))
            if siblings.leads:
                config = adapter.describe(
                    params, trainee.heads, inputs["base"], inputs["data"]["train"]
                )
                adapter.save(
                    out,
                    trainee.objective.model,
                    trainee.gates,
                    trainee.heads,
                    {**config, "selected_step": chosen, "tokens": tokens},
                )
                write_text(log_csv, _csv(trainee.rows))
            siblings.wait()
    finally:
        ranks.leave()
    last = trainee.rows[-1]
    return {
        "steps": last["step"],
        "selected_step": chosen,
        **{k: last[k] for k in ("lm", "valid_loss", "valid_verdict", "max_angle")},
        "trainable": sum(summary_of(trainee.tensors).values()),
        "dropped": dropped,
        "tokens": tokens,
        "leads": siblings.leads,
    }


def _preflight(folder: Path, root: Path, params: Params) -> None:
    """Disk and graphics memory, before anything is loaded."""
    config, settings = read_json(folder / "config.json"), params.active.train
    memory.require_disk(config, settings, shutil.disk_usage(root).free)
    if torch.cuda.is_available():
        memory.require(config, settings, params.profile, torch.cuda.mem_get_info()[0])


def inputs_of(base: Path, prepared: Path, params: Params) -> dict[str, Any]:
    """Everything that defines the run; its digest names the run's directory."""
    sections = {
        name: getattr(params, name).model_dump(by_alias=True) for name in ("pet", "gates", "heads")
    }
    data = {name: sha256_file(prepared / f"{name}.jsonl") for name in ("train", "valid")}
    settings = params.active.train
    foreign = checkpoint.foreign(settings.resume_from)
    return {
        "seed": params.train_seed,
        **sections,
        "loss": params.active.loss.model_dump(),
        "train": settings.model_dump(exclude=NOT_THE_RUN),
        "base": sha256_tree(base),
        "data": data,
        "tokens": params.active.base.tokens.model_dump(),
        "system": params.data.system,
        "code": checkpoint.code_digest(MODULES),
        "torch": torch.__version__,
        "from": sha256_tree(foreign) if foreign else None,
    }


def _plan(examples: list[Example], settings: Train, seed: int, epoch: int) -> list[list[list[int]]]:
    """Micro-batches of one epoch, each a list of rows, each row a list of example indices."""
    if not settings.packing:
        return [
            [[index] for index in batch]
            for batch in epoch_order(examples, settings.batch_size, seed, epoch)
        ]
    order = [
        index
        for batch in epoch_order(examples, settings.batch_size, seed, epoch)
        for index in batch
    ]
    bins = pack(examples, order, settings.max_length)
    shuffle = torch.randperm(
        len(bins), generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    ).tolist()
    return [
        [bins[i] for i in shuffle[start : start + settings.batch_size]]
        for start in range(0, len(bins), settings.batch_size)
    ]


def _steps_per_epoch(examples: list[Example], settings: Train, seed: int) -> int:
    return math.ceil(len(_plan(examples, settings, seed, 0)) / settings.accumulation)


def total_steps(examples: list[Example], settings: Train, seed: int) -> int:
    """Optimiser steps of the whole run; the last, incomplete accumulation of an epoch counts as one."""
    return max(1, round(settings.epochs * _steps_per_epoch(examples, settings, seed)))


class _Schedule:
    """The micro-batches of any step, planned one epoch at a time."""

    def __init__(self, examples: list[Example], settings: Train, seed: int) -> None:
        self.examples, self.settings, self.seed = examples, settings, seed
        self.per_epoch, self.epoch = _steps_per_epoch(examples, settings, seed), -1

    def micro(self, step: int) -> list[list[list[Example]]]:
        if self.epoch != step // self.per_epoch:
            self.epoch = step // self.per_epoch
            self.plan = _plan(self.examples, self.settings, self.seed, self.epoch)
        at = (step % self.per_epoch) * self.settings.accumulation
        return [
            [[self.examples[i] for i in row] for row in rows]
            for rows in self.plan[at : at + self.settings.accumulation]
        ]


def _loop(
    t: Trainee,
    examples: list[Example],
    valid: list[Example],
    root: Path,
    params: Params,
    progress: Progress,
    siblings: Ranks,
) -> None:
    settings, schedule = (
        params.active.train,
        _Schedule(examples, params.active.train, params.train_seed),
    )
    steps = total_steps(examples, settings, params.train_seed)
    done = _resume(t, root, settings, steps, progress)
    siblings.wait()
    saved = time.monotonic()
    with checkpoint.StopFlag() as stop:
        for step in progress.bar(range(done, steps), total=steps - done, what="train", unit="step"):
            began = time.monotonic()
            row = run_step(t, schedule.micro(step), Moment(step, steps), params, siblings)
            validated = (step + 1) % settings.valid_steps == 0 or step + 1 == steps
            if validated:
                row |= validate(t, valid, settings.batch_size, siblings)
            t.rows.append(row)
            _tell(progress, row, steps, time.monotonic() - began)
            stopped = siblings.largest(stop.signal, t.device)
            due = (
                siblings.largest(int(time.monotonic() - saved > settings.save_seconds), t.device)
                or (step + 1) % settings.save_steps == 0
            )
            if (
                due
                or stopped
                or step + 1 == steps
                or (validated and step + 1 in _best_steps(t.rows).values())
            ):
                if siblings.leads:
                    _save(t, root, settings)
                saved = time.monotonic()
            if stopped:
                raise Interrupted(
                    stopped,
                    f"stopped after step {step + 1} of {steps}; the run is saved",
                    fix="run the same command again: it resumes",
                )


def _resume(t: Trainee, root: Path, settings: Train, steps: int, progress: Progress) -> int:
    """Load the checkpoint to go on from, if any; return the steps done."""
    start = checkpoint.starting_point(root, settings.resume_from)
    if start is None:
        return 0
    state = checkpoint.restore(start, t.tensors, t.optimizer)
    if state["step"] > steps:
        raise ArtifactError(
            f"this checkpoint is of step {state['step']}, the run has {steps}",
            where=str(start),
            fix="raise train.epochs or set train.resume_from: null",
        )
    t.rows = state["rows"]
    progress.emit("resume", step=state["step"], checkpoint=start.name)
    done: int = state["step"]
    return done


def _tell(progress: Progress, row: dict[str, Any], steps: int, seconds: float) -> None:
    shown = {
        key: row[key]
        for key in (
            "loss",
            "lm",
            "safety",
            "authority",
            "label",
            "pet",
            "pet_raw",
            "valid_loss",
            "valid_verdict",
        )
        if row[key] is not None
    }
    progress.emit(
        "step", step=row["step"], of=steps, **shown, tokens_per_s=round(row["tokens"] / seconds, 1)
    )


def _best_steps(rows: list[dict[str, Any]]) -> dict[str, int]:
    """The best validated step by each criterion; the earliest of equals."""
    known = [
        row for row in rows if row["valid_loss"] is not None and math.isfinite(row["valid_loss"])
    ]
    if not known:
        return {}
    return {
        "best_loss": min(known, key=lambda row: row["valid_loss"])["step"],
        "best_verdict": min(known, key=lambda row: (-row["valid_verdict"], row["valid_loss"]))[
            "step"
        ],
    }


def _save(t: Trainee, root: Path, settings: Train) -> None:
    step = t.rows[-1]["step"]
    checkpoint.save(root, step, t.tensors, t.optimizer.state_dict(), {"step": step, "rows": t.rows})
    checkpoint.prune(
        root, settings.keep, {checkpoint.name_of(best) for best in _best_steps(t.rows).values()}
    )


def _choose(t: Trainee, root: Path, settings: Train) -> int:
    """Put the weights of the selected step into the trainee; return that step."""
    last: int = t.rows[-1]["step"]
    step = _best_steps(t.rows).get(settings.select, last)
    if step != last:
        folder = root / checkpoint.name_of(step)
        if not checkpoint.is_valid(folder):
            raise ArtifactError(
                f"the checkpoint of the best step {step} is missing or broken",
                where=str(folder),
                fix="set train.select: last, or train afresh",
            )
        checkpoint.restore_tensors(folder, t.tensors)
    return step


def _csv(rows: list[dict[str, Any]]) -> str:
    return csv_text(COLUMNS, rows, numbers=".8g")
