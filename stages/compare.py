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
    "--prepare", type=File, required=True, help="reports/metrics/prepare.json, for the baselines"
)
@click.option(
    "--answers",
    type=Folder,
    required=True,
    help="directory of the serve stage's answers, for retention",
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
        from so8t.card import judge_of, under
        from so8t.comparison.compare import PRIMARY_SPLIT, compare, rules_of, write_tables
        from so8t.comparison.retention import retention
        from so8t.comparison.sides import Side
        from so8t.files import read_json, write_json

        def side(model: str, kind: str) -> Side:
            return Side(scores / f"{model}-{kind}", *judge_of(cards / f"{model}-{kind}.json"))

        kind = run.params.release.type
        quantised = [
            t for t in run.params.scoring.types if t != "F16" and "F16" in run.params.scoring.types
        ]
        pairs = [(side(model, "F16"), side(model, t)) for model in ("a", "b") for t in quantised]
        crossed = under(cards / f"b-{kind}.json", cards / f"a-{kind}.json")
        result = compare(
            side("a", kind),
            side("b", kind),
            crossed,
            rules_of(run.params.compare, run.params.seed),
            prepare=read_json(prepare),
            pairs=pairs,
        )
        rules = run.params.compare
        kept = retention(
            answers / f"a-{kind}.jsonl",
            answers / f"b-{kind}.jsonl",
            draws=rules.bootstrap,
            seed=run.params.seed,
        )
        write_json(out, {**result, "retention": kept})
        write_tables(plots, result["splits"][PRIMARY_SPLIT])
        run.summary = f"{result['conclusion']['code']} on {result['conclusion']['split']}"


if __name__ == "__main__":
    main()
