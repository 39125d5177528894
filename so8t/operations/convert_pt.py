"""`so8t convert-pt`: a distilled .pt checkpoint to a GGUF file in one command, with its ledger row.

A distilled checkpoint is what the founders' training saved: a dictionary of weights, some of which
no stock model has. It is here and not in `so8t.gguf`, because it joins what so8t.training reads
with what so8t.gguf writes.
"""

import tempfile
from pathlib import Path

import click

from so8t.architectures import read_model
from so8t.files import disk_error, write_json
from so8t.gguf.convert.write import FileType, Recipe, convert
from so8t.model_folder import read_object
from so8t.params import Params, load
from so8t.records.ledger import conversion
from so8t.template import Template

FILE = click.Path(path_type=Path)
FILE_TYPES: dict[str, FileType] = {"f32": "F32", "f16": "F16", "bf16": "BF16", "q8_0": "Q8_0"}


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

    Args:
        checkpoint: the .pt file.
        out: the GGUF file.
        ftype: one of `FILE_TYPES`.
        vocab_dir: config.json and tokenizer files of the model.
        drop: name prefixes of weights that may be left out.
        info: where to write what the checkpoint holds; None for a file beside it.
        params: for the names of the reserved tokens and the context profile.

    Raises:
        ArtifactError: a file that needs code to be read, parts that nothing carries, weights that
            do not fit; by name.
    """
    # Late, because they load torch.
    from so8t.training import distilled
    from so8t.training.heads import role_token_ids

    found = distilled.read(checkpoint)
    beside = checkpoint.with_name(f"{checkpoint.stem}_config.json")
    write_json(info or beside, found.info())
    # Checked before anything is written; the folder may lack weights, so not all of it is.
    model = read_model(read_object(vocab_dir), vocab_dir)
    n_rows = int(model.config["vocab_size"])
    base = params.active.base
    ids = role_token_ids(base.tokens, Template.of(vocab_dir).tokenizer, n_rows)
    file_type = FILE_TYPES[ftype]
    name = checkpoint.stem
    _make_folder(out.parent)
    with (
        # Beside the output: the system's own place for temporary files may be too small.
        tempfile.TemporaryDirectory(dir=out.parent) as place,
        conversion(name, file_type, checkpoint, out),
    ):
        model_dir = Path(place) / "model"
        facts = distilled.to_model(found, vocab_dir, model_dir, ids, drop)
        manifest = convert(model_dir, out, Recipe(file_type, name, base.context_profile))
    head = "folded" if facts["safety_head"] else "absent"
    dropped = facts["dropped"] or "nothing"
    return (
        f"{len(manifest['tensors'])} tensors, {facts['base']} weights of the checkpoint, "
        f"safety head {head}, left out {dropped}"
    )


def _make_folder(folder: Path) -> None:
    """Make the output's folder, as `so8t gguf convert` does."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise disk_error(error, folder) from error


@click.command(name="convert-pt")
@click.argument("checkpoint", type=FILE)
@click.argument("out", type=FILE)
@click.option("--ftype", type=click.Choice(tuple(FILE_TYPES)), default="f16", show_default=True)
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
    """Turn a distilled .pt CHECKPOINT into the GGUF file OUT; what a stock graph cannot carry is
    refused by name."""
    line = convert_pt(checkpoint, out, ftype, vocab_dir, drop, info, load())
    click.echo(f"{out}: {line}")
