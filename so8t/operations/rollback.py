"""`so8t rollback REV`: code, parameters, model, card and Modelfile of one revision, or nothing.

Before anything changes, the revision must exist and have been built, and nothing uncommitted may be
lost. Then every object must come, from the cache or else from the remote, and the release's parts
must belong together. When any of that fails, the revision from before is put back.

Revisions may be registered versions: what `artifacts:` in dvc.yaml names, and the versions and
stages that GTO's git tags give it (`so8t models list`). The tags have these forms:

    name@v1.2.0       registers a version
    name@v1.2.0!      takes it back
    name#stage#N      assigns the commit to a stage; the highest N counts
    name#stage!#N     unassigns it

Where the project is a subdirectory of its repository, GTO puts that path and `=` before each.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from so8t.errors import ArtifactError, So8tError
from so8t.operations.git import call, changed_files, commit_of, dvc, git, tag_prefix
from so8t.operations.store import Out, entries, lock_at, lock_here, md5_file, object_path, out_at
from so8t.params import read_yaml
from so8t.released import open_release
from so8t.signature import PUBLIC_KEY, SIGNATURE

RELEASE = "models/release"
_VERSION_TAG = re.compile(
    r"^(?P<name>[\w/-]+)@(?P<version>v?\d+\.\d+\.\d+[\w.+-]*?)(?P<off>!)?(#\d+)?$"
)
_STAGE_TAG = re.compile(r"^(?P<name>[\w/-]+)#(?P<stage>[\w-]+?)(?P<off>!)?#(?P<number>\d+)$")


@dataclass(frozen=True, slots=True)
class Plan:
    """What a rollback would do.

    Attributes:
        revision: as the user called it.
        commit: its full hash.
        changed: outputs whose bytes differ between here and there.
        absent: those of them that are not in the cache: they have to be fetched.
        size: bytes of the changed outputs.
    """

    revision: str
    commit: str
    changed: list[str]
    absent: list[str]
    size: int


def plan(revision: str, root: Path = Path()) -> Plan:
    """Compare a revision with the workspace; nothing is changed.

    Args:
        revision: branch, tag, commit or registered version.
        root: the project's folder.

    Raises:
        ArtifactError: unknown revision, or nothing was built there.
    """
    commit = commit_of(revision, root)
    there = lock_at(commit, root)
    # An output that git keeps comes with the checkout; only DVC's are compared.
    here = {out.path: out.md5 for out in lock_here(root)}
    changed = []
    for out in there:
        same = here.get(out.path) == out.md5 and (root / out.path).exists()
        if out.cached and not same:
            changed.append(out)
    return Plan(
        revision,
        commit,
        changed=[out.path for out in changed],
        absent=[out.path for out in changed if not _in_cache(out, root)],
        size=sum(out.size for out in changed),
    )


def _in_cache(out: Out, root: Path) -> bool:
    # First the object of the output itself: without a directory's list, `entries` raises.
    """Whether the cache has every object of an output."""
    if not object_path(out.md5, root).is_file():
        return False
    return all(object_path(entry.md5, root).is_file() for entry in entries(out, root))


def require_nothing_lost(root: Path = Path()) -> None:
    """Refuse while tracked files or built files hold changes that no commit and no cache has.

    Raises:
        ArtifactError: naming the files.
    """
    files = changed_files(root)
    if files:
        more = " ..." if len(files) > 5 else ""
        raise ArtifactError(
            f"uncommitted changes: {', '.join(files[:5])}{more}",
            where=str(root.resolve()),
            fix="`git commit` them, or throw them away with `git restore -SW .`",
        )
    _require_signature_in_git(root)
    edited = []
    for out in lock_here(root):
        # An output that the cache lacks has nothing to compare with.
        if out.cached and _in_cache(out, root):
            edited += _edited_files(out, root)
    if edited:
        raise ArtifactError(
            f"built files were edited by hand: {', '.join(edited[:5])}",
            where=str(root.resolve()),
            fix="keep a copy elsewhere, then `dvc checkout --force`",
        )


def _require_signature_in_git(root: Path) -> None:
    """A signature that git does not know would be lost, or stay behind with another release.

    Raises:
        ArtifactError: it is there and not tracked.
    """
    if not (root / SIGNATURE).is_file():
        return
    listed = git("ls-files", "--", SIGNATURE, root=root)
    if not listed:
        raise ArtifactError(
            "the release's signature is not in git",
            where=str(root / SIGNATURE),
            fix=f"git add {SIGNATURE} {PUBLIC_KEY} && git commit",
        )


def _edited_files(out: Out, root: Path) -> list[str]:
    """Files of an output whose bytes are not those that DVC recorded."""
    edited = []
    for entry in entries(out, root):
        path = root / entry.path
        if path.is_file() and md5_file(path) != entry.md5:
            edited.append(entry.path)
    return edited


def go_to(wanted: Plan, root: Path = Path(), *, allow_unsigned: bool = False) -> str:
    """Do what the plan says; return what is released now.

    Args:
        wanted: what `plan` found.
        root: the project's folder.
        allow_unsigned: go to a revision whose release nobody signed.

    Raises:
        ArtifactError: something would be lost, cannot be had, or does not belong together; the old
            state is back then.
        ToolError: git or DVC failed; the old state is back then.
    """
    require_nothing_lost(root)
    # A branch by its name, so that going back does not leave it.
    before = git("branch", "--show-current", root=root) or commit_of("HEAD", root)
    try:
        _check_out(_branch_or_commit(wanted, root), root)
        return _released(root, allow_unsigned)
    except So8tError:
        # If this fails too, its error is the one to show: the old state is not back.
        _check_out(before, root)
        raise


def _branch_or_commit(wanted: Plan, root: Path) -> str:
    """What git is told to check out: a branch by its name, so that its next commit is on it."""
    branch = ("show-ref", "--verify", "--quiet", f"refs/heads/{wanted.revision}")
    is_branch = call("git", *branch, root=root, check=False).returncode == 0
    # A tag may have a prefix that the user did not type.
    return wanted.revision if is_branch else wanted.commit


def _check_out(revision: str, root: Path) -> None:
    """Bring code, parameters and outputs to a revision.

    Raises:
        ToolError: git refused.
        ArtifactError: an output can be had nowhere.
    """
    git("checkout", "--quiet", revision, root=root)
    # A fetch that fails is no error yet: the checkout below names what is missing.
    dvc("fetch", "--quiet", root=root, check=False)
    # --force, because `require_nothing_lost` has made sure that nothing is lost.
    done = dvc("checkout", "--quiet", "--force", root=root, check=False)
    missing = [out.path for out in lock_here(root) if out.cached and not (root / out.path).exists()]
    if missing or done.returncode:
        # DVC may fail at a file inside a folder that is there.
        named = ", ".join(missing) or "every file"
        raise ArtifactError(
            f"neither the cache nor the remote has {named} of {revision}",
            where=str(root.resolve()),
            fix="`dvc push` where that revision was built, or build it again: "
            "git checkout REV && dvc repro",
        )


def _released(root: Path, allow_unsigned: bool) -> str:
    """What is released in the workspace, in one line, or with a warning before it.

    Raises:
        ArtifactError: the release is not signed, or its parts do not belong together.
    """
    # A revision may end before the stage that makes a release.
    if not (root / RELEASE).is_dir():
        return "no release was built there"
    return open_release(root / RELEASE, allow_unsigned=allow_unsigned).said


@dataclass(frozen=True, slots=True)
class Version:
    """One registered version of one artifact.

    Attributes:
        name: the artifact's name in dvc.yaml.
        version: such as `v1.2.0`.
        commit: the full hash.
        date: when it was registered, YYYY-MM-DD.
        by: who registered it.
        stages: where it is in use, such as `prod`, in alphabetical order.
    """

    name: str
    version: str
    commit: str
    date: str
    by: str
    stages: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Tag:
    """A git tag, the commit that it means, its date (YYYY-MM-DD), and who made it."""

    name: str
    commit: str
    date: str
    by: str


def artifacts(root: Path = Path()) -> dict[str, str]:
    """Name and path of every artifact that dvc.yaml declares."""
    # A dvc.yaml without artifacts has nothing to register.
    path = root / "dvc.yaml"
    try:
        declared = read_yaml(path).get("artifacts") or {}
        return {str(name): str(item["path"]) for name, item in declared.items()}
    except (AttributeError, KeyError, TypeError):
        raise ArtifactError(
            "its artifacts are not {name: {path: ...}}",
            where=str(path),
            fix="git checkout dvc.yaml",
        ) from None


def tags(root: Path = Path()) -> Iterator[Tag]:
    """Every tag, oldest first."""
    # An annotated tag is an object of its own: *objectname is the commit that it is of, and empty
    # for a plain tag. A plain tag has no tagger, an annotated one no author.
    commit = "%(if)%(*objectname)%(then)%(*objectname)%(else)%(objectname)%(end)"
    who = "%(taggername)%(authorname)"
    form = f"--format=%(refname:strip=2)%00{commit}%00%(creatordate:short)%00{who}"
    listed = git("for-each-ref", "--sort=creatordate", form, "refs/tags", root=root)
    for line in listed.splitlines():
        yield Tag(*line.split("\0"))


@dataclass(frozen=True, slots=True)
class _Assignment:
    """The newest assignment of a stage.

    Attributes:
        number: N of the tag; the highest counts.
        commit: empty where the stage was unassigned.
    """

    number: int
    commit: str


def registered(root: Path = Path()) -> list[Version]:
    """Versions that are registered and not taken back, by name, oldest first.

    Each stage belongs to its newest assignment.
    """
    known: dict[tuple[str, str], Tag] = {}
    stages: dict[tuple[str, str], _Assignment] = {}
    prefix = tag_prefix(root)
    # Oldest first, so that a later tag takes back an earlier one.
    for tag in tags(root):
        name = tag.name.removeprefix(prefix)
        version = _VERSION_TAG.match(name)
        stage = _STAGE_TAG.match(name)
        if version:
            _note_version(known, version, tag)
        elif stage:
            _note_stage(stages, stage, tag)
    found = []
    for (name, number), tag in known.items():
        # A stage is of the version whose commit it was assigned to.
        own = [
            stage
            for (artifact, stage), assigned in stages.items()
            if artifact == name and assigned.commit == tag.commit
        ]
        found.append(Version(name, number, tag.commit, tag.date, tag.by, tuple(sorted(own))))
    return sorted(found, key=lambda version: (version.name, version.date))


def _note_version(known: dict[tuple[str, str], Tag], match: re.Match[str], tag: Tag) -> None:
    """A tag that registers a version or takes it back."""
    key = (match["name"], match["version"])
    if match["off"] is None:
        known[key] = tag
    else:
        known.pop(key, None)


def _note_stage(stages: dict[tuple[str, str], _Assignment], match: re.Match[str], tag: Tag) -> None:
    """A tag that assigns a stage or unassigns it; an older one than is known changes nothing."""
    key = (match["name"], match["stage"])
    number = int(match["number"])
    if key in stages and number < stages[key].number:
        return
    commit = tag.commit if match["off"] is None else ""
    stages[key] = _Assignment(number, commit)


def facts_of(version: Version, path: str, root: Path = Path()) -> dict[str, str]:
    """What a released version holds, as far as the cache has its small files.

    Args:
        version: a registered version.
        path: the artifact's path in dvc.yaml.
        root: the project's folder.

    Returns:
        File name, semantic digest and the card's status; empty where they cannot be read.
    """
    try:
        out = out_at(version.commit, path, root)
        held = {}
        for entry in entries(out, root):
            # The manifest and the card are small; the weights are not read.
            held[entry.path.removeprefix(f"{path}/")] = object_path(entry.md5, root)
        released = json.loads(held["release.json"].read_text(encoding="utf-8"))
        card = json.loads(held["card.json"].read_text(encoding="utf-8"))
        return {
            "file": released["file"],
            "digest": released["semantic_digest"],
            "status": card["status"],
        }
    except (ArtifactError, KeyError, OSError, ValueError):
        return {}
