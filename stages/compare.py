"""Compare A with B, paired on every test split, and every quantised file with its F16 file."""

from pathlib import Path

import click

from so8t.stage import stage

Folder = click.Path(exists=True, file_okay=False, path_type=Path)
File = click.Path(dir_okay=False, path_type=Path)


@click.command()
@click.argument("scores", type=Folder)
@click.argument("cards", type=Folder)
@click.argument("out", type=File)
@click.option(
    "--prepare",
    type=File,
    required=True,
    help="reports/metrics/prepare.json, for the baselines",
)
@click.option(
    "--answers",
    type=Folder,
    required=True,
    help="directory of the generate stage's answers, for retention",
)
@click.option(
    "--plots",
    type=click.Path(path_type=Path),
    required=True,
    help="directory of CSV tables for `dvc plots`",
)
def main(scores: Path, cards: Path, out: Path, prepare: Path, answers: Path, plots: Path) -> None:
    """Compare the released type of A and B by their SCORES and CARDS; write OUT."""
    with stage("compare") as run:
        # numpy and scipy come with these imports, so they wait until the stage runs.
        from so8t import card
        from so8t.comparison.compare import (
            PREPARED,
            PRIMARY_SPLIT,
            compare,
            rules_of,
            write_tables,
        )
        from so8t.comparison.retention import retention
        from so8t.comparison.sides import Side
        from so8t.files import read_object, write_json

        def side(model: str, quant: str) -> Side:
            name = f"{model}-{quant}"
            return Side(scores / name, card.read(cards / f"{name}.json"))

        released = run.params.release.type
        scored = run.params.scoring.types
        pairs = []
        # Without an F16 file there is nothing to measure quantisation against.
        if "F16" in scored:
            for model in ("a", "b"):
                quantised = [quant for quant in scored if quant != "F16"]
                pairs += [(side(model, "F16"), side(model, quant)) for quant in quantised]
        result = compare(
            side("a", released),
            side("b", released),
            rules_of(run.params.compare, run.params.seed),
            prepare=read_object(prepare, fix="run `dvc repro prepare`", schema=PREPARED),
            pairs=pairs,
        )
        kept = retention(
            answers / f"a-{released}.jsonl",
            answers / f"b-{released}.jsonl",
            draws=run.params.compare.bootstrap,
            seed=run.params.seed,
        )
        write_json(out, {**result, "retention": kept})
        write_tables(plots, result["splits"][PRIMARY_SPLIT])
        conclusion = result["conclusion"]
        run.summary = f"{conclusion['code']} on {conclusion['split']}"


if __name__ == "__main__":
    main()
