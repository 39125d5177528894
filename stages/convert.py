"""Hugging Face directory to a GGUF F16 file with so8t.* keys; streamed, sealed, recorded in the
ledger."""

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
        # Imported here, so that a wrong argument is refused before anything is loaded.
        from so8t.gguf.convert.key_values import true_keys
        from so8t.gguf.convert.write import convert_recorded
        from so8t.model_folder import weights_dir

        active = run.params.active
        source = model_dir
        # The base stage does not copy a local model: its output only describes the files.
        if model == "a":
            source = weights_dir(active.base, model_dir)
        run.summary = convert_recorded(
            source,
            out,
            keys=true_keys(source, run.params, base=model_dir, bake=bake),
            name=getattr(active.names, model),
            context_profile=active.base.context_profile,
            progress=run.progress,
        )


if __name__ == "__main__":
    main()
