"""`so8t checkpoints ...`: list training checkpoints and write one as an adapter."""

from pathlib import Path

import click

FILE = click.Path(path_type=Path)


@click.group()
def checkpoints() -> None:
    """Checkpoints of training runs."""


@checkpoints.command("list")
def list_them() -> None:
    """Every run and its checkpoints."""
    from so8t.tuning.snapshots import runs

    found = runs()
    if not found:
        click.echo("no training run on this machine yet")
    for run in found:
        click.echo(f"{run['run']}  seed {run['seed']}, pet.lambda {run['pet_lambda']:g}, lr {run['lr']:g}, {run['quantization']}")
        for one in run["checkpoints"]:
            if not one["valid"]:
                click.echo(f"  {one['name']}  broken")
                continue
            valid = "" if one["valid_loss"] is None else f", valid loss {one['valid_loss']:.4f}, valid verdict {one['valid_verdict']:.3f}"
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
    from so8t.tuning.snapshots import export as write

    write(run, step, base, prepared, params.load(), out)
    click.echo(f"{out}: the adapter after step {step}; next: python stages/bake.py {base} {out} {prepared}/valid.jsonl models/baked-{step}")
