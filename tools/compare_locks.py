"""Do two runs of the graph hold the same results? Compares the digests in two dvc.lock files.

    git show 46b74cf:dvc.lock > old.lock
    python -m tools.compare_locks old.lock dvc.lock --renamed data/served=data/generated

Outputs are matched by path. Timings (`speed-*`) differ from run to run and are counted apart.
Exits 1 when any other output differs, or is in one file only.
"""

import sys
from pathlib import Path

import click

from so8t.params import parse_yaml

TIMED = ("speed", "train_speed")


def outputs_of(text: str, where: str) -> dict[str, str]:
    """Path to digest of every output of a dvc.lock."""
    found = {}
    for stage in parse_yaml(text, where)["stages"].values():
        for out in stage.get("outs", ()):
            found[out["path"]] = out["md5"]
    return found


def is_timed(path: str) -> bool:
    """Whether an output holds times of the machine that made it."""
    return any(part.startswith(TIMED) for part in Path(path).parts)


@click.command(help=__doc__)
@click.argument("old", type=click.Path(path_type=Path))
@click.argument("new", type=click.Path(path_type=Path))
@click.option(
    "--renamed", multiple=True, help="OLD=NEW: a path, or the beginning of paths, that moved"
)
def main(old: Path, new: Path, renamed: tuple[str, ...]) -> None:
    """Print what differs, and leave with 1 where it should not."""
    before = outputs_of(old.read_text(encoding="utf-8"), str(old))
    after = outputs_of(new.read_text(encoding="utf-8"), str(new))
    for pair in renamed:
        was, _, now = pair.partition("=")
        before = {_moved(path, was, now): digest for path, digest in before.items()}
    differing = []
    for path in sorted({*before, *after}):
        if before.get(path) != after.get(path):
            differing.append(path)
            print(f"{_word(before.get(path), after.get(path)):9} {path}")
    timed = [path for path in differing if is_timed(path)]
    same = sum(before.get(path) == digest for path, digest in after.items())
    print(f"{len(after)} outputs, {same} the same, {len(timed)} differing are timings")
    sys.exit(1 if len(timed) < len(differing) else 0)


def _moved(path: str, was: str, now: str) -> str:
    """Where an output lies that was called by its old path."""
    if path.startswith(was):
        return now + path.removeprefix(was)
    return path


def _word(was: str | None, now: str | None) -> str:
    if was is None:
        return "new"
    return "gone" if now is None else "differs"


if __name__ == "__main__":
    main()
