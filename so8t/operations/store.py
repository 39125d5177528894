"""DVC's objects as bytes: what a lock file names, where the cache keeps it, and whether it still is what its name says.

An object's name is the MD5 of its bytes; a directory is an object ending in `.dir`, a JSON list of names and digests.
Covered: files and directories that DVC 3 caches, read without DVC. Not covered: remotes (fsck asks DVC's file systems).

`so8t gc`: what no branch, tag, experiment or registered version needs; shown first, removed only with --yes.

`dvc gc -w` deletes every other version; this never passes it alone.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from so8t.errors import ArtifactError, ParamsError
from so8t.operations.git import dvc, file_at, git
from so8t.params import parse_yaml

LOCK = "dvc.lock"
CACHE = Path(".dvc/cache/files/md5")
CHUNK = 4 << 20
MISSING = "run `dvc fetch` with that revision checked out, or pull it from where it was made"


@dataclass(frozen=True, slots=True)
class Out:
    """One cached output of a stage: its place, its digest (`.dir` for a directory), its size in bytes."""

    stage: str
    path: str
    md5: str
    size: int
    cached: bool


def read_lock(text: str, where: str = LOCK) -> list[Out]:
    """Outputs that a dvc.lock names, in its order.

    Raises:
        ArtifactError: not a lock file, or one with merge conflicts.
    """
    fix = "keep one side (`git checkout --ours dvc.lock`), then `dvc repro` and commit"
    if "<<<<<<< " in text:
        raise ArtifactError("there are conflict markers in it", where=where, fix=fix)
    try:
        stages: dict[str, Any] = (parse_yaml(text, where) or {}).get("stages") or {}
        return [
            Out(
                name,
                str(out["path"]),
                str(out["md5"]),
                int(out.get("size", 0)),
                cached=not str(out["path"]).startswith("reports/"),
            )
            for name, stage in stages.items()
            for out in stage.get("outs", [])
            if "md5" in out
        ]
    except (ParamsError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise ArtifactError(
            f"not a lock file of DVC ({type(error).__name__})", where=where, fix=fix
        ) from None


def lock_here(root: Path = Path()) -> list[Out]:
    """Outputs of the workspace's dvc.lock; empty when there is none."""
    path = root / LOCK
    return read_lock(path.read_text(encoding="utf-8"), str(path)) if path.is_file() else []


def lock_at(revision: str, root: Path = Path()) -> list[Out]:
    """Outputs of a revision's dvc.lock.

    Raises:
        ArtifactError: the revision has none.
    """
    text = file_at(revision, LOCK, root)
    if text is None:
        raise ArtifactError(
            f"{revision} has no dvc.lock: nothing was built there",
            where=LOCK,
            fix="choose a commit made after `dvc repro`",
        )
    return read_lock(text, f"{revision}:{LOCK}")


def out_at(revision: str, path: str, root: Path = Path()) -> Out:
    """One output at a revision."""
    for out in lock_at(revision, root):
        if out.path == path:
            return out
    raise ArtifactError(
        f"{path} was not built at {revision}",
        where=LOCK,
        fix="choose a commit made after `dvc repro`",
    )


def object_path(md5: str, root: Path = Path()) -> Path:
    """Where the cache keeps an object."""
    return root / CACHE / md5[:2] / md5[2:]


def md5_of(stream: BinaryIO) -> str:
    """MD5 of a stream's bytes, as DVC 3 computes it."""
    digest = hashlib.md5(usedforsecurity=False)
    while chunk := stream.read(CHUNK):
        digest.update(chunk)
    return digest.hexdigest()


def md5_file(path: Path) -> str:
    """MD5 of a file's bytes."""
    with path.open("rb") as stream:
        return md5_of(stream)


def entries(out: Out, root: Path = Path()) -> list[tuple[str, str]]:
    """(path below the root of the project, MD5) of every file of an output.

    Raises:
        ArtifactError: the directory's list is not in the cache, or is damaged.
    """
    if not out.md5.endswith(".dir"):
        return [(out.path, out.md5)]
    listing = object_path(out.md5, root)
    try:
        items = json.loads(listing.read_text(encoding="utf-8"))
        return [(f"{out.path}/{item['relpath']}", item["md5"]) for item in items]
    except FileNotFoundError:
        raise ArtifactError(
            f"the list of {out.path} is not in the cache", where=str(listing), fix=MISSING
        ) from None
    except (json.JSONDecodeError, UnicodeDecodeError, TypeError, KeyError):
        raise ArtifactError(
            f"the list of {out.path} in the cache is damaged",
            where=str(listing),
            fix="`so8t fsck --repair`",
        ) from None


def export(out: Out, root: Path = Path()) -> Iterator[tuple[str, Path]]:
    """(name inside the output, object in the cache), each object re-hashed before it is given out.

    Raises:
        ArtifactError: an object is missing or its bytes are not what its name says.
    """
    for name, md5 in entries(out, root):
        held = object_path(md5, root)
        if not held.is_file():
            raise ArtifactError(
                f"{name} of that revision is not in the cache", where=str(held), fix=MISSING
            )
        if md5_file(held) != md5:
            raise ArtifactError(
                f"{name} in the cache is damaged", where=str(held), fix="`so8t fsck --repair`"
            )
        yield name.removeprefix(f"{out.path}/"), held


KEEP = ("-w", "-a", "-T", "--all-experiments")


def unused(root: Path = Path()) -> tuple[int, int]:
    """(objects, bytes) in the cache that the kept versions do not name, counted from lock files."""
    kept: set[str] = set()
    for outs in [lock_here(root), *_locks(root)]:
        kept |= _digests(outs, root)
    loose = [
        p for p in (root / CACHE).glob("??/*") if p.is_file() and p.parent.name + p.name not in kept
    ]
    return len(loose), sum(p.stat().st_size for p in loose)


def _locks(root: Path) -> Iterable[list[Out]]:
    from so8t.operations.git import file_at

    refs = git(
        "for-each-ref",
        "--format=%(objectname)",
        "refs/heads",
        "refs/tags",
        "refs/remotes",
        "refs/exps",
        root=root,
    ).split()
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
