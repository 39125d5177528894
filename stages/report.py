"""Write the report (Markdown, HTML, JSON twin, figures) from result files alone.

With `--check` it compares instead of writing.
"""

from pathlib import Path

import click

from so8t.stage import stage


@click.command()
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    help="directory of report.md, report.html, figures/, speed.md and their twins",
)
@click.option(
    "--check",
    "only_check",
    is_flag=True,
    help="fail (exit 8) unless the report says what the files say",
)
def main(out: Path, only_check: bool) -> None:
    """Build the report of the files below the current directory."""
    with stage("report") as run:
        from so8t.report import build, check

        if only_check:
            check.require(out, Path())
            run.summary = "the report says what its files say"
        else:
            twin = build.build(Path(), out, run.params.report.language)
            run.summary = build.summary(twin)


if __name__ == "__main__":
    main()
