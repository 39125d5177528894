"""Measure an adapter without baking it: cue verdicts, head verdicts and language loss by split
(used by `so8t ablation`)."""

from pathlib import Path

import click

from so8t.stage import stage

PATH = click.Path(path_type=Path)


@click.command(help=__doc__)
@click.argument("base", type=PATH)
@click.argument("adapter", type=PATH)
@click.argument("prepared", type=PATH)
@click.argument("out", type=PATH)
@click.option(
    "--split",
    "splits",
    multiple=True,
    default=("valid",),
    show_default=True,
    help="A prepared split; repeatable.",
)
def main(base: Path, adapter: Path, prepared: Path, out: Path, splits: tuple[str, ...]) -> None:
    """Write OUT, JSON."""
    with stage("probe") as run:
        from so8t.base.load import settle
        from so8t.files import write_json
        from so8t.model_folder import weights_dir
        from so8t.training.probe import probe

        settle(run.params.active.train.threads)
        found = probe(
            weights_dir(run.params.active.base, base),
            adapter,
            prepared,
            list(splits),
            run.params.data.system,
            run.progress,
        )
        write_json(out, found)
        first = found["splits"][splits[0]]
        macro_f1 = first["cue"]["macro_f1"]
        loss = first["language_loss"]
        run.summary = f"{splits[0]}: cue macro-F1 {macro_f1:.3f}, language loss {loss:.4f}"


if __name__ == "__main__":
    main()
