"""The commands of operations. Everything heavy is imported inside them."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from so8t.operations.fsck import Finding
    from so8t.operations.line import Line

# The keys of `checklist.STAGES`, again: that module would be imported for every `--help`.
STAGE_NAMES = (
    "synthesize",
    "prepare",
    "base",
    "train",
    "bake",
    "convert",
    "imatrix",
    "quantize",
    "verify",
    "score",
    "calibrate",
    "generate",
    "evaluate",
    "compare",
    "release",
    "report",
    "ask",
    "register",
)


@click.command()
@click.option(
    "--stage",
    type=click.Choice(STAGE_NAMES),
    default=None,
    help="also check what must be true before this stage can run",
)
@click.option("--json", "as_json", is_flag=True, help="print one JSON array")
def doctor(stage: str | None, as_json: bool) -> None:
    """Check this machine, this clone and, with --stage, what one stage needs.

    Every problem comes with a fix. The exit code is that of the first failure, or 0.
    """
    from so8t.operations.doctor import examine, exit_code

    lines = []
    for line in examine(Path(), stage):
        lines.append(line)
        # Each line when it is known: loading torch takes seconds.
        if not as_json:
            _print_line(line)
    if as_json:
        _print_json([line.to_dict() for line in lines])
    sys.exit(exit_code(lines))


def _print_line(line: "Line") -> None:
    click.echo(f"{line.state:<5} {line.check:<14} {line.says}")
    if line.fix:
        click.echo(f"{'':21}fix: {line.fix}")


def _print_json(value: Any) -> None:
    click.echo(json.dumps(value, ensure_ascii=False, indent=1))


@click.command()
@click.argument("revision")
@click.option("--dry-run", is_flag=True, help="say what would change, and change nothing")
@click.option("--unsigned", is_flag=True, help="go to a release that nobody signed")
def rollback(revision: str, dry_run: bool, unsigned: bool) -> None:
    """Go to REVISION: its code, parameters, model, card and Modelfile, all together or not at all.

    REVISION is a branch, a tag, a commit, or NAME@VERSION of a registered model.
    """
    from so8t.operations.rollback import go_to, plan, require_nothing_lost

    wanted = plan(revision)
    click.echo(
        f"{revision} = {wanted.commit[:10]}: {len(wanted.changed)} outputs differ "
        f"({wanted.size / 1e6:,.1f} MB), {len(wanted.absent)} to be fetched"
    )
    for path in wanted.changed:
        source = "fetch" if path in wanted.absent else "cache"
        click.echo(f"  {source}  {path}")
    if dry_run:
        require_nothing_lost()
        return
    click.echo(f"now: {go_to(wanted, allow_unsigned=unsigned)}")
    click.echo(
        "to come back: git checkout - && dvc checkout. "
        "An Ollama server keeps the previous model until you type: so8t register"
    )


@click.group()
def models() -> None:
    """List the registered versions of the models."""


@models.command(name="list")
@click.option("--json", "as_json", is_flag=True, help="one JSON array")
def list_models(as_json: bool) -> None:
    """List the artifacts of dvc.yaml and their registered versions (GTO tags).

    To register a version: gto register so8t --version v1.0.0
    """
    from so8t.operations.rollback import artifacts, facts_of, registered

    paths = artifacts()
    rows = []
    for version in registered():
        row = {
            "name": version.name,
            "version": version.version,
            "commit": version.commit,
            "date": version.date,
            "by": version.by,
            "stages": list(version.stages),
        }
        # A tag may name an artifact that dvc.yaml no longer has.
        if version.name in paths:
            row |= facts_of(version, paths[version.name])
        rows.append(row)
    if as_json:
        _print_json(rows)
        return
    for name, path in paths.items():
        _print_artifact(name, path, [row for row in rows if row["name"] == name])


def _print_artifact(name: str, path: str, versions: list[dict[str, Any]]) -> None:
    if not versions:
        fix = f"gto register {name} --version v1.0.0"
        click.echo(f"{name}  {path}  no version registered: {fix}")
        return
    click.echo(f"{name}  {path}")
    for row in versions:
        cells = [
            row["version"],
            row["commit"][:10],
            row["date"],
            ",".join(row["stages"]) or "-",
            row.get("file", "(not in the cache)"),
            row.get("digest", "")[:12],
            row.get("status", ""),
        ]
        click.echo(f"  {'  '.join(cells)}")


@click.command()
@click.option(
    "--remote/--no-remote",
    "with_remote",
    default=False,
    help="also read every object of the remote, which transfers all of it",
)
@click.option("--name", default=None, help="use this remote instead of the default one")
@click.option(
    "--repair",
    "mend",
    is_flag=True,
    help="set damaged files aside and fetch them again; with --remote, replace damaged objects of "
    "the remote by those of the cache",
)
def fsck(with_remote: bool, name: str | None, mend: bool) -> None:
    """Check every byte of the outputs, the cache and, with --remote, the remote.

    DVC itself trusts sizes and times, so it does not notice a changed byte.
    """
    from so8t.errors import ArtifactError
    from so8t.operations.fsck import QUARANTINE, missing_in_remote, repair

    _require_whole_lock(mend)
    found = _findings(with_remote, name)
    for finding in found:
        place = f"{finding.problem}: {finding.place} {finding.path}"
        click.echo(f"{place} (should be {finding.wanted})", err=True)
    if with_remote:
        lacking = missing_in_remote(name=name)
        if lacking:
            click.echo(f"not pushed yet: {', '.join(lacking)}\n  fix: dvc push", err=True)
    left: list[str] = []
    if found and mend:
        left = repair(found, name=name)
        found = _findings(with_remote, name)
        whole = not found and not left
        outcome = "everything is intact again" if whole else f"could not be restored: {left}"
        click.echo(f"damaged files were moved to {QUARANTINE}; {outcome}")
    if found or left:
        raise ArtifactError(
            f"{len(found) + len(left)} files or objects are damaged or missing",
            where="so8t fsck",
            fix=f"{_repair_command(with_remote, name)}; "
            "what neither cache nor remote has must be made again: `dvc repro`, `dvc push`",
        )
    click.echo("every byte agrees with its digest")


def _require_whole_lock(mend: bool) -> None:
    """Without a whole dvc.lock nothing can be compared; with --repair, put it back first."""
    from so8t.errors import ArtifactError
    from so8t.operations.fsck import QUARANTINE, lock_is_whole, restore_lock

    if lock_is_whole():
        return
    if not mend:
        raise ArtifactError(
            "the file is incomplete: DVC was killed while it wrote it",
            where="dvc.lock",
            fix="so8t fsck --repair, then dvc repro",
        )
    click.echo(f"dvc.lock was moved to {QUARANTINE}; restored from {restore_lock()}")


def _findings(with_remote: bool, name: str | None) -> list["Finding"]:
    from so8t.operations.fsck import cache, remote, workspace

    found = [*cache(), *workspace()]
    if with_remote:
        found += remote(name=name)
    return found


def _repair_command(with_remote: bool, name: str | None) -> str:
    words = ["so8t fsck"]
    if with_remote:
        words.append("--remote")
    if name:
        words.append(f"--name {name}")
    return " ".join([*words, "--repair"])


@click.command()
@click.option("--yes", is_flag=True, help="remove it; without this option nothing is removed")
@click.option(
    "--not-shared", is_flag=True, help="the cache is outside the project, and nobody else uses it"
)
def gc(yes: bool, not_shared: bool) -> None:
    """Show what DVC's cache holds that no branch, tag, experiment or registered version needs.

    With --yes it is removed.
    """
    from so8t.errors import ToolError
    from so8t.operations.store import cache_dir, collect, is_shared, unused

    count, size = unused()
    shared = is_shared() and not not_shared
    if shared:
        click.echo(f"the cache is outside the project: {cache_dir()}")
    if not yes:
        click.echo(
            f"no branch, tag or experiment needs {count} objects ({size / 1e6:,.1f} MB). "
            "To remove them: so8t gc --yes"
        )
        return
    if shared:
        # DVC would remove what other projects need, and they would not notice until they want it.
        raise ToolError(
            "other projects may need what this one does not",
            where=str(cache_dir()),
            fix="so8t gc --yes --not-shared if nobody else uses it, "
            "else dvc gc -w -a -T --all-experiments -p OTHER_PROJECT",
        )
    collect()
    left, _size = unused()
    click.echo(f"removed {count - left} of {count} objects")


@click.command()
@click.argument("key", default="pet.lambda")
@click.argument("values", nargs=-1)
@click.option(
    "--workers",
    default=2,
    show_default=True,
    help="experiments at a time; at most one per graphics card",
)
def sweep(key: str, values: tuple[str, ...], workers: int) -> None:
    """Run several VALUES of one parameter KEY through DVC's queue.

    Table and plot are written to database/sweeps/KEY.
    """
    from so8t.operations.sweep import enqueue, name_of, results, work, write
    from so8t.progress import database_dir

    wanted = values or ("0.01", "0.05", "0.1")
    names = enqueue(key, wanted)
    work(names, workers, click.echo)
    out = database_dir() / "sweeps" / key
    write(key, results(key, wanted), out)
    click.echo((out / "table.md").read_text(encoding="utf-8"))
    click.echo(f"{out}/plot.svg")
    click.echo(f"to use one of them: dvc exp apply {name_of(key, wanted[0])}")


@click.command()
@click.option(
    "--arms",
    default="lora,gate,pet,triality,all,oft",
    show_default=True,
    help="comma-separated; also: plain",
)
@click.option(
    "--seeds", type=click.IntRange(1), default=5, show_default=True, help="trainings of each arm"
)
@click.option(
    "--scale",
    type=click.FloatRange(0.0, 1.0, min_open=True),
    default=1.0,
    show_default=True,
    help="share of the profile's steps",
)
@click.option(
    "--workers",
    default=1,
    show_default=True,
    help="experiments at a time; they share the cores evenly",
)
@click.option("--dry-run", is_flag=True, help="say what would run and for how long")
@click.option("--table", "only_table", is_flag=True, help="only write docs/ablation.md again")
def ablation(
    arms: str, seeds: int, scale: float, workers: int, *, dry_run: bool, only_table: bool
) -> None:
    """Train with each part alone and with all of them, through DVC's queue.

    Results go to bench/results, the table to docs/ablation.md. Run it again to go on after an
    interruption.
    """
    from so8t.operations.ablation import clean_for_queue, estimate, known, runs, work
    from so8t.params import load

    wanted = runs(arms.split(","), seeds, scale)
    profile = load().profile
    have = known(Path(), profile)
    left = [run for run in wanted if run not in have]
    time_needed = _time_needed(estimate(len(left), scale, workers))
    click.echo(f"{len(wanted)} trainings, {len(left)} without a result: {time_needed}")
    if dry_run:
        click.echo("\n".join(run.name for run in left))
        return
    try:
        if not only_table:
            clean_for_queue()
            work(wanted, workers, click.echo)
    finally:
        # Also when it was stopped: the table shows the results that are there.
        _write_ablation_table(profile, scale)


def _time_needed(seconds: float | None) -> str:
    if seconds is None:
        return "unknown: run `dvc repro train` once"
    return f"about {seconds / 60:.0f} min, as the last training went"


def _write_ablation_table(profile: str, scale: float) -> None:
    from so8t.operations.ablation import known
    from so8t.operations.ablation_table import OUT, write

    rows = {run: row for run, row in known(Path(), profile).items() if run.scale == scale}
    if not rows:
        click.echo(f"no result on this base: {OUT} stays as it was")
        return
    write(rows)
    click.echo(str(OUT))


@click.command()
@click.option(
    "-j",
    "--jobs",
    default=2,
    show_default=True,
    help="stages at a time; more than the cores can carry are refused",
)
def repro(jobs: int) -> None:
    """Do what `dvc repro` does, but run independent stages at the same time.

    Stages of models A and B and of different types are independent. Files and dvc.lock come out
    the same.
    """
    # As a module, because its `repro` has the command's own name.
    from so8t.operations import parallel
    from so8t.params import load

    allowed = parallel.limit(jobs, load().scoring.threads)
    count = parallel.repro(allowed, click.echo)
    if count:
        click.echo(f"{count} stages were out of date")
    else:
        click.echo("Data and pipelines are up to date.")
