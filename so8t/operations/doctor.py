"""`so8t doctor`: the machine, the clone, and one stage's checklist, each line with a fix.

Checks of this clone: git, dvc.lock, DVC's settings, its remote, its locks.
"""

import configparser
import json
import os
from collections.abc import Iterator
from pathlib import Path

from so8t.errors import ArtifactError, ResourceError, So8tError, ToolError
from so8t.files import alive
from so8t.operations import checklist, machine
from so8t.operations.git import call, git
from so8t.operations.line import Line, fail, judged, note, ok
from so8t.operations.store import CACHE, lock_here
from so8t.params import Params, load


def examine(root: Path, stage: str | None = None) -> Iterator[Line]:
    """Every line; a params.yaml that cannot be read leaves the machine judged by the demo's needs."""
    params: Params | None = None
    try:
        params = load(root / "params.yaml")
        yield ok("params.yaml", f"profile {params.profile}")
    except So8tError as error:
        yield fail("params.yaml", error)
    kind = "scratch" if params is None else params.active.base.kind
    quantization = "nf4" if params is None else params.active.train.quantization
    yield from machine.lines(
        root,
        kind=kind,
        quantization=quantization,
        wanted_threads=1 if params is None else params.scoring.threads,
    )
    yield from lines(root)
    if params is not None and stage is not None:
        yield from checklist.lines(root, params, stage)


def exit_code(lines: list[Line]) -> int:
    """The code of the first failure, 0 without one."""
    return next((line.code for line in lines if line.state == "fail"), 0)


LOCKS = Path(".dvc/tmp/rwlock")


def repository(root: Path) -> str:
    """A git repository with a dvc.yaml at its root."""
    if not (root / "dvc.yaml").is_file():
        raise ArtifactError(
            "no dvc.yaml here", where=str(root.resolve()), fix="cd to the project's root"
        )
    if call("git", "rev-parse", "--is-inside-work-tree", root=root, check=False).returncode:
        raise ToolError(
            "not a git repository: DVC keeps its metadata in git",
            where=str(root.resolve()),
            fix="git init && git add -A && git commit",
        )
    head = call("git", "rev-parse", "--short", "HEAD", root=root, check=False).stdout.strip()
    return (
        f"at {head or 'no commit yet'} ({git('branch', '--show-current', root=root) or 'detached'})"
    )


def lock(root: Path) -> str:
    """dvc.lock can be read."""
    outs = lock_here(root)
    return f"{len(outs)} outputs recorded" if outs else "nothing built yet"


def settings(root: Path) -> dict[str, dict[str, str]]:
    """.dvc/config with .dvc/config.local laid over it.

    Raises:
        ToolError: missing or unreadable.
    """
    parser = configparser.ConfigParser(interpolation=None)
    try:
        if not parser.read([root / ".dvc/config", root / ".dvc/config.local"], encoding="utf-8"):
            raise ToolError(
                "DVC is not set up here",
                where=str(root / ".dvc/config"),
                fix="git checkout .dvc/config",
            )
    except configparser.Error as error:
        raise ToolError(
            f"DVC's settings cannot be read ({type(error).__name__})",
            where=str(root / ".dvc/config"),
            fix="git checkout .dvc/config",
        ) from None
    return {
        name.strip("'"): {k: v.strip('"') for k, v in parser[name].items()}
        for name in parser.sections()
    }


def remote(root: Path) -> str:
    """A default remote exists, re-hashes what it gives out, and can be written."""
    found = settings(root)
    name = found.get("core", {}).get("remote")
    section = found.get(f'remote "{name}"')
    if name is None or section is None or "url" not in section:
        raise ToolError(
            "no default remote: nothing can be shared or restored from elsewhere",
            where=".dvc/config",
            fix="dvc remote add -d store ../so8t-store",
        )
    if section.get("verify", "false").lower() != "true":
        raise ToolError(
            f"remote {name} does not verify: a damaged object would be pulled without a word",
            where=".dvc/config",
            fix=f"dvc remote modify {name} verify true",
        )
    if "://" in section["url"]:
        return f"{name}: {section['url']} (not contacted)"
    folder = (root / ".dvc" / section["url"]).resolve()
    if not folder.is_dir():
        raise ToolError(
            f"the folder of remote {name} does not exist", where=str(folder), fix="so8t init"
        )
    if not os.access(folder, os.W_OK):
        raise ResourceError(
            f"the folder of remote {name} cannot be written",
            where=str(folder),
            fix="check its owner and mode",
        )
    return f"{name}: {folder}"


def locks(root: Path) -> str:
    """No DVC lock of a process that is gone."""
    path = root / LOCKS
    if not path.is_file() or not (text := path.read_text(encoding="utf-8").strip()):
        return "free"
    try:
        held = json.loads(text)
        pids = {
            int(item["pid"])
            for entry in held.values()
            for group in entry.values()
            for item in (group if isinstance(group, list) else [group])
        }
    except (ValueError, TypeError, KeyError, AttributeError):
        raise ToolError(
            "DVC's lock file is damaged",
            where=str(path),
            fix=f"no DVC is running? then delete {path}",
        ) from None
    if dead := sorted(pid for pid in pids if not alive(pid)):
        raise ToolError(
            f"DVC's lock is held by process {dead[0]}, which is gone",
            where=str(path),
            fix=f"the next dvc command removes it; if it says busy, delete {path}",
        )
    return (
        f"held by process {', '.join(map(str, sorted(pids)))}: a run is going on"
        if pids
        else "free"
    )


def cache(root: Path) -> Line:
    """How files get from the cache to the workspace: by link, so that a model is not stored twice."""
    folder = root / CACHE
    found = settings(root).get("cache", {}).get("type", "reflink,copy")
    if found.split(",")[0].strip() not in (
        "hardlink",
        "symlink",
    ):  # reflink in front: DVC 3 links files and copies folders (docs/log.md)
        return note(
            "cache",
            f"cache.type is {found}: models are stored twice where the disk cannot clone them",
            "dvc config cache.type hardlink,symlink,copy",
        )
    count = sum(1 for _ in folder.rglob("*") if _.is_file()) if folder.is_dir() else 0
    return Line("cache", "ok", f"{count} objects; links {found}")


def lines(root: Path) -> Iterator[Line]:
    """Every check of the clone."""
    yield judged("repository", lambda: repository(root))
    yield judged("dvc.lock", lambda: lock(root))
    yield judged("remote", lambda: remote(root))
    yield judged("dvc locks", lambda: locks(root))
    try:
        yield cache(root)
    except ToolError as error:
        yield Line("cache", "fail", error.problem, error.fix)
