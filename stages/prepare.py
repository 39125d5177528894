"""Read every source, refuse malformed rows, drop unfit ones, and write the six splits. Nothing is written unless all is well."""

from pathlib import Path

import click

from so8t.stage import stage


@click.command(help=__doc__)
@click.argument("out", type=click.Path(path_type=Path, file_okay=False))
@click.option(
    "--metrics",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    help="counts and probes, JSON",
)
@click.option(
    "--page",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    help="the same for people, Markdown",
)
@click.option(
    "--plots",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    help="directory of its figures and their table",
)
@click.option("--dry-run", is_flag=True, help="only say what would be kept and dropped")
def main(out: Path, metrics: Path, page: Path, plots: Path, dry_run: bool) -> None:
    """Write OUT/{train,valid,calibration,test_iid,test_cells,test_phrases}.jsonl."""
    with stage("prepare") as run:
        from so8t.data import page as report
        from so8t.data import summary
        from so8t.data.prepare import prepare
        from so8t.data.probe import probes
        from so8t.data.summary import census, token_lengths

        counts = prepare(run.params.data, run.params.seed, None if dry_run else out, run.progress)
        result = summary.metrics_of(counts)
        if warning := summary.warning_of(summary.certifiable(counts, run.params.calibration)):
            click.echo(f"warning: {warning}", err=True)
        if dry_run:
            click.echo(summary.brief(result))
        else:
            base = run.params.active.base.path
            tokens = token_lengths(out, Path(base) if base else None, run.params.data.system)
            result |= {
                "probes": probes(out),
                "census": census(out),
                "tokens": summary.tokens_of(tokens),
            }
            report.write(
                result,
                summary.lengths_table(counts, tokens),
                out,
                {"metrics": metrics, "page": page, "plots": plots},
            )
        run.summary = (
            f"{result['rows']['total']} rows kept, {sum(result['dropped'].values())} dropped"
        )


if __name__ == "__main__":
    main()
