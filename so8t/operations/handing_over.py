"""The commands that give a release to others: `so8t sign`, `so8t bundle`, `so8t evidence`.

Whoever receives one should know who made it, so each begins with the release's signature.
Everything heavy is imported inside them.
"""

from pathlib import Path

import click

from so8t import signature


@click.command()
@click.argument("folder", type=click.Path(path_type=Path), default=Path("models/release"))
def sign(folder: Path) -> None:
    """Sign the release in FOLDER with your private key, after checking that it is of one piece."""
    from so8t.released import sign_release

    click.echo(f"sign: {sign_release(folder)}")
    root = signature.root_of(folder)
    click.echo(f"  keep: git add {root / signature.SIGNATURE} {root / signature.PUBLIC_KEY}")


@click.command()
@click.argument("revision")
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--wheels",
    is_flag=True,
    help="add the Python packages that `so8t ask` needs, as wheels made from this environment",
)
@click.option("--unsigned", is_flag=True, help="hand over a release that nobody signed")
def bundle(revision: str, out: Path, wheels: bool, unsigned: bool) -> None:
    """Write a folder OUT with the signed release of REVISION and a verifier.

    The machine that receives it needs neither DVC nor, with --wheels, a network.
    """
    from so8t.operations.bundle import make

    held = make(revision, out, with_wheels=wheels, allow_unsigned=unsigned)
    click.echo(f"bundle: {held} -> {out}")
    click.echo("  on the other machine: python verify.py")


@click.command()
@click.argument("revision")
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--unsigned", is_flag=True, help="document a release that nobody signed")
def evidence(revision: str, out: Path, unsigned: bool) -> None:
    """Write a folder OUT with what an auditor needs about REVISION.

    It holds licences, counts, policy, parameters, environment, digests, reports, and who made
    and signed it.
    """
    from so8t.operations.evidence import make

    click.echo(f"evidence: {make(revision, out, allow_unsigned=unsigned)} -> {out}")
