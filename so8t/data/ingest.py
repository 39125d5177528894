"""From a source in params.yaml to JSON objects with the place they came from.

A source is a file, a glob or a directory; files are JSON Lines (`.jsonl`, also `.gz` or `.zst`) or
Parquet. Reading is strict: a line that is not exactly one JSON object in UTF-8 without a byte order
mark stops the stage with file and line.

Covered: files, compression, lines, JSON. Not covered: what the fields mean (`formats`), what is
kept (`hygiene`, `near_duplicates`).
"""

import glob
import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NoReturn

from so8t.errors import DataError, ToolError
from so8t.files import MAX_LINE_BYTES, files_below, unreadable

JSONL_SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.zst")
SUFFIXES = (*JSONL_SUFFIXES, ".parquet")
CHUNK_BYTES = 1 << 20
# Read at a time, so that even the densest .zst file expands to no more than 64 MiB at once.
ZSTD_BYTES = 2048
PARQUET_BATCH = 1024  # rows
UTF16_RARITY = 200  # at most so many bytes of UTF-16 text for each ASCII character in it


def files_of(source: str) -> list[Path]:
    """The files a source names, in name order.

    Raises:
        DataError: nothing is there, or a file of a kind that is not read.
    """
    found = _found(source)
    if not found:
        raise DataError(
            "no data file found",
            where=source,
            fix=f"check data.sources; files end in {', '.join(SUFFIXES)}",
        )
    for file in found:
        if not file.name.endswith(SUFFIXES):
            raise DataError(
                "this kind of file is not read",
                where=str(file),
                fix=f"convert it to one of {', '.join(SUFFIXES)}",
            )
    return found


def _found(source: str) -> list[Path]:
    path = Path(source)
    if path.is_dir():
        # A directory may hold notes and licences beside its data; those are passed over.
        files = files_below(path, once=True, kind=DataError)
        return [file for file in files if file.name.endswith(SUFFIXES)]
    # A file may be named "rows[1].jsonl", which is a glob too: what exists is meant as it stands.
    if glob.has_magic(source) and not path.exists():
        _refuse_loops(source)
        # `Path.glob` refuses absolute patterns.
        matches = map(Path, glob.glob(source, recursive=True))  # noqa: PTH207
        files = sorted(match for match in matches if match.is_file())
        # A link may show one file under two names, which would count its rows twice.
        return list({file.resolve(): file for file in reversed(files)}.values())[::-1]
    return [path] if path.is_file() else []


def _refuse_loops(pattern: str) -> None:
    """Walk what `**` would search: Python's glob goes round in circles forty times.

    Raises:
        DataError: a link leads back to a folder above it.
    """
    head, stars, _rest = pattern.partition("**")
    if not stars:
        return
    for folder in glob.glob(head or "."):  # noqa: PTH207
        if Path(folder).is_dir():
            files_below(Path(folder), kind=DataError)


def read(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (`file:line`, object) for every line, or row of a Parquet file.

    Raises:
        DataError: an empty file, an empty line, or a line that is not one JSON object.
    """
    rows = _parquet_rows(path) if path.suffix == ".parquet" else _json_rows(path)
    number = 0
    for number, row in rows:
        yield f"{path}:{number}", row
    if number == 0:
        raise DataError(
            "the file is empty",
            where=f"{path}:1",
            fix="remove it from data.sources, or write one JSON object per line",
        )


# --- JSON ---


def _json_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in _lines(path):
        yield number, parse_line(line, f"{path}:{number}")


def parse_line(line: bytes, where: str) -> dict[str, Any]:
    """One line, read strictly.

    Args:
        line: UTF-8 without byte order mark, LF at its end, one object, no NUL, no NaN, no key
            twice, no half of a surrogate pair.
        where: `file:line`, for errors.

    Raises:
        DataError: anything else.
    """
    _check_bytes(line, where)
    try:
        row = _strict_json(line)
    except (ValueError, RecursionError) as error:
        raise _json_error(error, where) from None
    if not isinstance(row, dict):
        raise DataError(
            f"expected a JSON object, found {type(row).__name__}",
            where=where,
            fix='write {"text": "...", "label": "ALLOW"}',
        )
    return row


def _check_bytes(line: bytes, where: str) -> None:
    """Refuse what Python's JSON reader would accept, or refuse with an unhelpful message."""
    body = line.removesuffix(b"\n")
    if len(line) > MAX_LINE_BYTES:
        problem = f"the line is longer than {MAX_LINE_BYTES >> 20} MiB"
        raise DataError(problem, where=where, fix="write one JSON object per line")
    if body.startswith(b"\xef\xbb\xbf"):
        problem = "the line begins with a byte order mark"
        raise DataError(problem, where=where, fix="sed -i '1s/^\\xEF\\xBB\\xBF//' FILE")
    utf16 = utf16_name(body)
    if utf16:
        problem = f"{utf16}, not UTF-8"
        raise DataError(problem, where=where, fix=f"iconv -f {utf16} -t UTF-8 FILE > NEW")
    if b"\0" in body:
        problem = "a NUL byte"
        raise DataError(problem, where=where, fix="remove it: tr -d '\\000' < FILE > NEW")
    if b"\r" in body:
        problem = "a carriage return (Windows line end)"
        raise DataError(problem, where=where, fix="sed -i 's/\\r$//' FILE")
    if not body.strip():
        raise DataError("an empty line", where=where, fix="remove it: sed -i '/^$/d' FILE")


def utf16_name(data: bytes) -> str:
    """What iconv calls the kind of UTF-16 that these bytes are in; "" where they are in none.

    Without a byte order mark, half of the ASCII characters' bytes tell: JSON, HTML and line ends
    have them in any language. Removing those NUL bytes would leave the rest of the text mangled.
    """
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "UTF-16"
    first, second = data[::2].count(0), data[1::2].count(0)
    fewer, more = sorted((first, second))
    # A stray NUL byte is alone. In UTF-16 there are many, on the same side of their pairs; only
    # characters such as the ideographic space (U+3000) have theirs on the other.
    if more < 2 or more < 4 * fewer or UTF16_RARITY * more < len(data):
        return ""
    return "UTF-16BE" if first > second else "UTF-16LE"


def _strict_json(line: bytes) -> Any:
    row = json.loads(
        line.decode("utf-8"),
        object_pairs_hook=_unique,
        parse_constant=_no_constant,
    )
    # JSON can spell half a surrogate pair, which UTF-8 cannot: found here, not when it is written.
    json.dumps(row, ensure_ascii=False).encode("utf-8")
    return row


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) < len(pairs):
        raise ValueError("a key occurs twice in one object")
    return row


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _json_error(error: Exception, where: str) -> DataError:
    """What to say of a line that is not strict JSON, by what its reader raised."""
    if isinstance(error, UnicodeDecodeError):
        problem = f"not UTF-8 (byte {error.start})"
        # CP932 is Windows' Shift JIS, the usual other encoding of Japanese files.
        fix = "iconv -f CP932 -t UTF-8 FILE > NEW"
    elif isinstance(error, UnicodeEncodeError):
        problem = "half a surrogate pair (\\ud800-\\udfff)"
        fix = "write the character itself, or both halves"
    elif isinstance(error, json.JSONDecodeError):
        problem = f"not JSON ({error.msg}, column {error.colno})"
        fix = "write one JSON object per line"
    elif isinstance(error, RecursionError):
        problem = "nested too deeply"
        fix = "write a flat JSON object"
    else:
        problem = str(error)
        fix = "write plain JSON"
    return DataError(problem, where=where, fix=fix)


# --- lines, compressed or not ---


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    number = 0
    try:
        with path.open("rb") as raw:
            for number, line in enumerate(_split(_chunks(raw, path.suffix)), start=1):
                yield number, line
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(
            f"the compressed file is damaged or cut off ({error})",
            where=f"{path}:{number + 1}",
            fix="fetch it again; `gzip -t` or `zstd -t` checks it",
        ) from None
    except OSError as error:
        raise unreadable(error, path, DataError, "check data.sources") from None


def _split(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Lines with their LF; never holds much more than one line of the largest permitted size."""
    rest = b""
    for chunk in chunks:
        lines = (rest + chunk).split(b"\n")
        rest = lines.pop()
        for line in lines:
            yield line + b"\n"
        if len(rest) > MAX_LINE_BYTES:
            yield rest  # refused by parse_line, before more of it is read
    if rest:
        yield rest


def _chunks(raw: IO[bytes], suffix: str) -> Iterator[bytes]:
    if suffix == ".zst":
        yield from _zstd_chunks(raw)
        return
    stream = gzip.GzipFile(fileobj=raw) if suffix == ".gz" else raw
    while chunk := stream.read(CHUNK_BYTES):
        yield chunk


def _zstd_chunks(raw: IO[bytes]) -> Iterator[bytes]:
    try:
        import zstandard
    except ModuleNotFoundError:
        raise ToolError(
            "the package zstandard is not installed",
            where=".zst",
            fix="pip install 'so8t[data]', or decompress the file",
        ) from None
    frame = zstandard.ZstdDecompressor().decompressobj()
    pending = raw.read(ZSTD_BYTES)
    try:
        while pending:
            yield frame.decompress(pending)
            if not frame.eof:
                pending = raw.read(ZSTD_BYTES)
                continue
            # Files that were appended to hold several frames; zstandard stops after each.
            pending = frame.unused_data or raw.read(ZSTD_BYTES)
            if not pending:
                return
            frame = zstandard.ZstdDecompressor().decompressobj()
        raise EOFError("the last frame is not complete")
    except zstandard.ZstdError as error:
        raise EOFError(str(error)) from None


# --- Parquet ---


def _parquet_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ModuleNotFoundError:
        raise ToolError(
            "the package pyarrow is not installed",
            where=str(path),
            fix="pip install 'so8t[data]', or convert to .jsonl",
        ) from None
    number = 0
    try:
        with pq.ParquetFile(path) as table:
            for batch in table.iter_batches(batch_size=PARQUET_BATCH):
                for row in batch.to_pylist():
                    number += 1
                    # A column that a row lacks is null here, and simply absent in JSON Lines.
                    yield number, {key: value for key, value in row.items() if value is not None}
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(
            f"not a readable Parquet file ({type(error).__name__})",
            where=f"{path}:{number + 1}",
            fix="write it again",
        ) from None
