"""What git and DVC say is told by its cause; a cache that was moved is found; a merge is left to people."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from so8t.errors import ParamsError, So8tError
from so8t.operations import bundle, doctor, fsck, parallel, rollback, store
from so8t.operations.git import commit_of, git
from so8t.operations.store import lock_here, object_path
from tests.fakes.clone import build, edit_params, make_clone, make_monorepo, run

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow
Maker = Callable[[Path], Path]


@pytest.fixture(params=[make_clone, make_monorepo], ids=["alone", "monorepo"])
def clone(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    folder: Path = request.param(tmp_path / "clone")
    return folder


def so8t(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "so8t.cli", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
    )


# --- the causes of git's failures ---


def fix_of(look: Callable[[], object]) -> str:
    with pytest.raises(So8tError) as caught:
        look()
    return caught.value.fix


def test_a_folder_that_is_no_repository_is_called_so(tmp_path: Path) -> None:
    (tmp_path / "dvc.yaml").touch()
    assert "git init" in fix_of(lambda: doctor.repository(tmp_path))
    assert "git init" in fix_of(lambda: commit_of("HEAD", tmp_path))


def test_a_repository_of_another_user_is_trusted_and_not_made_again(clone: Path) -> None:
    # Git's own test suite pretends so, too: no second user is needed.
    env = {"GIT_TEST_ASSUME_DIFFERENT_OWNER": "1", "GIT_CONFIG_GLOBAL": os.devnull}
    for command in (("doctor",), ("rollback", "main"), ("evidence", "main", "out")):
        done = so8t(clone, *command, **env)
        assert done.returncode == 6, done.stderr
        top = run(clone, "git", "rev-parse", "--show-toplevel").strip()
        assert f"git config --global --add safe.directory {top}" in done.stdout + done.stderr
        assert "git init" not in done.stdout + done.stderr


def test_a_revision_that_a_shallow_clone_lacks_says_how_to_get_it(
    clone: Path, tmp_path: Path
) -> None:
    first = run(clone, "git", "rev-parse", "HEAD").strip()
    edit_params(clone, seed=3)
    run(clone, "git", "commit", "-qam", "two")
    top = run(clone, "git", "rev-parse", "--show-toplevel").strip()
    run(tmp_path, "git", "clone", "-q", "--depth", "1", f"file://{top}", "shallow")
    shallow = tmp_path / "shallow" / clone.relative_to(top)
    assert "git fetch --unshallow" in fix_of(lambda: commit_of(first, shallow))
    assert "git fetch --unshallow" in doctor.repository(shallow)
    assert "--unshallow" not in fix_of(lambda: commit_of("v-nine", clone))


def test_a_repository_without_a_commit_is_called_so(tmp_path: Path) -> None:
    run(tmp_path, "git", "init", "-q")
    (tmp_path / "dvc.yaml").touch()
    with pytest.raises(So8tError, match="no commit yet"):
        commit_of("HEAD", tmp_path)
    assert "no commit yet" in doctor.repository(tmp_path)


def test_a_machine_without_git_is_told_to_install_it(
    clone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert "install git" in fix_of(lambda: git("status", root=clone))


# --- a cache elsewhere ---


@pytest.fixture(params=["config", "config.local", "link"])
def moved(clone: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A project whose cache lies outside of it."""
    (tmp_path / "elsewhere").mkdir()
    (clone / ".dvc/cache").rename(tmp_path / "elsewhere/cache")
    if request.param == "link":
        (clone / ".dvc/cache").symlink_to(tmp_path / "elsewhere/cache")
    else:
        flags = ["--local"] if request.param == "config.local" else []
        command = ("config", *flags, "cache.dir", str(tmp_path / "elsewhere/cache"))
        run(clone, sys.executable, "-m", "dvc", *command)
        run(clone, "git", "add", "-A")
        run(clone, "git", "commit", "-q", "--allow-empty", "-m", "moved")
    return clone


def test_a_cache_that_was_moved_is_counted_checked_bundled_and_cleaned(
    moved: Path, tmp_path: Path
) -> None:
    held = tmp_path / "elsewhere/cache/files/md5"
    count = sum(1 for path in held.rglob("*") if path.is_file())
    assert count > 5
    assert doctor.cache(moved).says.startswith(
        f"{count} objects in {held.resolve().parents[1]}"[:9]
    )
    assert [*fsck.cache(moved), *fsck.workspace(moved)] == []
    bundle.make("main", tmp_path / "stick", moved)
    assert store.unused(moved) == (0, 0)
    build(moved, seed=7)
    run(moved, "git", "checkout", "-q", "dvc.lock")
    assert store.unused(moved)[0] > 0
    victim = object_path(lock_here(moved)[0].md5, moved)
    victim.chmod(0o644)
    victim.write_bytes(b"damaged")
    assert [(f.place, f.problem) for f in fsck.cache(moved)] == [("cache", "damaged")]


def test_gc_removes_nothing_from_a_cache_that_others_may_use_unasked(
    moved: Path, tmp_path: Path
) -> None:
    foreign = tmp_path / "elsewhere/cache/files/md5/ab/cdef"
    foreign.parent.mkdir(exist_ok=True)
    foreign.write_bytes(b"of another project")
    done = so8t(moved, "gc", "--yes")
    assert done.returncode == 6, done.stderr
    assert "--not-shared" in done.stderr
    assert foreign.is_file()
    assert so8t(moved, "gc", "--yes", "--not-shared").returncode == 0
    assert not foreign.is_file()
    assert bundle.make("main", tmp_path / "stick", moved)


# --- a merge that git could not finish ---


@pytest.fixture
def conflict(clone: Path) -> Path:
    """Two branches that built different models, and their merge."""
    run(clone, "git", "checkout", "-q", "-b", "side")
    build(clone, 5)
    run(clone, "git", "commit", "-qam", "side")
    run(clone, "git", "checkout", "-q", "main")
    build(clone, 6)
    run(clone, "git", "commit", "-qam", "main")
    subprocess.run(["git", "merge", "side"], cwd=clone, check=False, capture_output=True)
    assert "<<<<<<< " in (clone / "dvc.lock").read_text(encoding="utf-8")
    return clone


@pytest.mark.parametrize(
    "command", [("fsck",), ("fsck", "--repair"), ("repro", "-j", "1"), ("gc",)]
)
def test_a_conflict_in_the_lock_is_named_and_left_to_people(
    conflict: Path, command: tuple[str, ...]
) -> None:
    before = (conflict / "dvc.lock").read_bytes()
    done = so8t(conflict, *command)
    assert done.returncode == 5, done.stderr
    assert "conflict" in done.stderr
    assert "git checkout --ours dvc.lock (or --theirs)" in done.stderr
    assert "killed" not in done.stderr
    assert "Traceback" not in done.stderr
    assert (conflict / "dvc.lock").read_bytes() == before
    assert not (conflict / fsck.QUARANTINE).exists()


@pytest.mark.parametrize("side", ["--ours", "--theirs"])
def test_the_fix_that_is_offered_ends_the_conflict(conflict: Path, side: str) -> None:
    run(conflict, "git", "checkout", side, "dvc.lock")
    assert fsck.lock_is_whole(conflict)
    assert lock_here(conflict)


@pytest.mark.parametrize("name", ["params.yaml", "dvc.yaml"])
def test_a_conflict_in_other_files_is_named_before_dvc_runs(clone: Path, name: str) -> None:
    path = clone / name
    text = path.read_text(encoding="utf-8")
    path.write_text(f"<<<<<<< HEAD\n{text}=======\n>>>>>>> other\n", encoding="utf-8")
    with pytest.raises(ParamsError, match="conflict"):
        if name == "dvc.yaml":
            parallel.repro(1, print, clone)
        else:
            rollback.read_yaml(path)
    assert so8t(clone, "repro", "-j", "1").returncode == 3
