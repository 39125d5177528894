"""Hugging Face directory to a GGUF F16 file with so8t.* keys; streamed, sealed, recorded in the ledger."""

from pathlib import Path

import click

from so8t.stage import stage


@click.command(help=__doc__)
@click.argument("model_dir", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--model", type=click.Choice(["a", "b"]), required=True, help="a = base, b = retrained."
)
@click.option("--bake", type=click.Path(path_type=Path), help="Bake report of model b.")
def main(model_dir: Path, out: Path, model: str, bake: Path | None) -> None:
    with stage("convert", model) as run:
        from so8t.gguf.convert.key_values import true_keys
        from so8t.gguf.convert.source import weights_dir
        from so8t.gguf.convert.write import convert_recorded

        source = weights_dir(run.params.active.base, model_dir) if model == "a" else model_dir
        keys = true_keys(source, run.params, base=model_dir, bake=bake)
        run.summary = convert_recorded(
            source,
            out,
            keys=keys,
            name=getattr(run.params.active.names, model),
            context_profile=run.params.active.base.context_profile,
            progress=run.progress,
        )


if __name__ == "__main__":
    main()
