"""Read a GGUF back and prove it: seal, keys, every tensor, tokens and logits against Hugging Face
or the F16 file."""

from pathlib import Path

import click

from so8t.stage import stage


@click.command(help=__doc__)
@click.argument("file", type=click.Path(path_type=Path))
@click.argument("out_metrics", type=click.Path(path_type=Path))
@click.option("--model", type=click.Choice(["a", "b"]), required=True)
@click.option("--type", "kind", required=True, help="Type of the file, e.g. F16 or Q4_K_M.")
@click.option(
    "--f16", type=click.Path(path_type=Path), help="F16 file a quantised one is compared with."
)
@click.option(
    "--hf",
    type=click.Path(path_type=Path),
    help="Hugging Face directory an F16 file is compared with.",
)
@click.option(
    "--texts",
    type=click.Path(path_type=Path),
    required=True,
    help="Prepared JSONL with conversations.",
)
def main(
    file: Path,
    out_metrics: Path,
    model: str,
    kind: str,
    f16: Path | None,
    hf: Path | None,
    texts: Path,
) -> None:
    with stage("verify", f"{model}-{kind}") as run:
        from so8t.files import write_json
        from so8t.gguf.verify.verify import Subject, require, summary, verify
        from so8t.model_folder import weights_dir

        # The base stage does not copy a local model: its output only describes the files.
        if hf and model == "a":
            hf = weights_dir(run.params.active.base, hf)
        subject = Subject(file, kind, texts, f16=f16, hf=hf)
        findings = verify(subject, run.params)
        # Written before a failure is raised: its message refers to these numbers.
        write_json(out_metrics, findings.facts)
        run.summary = summary(findings)
        require(findings, file)


if __name__ == "__main__":
    main()
