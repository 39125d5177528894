"""From a source in params.yaml to JSON objects with the place they came from.

A source is a file, a glob or a directory; files are JSON Lines (`.jsonl`, also `.gz` or `.zst`) or Parquet. Reading is
strict: a line that is not exactly one JSON object in UTF-8 without BOM stops the stage with file and line.

Covered: files, compression, lines, JSON. Not covered: what the fields mean (formats), what is kept (hygiene, near).
"""

import glob
import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NoReturn

from so8t.errors import DataError, ToolError
from so8t.files import MAX_LINE_BYTES

SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet")
CHUNK_BYTES = 1 << 20
ZSTD_BYTES = (
    2048  # read at a time, so that even the densest file expands to no more than 64 MiB at once
)
PARQUET_BATCH = 1024  # rows


def files_of(source: str) -> list[Path]:
    """The files a source names, in name order.

    Raises:
        DataError: nothing is there, or a file of a kind that is not read.
    """
    path = Path(source)
    if path.is_dir():
        found = sorted(p for p in path.rglob("*") if p.is_file() and p.name.endswith(SUFFIXES))
    elif glob.has_magic(source) and not path.exists():
        found = sorted(Path(p) for p in glob.glob(source, recursive=True) if Path(p).is_file())  # noqa: PTH207  (absolute globs)
    else:
        found = [path] if path.is_file() else []
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


def read(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (`file:line`, object) for every line (row number for Parquet). An empty line or file is refused."""
    number = 0
    for number, row in _parquet(path) if path.suffix == ".parquet" else _json_rows(path):
        yield f"{path}:{number}", row
    if number == 0:
        raise DataError(
            "the file is empty",
            where=f"{path}:1",
            fix="remove it from data.sources, or write one JSON object per line",
        )


def _json_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in _lines(path):
        yield number, parse_line(line, f"{path}:{number}")


def parse_line(line: bytes, where: str) -> dict[str, Any]:
    """One line, strictly: UTF-8 without BOM, LF, one object, no NUL, no NaN, no key twice, no lone surrogates."""
    _check_bytes(line, where)
    try:
        text = line.decode("utf-8")
        row = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
        json.dumps(row, ensure_ascii=False).encode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"not UTF-8 (byte {error.start})", where=where, fix="iconv -f CP932 -t UTF-8 FILE > NEW"
        ) from None
    except UnicodeEncodeError:
        raise DataError(
            "half a surrogate pair (\\ud800-\\udfff)",
            where=where,
            fix="write the character itself, or both halves",
        ) from None
    except json.JSONDecodeError as error:
        raise DataError(
            f"not JSON ({error.msg}, column {error.colno})",
            where=where,
            fix="write one JSON object per line",
        ) from None
    except RecursionError:
        raise DataError("nested too deeply", where=where, fix="write a flat JSON object") from None
    except ValueError as error:
        raise DataError(str(error), where=where, fix="write plain JSON") from None
    if not isinstance(row, dict):
        raise DataError(
            f"expected a JSON object, found {type(row).__name__}",
            where=where,
            fix='write {"text": "...", "label": "ALLOW"}',
        )
    return row


def _check_bytes(line: bytes, where: str) -> None:
    body = line.removesuffix(b"\n")
    checks = (
        (
            len(line) > MAX_LINE_BYTES,
            f"the line is longer than {MAX_LINE_BYTES >> 20} MiB",
            "write one JSON object per line",
        ),
        (
            body.startswith(b"\xef\xbb\xbf"),
            "the line begins with a byte order mark",
            "sed -i '1s/^\\xEF\\xBB\\xBF//' FILE",
        ),
        (
            body.startswith((b"\xff\xfe", b"\xfe\xff")),
            "UTF-16, not UTF-8",
            "iconv -f UTF-16 -t UTF-8 FILE > NEW",
        ),
        (b"\0" in body, "a NUL byte", "remove it: tr -d '\\000' < FILE > NEW"),
        (b"\r" in body, "a carriage return (Windows line end)", "sed -i 's/\\r$//' FILE"),
        (not body.strip(), "an empty line", "remove it: sed -i '/^$/d' FILE"),
    )
    for wrong, problem, fix in checks:
        if wrong:
            raise DataError(problem, where=where, fix=fix)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) < len(pairs):
        raise ValueError("a key occurs twice in one object")
    return row


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


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
    except PermissionError:
        raise DataError(
            "the file cannot be read", where=f"{path}:1", fix="check its owner and mode"
        ) from None


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
    frame, pending = zstandard.ZstdDecompressor().decompressobj(), b""
    try:
        while pending := pending or raw.read(ZSTD_BYTES):
            yield frame.decompress(pending)
            pending = frame.unused_data if frame.eof else b""
            if frame.eof:
                frame = zstandard.ZstdDecompressor().decompressobj()
                pending = pending or raw.read(ZSTD_BYTES)
                if not pending:
                    return
        raise EOFError("the last frame is not complete")
    except zstandard.ZstdError as error:
        raise EOFError(str(error)) from None


def _split(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Lines with their LF; never holds much more than one line of the largest permitted size."""
    rest = b""
    for chunk in chunks:
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            yield line + b"\n"
        if len(rest) > MAX_LINE_BYTES:
            yield rest  # refused by parse_line, before more of it is read
    if rest:
        yield rest


def _parquet(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
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
                    yield number, {key: value for key, value in row.items() if value is not None}
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(
            f"not a readable Parquet file ({type(error).__name__})",
            where=f"{path}:{number + 1}",
            fix="write it again",
        ) from None
