"""`so8t rollback REV`: code, parameters, model, card and Modelfile of one revision, together or not at all.

Before anything changes: the revision exists and was built, nothing uncommitted would be lost, and every object can be
had (cache, else remote). Afterwards the release is checked; when anything fails, the revision from before is put back.

`so8t models list`: what `artifacts:` in dvc.yaml names, and the versions and stages that GTO's git tags give it.

Tag forms (GTO): `name@v1.2.0` registers, `name@v1.2.0!` takes it back, `name#stage#N` assigns, `name#stage!#N` unassigns.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from so8t.errors import ArtifactError, So8tError
from so8t.operations.git import changed_files, commit_of, dvc, git
from so8t.operations.store import Out, entries, lock_at, lock_here, md5_file, object_path, out_at
from so8t.params import read_yaml
from so8t.release import manifest

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
    changed = [
        out for out in there if here.get(out.path) != out.md5 or not (root / out.path).exists()
    ]
    absent = [out.path for out in changed if not _cached(out, root)]
    return Plan(
        revision, commit, [out.path for out in changed], absent, sum(out.size for out in changed)
    )


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
        raise ArtifactError(
            f"uncommitted changes: {', '.join(files[:5])}{' ...' if len(files) > 5 else ''}",
            where=str(root.resolve()),
            fix="`git commit` them, or throw them away with `git restore -SW .`",
        )
    edited = [
        name
        for out in lock_here(root)
        if out.cached and _cached(out, root)
        for name, md5 in entries(out, root)
        if (root / name).is_file() and md5_file(root / name) != md5
    ]
    if edited:
        raise ArtifactError(
            f"built files were edited by hand: {', '.join(edited[:5])}",
            where=str(root.resolve()),
            fix="keep a copy elsewhere, then `dvc checkout --force`",
        )


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
        raise ArtifactError(
            f"neither the cache nor the remote has {', '.join(missing) or 'every file'} of {revision}",
            where=str(root.resolve()),
            fix="`dvc push` where that revision was built, or build it again: git checkout REV && dvc repro",
        )


def _released(root: Path) -> str:
    if not (root / RELEASE).is_dir():
        return "no release was built there"
    return manifest.check(root / RELEASE)


_VERSION = re.compile(
    r"^(?P<name>[\w/-]+)@(?P<version>v?\d+\.\d+\.\d+[\w.+-]*?)(?P<off>!)?(#\d+)?$"
)
_STAGE = re.compile(r"^(?P<name>[\w/-]+)#(?P<stage>[\w-]+?)(?P<off>!)?#(?P<number>\d+)$")


@dataclass(frozen=True, slots=True)
class Version:
    """One registered version of one artifact."""

    name: str
    version: str
    commit: str
    date: str
    by: str
    stages: tuple[str, ...]


def artifacts(root: Path = Path()) -> dict[str, str]:
    """Name and path of every artifact that dvc.yaml declares."""
    declared = read_yaml(root / "dvc.yaml").get("artifacts") or {}
    return {name: str(item["path"]) for name, item in declared.items()}


def tags(root: Path = Path()) -> Iterator[tuple[str, str, str, str]]:
    """(tag, commit, date, who) of every tag, oldest first."""
    form = "%(refname:strip=2)%00%(if)%(*objectname)%(then)%(*objectname)%(else)%(objectname)%(end)%00%(creatordate:short)%00%(taggername)%(authorname)"
    for line in git(
        "for-each-ref", "--sort=creatordate", f"--format={form}", "refs/tags", root=root
    ).splitlines():
        name, commit, date, who = line.split("\0")
        yield name, commit, date, who


def registered(root: Path = Path()) -> list[Version]:
    """Versions that are registered and not taken back, by name, oldest first; each stage belongs to its newest assignment."""
    known: dict[tuple[str, str], tuple[str, str, str]] = {}
    at: dict[tuple[str, str], tuple[int, str]] = {}
    for tag, commit, date, who in tags(root):
        if match := _VERSION.match(tag):
            key = (match["name"], match["version"])
            if match["off"] is not None:
                known.pop(key, None)
            else:
                known[key] = (commit, date, who)
        elif match := _STAGE.match(tag):
            key, number = (match["name"], match["stage"]), int(match["number"])
            if number >= at.get(key, (0, ""))[0]:
                at[key] = (number, "" if match["off"] else commit)
    return [
        Version(
            name,
            version,
            commit,
            date,
            who,
            tuple(sorted(stage for (n, stage), (_, c) in at.items() if n == name and c == commit)),
        )
        for (name, version), (commit, date, who) in sorted(
            known.items(), key=lambda item: (item[0][0], item[1][1])
        )
    ]


def facts_of(version: Version, path: str, root: Path = Path()) -> dict[str, str]:
    """File, semantic digest and status of a released version, as far as the cache has its small files."""
    try:
        held = {
            name.removeprefix(f"{path}/"): object_path(md5, root)
            for name, md5 in entries(out_at(version.commit, path, root), root)
        }
        manifest = json.loads(held["release.json"].read_text(encoding="utf-8"))
        card = json.loads(held["card.json"].read_text(encoding="utf-8"))
        return {
            "file": manifest["file"],
            "digest": manifest["semantic_digest"],
            "status": card["status"],
        }
    except (ArtifactError, KeyError, OSError, ValueError):
        return {}
