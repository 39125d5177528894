"""Turn the training log into a metrics file and a table for plots."""

from pathlib import Path

import click

from so8t.stage import stage


@click.command()
@click.argument("log", type=click.Path(path_type=Path))
@click.argument("metrics", type=click.Path(path_type=Path))
@click.argument("plots", type=click.Path(path_type=Path))
def main(log: Path, metrics: Path, plots: Path) -> None:
    """Read LOG (CSV), write METRICS (JSON) and PLOTS (CSV); tokens per second of a run on this machine go to train_speed.csv beside LOG."""
    with stage("train_report") as run:
        from so8t.files import write_json, write_text
        from so8t.progress import run_dir
        from so8t.report.training import read_log, speed, summarise, thin, to_csv

        rows = read_log(log)
        found = summarise(rows)
        write_json(metrics, found)
        write_text(plots, to_csv(thin(rows)))
        if measured := speed(
            run_dir() / "progress" / "train.jsonl"
        ):  # not an output: times differ between machines
            write_text(log.with_name("train_speed.csv"), to_csv(thin(measured)))
        run.summary = (
            f"{found['steps']} steps, loss {found['first']['loss']} -> {found['last']['loss']}"
        )


if __name__ == "__main__":
    main()
