"""What training runs have saved: each run's checkpoints, and any of them as an adapter.

An exported adapter can be baked and evaluated like the one that training wrote, whether its run has
finished or not.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from so8t.errors import ArtifactError
from so8t.files import read_json, sha256_file, sha256_tree
from so8t.model_folder import weights_dir
from so8t.params import Params
from so8t.template import Template
from so8t.training import adapter, checkpoint
from so8t.training.trainee import build

# --- listing ---


@dataclass(frozen=True, slots=True)
class Saved:
    """One checkpoint: its folder's name, and the losses at its step.

    Attributes:
        name: such as `step-00000500`.
        loss: of its step; None for a broken checkpoint.
        valid_loss: of the last validation up to its step, if there was one.
        valid_verdict: share of right verdicts in that validation.
    """

    name: str
    loss: float | None = None
    valid_loss: float | None = None
    valid_verdict: float | None = None

    def line(self) -> str:
        """The checkpoint's line of the list."""
        if self.loss is None:
            return f"{self.name}  broken"
        parts = [f"loss {self.loss:.4f}"]
        # Not every step is validated, and a run may stop before its first validation.
        if self.valid_loss is not None:
            parts.append(f"valid loss {self.valid_loss:.4f}")
            parts.append(f"valid verdict {self.valid_verdict:.3f}")
        return f"{self.name}  {', '.join(parts)}"


@dataclass(frozen=True, slots=True)
class Run:
    """One training run: the name of its directory, what sets it apart, and its checkpoints."""

    key: str
    seed: int
    pet_lambda: float
    lr: float
    quantization: str
    checkpoints: list[Saved]

    def line(self) -> str:
        """The run's line of the list."""
        parts = [
            f"seed {self.seed}",
            f"pet.lambda {self.pet_lambda:g}",
            f"lr {self.lr:g}",
            self.quantization,
        ]
        return f"{self.key}  {', '.join(parts)}"


def runs() -> Iterator[Run]:
    """Every training run on this machine, its checkpoints in the order of their steps."""
    for root in sorted(checkpoint.runs_root("train").glob("*")):
        # A run that was killed at once has a directory and nothing in it.
        if not (root / "inputs.json").is_file():
            continue
        inputs = read_json(root / "inputs.json")
        yield Run(
            key=root.name,
            seed=inputs["seed"],
            pet_lambda=inputs["pet"]["lambda"],
            lr=inputs["train"]["lr"],
            quantization=inputs["train"]["quantization"],
            checkpoints=[_saved(folder) for folder in sorted(root.glob("step-*"))],
        )


def _saved(folder: Path) -> Saved:
    if not checkpoint.is_valid(folder):
        return Saved(folder.name)
    rows = read_json(folder / checkpoint.STATE)["rows"]
    loss = rows[-1]["loss"]
    # One row for each step since the run began, of which few were validated.
    validated = [row for row in rows if row["valid_loss"] is not None]
    if not validated:
        return Saved(folder.name, loss)
    last = validated[-1]
    return Saved(
        name=folder.name,
        loss=loss,
        valid_loss=last["valid_loss"],
        valid_verdict=last["valid_verdict"],
    )


# --- exporting ---


def export_adapter(
    run: str, step: int, base: Path, prepared: Path, params: Params, out: Path
) -> Path:
    """Write the adapter as it was after `step` of a run, for `stages/bake.py` and what follows.

    Args:
        run: name of the run's directory, as `so8t checkpoints list` shows it.
        step: one that has a checkpoint.
        base: models/base, as the train stage gets it.
        prepared: the folder of the prepared splits.
        params: the run's own; the checkpoint must fit the model that they describe.
        out: the folder to write.

    Raises:
        ArtifactError: no such checkpoint, or params.yaml now describes other tensors.
    """
    folder = checkpoint.runs_root("train") / run / checkpoint.name_of(step)
    if not checkpoint.is_valid(folder):
        raise ArtifactError(
            "no valid checkpoint there",
            where=str(folder),
            fix="`so8t checkpoints list` shows what there is",
        )
    source = weights_dir(params.active.base, base)
    # params.yaml says what to build; a checkpoint of other tensors is refused, not bent to fit.
    trainee = build(source, params, Template.of(source))
    checkpoint.restore_tensors(folder, trainee.tensors)
    config = adapter.describe(
        params,
        trainee.heads,
        base_digest=sha256_tree(base),
        data_digest=sha256_file(prepared / "train.jsonl"),
    )
    config["selected_step"] = step
    adapter.save(out, trainee.objective.model, trainee.gates, trainee.heads, config)
    return out
