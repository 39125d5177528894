"""Make the base model: train a tiny one from scratch (demo), or verify a local Hugging Face
directory.
"""

from pathlib import Path

import click

from so8t.stage import stage

FILE = click.Path(path_type=Path)


@click.command(help=__doc__)
@click.argument("train_split", type=FILE)
@click.argument("out", type=FILE)
def main(train_split: Path, out: Path) -> None:
    with stage("base") as run:
        base = run.params.active.base
        # Each kind imports its own code: verifying a directory needs no training.
        if base.kind == "local":
            from so8t.base.local import link_base

            facts = link_base(base, out, run.progress)
            run.summary = (
                f"{facts['architecture']}, {facts['parameters']:,} parameters, "
                f"{facts['files']} files verified"
            )
        else:
            from so8t.base.scratch import make_base
            from so8t.synthetic.grammar import factor_lines

            facts = make_base(train_split, out, run.params, factor_lines, run.progress)
            run.summary = (
                f"{facts['parameters']:,} parameters, {facts['examples']:,} examples, "
                f"loss {facts['loss']:.3f}"
            )


if __name__ == "__main__":
    main()
