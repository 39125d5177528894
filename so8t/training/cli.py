"""`so8t checkpoints ...`: list training checkpoints and write one as an adapter.

Checkpoints of unfinished and finished runs: list them, and write one as an adapter that can be baked and evaluated.
"""

from pathlib import Path
from typing import Any

import click

from so8t.errors import ArtifactError
from so8t.files import read_json, sha256_file, sha256_tree
from so8t.params import Params
from so8t.progress import database_dir
from so8t.training import checkpoint

FILE = click.Path(path_type=Path)


@click.group()
def checkpoints() -> None:
    """Checkpoints of training runs."""


@checkpoints.command("list")
def list_them() -> None:
    """Every run and its checkpoints."""

    found = runs()
    if not found:
        click.echo("no training run on this machine yet")
    for run in found:
        click.echo(
            f"{run['run']}  seed {run['seed']}, pet.lambda {run['pet_lambda']:g}, lr {run['lr']:g}, {run['quantization']}"
        )
        for one in run["checkpoints"]:
            if not one["valid"]:
                click.echo(f"  {one['name']}  broken")
                continue
            valid = (
                ""
                if one["valid_loss"] is None
                else f", valid loss {one['valid_loss']:.4f}, valid verdict {one['valid_verdict']:.3f}"
            )
            click.echo(f"  {one['name']}  loss {one['loss']:.4f}{valid}")


@checkpoints.command()
@click.argument("run")
@click.argument("step", type=click.IntRange(1))
@click.argument("out", type=FILE)
@click.option("--base", type=FILE, default=Path("models/base"), show_default=True)
@click.option("--prepared", type=FILE, default=Path("data/prepared"), show_default=True)
def export(run: str, step: int, out: Path, base: Path, prepared: Path) -> None:
    """Write checkpoint STEP of RUN as an adapter folder OUT; bake it with `python stages/bake.py`."""
    from so8t import params

    export_adapter(run, step, base, prepared, params.load(), out)
    click.echo(
        f"{out}: the adapter after step {step}; next: python stages/bake.py {base} {out} {prepared}/valid.jsonl models/baked-{step}"
    )


def runs() -> list[dict[str, Any]]:
    """Every training run on this machine: its key, what set it apart, and its checkpoints (newest last)."""
    found = []
    for root in sorted((database_dir() / "checkpoints" / "train").glob("*")):
        if (root / "inputs.json").is_file():
            inputs = read_json(root / "inputs.json")
            found.append(
                {
                    "run": root.name,
                    "seed": inputs["seed"],
                    "pet_lambda": inputs["pet"]["lambda"],
                    "lr": inputs["train"]["lr"],
                    "quantization": inputs["train"]["quantization"],
                    "checkpoints": [_entry(folder) for folder in sorted(root.glob("step-*"))],
                }
            )
    return found


def _entry(folder: Path) -> dict[str, Any]:
    if not checkpoint.is_valid(folder):
        return {"name": folder.name, "valid": False}
    rows = read_json(folder / "state.json")["rows"]
    known = [row for row in rows if row["valid_loss"] is not None]
    last = known[-1] if known else {"valid_loss": None, "valid_verdict": None}
    return {
        "name": folder.name,
        "valid": True,
        "loss": rows[-1]["loss"],
        "valid_loss": last["valid_loss"],
        "valid_verdict": last["valid_verdict"],
    }


def export_adapter(
    run: str, step: int, base: Path, prepared: Path, params: Params, out: Path
) -> Path:
    """Write the adapter as it was after `step` of a run, for `stages/bake.py` and what follows.

    Args:
        base: models/base, as the train stage gets it.

    Raises:
        ArtifactError: no such checkpoint, or params.yaml now describes other tensors.
    """
    from so8t.template import Template
    from so8t.training import adapter
    from so8t.training.load import base_dir
    from so8t.training.trainee import build

    folder = database_dir() / "checkpoints" / "train" / run / checkpoint.name_of(step)
    if not checkpoint.is_valid(folder):
        raise ArtifactError(
            "no valid checkpoint there",
            where=str(folder),
            fix="`so8t checkpoints list` shows what there is",
        )
    source = base_dir(params.active.base, base)
    trainee = build(source, params, Template.of(source))
    checkpoint.restore_tensors(folder, trainee.tensors)
    config = adapter.describe(
        params, trainee.heads, sha256_tree(base), sha256_file(prepared / "train.jsonl")
    )
    adapter.save(
        out,
        trainee.objective.model,
        trainee.gates,
        trainee.heads,
        {**config, "selected_step": step},
    )
    return out
