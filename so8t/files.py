"""Files that are whole or absent: atomic writes, JSONL with line numbers, CSV text, digests."""

import csv
import errno
import hashlib
import io
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from glob import escape
from pathlib import Path
from typing import Any

from so8t.errors import ArtifactError, DataError, ResourceError

START_SLACK_S = 5.0  # the system knows the start of a process by a boot time in whole seconds, which clock corrections move
MAX_LINE_BYTES = 8 << 20  # a longer JSONL line is a mistake, not a sample


def fsync_path(path: Path) -> None:
    """Flush a file or a directory entry to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def temporary_of(path: Path) -> Path:
    """Where this process writes what will be `path`: beside it, so that a rename is enough."""
    return path.with_name(f".{path.name}.{os.getpid()}.part")


def alive(pid: int, by: float | None = None) -> bool:
    """Whether a process runs; one that is dead and not yet collected does not.

    Args:
        pid: its number, which the system may since have given to another one.
        by: seconds since the epoch; a process that began after it is another one.
    """
    import psutil

    try:
        process = psutil.Process(pid)
        return process.status() != psutil.STATUS_ZOMBIE and (
            by is None or process.create_time() <= by + START_SLACK_S
        )
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True


def clear_left(path: Path) -> None:
    """Remove what killed runs left of this very output; a running one's is not touched."""
    for left in path.parent.glob(f".{escape(path.name)}.*.part"):
        pid = left.name.split(".")[-2]
        with suppress(FileNotFoundError):  # another run clears it too
            if pid.isdigit() and not alive(
                int(pid), by=left.stat().st_ctime
            ):  # a copy may have its source's mtime, older than the process
                shutil.rmtree(left) if left.is_dir() else left.unlink()


def disk_error(error: Exception, path: Path) -> Exception:
    """The error to raise for a failed write: what to do about a full or read-only disk; else the error itself."""
    number = error.errno if isinstance(error, OSError) else _errno_in(str(error))
    if number in (errno.ENOSPC, errno.EDQUOT):
        return ResourceError(
            "the disk is full; nothing was left half-written",
            where=str(path),
            fix="free some space (`so8t plan` prints what is needed) and run the same command again",
        )
    if number in (errno.EACCES, errno.EROFS, errno.EPERM):
        return ResourceError(
            "the directory cannot be written",
            where=str(path),
            fix="check its owner and mode, or change `paths.*`",
        )
    return error


def _errno_in(text: str) -> int | None:
    """The number that libraries written in Rust, safetensors among them, put at the end of their own kind of error."""
    found = re.search(r"\(os error (\d+)\)", text)
    return int(found[1]) if found else None


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success fsync and rename, on any error remove it."""
    temporary = temporary_of(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        clear_left(path)
        yield temporary
        fsync_path(temporary)
        temporary.replace(path)
        fsync_path(path.parent)
    except Exception as error:
        if (told := disk_error(error, path)) is error:
            raise
        raise told from error
    finally:
        with suppress(
            OSError
        ):  # a read-only disk refuses even what is not there; the first error is the one to tell
            temporary.unlink()


@contextmanager
def atomic_dir(path: Path) -> Iterator[Path]:
    """Yield a temporary directory beside `path`; on success it replaces `path`, on any error it is removed."""
    temporary = temporary_of(path)
    try:
        clear_left(path)
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        yield temporary
        for file in sorted(temporary.rglob("*")):
            if file.is_file():
                fsync_path(file)
        if path.exists():
            shutil.rmtree(path)
        temporary.replace(path)
        fsync_path(path.parent)
    except Exception as error:
        if (told := disk_error(error, path)) is error:
            raise
        raise told from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically, with LF line ends."""
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON atomically; NaN and infinity are refused, because readers disagree on them."""
    write_text(path, json.dumps(value, ensure_ascii=False, indent=1, allow_nan=False) + "\n")


def read_json(path: Path, *, fix: str = "run `dvc repro` or `dvc pull`") -> Any:
    """Read JSON.

    Raises:
        ArtifactError: the file is missing or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ArtifactError("file not found", where=str(path.resolve()), fix=fix) from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ArtifactError(f"not valid JSON ({error})", where=str(path), fix=fix) from None


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> int:
    """Write one JSON object per line, atomically; return how many."""
    count = 0
    with atomic_file(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as out:
        for row in rows:
            out.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")
            count += 1
    return count


def read_jsonl(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line number from 1, object) for every non-empty line.

    Raises:
        DataError: the file is missing, or a line is not a JSON object; `where` is `file:line`.
    """
    try:
        with path.open("rb") as lines:
            for number, line in enumerate(
                iter(lambda: lines.readline(MAX_LINE_BYTES + 1), b""), start=1
            ):
                if line.strip():
                    yield number, _parse_line(line, f"{path}:{number}")
    except FileNotFoundError:
        raise DataError(
            "file not found", where=str(path.resolve()), fix="check the path, or run `dvc repro`"
        ) from None


def _parse_line(line: bytes, where: str) -> dict[str, Any]:
    if len(line) > MAX_LINE_BYTES:
        raise DataError(
            f"line is longer than {MAX_LINE_BYTES >> 20} MiB",
            where=where,
            fix="one JSON object per line",
        )
    try:
        row = json.loads(line.decode("utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DataError(
            f"not a UTF-8 JSON line ({error})", where=where, fix="one JSON object per line, UTF-8"
        ) from None
    if not isinstance(row, dict):
        raise DataError(
            f"expected a JSON object, found {type(row).__name__}",
            where=where,
            fix='write {"text": ..., "label": ...}',
        )
    return row


def csv_text(
    columns: Sequence[str], rows: Iterable[Mapping[str, Any]], *, numbers: str = "", end: str = "\n"
) -> str:
    """CSV with a head; null is an empty cell.

    Args:
        columns: names, in order.
        rows: values by name.
        numbers: format of every value, such as `.8g`; empty where not all of them are numbers.
        end: what ends a line.
    """
    out = io.StringIO()
    writer = csv.DictWriter(out, columns, lineterminator=end)
    writer.writeheader()
    writer.writerows(
        {name: None if value is None else format(value, numbers) for name, value in row.items()}
        for row in rows
    )
    return out.getvalue()


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_tree(folder: Path) -> str:
    """SHA-256 over (relative name, digest) of every file below `folder`, in name order."""
    digest = hashlib.sha256()
    for file in sorted(p for p in folder.rglob("*") if p.is_file()):
        digest.update(f"{file.relative_to(folder).as_posix()}\0{sha256_file(file)}\n".encode())
    return digest.hexdigest()


def sha256_json(value: Any) -> str:
    """SHA-256 of canonical JSON (sorted keys, no spaces)."""
    return hashlib.sha256(
        json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()
    ).hexdigest()
