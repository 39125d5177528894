"""`so8t fsck`: re-hash outputs, cache and remote from their bytes.

DVC trusts sizes and times. A file with a flipped bit and its old time is "up to date" for DVC, is
checked out, and is pushed (measured). This reads every byte. Repair never deletes: a damaged object
is copied to `.dvc/tmp/so8t-quarantine` before it is replaced.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from so8t.errors import So8tError, ToolError
from so8t.files import write_text
from so8t.operations.git import dvc, file_at, opened
from so8t.operations.store import (
    LOCK,
    Out,
    entries,
    lock_here,
    md5_file,
    md5_of,
    object_path,
    objects,
    require_no_conflict,
)

QUARANTINE = Path(".dvc/tmp/so8t-quarantine")
Place = Literal["workspace", "cache", "remote"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not what its digest says.

    Attributes:
        place: where it lies.
        path: below the project's root, in the remote, or the whole path of an object in the cache.
        problem: what is wrong with it.
        wanted: the object's name: an MD5, with `.dir` at the end for a directory.
    """

    place: Place
    path: str
    problem: Literal["damaged", "missing", "unreadable"]
    wanted: str


def lock_is_whole(root: Path = Path()) -> bool:
    """Whether DVC can read dvc.lock.

    DVC writes the file in place, so a DVC that is killed at that moment leaves half of it.

    Raises:
        ArtifactError: a merge left conflict markers in it. That is for a person to decide.
    """
    require_no_conflict(root)
    # Here, because DVC is slow to import.
    from dvc.dvcfile import Lockfile
    from dvc.exceptions import DvcException

    with opened(root) as repo:
        try:
            Lockfile(repo, str(root / LOCK)).load()
        except DvcException:
            return False
    return True


def restore_lock(root: Path = Path()) -> str:
    """Set a torn dvc.lock aside and put the one that git knows in its place.

    What ran since is not lost: DVC's run cache gives it back to the next `dvc repro`.

    Returns:
        Where the new one is from.
    """
    # Git writes its index as nothing before the colon. It is the newer of the two, because DVC
    # stages the file whenever it has written all of it.
    known = file_at("", LOCK, root)
    if known is None:
        known = file_at("HEAD", LOCK, root)
    _set_aside(root / LOCK, _free_name(LOCK, root))
    if known is None:
        return "nowhere: the next `dvc repro` writes it anew"
    write_text(root / LOCK, known)
    return "git"


def workspace(root: Path = Path()) -> Iterator[Finding]:
    """Outputs against dvc.lock. A missing file is not damage: `dvc checkout` brings it."""
    for out in lock_here(root):
        if not out.cached:
            continue
        try:
            files = entries(out, root)
        except So8tError:
            # A directory without its list: what its files should be is unknown.
            yield Finding("cache", out.path, "missing", out.md5)
            continue
        for file in files:
            path = root / file.path
            if path.is_file() and md5_file(path) != file.md5:
                yield Finding("workspace", file.path, "damaged", file.md5)


def cache(root: Path = Path()) -> Iterator[Finding]:
    """Every object of the cache against its name."""
    for path in objects(root):
        # A killed DVC leaves .tmp files, which no output names.
        if path.name.endswith(".tmp"):
            continue
        wanted = path.parent.name + path.name
        if md5_file(path) != wanted.removesuffix(".dir"):
            # The whole path: the cache may be outside the project.
            yield Finding("cache", str(path), "damaged", wanted)


def remote(root: Path = Path(), name: str | None = None) -> Iterator[Finding]:
    """Every object of a remote, of any kind that DVC can read, against its name; reads all of it.

    Args:
        root: the project's folder.
        name: of the remote; the default one without it.

    Raises:
        ToolError: the remote cannot be opened or read.
    """
    with _objects_of(root, name) as objects:
        for oid in sorted(objects.all()):
            # A killed push leaves .tmp files: no object has that name, the next push starts again.
            if oid.endswith(".tmp"):
                continue
            path = objects.oid_to_path(oid)
            with objects.fs.open(path, "rb") as stream:
                found = md5_of(stream)
            if found != oid.removesuffix(".dir"):
                yield Finding("remote", path, "damaged", oid)


def missing_in_remote(root: Path = Path(), name: str | None = None) -> list[str]:
    """Outputs of dvc.lock that the remote lacks, because somebody forgot `dvc push`."""
    with _objects_of(root, name) as objects:
        # Reports are in git; DVC pushes none of them.
        outs = [out for out in lock_here(root) if out.cached]
        return [out.path for out in outs if not objects.exists(out.md5)]


@contextmanager
def _objects_of(root: Path, name: str | None) -> Iterator[Any]:
    """DVC's store of objects behind a remote.

    Raises:
        ToolError: it cannot be opened, read or written.
    """
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        with Repo(str(root)) as repo:
            yield repo.cloud.get_remote_odb(name)
    except (DvcException, OSError) as error:
        raise ToolError(
            f"the remote cannot be used ({error})",
            where=name or "default remote",
            fix="`dvc remote list`; check address and rights",
        ) from None


def repair(findings: list[Finding], root: Path = Path(), name: str | None = None) -> list[str]:
    """Set what is damaged aside, and put, fetch and check out whole objects instead.

    Args:
        findings: of all places together.
        root: the project's folder.
        name: of the remote; the default one without it.

    Returns:
        Names of the objects that stayed missing. A workspace file that is no link to its object
        comes back only where the cache or the remote has the good one.
    """
    bad_objects = set()
    for finding in findings:
        if finding.place == "remote" or finding.problem != "damaged":
            continue
        kept = _free_name(f"{finding.wanted}-{finding.place}", root)
        # Even from the workspace: a link there is the damaged object itself.
        _set_aside(root / finding.path, kept)
        if finding.place == "cache":
            bad_objects.add(finding.wanted)
    lost = _repair_remote([f for f in findings if f.place == "remote"], root, name)
    # Files in the workspace are links to objects: what is left of a bad object goes too.
    for out in lock_here(root):
        _unlink_damaged(out, bad_objects, root)
    # What cannot be fetched is found missing below.
    dvc("fetch", "--quiet", root=root, check=False)
    dvc("checkout", "--quiet", "--force", root=root, check=False)
    for finding in findings:
        if finding.place == "cache" and not object_path(finding.wanted, root).is_file():
            lost.add(finding.wanted)
    return sorted(lost)


def _unlink_damaged(out: Out, bad_objects: set[str], root: Path) -> None:
    """Remove the files of an output that come from a damaged object."""
    if not out.cached:
        return
    try:
        files = entries(out, root)
    except So8tError:
        # The directory's own list is gone: `dvc checkout` writes all of it again.
        return
    for file in files:
        if file.md5 in bad_objects or out.md5 in bad_objects:
            (root / file.path).unlink(missing_ok=True)


def _repair_remote(findings: list[Finding], root: Path, name: str | None) -> set[str]:
    """Put the cache's own object where the remote's is damaged, else remove the remote's.

    A missing object is noticed by whoever pulls it, a damaged one is not. Not by `dvc push`, which
    trusts the time of what it once hashed, and knows only the objects of the workspace.

    Returns:
        Names of the objects that were removed.
    """
    lost: set[str] = set()
    if not findings:
        return lost
    with _objects_of(root, name) as objects:
        for finding in findings:
            kept = _free_name(f"{finding.wanted}-{finding.place}", root)
            # A copy first: repair never deletes.
            objects.fs.get_file(finding.path, str(kept))
            held = object_path(finding.wanted, root)
            if held.is_file() and md5_file(held) == finding.wanted.removesuffix(".dir"):
                objects.fs.put_file(str(held), finding.path)
            else:
                objects.fs.remove(finding.path)
                lost.add(finding.wanted)
    return lost


def _free_name(label: str, root: Path) -> Path:
    """A path in the quarantine that is not taken."""
    folder = root / QUARANTINE
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{label}-{len(list(folder.iterdir()))}"


def _set_aside(source: Path, target: Path) -> None:
    """Move a file into the quarantine; nothing to do where it is gone already."""
    if not source.exists():
        return
    shutil.copy2(source, target)
    if os.name == "nt":
        # DVC makes its objects read-only, and Windows removes no read-only file.
        source.chmod(0o600)
    source.unlink()
