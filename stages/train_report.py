"""Turn the training log into a metrics file and a table for plots."""

from pathlib import Path

import click

from so8t.stage import stage

FILE = click.Path(path_type=Path)


@click.command()
@click.argument("log", type=FILE)
@click.argument("metrics", type=FILE)
@click.argument("plots", type=FILE)
@click.argument("speeds", type=FILE)
def main(log: Path, metrics: Path, plots: Path, speeds: Path) -> None:
    """Read LOG (CSV), write METRICS (JSON), PLOTS (CSV), and SPEEDS (CSV): tokens per second as
    this machine trained, an empty table where it did not.
    """
    with stage("train_report") as run:
        from so8t.files import write_json, write_text
        from so8t.progress import run_dir
        from so8t.training.report import read_log, speed, speeds_csv, summarise, thin, to_csv

        rows = read_log(log)
        found = summarise(rows)
        write_json(metrics, found)
        write_text(plots, to_csv(thin(rows)))
        measured = speed(run_dir() / "progress" / "train.jsonl")
        write_text(speeds, speeds_csv(thin(measured)))
        first = found["first"]["loss"]
        last = found["last"]["loss"]
        run.summary = f"{found['steps']} steps, loss {first} -> {last}"


if __name__ == "__main__":
    main()
