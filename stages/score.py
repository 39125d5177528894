"""Read the verdicts of one GGUF file for every labelled row.

Writes DIR/<split>.jsonl and DIR/meta.json.
"""

from pathlib import Path

import click

from so8t.stage import stage


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.argument("out_dir", type=click.Path(path_type=Path))
@click.option(
    "--model",
    type=click.Choice(["a", "b"]),
    required=True,
    help="base (a) or retrained (b)",
)
@click.option("--type", "kind", required=True, help="quant type, for the log's name")
@click.option(
    "--prepared",
    type=click.Path(path_type=Path),
    required=True,
    help="directory of the prepared splits",
)
def main(file: Path, out_dir: Path, model: str, kind: str, prepared: Path) -> None:
    """Score FILE into OUT_DIR."""
    with stage("score", f"{model}-{kind}") as run:
        from so8t.scoring.score import Job, score

        limits = run.params.scoring
        job = Job(
            file=file,
            prepared=prepared,
            out=out_dir,
            system=run.params.data.system,
            n_ctx=limits.n_ctx,
            threads=limits.threads,
            max_samples=limits.max_samples,
            readers=limits.readers,
        )
        done = score(job, run.progress)
        sampled = ", sampled" if limits.max_samples is not None else ""
        run.summary = (
            f"{done.rows} prompts{sampled}, {done.fresh} now, {done.per_second:.1f} prompts/s"
        )


if __name__ == "__main__":
    main()
