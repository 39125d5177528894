"""`so8t checkpoints`: list what training runs have saved, and write one of it as an adapter."""

from pathlib import Path

import click

FILE = click.Path(path_type=Path)


@click.group()
def checkpoints() -> None:
    """Checkpoints of training runs."""


@checkpoints.command("list")
def list_them() -> None:
    """Every run and its checkpoints."""
    from so8t.training.snapshots import runs

    found = list(runs())
    if not found:
        click.echo("no training run on this machine yet")
    for run in found:
        click.echo(run.line())
        for saved in run.checkpoints:
            click.echo(f"  {saved.line()}")


@checkpoints.command()
@click.argument("run")
@click.argument("step", type=click.IntRange(1))
@click.argument("out", type=FILE)
@click.option("--base", type=FILE, default=Path("models/base"), show_default=True)
@click.option("--prepared", type=FILE, default=Path("data/prepared"), show_default=True)
def export(run: str, step: int, out: Path, base: Path, prepared: Path) -> None:
    """Write checkpoint STEP of RUN as an adapter folder OUT; bake it with
    `python stages/bake.py`.
    """
    from so8t.params import load
    from so8t.training.snapshots import export_adapter

    export_adapter(run, step, base, prepared, load(), out)
    click.echo(
        f"{out}: the adapter after step {step}; next: "
        f"python stages/bake.py {base} {out} {prepared}/valid.jsonl models/baked-{step}"
    )
