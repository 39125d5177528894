"""Run one file if it is a released or F16 file: answers, long texts, speed, retention.

No calibration card is read.
"""

from pathlib import Path

import click

from so8t.stage import stage

Readable = click.Path(exists=True, path_type=Path)
Writable = click.Path(path_type=Path)


@click.command()
@click.argument("file", type=Readable)
@click.argument("out", type=Writable)
@click.option("--prepared", type=Readable, required=True, help="directory of the prepared splits")
@click.option(
    "--answers",
    type=Writable,
    required=True,
    help="JSONL of answers, for the comparison",
)
@click.option(
    "--generate/--no-generate",
    default=None,
    help="run the file [default: F16 and release.type]",
)
def main(file: Path, out: Path, prepared: Path, answers: Path, generate: bool | None) -> None:
    """Write what running FILE gave to OUT and what it answered to --answers."""
    with stage("serve", file.stem) as run:
        from so8t.files import write_jsonl
        from so8t.generated import HEADLINE, NOT_RUN, save
        from so8t.generation.run import Rows, measure, setup_of
        from so8t.identity import semantic_digest

        if generate is None:
            # A file's name is MODEL-TYPE. Other types are scored only: running takes minutes.
            kind = file.stem.partition("-")[2]
            generate = kind in ("F16", run.params.release.type)
        found = NOT_RUN
        if generate:
            rows = Rows.read(prepared / f"{HEADLINE}.jsonl", prepared / "valid.jsonl")
            setup = setup_of(run.params)
            found = measure(file, rows=rows, setup=setup, progress=run.progress)
        # The files are written in either case, because DVC expects them of the stage.
        write_jsonl(answers, found.answers)
        save(found, semantic_digest(file), out)
        run.summary = "not run: neither F16 nor release.type"
        if generate:
            run.summary = f"{len(found.answers)} answers and likelihoods"


if __name__ == "__main__":
    main()
