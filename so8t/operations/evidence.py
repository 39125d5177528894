"""`so8t evidence REV OUT`: what an auditor asks of one revision, from git and the cache alone; no network, nothing recomputed.

| file | holds |
|---|---|
| evidence.json | commit, who and when, versions and stages, every digest, data counts and licences, policy, engine and package versions |
| params.yaml, dvc.yaml, dvc.lock, constraints.txt, policy.md | as they were at that commit |
| reports/ | every tracked report, metric and table of that commit |
| release/ | card, manifest, Modelfile, model card (not the weights: their digest is in evidence.json) |
"""

import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

from so8t.errors import ArtifactError
from so8t.files import atomic_dir, read_jsonl, write_json, write_text
from so8t.operations import rollback
from so8t.operations.bundle import write_sums
from so8t.operations.git import commit_of, file_at, git, tracked_at
from so8t.operations.rollback import RELEASE
from so8t.operations.store import export, lock_at, out_at

COPIED = {
    "params.yaml": "params.yaml",
    "dvc.yaml": "dvc.yaml",
    "dvc.lock": "dvc.lock",
    "constraints.txt": "constraints.txt",
    "docs/policy.md": "policy.md",
}
DATA = "data/prepared"
SMALL = 8 << 20  # bytes: a larger file of the release is a model, named by its digest


def make(revision: str, out: Path, root: Path = Path()) -> int:
    """Write the folder; return how many files it has.

    Raises:
        ArtifactError: OUT is there already, or nothing was built at that revision.
    """
    commit = commit_of(revision, root)
    if out.exists():
        raise ArtifactError(
            "it is there already",
            where=str(out),
            fix="choose another folder; nothing is overwritten",
        )
    with atomic_dir(out) as folder:
        for name, target in COPIED.items():
            if (text := file_at(commit, name, root)) is not None:
                write_text(folder / target, text)
        for name in tracked_at(commit, "reports", root):
            if (text := file_at(commit, name, root)) is not None:
                write_text(folder / name, text)
        released = _release(folder / "release", commit, root)
        write_json(folder / "evidence.json", _facts(revision, commit, released, root))
        return write_sums(folder) + 1


def _release(folder: Path, commit: str, root: Path) -> dict[str, Any]:
    """Copy the small files of the release; name every file with its size and SHA-256."""
    found = {}
    for name, held in export(out_at(commit, RELEASE, root), root):
        data = held.read_bytes() if held.stat().st_size <= SMALL else None
        if data is not None and not name.endswith(".gguf"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)
        with held.open("rb") as stream:
            found[name] = {
                "bytes": held.stat().st_size,
                "sha256": hashlib.file_digest(stream, "sha256").hexdigest(),
            }
    return found


def _licences(commit: str, root: Path) -> dict[str, dict[str, int]] | None:
    """Rows of each prepared split by source and licence; None where that revision's data are not in the cache."""
    found: dict[str, dict[str, int]] = {}
    try:
        for name, held in export(out_at(commit, DATA, root), root):
            if name.endswith(".jsonl"):
                counts = Counter(
                    f"{row.get('source') or 'unnamed'}: {row.get('license') or 'none given'}"
                    for _number, row in read_jsonl(held)
                )
                found[name.removesuffix(".jsonl")] = dict(sorted(counts.items()))
    except ArtifactError:
        return None
    return found


def _json_at(commit: str, name: str, root: Path) -> dict[str, Any]:
    text = file_at(commit, name, root)
    return {} if text is None else dict(json.loads(text))


def _facts(revision: str, commit: str, released: dict[str, Any], root: Path) -> dict[str, Any]:
    who = git("show", "-s", "--format=%an%x00%cn%x00%cI%x00%G?", commit, root=root).split("\0")
    data = _json_at(commit, "reports/metrics/prepare.json", root)
    given = [v for v in rollback.registered(root) if v.commit == commit]
    policy = file_at(commit, "docs/policy.md", root) or ""
    card = next(
        (held for name, held in export(out_at(commit, RELEASE, root), root) if name == "card.json"),
        None,
    )
    return {
        "schema": "so8t.evidence/1",
        "revision": revision,
        "commit": commit,
        "author": who[0],
        "committer": who[1],
        "committed": who[2],
        "signed": who[3] == "G",
        "released": [
            {
                "name": v.name,
                "version": v.version,
                "by": v.by,
                "date": v.date,
                "stages": list(v.stages),
            }
            for v in given
        ],
        "data": {
            key: data.get(key)
            for key in ("rows", "sources", "by_split_domain_verdict", "dropped", "calibration")
        }
        | {"licences": _licences(commit, root)},
        "policy": {
            "file": "policy.md",
            "sha256": hashlib.sha256(policy.encode()).hexdigest(),
            "last_changed": git(
                "log", "-1", "--format=%h %cI", commit, "--", "docs/policy.md", root=root
            ),
        },
        "environment": {
            "constraints_sha256": hashlib.sha256(
                (file_at(commit, "constraints.txt", root) or "").encode()
            ).hexdigest(),
            "engine": None
            if card is None
            else json.loads(card.read_text(encoding="utf-8")).get("engine"),
        },
        "outputs": {o.path: {"md5": o.md5, "bytes": o.size} for o in lock_at(commit, root)},
        "release": released,
        "conclusion": _json_at(commit, "reports/report.json", root).get("conclusion"),
    }
