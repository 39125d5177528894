"""Train LoRA, SO(8) gates and verdict heads on the base model; resumes where it was interrupted."""

import sys
from pathlib import Path

import click

from so8t.stage import stage

FILE = click.Path(path_type=Path)


@click.command(help=__doc__)
@click.argument("base", type=FILE)
@click.argument("prepared", type=FILE)
@click.argument("adapter", type=FILE)
@click.option("--log", "log_csv", type=FILE, required=True, help="CSV of every step.")
def main(base: Path, prepared: Path, adapter: Path, log_csv: Path) -> None:
    with stage("train") as run:
        # Heavy imports stand inside, so that `--help` needs no torch.
        from so8t.training import ranks

        settings = run.params.active.train
        distributed = settings.launcher == "torchrun" and settings.processes > 1
        # torchrun starts this same script once per process; those processes train.
        if distributed and not ranks.is_child():
            ranks.launch(sys.argv, settings.processes)
            run.summary = f"{settings.processes} processes have finished"
            return
        from so8t.training.train import train

        facts = train(base, prepared, adapter, log_csv, run.params, run.progress)
        run.summary = (
            f"{facts['steps']} steps, valid loss {facts['valid_loss']:.4f}, "
            f"valid verdict {facts['valid_verdict']:.3f}, "
            f"{facts['trainable']:,} trainable numbers, "
            f"largest angle {facts['max_angle']:.3f} rad"
        )


if __name__ == "__main__":
    main()
