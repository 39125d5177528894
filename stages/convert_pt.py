"""Turn a distilled .pt checkpoint into a GGUF file in one command; what a stock graph cannot carry is refused by name."""

import tempfile
from pathlib import Path
from typing import Any

import click

from so8t.files import write_json
from so8t.stage import stage

FILE = click.Path(path_type=Path)


@click.command(help=__doc__)
@click.argument("checkpoint", type=FILE)
@click.argument("out", type=FILE)
@click.option("--ftype", type=click.Choice(["f32", "f16", "bf16", "q8_0"]), default="f16", show_default=True)
@click.option("--vocab-dir", type=FILE, required=True, help="config.json and tokenizer files of the model.")
@click.option("--drop", multiple=True, help="Name prefix that may be left out; repeatable.")
@click.option("--info", type=FILE, help="Where to write what the checkpoint holds; default: beside it, {stem}_config.json.")
def main(checkpoint: Path, out: Path, ftype: Any, vocab_dir: Path, drop: tuple[str, ...], info: Path | None) -> None:
    with stage("convert_pt") as run:
        from so8t.export.convert import Recipe, convert
        from so8t.records.ledger import conversion
        from so8t.tuning import distilled
        from so8t.tuning.batches import Template
        from so8t.tuning.heads import role_token_ids

        found = distilled.read(checkpoint)
        write_json(info or checkpoint.with_name(f"{checkpoint.stem}_config.json"), found.info())
        ids = role_token_ids(run.params.active.base.tokens, Template.of(vocab_dir).tokenizer)
        with tempfile.TemporaryDirectory(dir=out.parent) as place, conversion(checkpoint.stem, ftype.upper(), checkpoint, out):
            facts = distilled.to_model(found, vocab_dir, Path(place) / "model", ids, drop)
            manifest = convert(Path(place) / "model", out, Recipe(ftype.upper(), checkpoint.stem, run.params.active.base.context_profile))
        head = "folded" if facts["safety_head"] else "absent"
        run.summary = (f"{len(manifest['tensors'])} tensors, {facts['base']} weights of the checkpoint, safety head {head}, "
                       f"left out {facts['dropped'] or 'nothing'}")


if __name__ == "__main__":
    main()
