"""`so8t models list`: what `artifacts:` in dvc.yaml names, and the versions and stages that GTO's git tags give it.

Tag forms (GTO): `name@v1.2.0` registers, `name@v1.2.0!` takes it back, `name#stage#N` assigns, `name#stage!#N` unassigns.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from so8t.errors import ArtifactError
from so8t.operations.git import git
from so8t.operations.store import entries, object_path, out_at
from so8t.params import read_yaml

_VERSION = re.compile(r"^(?P<name>[\w/-]+)@(?P<version>v?\d+\.\d+\.\d+[\w.+-]*?)(?P<off>!)?(#\d+)?$")
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
    for line in git("for-each-ref", "--sort=creatordate", f"--format={form}", "refs/tags", root=root).splitlines():
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
    return [Version(name, version, commit, date, who, tuple(sorted(stage for (n, stage), (_, c) in at.items() if n == name and c == commit)))
            for (name, version), (commit, date, who) in sorted(known.items(), key=lambda item: (item[0][0], item[1][1]))]


def facts_of(version: Version, path: str, root: Path = Path()) -> dict[str, str]:
    """File, semantic digest and status of a released version, as far as the cache has its small files."""
    try:
        held = {name.removeprefix(f"{path}/"): object_path(md5, root) for name, md5 in entries(out_at(version.commit, path, root), root)}
        manifest = json.loads(held["release.json"].read_text(encoding="utf-8"))
        card = json.loads(held["card.json"].read_text(encoding="utf-8"))
        return {"file": manifest["file"], "digest": manifest["semantic_digest"], "status": card["status"]}
    except (ArtifactError, KeyError, OSError, ValueError):
        return {}
