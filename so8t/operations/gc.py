"""`so8t gc`: what no branch, tag, experiment or registered version needs; shown first, removed only with --yes.

`dvc gc -w` deletes every other version; this never passes it alone.
"""

from collections.abc import Iterable
from pathlib import Path

from so8t.operations.git import dvc, git
from so8t.operations.store import CACHE, Out, entries, lock_here, read_lock

KEEP = ("-w", "-a", "-T", "--all-experiments")


def unused(root: Path = Path()) -> tuple[int, int]:
    """(objects, bytes) in the cache that the kept versions do not name, counted from lock files."""
    kept: set[str] = set()
    for outs in [lock_here(root), *_locks(root)]:
        kept |= _digests(outs, root)
    loose = [p for p in (root / CACHE).glob("??/*") if p.is_file() and p.parent.name + p.name not in kept]
    return len(loose), sum(p.stat().st_size for p in loose)


def _locks(root: Path) -> Iterable[list[Out]]:
    from so8t.operations.git import file_at

    refs = git("for-each-ref", "--format=%(objectname)", "refs/heads", "refs/tags", "refs/remotes", "refs/exps", root=root).split()
    for commit in dict.fromkeys(refs):
        if text := file_at(commit, "dvc.lock", root):
            yield read_lock(text, f"{commit}:dvc.lock")


def _digests(outs: list[Out], root: Path) -> set[str]:
    from so8t.errors import ArtifactError

    found = set()
    for out in outs:
        found.add(out.md5)
        try:
            found |= {md5 for _name, md5 in entries(out, root)}
        except ArtifactError:
            continue
    return found


def collect(root: Path = Path()) -> str:
    """Remove what is unused; DVC's own words."""
    return dvc("gc", *KEEP, "-f", root=root).stdout.strip()
