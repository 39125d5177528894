"""`so8t fsck`: re-hash outputs, cache and remote from their bytes.

DVC trusts sizes and times: a flipped bit under the old time is "up to date", is checked out, and is pushed (measured,
research on DVC). This reads every byte. Repair never deletes: a damaged object goes to `.dvc/tmp/so8t-quarantine`.
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
from so8t.operations.git import dvc, file_at
from so8t.operations.store import (
    CACHE,
    LOCK,
    Out,
    entries,
    lock_here,
    md5_file,
    md5_of,
    object_path,
)

QUARANTINE = Path(".dvc/tmp/so8t-quarantine")
Place = Literal["workspace", "cache", "remote"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not what its digest says."""

    place: Place
    path: str
    problem: Literal["damaged", "missing", "unreadable"]
    wanted: str


def lock_is_whole(root: Path = Path()) -> bool:
    """Whether DVC can read dvc.lock. It writes the file in place, so a DVC that is killed at that moment leaves half of it."""
    from dvc.dvcfile import Lockfile
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    with Repo(str(root)) as repo:
        try:
            Lockfile(repo, str(root / LOCK)).load()
        except DvcException:
            return False
    return True


def restore_lock(root: Path = Path()) -> str:
    """Set a torn dvc.lock aside and put the one that git knows in its place; say where it is from.

    What ran since is not lost: DVC's run cache gives it back to the next `dvc repro`.
    """
    index = ""  # as git names it before the colon: DVC stages the file whenever it has written all of it
    known = next(
        (
            text
            for revision in (index, "HEAD")
            if (text := file_at(revision, LOCK, root)) is not None
        ),
        None,
    )
    _set_aside(root / LOCK, _aside(LOCK, root))
    if known is None:
        return "nowhere: the next `dvc repro` writes it anew"
    write_text(root / LOCK, known)
    return "git"


def workspace(root: Path = Path()) -> Iterator[Finding]:
    """Outputs against dvc.lock. A missing file is not damage: `dvc checkout` brings it."""
    for out in lock_here(root):
        try:
            named = entries(out, root) if out.cached else []
        except So8tError:
            yield Finding("cache", out.path, "missing", out.md5)
            continue
        for name, md5 in named:
            if (root / name).is_file() and md5_file(root / name) != md5:
                yield Finding("workspace", name, "damaged", md5)


def cache(root: Path = Path()) -> Iterator[Finding]:
    """Every object of the cache against its name."""
    for path in sorted((root / CACHE).glob("??/*")):
        wanted = path.parent.name + path.name
        if path.name.endswith(".tmp") or not path.is_file():
            continue
        if md5_file(path) != wanted.removesuffix(".dir"):
            yield Finding("cache", str(path.relative_to(root)), "damaged", wanted)


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


def remote(root: Path = Path(), name: str | None = None) -> Iterator[Finding]:
    """Every object of a remote, of any kind that DVC can read, against its name; reads all of it.

    Raises:
        ToolError: the remote cannot be opened.
    """
    with _objects_of(root, name) as odb:
        for oid in sorted(odb.all()):
            if oid.endswith(
                ".tmp"
            ):  # what a killed push left: no object has that name, the next push starts again
                continue
            path = odb.oid_to_path(oid)
            with odb.fs.open(path, "rb") as stream:
                if md5_of(stream) != oid.removesuffix(".dir"):
                    yield Finding("remote", path, "damaged", oid)


def missing_in_remote(root: Path = Path(), name: str | None = None) -> list[str]:
    """Outputs of dvc.lock that the remote lacks: forgotten `dvc push`."""
    with _objects_of(root, name) as odb:
        return [out.path for out in lock_here(root) if out.cached and not odb.exists(out.md5)]


def repair(findings: list[Finding], root: Path = Path(), name: str | None = None) -> list[str]:
    """Set what is damaged aside, put, fetch and check out whole ones instead; return what stayed missing.

    A workspace file is set aside only where the cache or the remote gives back the good one afterwards, or where it
    is the damaged object itself (a link).
    """
    bad = {f.wanted for f in findings if f.place == "cache" and f.problem == "damaged"}
    for finding in (
        f for f in findings if f.place in ("cache", "workspace") and f.problem == "damaged"
    ):
        _set_aside(root / finding.path, _aside(f"{finding.wanted}-{finding.place}", root))
    lost = _repair_remote([f for f in findings if f.place == "remote"], root, name)
    for out, path, md5 in _files_of(root):
        if md5 in bad or out.md5 in bad:
            (root / path).unlink(missing_ok=True)
    dvc("fetch", "--quiet", root=root, check=False)
    dvc("checkout", "--quiet", "--force", root=root, check=False)
    return sorted(
        lost
        | {
            f.wanted
            for f in findings
            if f.place == "cache" and not object_path(f.wanted, root).is_file()
        }
    )


def _repair_remote(findings: list[Finding], root: Path, name: str | None) -> set[str]:
    """Put the cache's own object where the remote's is damaged, or nothing: a missing object is told, a damaged one is not.

    Not by `dvc push`: it trusts the time of what it once hashed, and knows the objects of the workspace only.
    """
    lost: set[str] = set()
    if not findings:
        return lost
    with _objects_of(root, name) as odb:
        for finding in findings:
            held = object_path(finding.wanted, root)
            odb.fs.get_file(finding.path, str(_aside(f"{finding.wanted}-{finding.place}", root)))
            if held.is_file() and md5_file(held) == finding.wanted.removesuffix(".dir"):
                odb.fs.put_file(str(held), finding.path)
            else:
                odb.fs.remove(finding.path)
                lost.add(finding.wanted)
    return lost


def _aside(label: str, root: Path) -> Path:
    """A free name in the quarantine."""
    folder = root / QUARANTINE
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{label}-{len(list(folder.iterdir()))}"


def _set_aside(source: Path, target: Path) -> None:
    if source.exists():
        shutil.copy2(source, target)
        if os.name == "nt":
            source.chmod(0o600)
        source.unlink()


def _files_of(root: Path) -> Iterator[tuple[Out, str, str]]:
    for out in lock_here(root):
        try:
            for name, md5 in entries(out, root):
                if out.cached:
                    yield out, name, md5
        except So8tError:
            continue
