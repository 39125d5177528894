"""Run one file if it is a released or F16 file: answers, long texts, retention; and its times.

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
    "--timings",
    type=Writable,
    required=True,
    help="JSON of times and memory, which differ from machine to machine",
)
@click.option(
    "--generate/--no-generate",
    default=None,
    help="run the file [default: F16 and release.type]",
)
def main(
    file: Path,
    out: Path,
    prepared: Path,
    answers: Path,
    timings: Path,
    generate: bool | None,
) -> None:
    """Write what running FILE gave to OUT, what it answered to --answers, times to --timings."""
    with stage("generate", file.stem) as run:
        from so8t import generated
        from so8t.files import write_jsonl
        from so8t.generation.run import Rows, measure, setup_of
        from so8t.identity import semantic_digest

        if generate is None:
            # A file's name is MODEL-TYPE. Other types are scored only: running takes minutes.
            kind = file.stem.partition("-")[2]
            generate = kind in ("F16", run.params.release.type)
        found = generated.NOT_RUN
        timed = generated.NOT_TIMED
        if generate:
            rows = Rows.read(prepared / f"{generated.HEADLINE}.jsonl", prepared / "valid.jsonl")
            setup = setup_of(run.params)
            found, timed = measure(file, rows=rows, setup=setup, progress=run.progress)
        # The files are written in either case, because DVC expects them of the stage.
        digest = semantic_digest(file)
        write_jsonl(answers, found.answers)
        generated.save(found, digest, out)
        generated.save_timings(timed, digest, timings)
        run.summary = "not run: neither F16 nor release.type"
        if generate:
            run.summary = f"{len(found.answers)} answers and likelihoods"


if __name__ == "__main__":
    main()
