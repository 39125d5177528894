"""`so8t rollback REV`: code, parameters, model, card and Modelfile of one revision, together or not at all.

Before anything changes: the revision exists and was built, nothing uncommitted would be lost, and every object can be
had (cache, else remote). Afterwards the release is checked; when anything fails, the revision from before is put back.
"""

from dataclasses import dataclass
from pathlib import Path

from so8t.errors import ArtifactError, So8tError
from so8t.operations import release
from so8t.operations.git import changed_files, commit_of, dvc, git
from so8t.operations.store import Out, entries, lock_at, lock_here, md5_file, object_path

RELEASE = "models/release"


@dataclass(frozen=True, slots=True)
class Plan:
    """What a rollback would do."""

    revision: str
    commit: str
    changed: list[str]  # outputs whose bytes differ between here and there
    absent: list[str]  # of these, not in the cache: they have to be fetched
    size: int  # bytes of the changed outputs


def plan(revision: str, root: Path = Path()) -> Plan:
    """Compare a revision with the workspace; nothing is changed.

    Raises:
        ArtifactError: unknown revision, or nothing was built there.
    """
    commit = commit_of(revision, root)
    there = [out for out in lock_at(commit, root) if out.cached]
    here = {out.path: out.md5 for out in lock_here(root)}
    changed = [out for out in there if here.get(out.path) != out.md5 or not (root / out.path).exists()]
    absent = [out.path for out in changed if not _cached(out, root)]
    return Plan(revision, commit, [out.path for out in changed], absent, sum(out.size for out in changed))


def _cached(out: Out, root: Path) -> bool:
    if not object_path(out.md5, root).is_file():
        return False
    return all(object_path(md5, root).is_file() for _name, md5 in entries(out, root))


def require_nothing_lost(root: Path = Path()) -> None:
    """Refuse while tracked files or built files hold changes that no commit and no cache has.

    Raises:
        ArtifactError: naming the files.
    """
    if files := changed_files(root):
        raise ArtifactError(f"uncommitted changes: {', '.join(files[:5])}{' ...' if len(files) > 5 else ''}", where=str(root.resolve()),
                            fix="`git commit` them, or throw them away with `git restore -SW .`")
    edited = [name for out in lock_here(root) if out.cached and _cached(out, root) for name, md5 in entries(out, root)
              if (root / name).is_file() and md5_file(root / name) != md5]
    if edited:
        raise ArtifactError(f"built files were edited by hand: {', '.join(edited[:5])}", where=str(root.resolve()),
                fix="keep a copy elsewhere, then `dvc checkout --force`")


def rollback(wanted: Plan, root: Path = Path()) -> str:
    """Do it; return what is released now.

    Raises:
        ArtifactError: something would be lost, cannot be had, or does not belong together; the old state is back then.
        ToolError: git or DVC failed; the old state is back then.
    """
    require_nothing_lost(root)
    before = git("branch", "--show-current", root=root) or commit_of("HEAD", root)
    try:
        _go(wanted.revision, root)
        return _released(root)
    except So8tError:
        _go(before, root)
        raise


def _go(revision: str, root: Path) -> None:
    git("checkout", "--quiet", revision, root=root)
    dvc("fetch", "--quiet", root=root, check=False)  # what is missing is named by checkout
    done = dvc("checkout", "--quiet", "--force", root=root, check=False)
    missing = [out.path for out in lock_here(root) if out.cached and not (root / out.path).exists()]
    if missing or done.returncode:
        raise ArtifactError(f"neither the cache nor the remote has {', '.join(missing) or 'every file'} of {revision}", where=str(root.resolve()),
                            fix="`dvc push` where that revision was built, or build it again: git checkout REV && dvc repro")


def _released(root: Path) -> str:
    if not (root / RELEASE).is_dir():
        return "no release was built there"
    return release.check(root / RELEASE)
