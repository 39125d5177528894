"""Ten situations that people meet: what they see, why, what to type.

docs/troubleshooting.md is made of this table. Each situation's `key` is the name of the test that
provokes it (tests/operations/test_troubleshooting.py), which also checks that the message and the
exit code are the ones printed here.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Situation:
    """One situation of the page.

    Attributes:
        key: name of the test.
        title: what somebody types into a search box.
        says: a piece of the message.
        code: the exit code.
        cause: why it happens.
        happens: what the program does then.
        do: what to do, one step each.
    """

    key: str
    title: str
    says: str
    code: int
    cause: str
    happens: str
    do: tuple[str, ...]


SITUATIONS = (
    Situation(
        key="checkpoint_not_found",
        title="Checkpoint not found",
        says="no valid checkpoint step-500; there are",
        code=5,
        cause=(
            "`train.resume_from` names a step that is not there, or one that was cut off or "
            "damaged."
        ),
        happens=(
            "Training does not start; the message names the folder with its full path and every "
            "checkpoint in it. A damaged checkpoint is never used."
        ),
        do=(
            "set `train.resume_from: null` to go on from the newest valid one",
            "`ls` the named folder: each `step-N` there is whole or absent",
        ),
    ),
    Situation(
        key="invalid_gguf_magic",
        title="Invalid GGUF magic",
        says="the first four bytes are not GGUF",
        code=5,
        cause=(
            "The file is not a GGUF: a page saved instead of a download, a Git LFS pointer, or a "
            "file of another program."
        ),
        happens=(
            "The file is not read any further. Files of this project appear whole or not at all "
            "(temporary name, fsync, rename), so an interrupted run cannot leave one."
        ),
        do=(
            "`dvc checkout` or `dvc repro convert`",
            "`so8t gguf verify FILE` says what is there instead",
            "`so8t fsck` if it came from the cache or remote",
        ),
    ),
    Situation(
        key="missing_components",
        title="Missing SO8T components",
        says="SO8T components are missing: so8t_gates.safetensors",
        code=5,
        cause=(
            "The adapter folder lacks gates or heads. It was copied by hand, or saved by another "
            "program (PEFT alone does not save them)."
        ),
        happens=(
            "`so8t doctor --stage bake` lists what is missing and what is there; `bake` refuses "
            "instead of baking a model without rotations."
        ),
        do=(
            "`dvc checkout train` brings back the whole folder",
            "`dvc repro train` makes it again",
        ),
    ),
    Situation(
        key="cuda_out_of_memory",
        title="CUDA out of memory",
        says="GiB of graphics memory",
        code=7,
        cause="Weights, optimiser and activations together do not fit the card.",
        happens=(
            "The memory needed is computed from the model's config before anything is loaded. The "
            "message ends with settings that fit; the effective batch (batch_size x accumulation) "
            "stays the same."
        ),
        do=(
            "type the `dvc exp run -S ...` line of the message",
            "`so8t doctor --stage train` shows what is free; close what else uses the card",
        ),
    ),
    Situation(
        key="loss_does_not_fall",
        title="The loss does not fall",
        says="the loss did not fall",
        code=8,
        cause=(
            "The learning rate is too high or too low, there are duplicates in the data, or PET "
            "outweighs the language loss."
        ),
        happens=(
            "A loss or gradient that is not finite, or that explodes, stops training. Its parts "
            "are named, and the last checkpoint is kept. `so8t doctor --stage bake` compares the "
            "first with the last tenth of the log."
        ),
        do=(
            (
                "duplicates: `reports/data.md`; share of PET: `reports/report.md` and "
                "`data/train_log.csv`"
            ),
            "try half and twice the `train.lr`",
            "`dvc exp run -S pet.lambda=0` trains without PET",
        ),
    ),
    Situation(
        key="conversion_fails",
        title="Conversion to GGUF fails",
        says="tensors that no stock model has",
        code=5,
        cause=(
            "The folder is not a stock Hugging Face model: an adapter or gate is still in it, a "
            "file is missing, or the architecture is unknown."
        ),
        happens=(
            "Names of tensors are checked against the architecture before anything is written. No "
            "partial file is left."
        ),
        do=(
            "`dvc repro bake`: the baked folder holds a stock model",
            "`so8t doctor --stage convert` names the tensors or files",
        ),
    ),
    Situation(
        key="quantisation_fails",
        title="Quantisation fails",
        says="was changed or damaged",
        code=5,
        cause="The F16 file is damaged, or libllama failed.",
        happens=(
            "The source's seal is checked first, because libllama quantises damaged data without a "
            "warning. The message ends with the last lines of libllama's log. The F16 file is "
            "never passed off as the result."
        ),
        do=(
            "`dvc repro convert`, then `dvc repro quantize`",
            "`so8t doctor` says which llama.cpp build is installed",
        ),
    ),
    Situation(
        key="calibration_cannot_certify",
        title="Calibration does not converge",
        says="unsafe groups needed",
        code=5,
        cause=(
            "There are too few data, not too few iterations: a 5 % certificate takes 59 "
            "independent groups of unsafe requests in each domain."
        ),
        happens=(
            "The card is written with status `not_certified`, allows nothing, and says how many "
            "groups each domain lacks. `so8t gate` ends with code 5."
        ),
        do=(
            "add labelled rows for the named domains, then `dvc repro calibrate`",
            (
                "or accept a weaker promise (`calibration.guarantee: pooled`) or a larger risk "
                "(`calibration.alpha`)"
            ),
        ),
    ),
    Situation(
        key="disk_full",
        title="No space left on device",
        says="the disk is full; nothing was left half-written",
        code=7,
        cause="The disk ran full during a run.",
        happens=(
            "What was being written is removed, and what was there stays, checkpoints too. "
            "Nothing of yours is deleted to make room."
        ),
        do=(
            "`so8t plan` says what a run needs, `so8t gc` what old versions hold",
            "free some space, then `dvc repro`: it goes on where it stopped",
        ),
    ),
    Situation(
        key="model_does_not_load",
        title="The model does not load",
        says="libllama cannot load this file",
        code=5,
        cause="The GGUF was cut off or changed, or needs another llama.cpp.",
        happens=(
            "The file and libllama's own words are in the message. There is no fallback to the "
            "base model: a file that cannot be read answers nothing."
        ),
        do=(
            "`so8t gguf verify FILE`, `so8t fsck --repair`",
            "`dvc checkout`, or `so8t rollback REV` to a version that worked",
        ),
    ),
)

# What people ask about DVC: what they see, and what to do.
DVC_QUESTIONS = (
    (
        "conflict in `dvc.lock` after a merge",
        "`git checkout --ours dvc.lock`, `dvc repro`, commit",
    ),
    (
        "`'./dvc.lock' validation failed`",
        "DVC was killed while it wrote it: `so8t fsck --repair`, `dvc repro`",
    ),
    (
        "everything wants to run after a comment was edited",
        "`dvc commit -f STAGE` records the new code without running",
    ),
    (
        "`dvc pull` says a file is missing",
        "it was never pushed: `dvc data status --not-in-remote` where it was made, then `dvc push`",
    ),
    (
        "`Unable to acquire lock` / `rwlock` busy",
        (
            "a run is going on (`so8t doctor` names its process); if that process is gone, delete "
            "`.dvc/tmp/rwlock`"
        ),
    ),
    (
        "a queue task stays `Running` after a power cut",
        "`dvc queue kill NAME`, `dvc queue remove --failed`, queue it again: training resumes",
    ),
    (
        "`git checkout -- .` does not undo `dvc.lock`",
        "it is staged (`core.autostage`): `git restore -SW .`, then `dvc checkout`",
    ),
)


def page() -> str:
    """docs/troubleshooting.md."""
    lines = [
        "# Troubleshooting",
        "",
        "First `so8t doctor` (with `--stage NAME` for one stage): "
        "it finds most causes and prints the fix.",
        "Every stage keeps its log in `database/logs/`, and every error names it.",
        "Exit codes: [errors.md](errors.md); "
        "interruptions and damage: [reliability.md](reliability.md).",
        "",
    ]
    for situation in SITUATIONS:
        lines += _section(situation)
    lines += [
        "## Everyday questions about DVC",
        "",
        "| you see | do |",
        "|---|---|",
    ]
    lines += [f"| {seen} | {remedy} |" for seen, remedy in DVC_QUESTIONS]
    return "\n".join(lines) + "\n"


def _section(situation: Situation) -> list[str]:
    return [
        f"## {situation.title}",
        "",
        f"You see `{situation.says}` (exit code {situation.code}).",
        "",
        f"{situation.cause} {situation.happens}",
        "",
        *(f"- {step}" for step in situation.do),
        "",
    ]
