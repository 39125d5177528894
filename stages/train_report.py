"""Turn the training log into a metrics file and a table for plots."""

from pathlib import Path

import click

from so8t.stage import stage

FILE = click.Path(path_type=Path)


@click.command()
@click.argument("log", type=FILE)
@click.argument("metrics", type=FILE)
@click.argument("plots", type=FILE)
def main(log: Path, metrics: Path, plots: Path) -> None:
    """Read LOG (CSV), write METRICS (JSON) and PLOTS (CSV).

    Tokens per second of a run on this machine go to train_speed.csv beside LOG.
    """
    with stage("train_report") as run:
        from so8t.files import write_json, write_text
        from so8t.progress import run_dir
        from so8t.training.report import read_log, speed, summarise, thin, to_csv

        rows = read_log(log)
        found = summarise(rows)
        write_json(metrics, found)
        write_text(plots, to_csv(thin(rows)))
        measured = speed(run_dir() / "progress" / "train.jsonl")
        if measured:
            # Not an output of the stage: times differ between machines.
            write_text(log.with_name("train_speed.csv"), to_csv(thin(measured)))
        first = found["first"]["loss"]
        last = found["last"]["loss"]
        run.summary = f"{found['steps']} steps, loss {first} -> {last}"


if __name__ == "__main__":
    main()
