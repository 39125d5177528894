"""Train LoRA, SO(8) gates and verdict heads on the base model; resumes where it was interrupted."""

import sys
from pathlib import Path

import click

from so8t.stage import stage


@click.command(help=__doc__)
@click.argument("base", type=click.Path(path_type=Path))
@click.argument("prepared", type=click.Path(path_type=Path))
@click.argument("adapter", type=click.Path(path_type=Path))
@click.option(
    "--log", "log_csv", type=click.Path(path_type=Path), required=True, help="CSV of every step."
)
def main(base: Path, prepared: Path, adapter: Path, log_csv: Path) -> None:
    with stage("train") as run:
        from so8t.training import ranks

        settings = run.params.active.train
        if settings.launcher == "torchrun" and settings.processes > 1 and not ranks.is_child():
            ranks.launch(sys.argv, settings.processes)
            run.summary = f"{settings.processes} processes have finished"
            return
        from so8t.training.train import train

        facts = train(base, prepared, adapter, log_csv, run.params, run.progress)
        run.summary = (
            f"{facts['steps']} steps, valid loss {facts['valid_loss']:.4f}, valid verdict {facts['valid_verdict']:.3f}, "
            f"{facts['trainable']:,} trainable numbers, largest angle {facts['max_angle']:.3f} rad"
        )


if __name__ == "__main__":
    main()
