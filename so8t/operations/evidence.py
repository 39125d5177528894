"""`so8t evidence REV OUT`: what an auditor asks of one revision.

Everything comes from git and the cache; nothing is recomputed, and no network is used.

| file | holds |
|---|---|
| evidence.json | commit, who and when, versions and stages, every digest, data counts and |
| | licences, policy, engine and package versions |
| params.yaml, dvc.yaml, dvc.lock, constraints.txt, policy.md | as they were at that commit |
| reports/ | every tracked report, metric and table of that commit |
| release/ | card, manifest, Modelfile, model card; of the weights only the digest is kept |
| release.sig, release.pub | who signed the release: checked, with the weights, before they go |
"""

import hashlib
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

from so8t.errors import ArtifactError
from so8t.files import atomic_dir, read_jsonl, sha256_file, write_json
from so8t.operations import rollback
from so8t.operations.bundle import write_sums
from so8t.operations.git import bytes_at, commit_of, git, object_at, tracked_at
from so8t.operations.rollback import RELEASE
from so8t.operations.store import export, lock_at, out_at
from so8t.released import Release, open_release
from so8t.signature import PUBLIC_KEY, SIGNATURE

# Name in the repository: name in the folder.
COPIED = {
    "params.yaml": "params.yaml",
    "dvc.yaml": "dvc.yaml",
    "dvc.lock": "dvc.lock",
    "constraints.txt": "constraints.txt",
    "docs/policy.md": "policy.md",
    SIGNATURE: SIGNATURE,
    PUBLIC_KEY: PUBLIC_KEY,
}
DATA = "data/prepared"
DATA_FACTS = ("rows", "sources", "by_split_domain_verdict", "dropped", "calibration")
# Bytes. A larger file of the release is a model, which is named by its digest alone.
SMALL = 8 << 20


def make(revision: str, out: Path, root: Path = Path(), *, allow_unsigned: bool = False) -> str:
    """Write the folder.

    Args:
        revision: branch, tag, commit or registered version.
        out: the folder, which must not exist.
        root: the project's folder.
        allow_unsigned: document a release that nobody signed; evidence.json then has no key.

    Returns:
        How many files it has, after a warning where nobody signed.

    Raises:
        ArtifactError: OUT is there already, nothing was built at that revision, or its release is
            not signed or not of one piece.
    """
    commit = commit_of(revision, root)
    if out.exists():
        raise ArtifactError(
            "it is there already",
            where=str(out),
            fix="choose another folder; nothing is overwritten",
        )
    # Whole or absent: half of an audit folder could be taken for all of it.
    with atomic_dir(out) as folder:
        copied = dict(COPIED)
        # Reports and metrics are in git, not in DVC's cache.
        for name in tracked_at(commit, "reports", root):
            copied[name] = name
        for name, target in copied.items():
            # A revision may be older than one of these files.
            content = bytes_at(commit, name, root)
            if content is not None:
                (folder / target).parent.mkdir(parents=True, exist_ok=True)
                (folder / target).write_bytes(content)
        released = _copy_release(folder / "release", commit, root)
        opened = open_release(folder / "release", allow_unsigned=allow_unsigned)
        _drop_weights(folder / "release")
        facts = _facts(revision, commit, opened, root)
        write_json(folder / "evidence.json", {**facts, "release": released})
        # SHA256SUMS is a file too, and does not count itself.
        count = write_sums(folder) + 1
    return f"{opened.warning}\n{count} files".lstrip()


def _copy_release(folder: Path, commit: str, root: Path) -> dict[str, Any]:
    """Copy the release whole, as its signature covers it.

    Returns:
        By the name of every file: {"bytes", "sha256"}.
    """
    found = {}
    for name, held in export(out_at(commit, RELEASE, root), root):
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(held, target)
        found[name] = {"bytes": held.stat().st_size, "sha256": sha256_file(target)}
    return found


def _drop_weights(folder: Path) -> None:
    """Keep what people read: the small files of the release."""
    for path in folder.rglob("*"):
        if path.is_file() and (path.stat().st_size > SMALL or path.suffix == ".gguf"):
            path.unlink()


def _facts(revision: str, commit: str, opened: Release, root: Path) -> dict[str, Any]:
    """The content of evidence.json."""
    # %x00 separates the fields, because names may hold anything else; %G? is G when signed.
    shown = git("show", "-s", "--format=%an%x00%cn%x00%cI%x00%G?", commit, root=root)
    author, committer, committed, signature = shown.split("\0")
    # The conclusion is the report's own sentence, not one of ours.
    report = object_at(commit, "reports/report.json", root)
    return {
        "schema": "so8t.evidence/1",
        "revision": revision,
        "commit": commit,
        "author": author,
        "committer": committer,
        "committed": committed,
        "signed": signature == "G",
        "released": _versions_at(commit, root),
        "data": _data(commit, root),
        "policy": _policy(commit, root),
        "environment": _environment(commit, opened, root),
        "outputs": {out.path: {"md5": out.md5, "bytes": out.size} for out in lock_at(commit, root)},
        "release_key": opened.signed_by or None,
        "conclusion": report.get("conclusion"),
    }


def _versions_at(commit: str, root: Path) -> list[dict[str, Any]]:
    """The registered versions that are this commit."""
    found = []
    for version in rollback.registered(root):
        if version.commit == commit:
            found.append(
                {
                    "name": version.name,
                    "version": version.version,
                    "by": version.by,
                    "date": version.date,
                    "stages": list(version.stages),
                }
            )
    return found


def _data(commit: str, root: Path) -> dict[str, Any]:
    """What `prepare` counted, and the rows by licence."""
    measured = object_at(commit, "reports/metrics/prepare.json", root)
    facts = {key: measured.get(key) for key in DATA_FACTS}
    return {**facts, "licences": _licences(commit, root)}


def _licences(commit: str, root: Path) -> dict[str, dict[str, int]] | None:
    """Rows of each prepared split by source and licence.

    Returns:
        {split: {"source: licence": rows}}; None where the cache lacks that revision's data.
    """
    found: dict[str, dict[str, int]] = {}
    try:
        for name, held in export(out_at(commit, DATA, root), root):
            if name.endswith(".jsonl"):
                found[name.removesuffix(".jsonl")] = _count_licences(held)
    # Old data are often cleared away; the rest of the evidence still counts.
    except ArtifactError:
        return None
    return found


def _count_licences(path: Path) -> dict[str, int]:
    """Rows of one prepared split by "source: licence", in alphabetical order."""
    counts: Counter[str] = Counter()
    # Not `read_rows`: the revision may be older than the fields that rows have today.
    for _line, row in read_jsonl(path):
        source = row.get("source") or "unnamed"
        licence = row.get("license") or "none given"
        counts[f"{source}: {licence}"] += 1
    return dict(sorted(counts.items()))


def _policy(commit: str, root: Path) -> dict[str, Any]:
    """Digest and last change of the labelling policy."""
    name = "docs/policy.md"
    content = bytes_at(commit, name, root) or b""
    return {
        "file": "policy.md",
        "sha256": _sha256(content),
        "last_changed": git("log", "-1", "--format=%h %cI", commit, "--", name, root=root),
    }


def _environment(commit: str, opened: Release, root: Path) -> dict[str, Any]:
    """Digest of the package versions, and the engine that the released card was measured with."""
    constraints = bytes_at(commit, "constraints.txt", root) or b""
    return {"constraints_sha256": _sha256(constraints), "engine": opened.card.engine}


def _sha256(content: bytes) -> str:
    """SHA-256 of a file's bytes, in hex."""
    return hashlib.sha256(content).hexdigest()
