"""Compare A with B, paired on every test split, and every quantised type with its F16 file."""

from pathlib import Path

import click

from so8t.stage import stage

Folder = click.Path(exists=True, file_okay=False, path_type=Path)
File = click.Path(dir_okay=False, path_type=Path)


@click.command()
@click.argument("out", type=File)
@click.option("--a", "folder_a", type=Folder, required=True, help="scores of the base")
@click.option("--b", "folder_b", type=Folder, required=True, help="scores of the retrained model")
@click.option("--card-a", type=File, required=True)
@click.option("--card-b", type=File, required=True)
@click.option("--prepare", type=File, default=None, help="reports/metrics/prepare.json, for the baselines")
@click.option("--drift", "pairs", type=(Folder, File, Folder, File), multiple=True, metavar="F16 CARD QUANT CARD")
def main(  # noqa: PLR0913, PLR0917
    out: Path, folder_a: Path, folder_b: Path, card_a: Path, card_b: Path, prepare: Path | None,
    pairs: tuple[tuple[Path, Path, Path, Path], ...],
) -> None:
    """Write the comparison to OUT."""
    with stage("compare") as run:
        from so8t.calibration.judge import judge_of, under
        from so8t.comparison.arm import Side
        from so8t.comparison.run import compare, rules_of
        from so8t.files import read_json, write_json

        couples = [(Side(f16, *judge_of(first)), Side(quant, *judge_of(card))) for f16, first, quant, card in pairs]
        result = compare(Side(folder_a, *judge_of(card_a)), Side(folder_b, *judge_of(card_b)), under(card_b, card_a),
                         rules_of(run.params.compare, run.params.seed),
                         prepare=read_json(prepare) if prepare else None, pairs=couples)
        write_json(out, result)
        run.summary = f"{result['conclusion']['code']} on {result['conclusion']['split']}"


if __name__ == "__main__":
    main()
