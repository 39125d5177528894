"""`so8t convert-pt`: a distilled .pt checkpoint to a GGUF file in one command, with its row in the ledger.

Here and not beside the reader, because it joins what `tuning` reads with what `export` writes.
"""

import tempfile
from pathlib import Path

import click

from so8t.files import read_json, write_json
from so8t.params import Params

FILE = click.Path(path_type=Path)
FILE_TYPES = ("f32", "f16", "bf16", "q8_0")


def convert_pt(
    checkpoint: Path,
    out: Path,
    ftype: str,
    vocab_dir: Path,
    drop: tuple[str, ...],
    info: Path | None,
    params: Params,
) -> str:
    """Convert; return one line about what was carried.

    Raises:
        ArtifactError: a file that needs code to be read, parts that nothing carries, weights that do not fit; by name.
    """
    from so8t.gguf.convert.write import Recipe, convert
    from so8t.records.ledger import conversion
    from so8t.template import Template
    from so8t.training import distilled
    from so8t.training.heads import role_token_ids

    found = distilled.read(checkpoint)
    write_json(info or checkpoint.with_name(f"{checkpoint.stem}_config.json"), found.info())
    ids = role_token_ids(
        params.active.base.tokens,
        Template.of(vocab_dir).tokenizer,
        int(read_json(vocab_dir / "config.json")["vocab_size"]),
    )
    with (
        tempfile.TemporaryDirectory(dir=out.parent) as place,
        conversion(checkpoint.stem, ftype.upper(), checkpoint, out),
    ):
        facts = distilled.to_model(found, vocab_dir, Path(place) / "model", ids, drop)
        manifest = convert(
            Path(place) / "model",
            out,
            Recipe(ftype.upper(), checkpoint.stem, params.active.base.context_profile),
        )  # type: ignore[arg-type]
    head = "folded" if facts["safety_head"] else "absent"
    return (
        f"{len(manifest['tensors'])} tensors, {facts['base']} weights of the checkpoint, safety head {head}, "
        f"left out {facts['dropped'] or 'nothing'}"
    )


@click.command(name="convert-pt")
@click.argument("checkpoint", type=FILE)
@click.argument("out", type=FILE)
@click.option("--ftype", type=click.Choice(FILE_TYPES), default="f16", show_default=True)
@click.option(
    "--vocab-dir", type=FILE, required=True, help="config.json and tokenizer files of the model."
)
@click.option("--drop", multiple=True, help="Name prefix that may be left out; repeatable.")
@click.option(
    "--info",
    type=FILE,
    help="Where to write what the checkpoint holds; default: beside it, {stem}_config.json.",
)
def command(
    checkpoint: Path,
    out: Path,
    ftype: str,
    vocab_dir: Path,
    drop: tuple[str, ...],
    info: Path | None,
) -> None:
    """Turn a distilled .pt CHECKPOINT into the GGUF file OUT; what a stock graph cannot carry is refused by name."""
    from so8t.params import load

    click.echo(f"{out}: {convert_pt(checkpoint, out, ftype, vocab_dir, drop, info, load())}")
