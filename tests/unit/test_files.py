"""Files are whole or absent, and what is wrong with a line is said with its place."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from so8t import files
from so8t.errors import ArtifactError, DataError, ResourceError
from so8t.files import (
    atomic_dir,
    atomic_file,
    csv_text,
    files_below,
    read_json,
    read_jsonl,
    sha256_tree,
    write_json,
    write_jsonl,
    write_text,
)
from so8t.processes import alive


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "a.json"
    write_json(target, 1)
    with pytest.raises(RuntimeError), atomic_file(target) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert read_json(target) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_an_error_leaves_the_old_directory(tmp_path: Path) -> None:
    with atomic_dir(tmp_path / "d") as folder:
        (folder / "x").write_text("old")
    with pytest.raises(RuntimeError), atomic_dir(tmp_path / "d") as folder:
        (folder / "x").write_text("new")
        raise RuntimeError
    assert (tmp_path / "d/x").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["d"]


def test_nan_is_not_written_as_json(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Out of range"):
        write_json(tmp_path / "a.json", {"x": float("nan")})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (b'{"a": 1', "not a UTF-8 JSON line"),
        (b"[1]", "expected a JSON object"),
        (b"\xff\xfe", "not a UTF-8 JSON line"),
    ],
)
def test_a_bad_line_is_named_by_file_and_number(tmp_path: Path, line: bytes, says: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"a": 0}\n\n' + line + b"\n")
    with pytest.raises(DataError, match=says) as caught:
        list(read_jsonl(path))
    assert caught.value.where == f"{path}:3"


def test_rows_survive_the_round_trip(tmp_path: Path) -> None:
    rows = [{"text": "許可\u3000😀"}, {"text": "\u2028"}]
    assert write_jsonl(tmp_path / "r.jsonl", rows) == 2
    assert [row for _, row in read_jsonl(tmp_path / "r.jsonl")] == rows


def test_csv_has_a_head_empty_nulls_and_the_asked_for_numbers_and_ends() -> None:
    rows = [{"name": 'a,"b"', "x": None}, {"x": 1 / 3, "name": "許可"}]
    assert csv_text(("name", "x"), rows) == 'name,x\n"a,""b""",\n許可,0.3333333333333333\n'
    assert (
        csv_text(("x",), [{"x": 1 / 3}, {"x": 12}], numbers=".3g", end="\r\n")
        == "x\r\n0.333\r\n12\r\n"
    )


def test_a_missing_file_says_its_absolute_path(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError) as caught:
        read_json(tmp_path / "no.json")
    assert caught.value.where == str(tmp_path / "no.json")


def test_a_trees_digest_sees_names_and_bytes(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("1")
    first = sha256_tree(tmp_path)
    (tmp_path / "a").rename(tmp_path / "b")
    assert sha256_tree(tmp_path) != first


def linked(tmp_path: Path) -> Path:
    """A folder with a file, a link to a folder elsewhere, and a second link to the same one."""
    (tmp_path / "elsewhere/deep").mkdir(parents=True)
    (tmp_path / "elsewhere/deep/b").write_text("2")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a").write_text("1")
    (folder / "link").symlink_to(tmp_path / "elsewhere")
    (folder / "same").symlink_to(tmp_path / "elsewhere")
    return folder


def test_links_to_folders_are_followed_and_their_files_can_be_had_once(tmp_path: Path) -> None:
    folder = linked(tmp_path)
    names = [path.relative_to(folder).as_posix() for path in files_below(folder)]
    assert names == ["a", "link/deep/b", "same/deep/b"]
    once = [path.relative_to(folder).as_posix() for path in files_below(folder, once=True)]
    assert once == ["a", "link/deep/b"]


def test_a_trees_digest_sees_what_is_behind_a_link(tmp_path: Path) -> None:
    folder = linked(tmp_path)
    before = sha256_tree(folder)
    (tmp_path / "elsewhere/deep/b").write_text("3")
    assert sha256_tree(folder) != before


@pytest.mark.parametrize("target", [".", "..", "/", "loop", "nowhere"])
def test_a_link_in_a_circle_or_to_nowhere_is_refused(tmp_path: Path, target: str) -> None:
    folder = tmp_path / "folder/below"
    folder.mkdir(parents=True)
    (folder / "loop").symlink_to(tmp_path.parent if target == "/" else target)
    with pytest.raises(ArtifactError, match="a link leads") as caught:
        sha256_tree(tmp_path)
    assert "loop" in caught.value.where


def test_a_folder_behind_a_link_is_replaced_and_the_link_stays(tmp_path: Path) -> None:
    (tmp_path / "disk/old").mkdir(parents=True)
    (tmp_path / "models").symlink_to(tmp_path / "disk")
    with atomic_dir(tmp_path / "models") as folder:
        (folder / "new").touch()
    assert (tmp_path / "models").is_symlink()
    assert [path.name for path in (tmp_path / "disk").iterdir()] == ["new"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["disk", "models"]


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda path: path.mkdir(), "a folder, not a file"),
        (lambda path: path.write_bytes(b"\xff"), "not UTF-8"),
        (lambda path: path.write_text("[" * 100_000), "not valid JSON"),
        (lambda path: path.write_text("1" * 5000), "not valid JSON"),
        (lambda path: path.write_text("[1]"), "expected a JSON object, found list"),
        (lambda path: path.symlink_to(path), "cannot be read"),
    ],
)
def test_what_cannot_be_read_as_an_object_is_said(
    tmp_path: Path, make: Callable[[Path], object], says: str
) -> None:
    make(tmp_path / "a.json")
    with pytest.raises(ArtifactError, match=says) as caught:
        files.read_object(tmp_path / "a.json")
    assert caught.value.fix


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="mounting a small disk needs root"
)
def test_a_full_disk_is_one_clear_message_and_leaves_nothing(tmp_path: Path) -> None:
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(tmp_path)],
        capture_output=True,
        check=False,
    ).returncode:
        pytest.skip("this machine does not let tests mount")
    try:
        with pytest.raises(ResourceError, match="disk is full") as caught:
            write_jsonl(tmp_path / "rows.jsonl", ({"text": "x" * 1000} for _ in range(1000)))
        assert caught.value.exit_code == 7
        assert list(tmp_path.iterdir()) == []
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


@pytest.mark.skipif(os.name == "nt", reason="no way to ask for a process without ending it")
def test_what_a_killed_run_left_is_removed_by_the_next_and_a_running_ones_is_not(
    tmp_path: Path,
) -> None:
    gone = subprocess.Popen([sys.executable, "-c", "pass"])
    gone.wait()
    dead, dead_folder = (
        tmp_path / f".out.json.{gone.pid}.part",
        tmp_path / f".folder.{gone.pid}.part",
    )
    dead.write_text("{", encoding="utf-8")
    (dead_folder / "deep").mkdir(parents=True)
    running, others = (
        tmp_path / f".out.json.{os.getppid()}.part",
        tmp_path / f".other.json.{gone.pid}.part",
    )
    running.touch()
    others.touch()
    write_text(tmp_path / "out.json", "{}")
    with atomic_dir(tmp_path / "folder") as folder:
        (folder / "file").touch()
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(
        ["out.json", "folder", running.name, others.name]
    )


def test_a_running_processs_copy_of_an_old_file_is_not_touched(tmp_path: Path) -> None:
    running = tmp_path / f".out.json.{os.getppid()}.part"
    running.touch()
    os.utime(running, (0, 0))  # as shutil.copy2 leaves it
    write_text(tmp_path / "out.json", "{}")
    assert running.exists()


@pytest.mark.skipif(
    not hasattr(os, "waitid"),
    reason="Windows leaves no dead process; macOS has waitid from Python 3.13 on",
)
def test_a_process_that_is_dead_but_not_collected_is_not_alive() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(
        os.P_PID, child.pid, os.WEXITED | os.WNOWAIT
    )  # until it is dead; it stays uncollected
    assert not alive(child.pid)
    child.wait()


def test_a_younger_process_with_the_number_of_a_dead_one_is_another() -> None:
    mine = psutil.Process()
    assert alive(mine.pid, by=mine.create_time() + 1)
    assert not alive(mine.pid, by=mine.create_time() - 60)


@pytest.fixture
def disk(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A disk of its own with the mount options of the test."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", request.param, "tmpfs", str(folder)],
        capture_output=True,
        check=False,
    ).returncode:
        pytest.skip("mounting needs root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("disk", ["ro"], indirect=True)
def test_a_read_only_disk_is_told_as_such_for_files_and_folders(disk: Path) -> None:
    with pytest.raises(ResourceError, match="cannot be written"):
        files.write_text(disk / "a.json", "{}")
    with pytest.raises(ResourceError, match="cannot be written"), files.atomic_dir(disk / "folder"):
        pass


@pytest.mark.parametrize("disk", ["size=64k"], indirect=True)
def test_a_full_disk_is_told_as_such_also_where_the_library_has_errors_of_its_own(
    disk: Path,
) -> None:
    from safetensors.numpy import save_file

    with (
        pytest.raises(ResourceError, match="the disk is full"),
        files.atomic_dir(disk / "model") as folder,
    ):
        save_file({"a": np.zeros(1 << 20)}, folder / "model.safetensors")
    assert list(disk.iterdir()) == []
