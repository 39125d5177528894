"""`so8t doctor`: is this machine, this clone and, if wanted, one stage's input as it must be?

Each finding is a `Line` with what to type next. The checks of the machine are in
`operations.machine`, those of a stage's input in `operations.checklist`. Here are those of the
clone: git, dvc.lock, DVC's settings, its remote, its locks, its cache.
"""

import configparser
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from so8t.errors import ArtifactError, ResourceError, So8tError, ToolError
from so8t.operations import checklist, machine
from so8t.operations.git import call, git, is_shallow, text_of
from so8t.operations.line import Line, fail, note, ok, run_check
from so8t.operations.store import cache_dir, is_shared, lock_here, objects
from so8t.params import Params, load
from so8t.processes import alive

LOCKS = Path(".dvc/tmp/rwlock")


def examine(root: Path, stage: str | None = None) -> Iterator[Line]:
    """Every line of the doctor's table.

    When params.yaml cannot be read, the machine is judged by what the demo needs.

    Args:
        root: the project's folder.
        stage: key of `checklist.STAGES`; its checklist comes last.
    """
    params: Params | None = None
    try:
        params = load(root / "params.yaml")
        yield ok("params.yaml", f"profile {params.profile}")
    except So8tError as error:
        yield fail("params.yaml", error)
    if params is None:
        yield from machine.lines(root, kind="scratch", quantization="nf4", wanted_threads=1)
    else:
        yield from machine.lines(
            root,
            kind=params.active.base.kind,
            quantization=params.active.train.quantization,
            wanted_threads=params.scoring.threads,
        )
    yield from clone_lines(root)
    if params is not None and stage is not None:
        yield from checklist.lines(root, params, stage)


def exit_code(lines: list[Line]) -> int:
    """The code of the first failure, 0 without one."""
    return next((line.code for line in lines if line.state == "fail"), 0)


def clone_lines(root: Path) -> Iterator[Line]:
    """Every check of the clone."""
    yield run_check("repository", lambda: repository(root))
    yield run_check("dvc.lock", lambda: lock(root))
    yield run_check("remote", lambda: remote(root))
    yield run_check("dvc locks", lambda: locks(root))
    try:
        yield cache(root)
    except ToolError as error:
        # Without the place: the line of the remote has named it already.
        yield Line("cache", "fail", error.problem, error.fix)


def repository(root: Path) -> str:
    """A git repository with a dvc.yaml at its root.

    Raises:
        ArtifactError: no dvc.yaml here.
        ToolError: no git repository.
    """
    where = str(root.resolve())
    if not (root / "dvc.yaml").is_file():
        raise ArtifactError("no dvc.yaml here", where=where, fix="cd to the project's root")
    # For what it raises: no repository, or one that git does not trust.
    git("rev-parse", "--is-inside-work-tree", root=root)
    # A repository without a commit has no HEAD, and git fails.
    head = call("git", "rev-parse", "--verify", "--short", "HEAD", root=root, check=False)
    branch = git("branch", "--show-current", root=root)
    says = f"at {text_of(head.stdout).strip() or 'no commit yet'} ({branch or 'detached'})"
    if is_shallow(root):
        says += "; shallow, older versions come with `git fetch --unshallow --tags`"
    return says


def lock(root: Path) -> str:
    """dvc.lock can be read.

    Raises:
        ArtifactError: it cannot.
    """
    outs = lock_here(root)
    return f"{len(outs)} outputs recorded" if outs else "nothing built yet"


def settings(root: Path) -> dict[str, dict[str, str]]:
    """.dvc/config with .dvc/config.local laid over it, by section.

    Raises:
        ToolError: missing or unreadable.
    """
    path = root / ".dvc/config"
    # DVC's values may hold a %, which is no interpolation.
    parser = configparser.ConfigParser(interpolation=None)
    try:
        # It gives back what it could read; a file that is missing is no error for it.
        read = parser.read([path, root / ".dvc/config.local"], encoding="utf-8")
    except (configparser.Error, OSError, UnicodeDecodeError) as error:
        raise ToolError(
            f"DVC's settings cannot be read ({type(error).__name__})",
            where=str(path),
            fix="git checkout .dvc/config",
        ) from None
    if not read:
        raise ToolError("DVC is not set up here", where=str(path), fix="git checkout .dvc/config")
    found = {}
    for section in parser.sections():
        values = {key: value.strip('"') for key, value in parser[section].items()}
        # DVC writes a remote's section as ['remote "store"'].
        found[section.strip("'")] = values
    return found


def remote(root: Path) -> str:
    """A default remote exists, re-hashes what it gives out, and can be written.

    A remote that is not a folder is not contacted: that may take long, or cost money.

    Raises:
        ToolError: no default remote, one that does not verify, or one whose folder is missing.
        ResourceError: its folder cannot be written.
    """
    found = settings(root)
    name = found.get("core", {}).get("remote")
    section = found.get(f'remote "{name}"', {})
    if name is None or "url" not in section:
        raise ToolError(
            "no default remote: nothing can be shared or restored from elsewhere",
            where=".dvc/config",
            fix="dvc remote add -d store ../so8t-store",
        )
    # Off by default: DVC then believes that an object is what its name says.
    if section.get("verify", "false").lower() != "true":
        raise ToolError(
            f"remote {name} does not verify: a damaged object would be pulled without a word",
            where=".dvc/config",
            fix=f"dvc remote modify {name} verify true",
        )
    url = section["url"]
    if "://" in url:
        return f"{name}: {url} (not contacted)"
    # DVC reads a relative path from the folder of its settings.
    folder = (root / ".dvc" / url).resolve()
    _require_writable(folder, name)
    return f"{name}: {folder}"


def _require_writable(folder: Path, name: str) -> None:
    """The remote's folder exists and can be written.

    Raises:
        ToolError: it does not exist.
        ResourceError: it cannot be written.
    """
    if not folder.is_dir():
        raise ToolError(
            f"the folder of remote {name} does not exist", where=str(folder), fix="so8t init"
        )
    # Asked, not tried: only DVC should write there.
    if not os.access(folder, os.W_OK):
        raise ResourceError(
            f"the folder of remote {name} cannot be written",
            where=str(folder),
            fix="check its owner and mode",
        )


def locks(root: Path) -> str:
    """No DVC lock of a process that is gone.

    Raises:
        ToolError: such a lock, or a damaged lock file.
    """
    path = root / LOCKS
    if not path.is_file():
        return "free"
    try:
        text = path.read_text(encoding="utf-8").strip()
        if not text:
            return "free"
        # A DVC that was killed while it wrote leaves half of the file.
        holders = _holders(json.loads(text))
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        raise ToolError(
            "DVC's lock file is damaged",
            where=str(path),
            fix=f"no DVC is running? then delete {path}",
        ) from None
    for pid in sorted(holders):
        # A process that was killed leaves its entry behind.
        if not alive(pid):
            raise ToolError(
                f"DVC's lock is held by process {pid}, which is gone",
                where=str(path),
                fix=f"the next dvc command removes it; if it says busy, delete {path}",
            )
    if not holders:
        return "free"
    shown = ", ".join(str(pid) for pid in sorted(holders))
    return f"held by process {shown}: a run is going on"


def _holders(held: dict[str, dict[str, Any]]) -> set[int]:
    """Processes that a lock file names.

    Args:
        held: by path, what is done with it: `write` with one process, `read` with a list of them.
    """
    pids = set()
    for entry in held.values():
        for group in entry.values():
            items = group if isinstance(group, list) else [group]
            pids |= {int(item["pid"]) for item in items}
    return pids


def cache(root: Path) -> Line:
    """How files get from the cache to the workspace: by link, so that a model is stored once.

    Raises:
        ToolError: DVC's settings cannot be read.
    """
    # Without the setting DVC clones files where the disk can, and copies them elsewhere.
    links = settings(root).get("cache", {}).get("type", "reflink,copy")
    first = links.split(",")[0].strip()
    # With reflink in front DVC 3 links single files but copies folders (measured, docs/log.md).
    if first not in ("hardlink", "symlink"):
        return note(
            "cache",
            f"cache.type is {links}: models are stored twice where the disk cannot clone them",
            "dvc config cache.type hardlink,symlink,copy",
        )
    count = sum(1 for _ in objects(root))
    place = f" in {cache_dir(root)}" if is_shared(root) else ""
    return ok("cache", f"{count} objects{place}; links {links}")
