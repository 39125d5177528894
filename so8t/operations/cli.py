"""The commands of operations. Everything heavy is imported inside them."""

import json
import sys
from pathlib import Path

import click

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
    "serve",
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
    help="also the checklist of what must be true before this stage",
)
@click.option("--json", "as_json", is_flag=True, help="one JSON array")
def doctor(stage: str | None, as_json: bool) -> None:
    """Check this machine, this clone and, with --stage, what a stage needs; the exit code is the first failure's."""
    from so8t.operations.doctor import examine, exit_code

    lines = []
    for line in examine(Path(), stage):
        lines.append(line)
        if not as_json:
            click.echo(
                f"{line.state:<5} {line.check:<14} {line.says}"
                + (f"\n{'':21}fix: {line.fix}" if line.fix else "")
            )
    if as_json:
        click.echo(json.dumps([line.to_dict() for line in lines], ensure_ascii=False, indent=1))
    sys.exit(exit_code(lines))


@click.command()
@click.argument("revision")
@click.option("--dry-run", is_flag=True, help="say what would change, and change nothing")
def rollback(revision: str, dry_run: bool) -> None:
    """Go to REVISION (branch, tag, commit, name@version): code, parameters, model, card and Modelfile together."""
    from so8t.operations import rollback as going

    wanted = going.plan(revision)
    click.echo(
        f"{revision} = {wanted.commit[:10]}: {len(wanted.changed)} outputs differ ({wanted.size / 1e6:,.1f} MB), {len(wanted.absent)} to be fetched"
    )
    for path in wanted.changed:
        click.echo(f"  {'fetch ' if path in wanted.absent else 'cache '} {path}")
    if dry_run:
        going.require_nothing_lost()
        return
    click.echo(
        f"now: {going.rollback(wanted)}\nback: git checkout - && dvc checkout. A server keeps the old model until it is told: so8t register"
    )


@click.group()
def models() -> None:
    """Registered versions of the models."""


@models.command(name="list")
@click.option("--json", "as_json", is_flag=True, help="one JSON array")
def list_models(as_json: bool) -> None:
    """Artifacts of dvc.yaml and their registered versions (GTO tags). To register: gto register so8t --version v1.0.0."""
    from so8t.operations import rollback

    paths = rollback.artifacts()
    rows = []
    for version in rollback.registered():
        facts = rollback.facts_of(version, paths[version.name]) if version.name in paths else {}
        rows.append(
            {
                "name": version.name,
                "version": version.version,
                "commit": version.commit,
                "date": version.date,
                "by": version.by,
                "stages": list(version.stages),
                **facts,
            }
        )
    if as_json:
        click.echo(json.dumps(rows, ensure_ascii=False, indent=1))
        return
    for name, path in paths.items():
        own = [row for row in rows if row["name"] == name]
        click.echo(
            f"{name}  {path}{'' if own else '  no version registered: gto register ' + name + ' --version v1.0.0'}"
        )
        for row in own:
            click.echo(
                f"  {row['version']}  {str(row['commit'])[:10]}  {row['date']}  {','.join(row['stages']) or '-'}  "
                f"{row.get('file', '(not in the cache)')}  {str(row.get('digest', ''))[:12]}  {row.get('status', '')}"
            )


@click.command()
@click.option(
    "--remote/--no-remote",
    "with_remote",
    default=False,
    help="also read every object of the remote (all of it is transferred)",
)
@click.option("--name", default=None, help="another remote than the default one")
@click.option(
    "--repair",
    "mend",
    is_flag=True,
    help="set damaged files aside and fetch them again; those of the remote: put the cache's there",
)
def fsck(with_remote: bool, name: str | None, mend: bool) -> None:
    """Re-hash outputs, cache and, if wanted, remote from their bytes: DVC itself trusts sizes and times."""
    from so8t.errors import ArtifactError
    from so8t.operations import fsck as checking

    if not checking.lock_is_whole():
        if not mend:
            raise ArtifactError(
                "half of it is missing: DVC was killed while it wrote",
                where="dvc.lock",
                fix="so8t fsck --repair, then dvc repro",
            )
        click.echo(
            f"dvc.lock set aside in {checking.QUARANTINE}; restored from {checking.restore_lock()}"
        )
    left: list[str] = []
    found = [
        *checking.cache(),
        *checking.workspace(),
        *(checking.remote(name=name) if with_remote else []),
    ]
    for finding in found:
        click.echo(
            f"{finding.problem}: {finding.place} {finding.path} (should be {finding.wanted})",
            err=True,
        )
    if with_remote and (lacking := checking.missing_in_remote(name=name)):
        click.echo(f"not pushed yet: {', '.join(lacking)}\n  fix: dvc push", err=True)
    if found and mend:
        left = checking.repair(found, name=name)
        found = [
            *checking.cache(),
            *checking.workspace(),
            *(checking.remote(name=name) if with_remote else []),
        ]
        click.echo(
            f"set aside in {checking.QUARANTINE}; {'all is whole again' if not found and not left else f'not to be had: {left}'}"
        )
    if found or left:
        again = f"so8t fsck{' --remote' if with_remote else ''}{f' --name {name}' if name else ''} --repair"
        raise ArtifactError(
            f"{len(found) + len(left)} damaged or missing",
            where="so8t fsck",
            fix=f"{again}; what neither cache nor remote has: `dvc repro`, `dvc push`",
        )
    click.echo("every byte is what its digest says")


@click.command()
@click.option("--yes", is_flag=True, help="really remove; without it nothing is")
def gc(yes: bool) -> None:
    """Show (with --yes: remove) what the cache holds for no branch, tag, experiment or registered version."""
    from so8t.operations import store as cleaning

    count, size = cleaning.unused()
    if not yes:
        click.echo(
            f"{count} objects, {size / 1e6:,.1f} MB are needed by no branch, tag or experiment. Remove them: so8t gc --yes"
        )
        return
    cleaning.collect()
    click.echo(f"removed {count - cleaning.unused()[0]} of {count} objects")


@click.command()
@click.argument("revision")
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--wheels",
    is_flag=True,
    help="also the Python packages of this environment that `so8t ask` needs, as wheels",
)
def bundle(revision: str, out: Path, wheels: bool) -> None:
    """One folder OUT for a stick: release of REVISION, checksums, verifier, and with --wheels what to install; no DVC there."""
    from so8t.operations.bundle import make

    click.echo(
        f"bundle: {make(revision, out, with_wheels=wheels)} -> {out}\n  there: python verify.py"
    )


@click.command()
@click.argument("revision")
@click.argument("out", type=click.Path(path_type=Path))
def evidence(revision: str, out: Path) -> None:
    """The audit folder OUT of REVISION: licences, counts, policy, parameters, environment, digests, reports, who released it."""
    from so8t.operations.evidence import make

    click.echo(f"evidence: {make(revision, out)} files -> {out}")


@click.command()
@click.argument("key", default="pet.lambda")
@click.argument("values", nargs=-1)
@click.option(
    "--workers", default=2, show_default=True, help="experiments at a time; one per graphics card"
)
def sweep(key: str, values: tuple[str, ...], workers: int) -> None:
    """Run several VALUES of one parameter KEY through DVC's queue; table and plot go to database/sweeps/KEY."""
    from so8t.operations import sweep as sweeping
    from so8t.progress import database_dir

    wanted = values or ("0.01", "0.05", "0.1")
    sweeping.work(sweeping.enqueue(key, wanted), workers, click.echo)
    out = database_dir() / "sweeps" / key
    sweeping.write(key, sweeping.results(key, wanted), out)
    click.echo(
        f"{(out / 'table.md').read_text(encoding='utf-8')}\n{out}/plot.svg\ntake one: dvc exp apply {sweeping.name_of(key, wanted[0])}"
    )


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
    """Train each part alone and together through DVC's queue; results in bench/results, table in docs/ablation.md. Goes on when run again."""
    from so8t.operations import ablation as study
    from so8t.operations import ablation_table
    from so8t.params import load

    wanted, profile = study.runs(arms.split(","), seeds, scale), load().profile
    have = study.known(Path(), profile)
    left = [run for run in wanted if run not in have]
    seconds = study.estimate(len(left), scale, workers)
    told = (
        "unknown: run `dvc repro train` once"
        if seconds is None
        else f"about {seconds / 60:.0f} min, as the last training went"
    )
    click.echo(f"{len(wanted)} trainings, {len(left)} without a result: {told}")
    if dry_run:
        click.echo("\n".join(run.name for run in left))
        return
    try:
        if not only_table:
            study.clean_for_queue()
            study.work(wanted, workers, click.echo)
    finally:
        if rows := {
            run: row for run, row in study.known(Path(), profile).items() if run.scale == scale
        }:
            ablation_table.write(rows)
            click.echo(str(ablation_table.OUT))
        else:
            click.echo(f"no result on this base: {ablation_table.OUT} stays as it was")


@click.command()
@click.option(
    "-j",
    "--jobs",
    default=2,
    show_default=True,
    help="stages at a time; more than the cores carry is refused",
)
def repro(jobs: int) -> None:
    """What `dvc repro` does, with independent stages (models A and B, types) beside each other. Same files, same dvc.lock."""
    from so8t.operations import parallel
    from so8t.params import load

    count = parallel.repro(parallel.limit(jobs, load().scoring.threads), click.echo)
    click.echo(
        f"{count} stages were out of date" if count else "Data and pipelines are up to date."
    )
