"""DVC's cache, read without DVC: what a lock file names, where it lies, whether it is whole.

An object's name is the MD5 of its bytes. A directory is an object whose name ends in `.dir`; its
content is a JSON list of file names and MD5 digests. Covered: files and directories that DVC 3
caches. Not covered: remotes (fsck asks DVC's file systems).

The end of the module is `so8t gc`, which removes from the cache what no branch, tag, experiment or
registered version needs.
"""

import configparser
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from so8t.errors import ArtifactError, ParamsError, ToolError
from so8t.files import read_text
from so8t.operations.git import dvc, file_at, git, text_of
from so8t.params import has_conflict, parse_yaml

LOCK = "dvc.lock"
CHUNK = 4 << 20  # bytes read at a time
CONFLICT = (
    "keep one side: git checkout --ours dvc.lock (or --theirs); then dvc repro && git add dvc.lock"
)
MISSING = "run `dvc fetch` with that revision checked out, or pull it from where it was made"
# What `dvc gc` keeps: workspace, branches, tags, experiments. With -w alone it would delete every
# other version.
KEEP = ("-w", "-a", "-T", "--all-experiments")
# What the same versions are called in git.
KEPT_REFS = ("refs/heads", "refs/tags", "refs/remotes", "refs/exps")


@dataclass(frozen=True, slots=True)
class Out:
    """One output of a stage.

    Attributes:
        stage: the stage that made it.
        path: below the project's root.
        md5: its digest, with `.dir` at the end for a directory.
        size: bytes.
        cached: whether DVC keeps it; reports are kept by git instead.
    """

    stage: str
    path: str
    md5: str
    size: int
    cached: bool


class Entry(NamedTuple):
    """One file of an output: its path below the project's root, and the MD5 of its bytes."""

    path: str
    md5: str


def read_lock(text: str, where: str = LOCK) -> list[Out]:
    """Outputs that a dvc.lock names, in its order.

    Raises:
        ArtifactError: not a lock file, or one with merge conflicts.
    """
    # YAML would fail on them too, but not say what they are.
    if has_conflict(text):
        raise _conflict(where)
    try:
        stages = (parse_yaml(text, where) or {}).get("stages") or {}
        outs = []
        for name, stage in stages.items():
            outs += _outs_of(name, stage)
    except (ParamsError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise ArtifactError(
            f"not a lock file of DVC ({type(error).__name__})",
            where=where,
            fix="so8t fsck --repair, or `git checkout dvc.lock`; then `dvc repro`",
        ) from None
    return outs


def _outs_of(name: str, stage: Mapping[str, Any]) -> list[Out]:
    """Outputs of one stage of a lock file."""
    outs = []
    for out in stage.get("outs", []):
        # An output of another system, such as S3, has an etag instead.
        if "md5" in out:
            path = str(out["path"])
            # `cache: false` is in dvc.yaml alone; the lock file does not say it.
            cached = not path.startswith("reports/")
            outs.append(Out(name, path, str(out["md5"]), int(out.get("size", 0)), cached))
    return outs


def require_no_conflict(root: Path = Path()) -> None:
    """Stop where a merge left the workspace's dvc.lock open: which side is right, people decide.

    Raises:
        ArtifactError: there are conflict markers in it.
    """
    path = root / LOCK
    # Not `read_text`: half of a character is for whoever reads the file to tell.
    if path.is_file() and has_conflict(path.read_bytes().decode("utf-8", "replace")):
        raise _conflict(str(path))


def _conflict(where: str) -> ArtifactError:
    return ArtifactError("conflict: a merge left its markers in it", where=where, fix=CONFLICT)


def lock_here(root: Path = Path()) -> list[Out]:
    """Outputs of the workspace's dvc.lock; empty when there is none."""
    path = root / LOCK
    if not path.is_file():
        return []
    return read_lock(read_text(path), str(path))


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
    """One output at a revision.

    Raises:
        ArtifactError: the revision has no such output.
    """
    for out in lock_at(revision, root):
        if out.path == path:
            return out
    raise ArtifactError(
        f"{path} was not built at {revision}",
        where=LOCK,
        fix="choose a commit made after `dvc repro`",
    )


def cache_dir(root: Path = Path()) -> Path:
    """The folder of the cache's objects, wherever DVC's settings put it.

    Raises:
        ToolError: the settings cannot be read.
    """
    folder = (root / ".dvc").absolute()
    times = []
    for name in ("config", "config.local"):
        file = folder / name
        # Asked for thousands of times: the settings are read again when they change.
        times.append(file.stat().st_mtime_ns if file.is_file() else 0)
    return _cache_dir(folder, *times)


@lru_cache(maxsize=64)
def _cache_dir(folder: Path, *_times: int) -> Path:
    """As DVC's own reader has it: settings of the system, the user, the project, this clone."""
    # Here, because it takes a quarter of a second; `dvc cache dir` would take a whole one.
    from dvc.config import Config
    from dvc.exceptions import DvcException

    try:
        own = Config(str(folder))["cache"].get("dir")
    except (DvcException, configparser.Error, OSError, ValueError) as error:
        raise ToolError(
            f"DVC's settings cannot be read ({type(error).__name__})",
            where=str(folder / "config"),
            fix="git checkout .dvc/config",
        ) from None
    return Path(own or folder / "cache") / "files/md5"


def is_shared(root: Path = Path()) -> bool:
    """Whether the cache lies outside the project, so that others may use it too."""
    return not cache_dir(root).resolve().is_relative_to(root.resolve())


def objects(root: Path = Path()) -> Iterator[Path]:
    """Every object of the cache, and what killed runs left beside them, in name order."""
    # The first two letters of a name are a folder.
    for path in sorted(cache_dir(root).glob("??/*")):
        if path.is_file():
            yield path


def object_path(md5: str, root: Path = Path()) -> Path:
    """Where the cache keeps an object.

    Args:
        md5: its name.
        root: the project's folder.
    """
    return cache_dir(root) / md5[:2] / md5[2:]


def md5_of(stream: BinaryIO) -> str:
    """MD5 of a stream's bytes, as DVC 3 computes it."""
    # A name, not a safeguard: systems that forbid MD5 for security allow it for this.
    digest = hashlib.md5(usedforsecurity=False)
    while chunk := stream.read(CHUNK):
        digest.update(chunk)
    return digest.hexdigest()


def md5_file(path: Path) -> str:
    """MD5 of a file's bytes."""
    with path.open("rb") as stream:
        return md5_of(stream)


def entries(out: Out, root: Path = Path()) -> list[Entry]:
    """Every file of an output.

    Raises:
        ArtifactError: the directory's list is not in the cache, or is damaged.
    """
    if not out.md5.endswith(".dir"):
        return [Entry(out.path, out.md5)]
    listing = object_path(out.md5, root)
    try:
        # DVC writes the list as [{"md5": ..., "relpath": ...}, ...].
        items = json.loads(listing.read_text(encoding="utf-8"))
        return [Entry(f"{out.path}/{item['relpath']}", item["md5"]) for item in items]
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
    """Every file of an output, re-hashed before it is given out.

    Args:
        out: an output of any revision.
        root: the project's folder.

    Yields:
        The file's name inside the output, and its object in the cache.

    Raises:
        ArtifactError: an object is missing or its bytes are not what its name says.
    """
    for entry in entries(out, root):
        held = object_path(entry.md5, root)
        if not held.is_file():
            raise ArtifactError(
                f"{entry.path} of that revision is not in the cache", where=str(held), fix=MISSING
            )
        if md5_file(held) != entry.md5:
            raise ArtifactError(
                f"{entry.path} in the cache is damaged",
                where=str(held),
                fix="`so8t fsck --repair`",
            )
        yield entry.path.removeprefix(f"{out.path}/"), held


def unused(root: Path = Path()) -> tuple[int, int]:
    """What the cache holds for none of the kept versions, counted from their lock files.

    Returns:
        How many objects, and their bytes.
    """
    kept = _objects_of(lock_here(root), root)
    for outs in _kept_locks(root):
        kept |= _objects_of(outs, root)
    sizes = []
    for path in objects(root):
        name = path.parent.name + path.name
        if name not in kept:
            sizes.append(path.stat().st_size)
    return len(sizes), sum(sizes)


def _kept_locks(root: Path) -> Iterable[list[Out]]:
    """Outputs of every version that is kept."""
    # Of an annotated tag, the type of what it is of is behind the star.
    form = "--format=%(objectname) %(objecttype) %(*objecttype)"
    names = ["HEAD"]
    for line in git("for-each-ref", form, *KEPT_REFS, root=root).splitlines():
        name, *types = line.split()
        # A tag may also name a file or a folder, which has no lock file.
        if types[-1] == "commit":
            names.append(name)
    # Several names often mean one commit. HEAD is none of them where it is detached.
    for commit in dict.fromkeys(names):
        text = file_at(commit, LOCK, root)
        if text:
            yield read_lock(text, f"{commit}:{LOCK}")


def _objects_of(outs: list[Out], root: Path) -> set[str]:
    """Names of all objects of these outputs."""
    found = set()
    for out in outs:
        found.add(out.md5)
        try:
            found.update(entry.md5 for entry in entries(out, root))
        except ArtifactError:
            # An old version whose directory list was never fetched.
            continue
    return found


def collect(root: Path = Path()) -> str:
    """Remove what is unused.

    Returns:
        DVC's own words.
    """
    return text_of(dvc("gc", *KEEP, "-f", root=root).stdout).strip()
