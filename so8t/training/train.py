"""Training: LoRA, SO(8) gates, verdict heads and PET on a frozen base, or the whole base (`full`).

The loop is our own: the Trainer of transformers drops the gates on resume without a word. A run's
state between two steps is its trained tensors, optimiser, random state and step, so that a resumed
run equals an uninterrupted one bit for bit on a CPU. Several processes (training.ranks) run the
same loop, and the first one writes.
"""

import math
import shutil
import time
from pathlib import Path
from typing import Any

import torch

from so8t.base.batches import Example, read_examples, statistics
from so8t.base.load import decoder_layers, settle
from so8t.errors import ArtifactError, Interrupted
from so8t.files import csv_text, read_json, sha256_file, sha256_tree, write_text
from so8t.model_folder import weights_dir
from so8t.params import Params, Train
from so8t.progress import Progress
from so8t.template import Template
from so8t.training import adapter, checkpoint, memory, ranks
from so8t.training.ranks import Ranks
from so8t.training.schedule import MicroBatches, plan_epoch, total_steps
from so8t.training.step import Moment, run_step, validate
from so8t.training.trainee import Trainee, build

# Modules outside this folder that say what a run computes.
SHARED_CODE = (
    "so8t.chat",
    "so8t.pet",
    "so8t.rotation",
    "so8t.rows",
    "so8t.template",
    "so8t.triality",
    "so8t.verdict",
)
# Columns of the training log.
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
# What the progress shows of a step, where it was measured.
SHOWN = [
    "loss",
    "lm",
    "safety",
    "authority",
    "label",
    "pet",
    "pet_raw",
    "valid_loss",
    "valid_verdict",
]
# Settings that change no step of a run: with other values it is still the same run.
NOT_THE_RUN = {
    "save_seconds",
    "save_steps",
    "keep",
    "select",
    "resume_from",
    "launcher",
    "processes",
    "shard",
}


def train(
    base: Path,
    prepared: Path,
    out: Path,
    log_csv: Path,
    params: Params,
    progress: Progress,
) -> dict[str, Any]:
    """Train an adapter; an interrupted run with the same inputs is resumed.

    Args:
        base: the `base` stage's output.
        prepared: the folder of prepared rows.
        out: the adapter's folder, written at the end.
        log_csv: the log, one row a step, written at the end.
        params: of the active profile.
        progress: told of every step.

    Raises:
        Interrupted: SIGINT or SIGTERM; the run is saved.
        GateError: the loss is not finite or has exploded; the last checkpoint is kept.
    """
    settings = params.active.train
    # Before anything is loaded: each rank must know its own graphics card.
    siblings = ranks.join()
    settle(settings.threads)
    # The base stage leaves a large local model where it is and describes it.
    folder = weights_dir(params.active.base, base)
    template = Template.of(folder)
    system = params.data.system
    limit = settings.max_length
    examples, dropped = read_examples(prepared / "train.jsonl", template, system, limit)
    valid, _ = read_examples(prepared / "valid.jsonl", template, system, limit)
    inputs = inputs_of(base, prepared, params)
    try:
        with checkpoint.run_directory("train", inputs, writes=siblings.leads) as root:
            _preflight(folder, root, params)
            trainee = build(folder, params, template)
            if settings.shard and siblings.world > 1:
                layers = decoder_layers(trainee.objective.model)
                ranks.shard(layers, trainee.tensors.values(), trainee.device)
            _loop(trainee, examples, valid, root, params, progress, siblings)
            chosen = _choose(trainee, root, settings)
            first_epoch = plan_epoch(examples, settings, params.train_seed, 0)
            tokens = statistics(examples, dropped, first_epoch)
            # Two ranks that write one folder would undo each other.
            if siblings.leads:
                found = {"selected_step": chosen, "tokens": tokens}
                _write_adapter(out, trainee, params, inputs, found)
                write_text(log_csv, csv_text(COLUMNS, trainee.rows, numbers=".8g"))
            # Every rank returns only when the adapter is there.
            siblings.wait()
    finally:
        ranks.leave()
    last = trainee.rows[-1]
    return {
        "steps": last["step"],
        "selected_step": chosen,
        "lm": last["lm"],
        "valid_loss": last["valid_loss"],
        "valid_verdict": last["valid_verdict"],
        "max_angle": last["max_angle"],
        "trainable": sum(tensor.numel() for tensor in trainee.tensors.values()),
        "dropped": dropped,
        "tokens": tokens,
        "leads": siblings.leads,
    }


def _write_adapter(
    out: Path,
    t: Trainee,
    params: Params,
    inputs: dict[str, Any],
    found: dict[str, Any],
) -> None:
    """Write the adapter; its config says what it was made from and what was `found`."""
    config = adapter.describe(params, t.heads, inputs["base"], inputs["data"]["train"])
    adapter.save(out, t.objective.model, t.gates, t.heads, {**config, **found})


def _preflight(
    folder: Path,
    root: Path,
    params: Params,
) -> None:
    """Check disk and graphics memory before anything is loaded."""
    config = read_json(folder / "config.json")
    settings = params.active.train
    memory.require_disk(config, settings, shutil.disk_usage(root).free)
    if torch.cuda.is_available():
        free, _ = torch.cuda.mem_get_info()
        memory.require(config, settings, params.profile, free)


def code_of_a_run() -> list[str]:
    """Names of the modules whose code says what a run computes.

    They are all of the folders `training` and `base`, and what those share with other stages.
    Plumbing (files, errors, progress) is left out: it changes no step.
    """
    library = Path(__file__).parents[1]
    names = list(SHARED_CODE)
    for folder in ("base", "training"):
        names += [f"so8t.{folder}.{path.stem}" for path in (library / folder).glob("[a-z]*.py")]
    return sorted(names)


def inputs_of(
    base: Path,
    prepared: Path,
    params: Params,
) -> dict[str, Any]:
    """Everything that defines the run; its digest names the run's directory."""
    settings = params.active.train
    foreign = checkpoint.foreign(settings.resume_from)
    return {
        "seed": params.train_seed,
        "pet": params.pet.model_dump(by_alias=True),
        "gates": params.gates.model_dump(by_alias=True),
        "heads": params.heads.model_dump(by_alias=True),
        "loss": params.active.loss.model_dump(),
        "train": settings.model_dump(exclude=NOT_THE_RUN),
        "base": sha256_tree(base),
        "data": {
            "train": sha256_file(prepared / "train.jsonl"),
            "valid": sha256_file(prepared / "valid.jsonl"),
        },
        "tokens": params.active.base.tokens.model_dump(),
        "system": params.data.system,
        "code": checkpoint.code_digest(code_of_a_run()),
        "torch": torch.__version__,
        "from": sha256_tree(foreign) if foreign else None,
    }


def _loop(
    t: Trainee,
    examples: list[Example],
    valid: list[Example],
    root: Path,
    params: Params,
    progress: Progress,
    siblings: Ranks,
) -> None:
    """Do every step that is left, with validations and checkpoints between them."""
    settings = params.active.train
    micro_batches = MicroBatches(examples, settings, params.train_seed)
    steps = total_steps(examples, settings, params.train_seed)
    done = _resume(t, root, settings, steps, progress)
    # Nobody may write a checkpoint while another rank still looks for the one to resume.
    siblings.wait()
    saved = time.monotonic()
    with checkpoint.StopFlag() as stop:
        for step in progress.bar(range(done, steps), total=steps - done, what="train", unit="step"):
            began = time.monotonic()
            is_last = step + 1 == steps
            row = run_step(t, micro_batches.of(step), Moment(step, steps), params, siblings)
            validated = is_last or (step + 1) % settings.valid_steps == 0
            if validated:
                row |= validate(t, valid, settings.batch_size, siblings)
            t.rows.append(row)
            _tell(progress, row, steps, time.monotonic() - began)
            # Signals and clocks differ between ranks: all must come to the same decision.
            stopped = siblings.largest(stop.signal, t.device)
            overdue = int(time.monotonic() - saved > settings.save_seconds)
            due = bool(siblings.largest(overdue, t.device))
            due = due or (step + 1) % settings.save_steps == 0
            is_best = validated and step + 1 in _best_steps(t.rows).values()
            if due or stopped or is_last or is_best:
                if siblings.leads:
                    _save(t, root, settings)
                saved = time.monotonic()
            if stopped:
                raise Interrupted(
                    stopped,
                    f"stopped after step {step + 1} of {steps}; the run is saved",
                    fix="run the same command again: it resumes",
                )


def _resume(
    t: Trainee,
    root: Path,
    settings: Train,
    steps: int,
    progress: Progress,
) -> int:
    """Load the checkpoint to go on from, if any; return the steps that are done.

    Raises:
        ArtifactError: it is of a later step than the run has.
    """
    start = checkpoint.starting_point(root, settings.resume_from)
    if start is None:
        return 0
    state = checkpoint.restore(start, t.tensors, t.optimizer)
    done: int = state["step"]
    if done > steps:
        raise ArtifactError(
            f"this checkpoint is of step {done}, the run has {steps}",
            where=str(start),
            fix="raise train.epochs or set train.resume_from: null",
        )
    t.rows = state["rows"]
    progress.emit("resume", step=done, checkpoint=start.name)
    return done


def _tell(
    progress: Progress,
    row: dict[str, Any],
    steps: int,
    seconds: float,
) -> None:
    shown = {key: row[key] for key in SHOWN if row[key] is not None}
    # Tokens of all ranks: it is the speed of the run, not of a process.
    rate = round(row["tokens"] / seconds, 1)
    progress.emit("step", step=row["step"], of=steps, **shown, tokens_per_s=rate)


def _best_steps(rows: list[dict[str, Any]]) -> dict[str, int]:
    """The best validated step by each criterion of `train.select`; the earliest of equals."""
    known = []
    for row in rows:
        if row["valid_loss"] is not None and math.isfinite(row["valid_loss"]):
            known.append(row)
    if not known:
        return {}
    # Steps of equal verdicts are many: the loss decides between them.
    by_loss = min(known, key=lambda row: row["valid_loss"])
    by_verdict = min(known, key=lambda row: (-row["valid_verdict"], row["valid_loss"]))
    return {"best_loss": by_loss["step"], "best_verdict": by_verdict["step"]}


def _save(
    t: Trainee,
    root: Path,
    settings: Train,
) -> None:
    step = t.rows[-1]["step"]
    # With its rows, so that the log of a resumed run is whole.
    state = {"step": step, "rows": t.rows}
    checkpoint.save(root, step, t.tensors, t.optimizer.state_dict(), state)
    best = {checkpoint.name_of(number) for number in _best_steps(t.rows).values()}
    checkpoint.prune(root, settings.keep, best)


def _choose(
    t: Trainee,
    root: Path,
    settings: Train,
) -> int:
    """Put the weights of the selected step into the trainee; return that step.

    Raises:
        ArtifactError: its checkpoint is missing or broken.
    """
    last: int = t.rows[-1]["step"]
    step = _best_steps(t.rows).get(settings.select, last)
    if step == last:
        return step
    folder = root / checkpoint.name_of(step)
    if not checkpoint.is_valid(folder):
        raise ArtifactError(
            f"the checkpoint of the best step {step} is missing or broken",
            where=str(folder),
            fix="set train.select: last, or train afresh",
        )
    checkpoint.restore_tensors(folder, t.tensors)
    return step
