"""git and DVC as subprocesses, with their failures as errors of ours.

The project may be a subdirectory of its git repository. Every path here is therefore below the
project's root, which git is told by `./` or by the folder that it runs in.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from so8t.errors import ArtifactError, So8tError, ToolError

TAIL = 400  # characters of a tool's message that are worth repeating
# What git says of a file that a revision does not have; the last is an index in a merge.
NOT_THERE = ("does not exist", "exists on disk, but not in", "is in the index, but not")

Done = subprocess.CompletedProcess[bytes]


def quiet_dvc() -> dict[str, str]:
    """Our environment for a child that may be DVC, which then sends no usage statistics."""
    return os.environ | {"DVC_NO_ANALYTICS": "1"}


def call(*command: str, root: Path = Path(), check: bool = True) -> Done:
    """Run a tool in `root` and capture what it prints.

    Args:
        command: the program and its arguments.
        root: the folder it runs in.
        check: whether an exit code other than 0 is an error.

    Raises:
        ToolError: it is not installed, or it failed and `check` is set.
    """
    # Asked first: a missing folder and a missing program are the same error to the system.
    if shutil.which(command[0]) is None:
        raise ToolError(
            f"{command[0]} is not installed", fix=f"install {command[0]} and put it on PATH"
        )
    # Git's messages are read below, so they must be in English.
    english = {"LC_ALL": "C.UTF-8", "LANGUAGE": "en"} if command[0] == "git" else {}
    try:
        done = subprocess.run(
            # Not check=True: its error would hide what the tool said.
            command,
            cwd=root,
            capture_output=True,
            check=False,
            env=quiet_dvc() | english,
        )
    # An argument that the system cannot pass on, such as one with a NUL or half a character.
    except (OSError, ValueError) as error:
        raise ToolError(
            f"{command[0]} cannot be started ({error})",
            where=str(root),
            fix="check the folder and the arguments",
        ) from None
    if check and done.returncode:
        raise failure(done, root)
    return done


def text_of(data: bytes) -> str:
    """What a tool printed; a byte that is not UTF-8 is shown as one that is not."""
    return data.decode("utf-8", "replace")


def failure(done: Done, root: Path = Path()) -> So8tError:
    """The error to raise for a tool that failed: for git, by its cause."""
    # Some tools complain on standard output.
    said = text_of(done.stderr).strip() or text_of(done.stdout).strip()
    command = [str(word) for word in done.args]
    if command[0] == "git":
        known = _cause(said, root)
        if known is not None:
            return known
    return ToolError(
        f"`{' '.join(command)}` failed ({done.returncode}): {said[-TAIL:]}",
        where=str(root.absolute()),
        fix="run `so8t doctor`",
    )


def _cause(said: str, root: Path) -> So8tError | None:
    """The error for what git says of the repository; None for everything else."""
    where = str(root.absolute())
    if "dubious ownership" in said:
        # Git names the repository, whose root may be above ours.
        owned = said.partition("dubious ownership in repository at '")[2].partition("'")[0]
        return ToolError(
            "git does not trust this repository: it belongs to another user",
            where=where,
            fix=f"git config --global --add safe.directory {owned or where}",
        )
    if "not a git repository" in said.lower():
        return ToolError(
            "not a git repository: DVC keeps its metadata in git",
            where=where,
            fix="cd to the clone; for a new project: git init && git add -A && git commit",
        )
    if "does not have any commits yet" in said:
        return no_commit(where)
    return None


def no_commit(where: str) -> ToolError:
    """The error for a repository without a commit."""
    return ToolError("no commit yet", where=where, fix="git add -A && git commit")


def git(*arguments: str, root: Path = Path()) -> str:
    """Run git.

    Returns:
        Its standard output, without line ends at the end.

    Raises:
        ToolError: git is not installed, or it failed.
    """
    return text_of(call("git", *arguments, root=root).stdout).rstrip("\n")


def dvc(*arguments: str, root: Path = Path(), check: bool = True) -> Done:
    """Run this environment's DVC, not another one that is on PATH.

    Args:
        arguments: what stands behind `dvc`.
        root: the folder it runs in.
        check: whether an exit code other than 0 is an error.

    Raises:
        ToolError: it failed and `check` is set.
    """
    return call(sys.executable, "-m", "dvc", *arguments, root=root, check=check)


@contextmanager
def opened(root: Path = Path()) -> Iterator[Any]:
    """DVC's own view of the project.

    Raises:
        ToolError: no project of DVC, or files that it cannot read.
    """
    # Here, because DVC is slow to import.
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        with Repo(str(root)) as repo:
            yield repo
    except (DvcException, OSError) as error:
        raise ToolError(
            f"DVC cannot read this project: {error}",
            where=str(root.absolute()),
            fix="cd to the folder with dvc.yaml; `dvc status` says what is wrong with its files",
        ) from None


def commit_of(revision: str, root: Path = Path()) -> str:
    """The commit that a branch, tag or abbreviated hash names.

    Returns:
        The full hash.

    Raises:
        ArtifactError: there is no such revision.
        ToolError: no git, no repository, or no commit in it.
    """
    for name in (revision, f"{tag_prefix(root)}{revision}"):
        # ^{commit}: an annotated tag is an object of its own, which we do not want.
        wanted = f"{name}^{{commit}}"
        # A name that begins with a dash would be an option.
        if name.startswith("-"):
            continue
        done = call("git", "rev-parse", "--verify", "--quiet", wanted, root=root, check=False)
        if done.returncode == 0:
            return text_of(done.stdout).strip()
    where = str(root.absolute())
    if not git("rev-list", "--all", "--max-count=1", root=root):
        raise no_commit(where)
    fix = "`git tag`, `git log --oneline`; `git fetch --tags` for those of others"
    if is_shallow(root):
        fix = "this clone is shallow, older commits are not in it: git fetch --unshallow --tags"
    raise ArtifactError(f"no branch, tag or commit {revision!r} here", where=where, fix=fix)


def tag_prefix(root: Path = Path()) -> str:
    """What GTO puts before the names of its tags for a project in a subdirectory, else ""."""
    prefix = git("rev-parse", "--show-prefix", root=root).rstrip("/")
    return f"{prefix}=" if prefix else ""


def is_shallow(root: Path = Path()) -> bool:
    """Whether the clone was made with `--depth` and lacks the older commits."""
    return git("rev-parse", "--is-shallow-repository", root=root) == "true"


def bytes_at(revision: str, name: str, root: Path = Path()) -> bytes | None:
    """Content of a tracked file at a revision.

    Args:
        revision: a commit or its name; empty for git's index.
        name: path below the project's root.
        root: the project's folder, wherever it is in its repository.

    Returns:
        None when the file was not there.

    Raises:
        ToolError: git cannot tell.
    """
    done = call("git", "show", f"{revision}:./{name}", root=root, check=False)
    if done.returncode == 0:
        return done.stdout
    said = text_of(done.stderr)
    if any(words in said for words in NOT_THERE):
        return None
    # Without a commit, on a new branch, there is no HEAD and no file in it.
    if "invalid object name 'HEAD'" in said:
        return None
    raise failure(done, root)


def file_at(revision: str, name: str, root: Path = Path()) -> str | None:
    """Text of a tracked file at a revision; `bytes_at` for any other.

    Raises:
        ArtifactError: it is not UTF-8.
        ToolError: git cannot tell.
    """
    data = bytes_at(revision, name, root)
    if data is None:
        return None
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ArtifactError(
            f"not UTF-8 (byte {error.start})",
            where=f"{revision}:{name}",
            fix="choose another revision; save the file as UTF-8 and commit it",
        ) from None


def object_at(revision: str, name: str, root: Path = Path()) -> dict[str, Any]:
    """Content of a tracked JSON file at a revision; empty where that revision has none.

    Raises:
        ArtifactError: it is not a JSON object.
        ToolError: git cannot tell.
    """
    text = file_at(revision, name, root)
    try:
        value = {} if text is None else json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise ArtifactError(
            "not a JSON object", where=f"{revision}:{name}", fix="choose another revision"
        )
    return value


def tracked_at(revision: str, folder: str, root: Path = Path()) -> list[str]:
    """Names of the tracked files below a folder at a revision; all are below the project's root."""
    # Without -z git puts names in quotes that hold other than ASCII letters. Without --full-name it
    # gives and takes paths from the folder that it runs in.
    listed = git("ls-tree", "-r", "-z", "--name-only", revision, "--", folder, root=root)
    return [name for name in listed.split("\0") if name]


def changed_files(root: Path = Path()) -> list[str]:
    """Tracked files with uncommitted changes, staged or not, in the whole repository.

    Files that git does not track are left out: a checkout leaves them alone.

    Returns:
        Paths from the project's root; those of a file beside it begin with `../`.
    """
    # With -z a name stands as it is, and a renamed file's old name is an item of its own.
    items = git("status", "--porcelain", "-z", "--untracked-files=no", root=root).split("\0")
    # `git status --porcelain` names files from the repository's root, wherever it runs.
    prefix = git("rev-parse", "--show-prefix", root=root) or "."
    names = []
    while items:
        item = items.pop(0)
        if not item:
            continue
        names.append(Path(os.path.relpath(item[3:], prefix)).as_posix())
        if item[0] in "RC":
            items.pop(0)
    return names
