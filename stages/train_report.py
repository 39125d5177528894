"""Turn the training log into a metrics file and a table for plots."""

from pathlib import Path

import click

from so8t.stage import stage


@click.command()
@click.argument("log", type=click.Path(path_type=Path))
@click.argument("metrics", type=click.Path(path_type=Path))
@click.argument("plots", type=click.Path(path_type=Path))
def main(log: Path, metrics: Path, plots: Path) -> None:
    """Read LOG (CSV), write METRICS (JSON) and PLOTS (CSV)."""
    with stage("train_report") as run:
        from so8t.files import write_json, write_text
        from so8t.report.training import read_log, summarise, thin, to_csv

        rows = read_log(log)
        found = summarise(rows)
        write_json(metrics, found)
        write_text(plots, to_csv(thin(rows)))
        run.summary = f"{found['steps']} steps, loss {found['first']['loss']} -> {found['last']['loss']}"


if __name__ == "__main__":
    main()
