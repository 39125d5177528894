"""GGUF F16 to a quantised file through libllama; what the file really holds is read back and
printed."""

from pathlib import Path

import click

from so8t.stage import stage


@click.command(help=__doc__)
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--type", "kind", required=True, help="Q8_0, Q6_K, Q5_K_M, Q5_0, Q4_K_M, Q4_K_S, Q4_0 or Q4_1."
)
@click.option(
    "--imatrix",
    type=click.Path(path_type=Path),
    help="Importance matrix; used when quant.imatrix is true.",
)
def main(source: Path, out: Path, kind: str, imatrix: Path | None) -> None:
    with stage("quantize", out.stem) as run:
        from so8t.gguf.quantize.quantize import quantize_recorded

        # The graph always names a matrix, and it is an empty file unless one is wanted.
        if not run.params.quant.imatrix:
            imatrix = None
        run.summary = quantize_recorded(
            source,
            out,
            kind,
            threads=run.params.scoring.threads,
            imatrix=imatrix,
            progress=run.progress,
        )


if __name__ == "__main__":
    main()
