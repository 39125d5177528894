"""git and DVC as subprocesses, with their failures as errors of ours."""

import os
import subprocess
import sys
from pathlib import Path

from so8t.errors import ArtifactError, ToolError

TAIL = 400  # characters of a tool's message that are worth repeating

Done = subprocess.CompletedProcess[str]


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
    try:
        done = subprocess.run(
            # Not check=True: its error would hide what the tool said.
            command,
            cwd=root,
            capture_output=True,
            text=True,
            check=False,
            env=quiet_dvc(),
        )
    except FileNotFoundError:
        raise ToolError(
            f"{command[0]} is not installed", fix=f"install {command[0]} and put it on PATH"
        ) from None
    if check and done.returncode:
        # Some tools complain on standard output.
        said = done.stderr.strip() or done.stdout.strip()
        raise ToolError(
            f"`{' '.join(command)}` failed ({done.returncode}): {said[-TAIL:]}",
            fix="run `so8t doctor`",
        )
    return done


def git(*arguments: str, root: Path = Path()) -> str:
    """Run git.

    Returns:
        Its standard output, without line ends at the end.

    Raises:
        ToolError: git is not installed, or it failed.
    """
    return call("git", *arguments, root=root).stdout.rstrip("\n")


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


def commit_of(revision: str, root: Path = Path()) -> str:
    """The commit that a branch, tag or abbreviated hash names.

    Returns:
        The full hash.

    Raises:
        ArtifactError: there is no such revision.
    """
    # ^{commit}: an annotated tag is an object of its own, which we do not want.
    wanted = f"{revision}^{{commit}}"
    done = call("git", "rev-parse", "--verify", "--quiet", wanted, root=root, check=False)
    if done.returncode:
        raise ArtifactError(
            f"no branch, tag or commit {revision!r} here",
            where=str(root.resolve()),
            fix="`git tag`, `git log --oneline`; `git fetch --tags` for those of others",
        )
    return done.stdout.strip()


def file_at(revision: str, name: str, root: Path = Path()) -> str | None:
    """Text of a tracked file at a revision.

    Args:
        revision: a commit or its name; empty for git's index.
        name: path below the repository's root.
        root: the repository.

    Returns:
        None when the file was not there.
    """
    done = call("git", "show", f"{revision}:{name}", root=root, check=False)
    return done.stdout if done.returncode == 0 else None


def tracked_at(revision: str, folder: str, root: Path = Path()) -> list[str]:
    """Names of the tracked files below a folder at a revision."""
    # Without -z git puts names in quotes that hold other than ASCII letters.
    listed = git("ls-tree", "-r", "-z", "--name-only", revision, "--", folder, root=root)
    return [name for name in listed.split("\0") if name]


def changed_files(root: Path = Path()) -> list[str]:
    """Tracked files with uncommitted changes, staged or not.

    Files that git does not track are left out: a checkout leaves them alone.
    """
    status = git("status", "--porcelain", "--untracked-files=no", root=root)
    # Two letters of state and a space come before each name. Only the end of `status` is stripped,
    # so the letters of the first line are whole, even when they are spaces.
    return [line[3:] for line in status.splitlines()]
