"""Files that are whole or absent: atomic writes, JSONL, CSV, walks, digests; the system's errors.

A file is written beside its place under a temporary name that ends in `.part`, flushed to the disk,
and renamed, so that a reader or a power failure never meets half of it.
"""

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
from typing import Any, BinaryIO

from so8t.errors import ArtifactError, DataError, ResourceError, So8tError
from so8t.processes import alive

# A longer JSONL line is a mistake, not a sample: a file without line ends would fill the memory.
MAX_LINE_BYTES = 8 << 20


# --- atomic writes ---


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success fsync and rename, on any error remove it.

    Raises:
        ResourceError: the disk is full or cannot be written.
    """
    temporary = temporary_of(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        clear_left(path)
        yield temporary
        fsync_path(temporary)
        temporary.replace(path)
        # The rename is an entry of the folder, which has to be flushed too.
        fsync_path(path.parent)
    except Exception as error:
        told = disk_error(error, path)
        if told is error:
            raise
        raise told from error
    finally:
        # A read-only disk refuses even what is not there. The first error is the one to tell.
        with suppress(OSError):
            temporary.unlink()


@contextmanager
def atomic_dir(path: Path) -> Iterator[Path]:
    """Yield a temporary directory beside `path`; on success it replaces `path`.

    On any error it is removed. A link stays: what it leads to is replaced.

    Raises:
        ResourceError: the disk is full or cannot be written.
    """
    if path.is_symlink():
        path = path.resolve()
    temporary = temporary_of(path)
    try:
        clear_left(path)
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        yield temporary
        for file in files_below(temporary):
            fsync_path(file)
        # A directory that is not empty cannot be renamed over.
        if path.exists():
            shutil.rmtree(path)
        temporary.replace(path)
        fsync_path(path.parent)
    except Exception as error:
        told = disk_error(error, path)
        if told is error:
            raise
        raise told from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def temporary_of(path: Path) -> Path:
    """Where this process writes what will be `path`: beside it, so that a rename is enough."""
    return path.with_name(f".{path.name}.{os.getpid()}.part")


def fsync_path(path: Path) -> None:
    """Flush a file or a directory entry to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def clear_left(path: Path) -> None:
    """Remove what killed runs left of this very output; a running one's is not touched."""
    for left in path.parent.glob(f".{escape(path.name)}.*.part"):
        pid = left.name.split(".")[-2]
        if not pid.isdigit():
            continue
        # Another run may clear it at the same time.
        with suppress(FileNotFoundError):
            # Its ctime: a copy may have the mtime of its source, older than the process.
            if alive(int(pid), by=left.stat().st_ctime):
                continue
            if left.is_dir():
                shutil.rmtree(left)
            else:
                left.unlink()


def disk_error(error: Exception, path: Path) -> Exception:
    """The error to raise for a failed write: what to do about the disk; else the error itself."""
    number = error.errno if isinstance(error, OSError) else _errno_in(str(error))
    if number in (errno.ENOSPC, errno.EDQUOT):
        return ResourceError(
            "the disk is full; nothing was left half-written",
            where=str(path),
            fix="free some space (`so8t plan` prints what is needed) "
            "and run the same command again",
        )
    if number in (errno.EACCES, errno.EROFS, errno.EPERM):
        return ResourceError(
            "the directory cannot be written",
            where=str(path),
            fix="check its owner and mode, or change `paths.*`",
        )
    return error


def _errno_in(text: str) -> int | None:
    """The number that libraries written in Rust put at the end of their own kind of error.

    safetensors is one of them.
    """
    found = re.search(r"\(os error (\d+)\)", text)
    return int(found[1]) if found else None


# --- text and JSON ---


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically, with LF line ends."""
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON atomically.

    Raises:
        ValueError: a NaN or an infinity, which JSON does not have and readers disagree on.
    """
    text = json.dumps(value, ensure_ascii=False, indent=1, allow_nan=False)
    write_text(path, text + "\n")


def read_text(
    path: Path, *, kind: type[So8tError] = ArtifactError, fix: str = "run `dvc repro` or `dvc pull`"
) -> str:
    """Read UTF-8 text.

    Args:
        path: the file.
        kind: class of the error when it cannot be read.
        fix: what to do when it is missing.

    Raises:
        So8tError: of that kind; the file is missing, a folder, not readable, or not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise unreadable(error, path, kind, fix) from None
    except UnicodeDecodeError as error:
        raise kind(
            f"not UTF-8 (byte {error.start})",
            where=str(path),
            # CP932 is Windows' Shift JIS, the usual other encoding of Japanese files.
            fix="save it as UTF-8: iconv -f CP932 -t UTF-8 FILE > NEW",
        ) from None


def unreadable(
    error: OSError, path: Path, kind: type[So8tError] = ArtifactError, fix: str = ""
) -> So8tError:
    """The error to raise for a file or folder that the system does not let us read.

    Args:
        error: what the system said.
        path: the file or folder.
        kind: class of the error to be made.
        fix: what to do when it is missing.
    """
    if isinstance(error, FileNotFoundError):
        # The whole path, because a stage may run in another folder than its reader thinks.
        return kind("file not found", where=str(path.absolute()), fix=fix)
    if isinstance(error, IsADirectoryError):
        return kind("a folder, not a file", where=str(path), fix="name a file in it, or remove it")
    said = error.strerror or type(error).__name__
    return kind(
        f"cannot be read ({said})", where=str(path), fix="check the path, its owner and mode"
    )


def read_json(path: Path, *, fix: str = "run `dvc repro` or `dvc pull`") -> Any:
    """Read JSON.

    Raises:
        ArtifactError: the file is missing, cannot be read (as a folder cannot), or is not JSON.
    """
    text = read_text(path, fix=fix)
    try:
        return json.loads(text)
    # Numbers of thousands of digits are a ValueError, brackets in brackets a RecursionError.
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"not valid JSON ({error})", where=str(path), fix=fix) from None


def read_object(
    path: Path, *, fix: str = "run `dvc repro` or `dvc pull`", schema: str = ""
) -> dict[str, Any]:
    """Read a JSON object; `schema` is what its key of that name must be, where it is given.

    Raises:
        ArtifactError: as `read_json`, JSON of another type, or another schema.
    """
    value = read_json(path, fix=fix)
    problem = f"expected a JSON object, found {type(value).__name__}"
    if isinstance(value, dict):
        if schema in ("", value.get("schema")):
            return value
        problem = f"not a record of {schema}"
    raise ArtifactError(problem, where=str(path), fix=fix)


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> int:
    """Write one JSON object per line, atomically; return how many.

    Raises:
        ValueError: a NaN or an infinity.
    """
    count = 0
    with atomic_file(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as out:
        for row in rows:
            line = json.dumps(row, ensure_ascii=False, allow_nan=False)
            out.write(line + "\n")
            count += 1
    return count


def read_jsonl(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line number from 1, object) for every line that is not blank.

    Raises:
        DataError: the file is missing, or a line is not a JSON object; `where` is `file:line`.
    """
    try:
        with path.open("rb") as file:
            yield from jsonl_objects(file, str(path))
    except OSError as error:
        raise unreadable(error, path, DataError, "check the path, or run `dvc repro`") from None


def jsonl_objects(file: BinaryIO, name: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """As `read_jsonl`, of an open file; `name` is what errors call it."""
    number = 0
    # One byte more than is allowed, to see that there is more.
    while line := file.readline(MAX_LINE_BYTES + 1):
        number += 1
        if line.strip():
            yield number, _parse_line(line, f"{name}:{number}")


def _parse_line(line: bytes, where: str) -> dict[str, Any]:
    if len(line) > MAX_LINE_BYTES:
        raise DataError(
            f"line is longer than {MAX_LINE_BYTES >> 20} MiB",
            where=where,
            fix="one JSON object per line",
        )
    try:
        row = json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"not a UTF-8 JSON line ({error})",
            where=where,
            fix="one JSON object per line, UTF-8",
        ) from None
    if not isinstance(row, dict):
        raise DataError(
            f"expected a JSON object, found {type(row).__name__}",
            where=where,
            fix='write {"text": ..., "label": ...}',
        )
    return row


# --- CSV ---


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
    for row in rows:
        cells = {name: _cell(value, numbers) for name, value in row.items()}
        writer.writerow(cells)
    return out.getvalue()


def _cell(value: Any, numbers: str) -> str | None:
    # The csv module writes None as an empty cell.
    if value is None:
        return None
    return format(value, numbers)


# --- folders ---


def files_below(
    folder: Path, *, once: bool = False, kind: type[So8tError] = ArtifactError
) -> list[Path]:
    """Every file below a folder, in name order, also those behind links to other folders.

    `Path.rglob` does not follow such links before Python 3.13.

    Args:
        folder: where to begin.
        once: leave out a file that a link has shown already under another name.
        kind: class of the error.

    Raises:
        So8tError: of that kind; a link that leads back to a folder above it, or nowhere, or a
            folder that cannot be read.
    """
    found = sorted(_walked(folder, frozenset(), kind))
    if not once:
        return found
    first: dict[Path, Path] = {}
    for file in found:
        first.setdefault(file.resolve(), file)
    return list(first.values())


def _walked(folder: Path, above: frozenset[Path], kind: type[So8tError]) -> Iterator[Path]:
    """Files below a folder whose real path is below those in `above`."""
    real = folder.resolve()
    if real in above:
        raise kind("a link leads back to a folder above it", where=str(folder), fix="remove it")
    try:
        entries = list(folder.iterdir())
    except OSError as error:
        raise unreadable(error, folder, kind, "check the path") from None
    for entry in entries:
        if entry.is_dir():
            yield from _walked(entry, above | {real}, kind)
        elif entry.is_file():
            yield entry
        # Editors mark an open file by a hidden link that leads nowhere.
        elif entry.is_symlink() and not entry.name.startswith("."):
            raise kind("a link leads nowhere", where=str(entry), fix="mend or remove it")


# --- digests ---


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_tree(folder: Path) -> str:
    """SHA-256 over (relative name, digest) of every file below `folder`, in name order.

    Raises:
        ArtifactError: a link that leads back to a folder above it, or nowhere.
    """
    digest = hashlib.sha256()
    for file in files_below(folder):
        # With `/` on every system, so that the digest is the same everywhere.
        name = file.relative_to(folder).as_posix()
        entry = f"{name}\0{sha256_file(file)}\n"
        digest.update(entry.encode())
    return digest.hexdigest()


def sha256_json(value: Any) -> str:
    """SHA-256 of canonical JSON (sorted keys, no spaces)."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
