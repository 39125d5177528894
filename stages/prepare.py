"""Read every source, refuse malformed rows, drop unfit ones, and write the splits.
Nothing is written unless all is well."""

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
        from so8t.data import summary
        from so8t.data.census import census, token_lengths
        from so8t.data.page import write_page
        from so8t.data.prepare import prepare
        from so8t.data.probe import probes

        params = run.params
        counts = prepare(params.data, params.seed, None if dry_run else out, run.progress)
        found = summary.metrics_of(counts)
        certificate = summary.certifiable(counts, params.calibration)
        for warning in (summary.refused_warning(counts.dropped), summary.warning_of(certificate)):
            if warning is not None:
                click.echo(f"warning: {warning}", err=True)
        if dry_run:
            click.echo(summary.brief(found))
        else:
            base = params.active.base.path
            tokens = token_lengths(out, Path(base) if base else None, params.data.system)
            found["probes"] = probes(out)
            found["census"] = census(out)
            found["tokens"] = summary.tokens_of(tokens)
            write_page(
                found,
                summary.lengths_table(counts, tokens),
                out,
                metrics_path=metrics,
                page_path=page,
                plots_path=plots,
            )
        dropped = sum(found["dropped"].values())
        run.summary = f"{found['rows']['total']} rows kept, {dropped} dropped"


if __name__ == "__main__":
    main()
