"""Bad files: each is refused with file, line and a fix, and nothing is written."""

import gzip
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from so8t.data import documents
from so8t.data.census import token_lengths
from so8t.data.prepare import prepare
from so8t.errors import ArtifactError, DataError
from so8t.params import Data, Source, load
from so8t.progress import Progress

ROOT = Path(__file__).parents[2]
DATA = load(ROOT / "params.yaml").data
GOOD = (
    json.dumps(
        {"text": "公開資料の要約をお願いします。", "label": "ALLOW"}, ensure_ascii=False
    ).encode()
    + b"\n"
)
ROW = {"text": "資料を見せてください。", "label": "DENY"}


def line(**changes: object) -> bytes:
    return json.dumps({**ROW, **changes}, ensure_ascii=False).encode() + b"\n"


def chat(role: object) -> bytes:
    return json.dumps({"messages": [{"role": role, "content": "a"}]}).encode() + b"\n"


def put(content: bytes, name: str = "rows.jsonl") -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return write


def folder_as_file(folder: Path) -> Path:
    (folder / "rows.jsonl").mkdir()
    return folder / "rows.jsonl"


def unreadable_parquet(folder: Path) -> Path:
    (folder / "rows.parquet").write_bytes(b"PAR1 not really")
    return folder / "rows.parquet"


BIG = json.dumps(
    {"text": "あ" * (17 << 20), "label": "ALLOW"}, ensure_ascii=False
).encode()  # 51 MB
# name: (writer, the line that is reported)
CASES: dict[str, tuple[Callable[[Path], Path], int | None]] = {
    "not JSON": (put(GOOD + b"{text: 1}\n"), 2),
    "JSON cut off": (put(GOOD + b'{"text": "\xe3\x81\x82", "lab'), 2),
    "two objects on a line": (put(GOOD.strip() + GOOD), 1),
    "an array": (put(GOOD + b"[1, 2]\n"), 2),
    "a bare string": (put(GOOD + b'"x"\n'), 2),
    "null": (put(GOOD + b"null\n"), 2),
    "pretty-printed JSON": (put(json.dumps(ROW, indent=1).encode()), 1),
    "Shift JIS": (put(GOOD + json.dumps(ROW, ensure_ascii=False).encode("cp932")), 2),
    "EUC-JP": (put(GOOD + json.dumps(ROW, ensure_ascii=False).encode("euc-jp")), 2),
    "UTF-16": (put(json.dumps(ROW, ensure_ascii=False).encode("utf-16")), 1),
    "UTF-16 without a mark": (put(json.dumps(ROW, ensure_ascii=False).encode("utf-16-le")), 1),
    "UTF-16, big end first": (put(json.dumps(ROW, ensure_ascii=False).encode("utf-16-be")), 1),
    "a role that is a list": (put(GOOD + chat(["user"])), 2),
    "a role that is an object": (put(GOOD + chat({"a": 1})), 2),
    "label with a space": (put(GOOD + line(label="DENY ")), 2),
    "byte order mark": (put(b"\xef\xbb\xbf" + GOOD), 1),
    "CRLF": (put(GOOD.replace(b"\n", b"\r\n")), 1),
    "NUL": (put(GOOD + b'{"text": "a\0b", "label": "ALLOW"}\n'), 2),
    "empty line in the middle": (put(GOOD + b"\n" + line()), 2),
    "a 51 MB line": (put(GOOD + BIG), 2),
    "half a surrogate pair": (put(GOOD + b'{"text": "\\ud83d", "label": "ALLOW"}\n'), 2),
    "NaN": (put(GOOD + b'{"text": "a", "label": "ALLOW", "score": NaN}\n'), 2),
    "a key twice": (put(GOOD + b'{"text": "a", "text": "b", "label": "ALLOW"}\n'), 2),
    "nested too deeply": (put(GOOD + b'{"text": ' + b"[" * 200_000 + b"]" * 200_000 + b"}\n"), 2),
    "unknown label": (put(GOOD + line(label="PERMIT")), 2),
    "label in lower case": (put(GOOD + line(label="deny")), 2),
    "label in mixed case": (put(GOOD + line(label="Allow")), 2),
    "label in wide letters": (put(GOOD + line(label="ＤＥＮＹ")), 2),
    "label as a number": (put(GOOD + line(label=2)), 2),
    "label as a list": (put(GOOD + line(label=["DENY"])), 2),
    "empty label": (put(GOOD + line(label="")), 2),
    "missing text": (put(GOOD + b'{"label": "ALLOW"}\n'), 2),
    "empty text": (put(GOOD + line(text="")), 2),
    "text of spaces": (put(GOOD + line(text=" \u3000 ")), 2),
    "text as a number": (put(GOOD + line(text=5)), 2),
    "text as a list": (put(GOOD + line(text=["a"])), 2),
    "id used twice": (put(line(id="a") + line(id="a", text="まったく別の依頼を書いた文です。")), 2),
    "empty file": (put(b""), 1),
    "missing file": (lambda folder: folder / "absent.jsonl", None),
    "a directory with nothing in it": (folder_as_file, None),
    "a kind that is not read": (put(b"text,label\n", "rows.csv"), None),
    "a glob that finds nothing": (lambda folder: folder / "*.jsonl", None),
    "gz cut off": (put(gzip.compress(GOOD * 5000)[:-200], "rows.jsonl.gz"), None),
    "gz that is not gz": (put(GOOD, "rows.jsonl.gz"), 1),
    "gz with a wrong checksum": (put(gzip.compress(GOOD)[:-8] + b"\0" * 8, "rows.jsonl.gz"), None),
    "zst cut off": (put(zstandard.compress(GOOD * 5000)[:-3], "rows.jsonl.zst"), None),
    "zst that is not zst": (put(GOOD, "rows.jsonl.zst"), 1),
    "parquet that is not parquet": (unreadable_parquet, 1),
}


SAYS = {
    "UTF-16 without a mark": "iconv -f UTF-16LE",
    "UTF-16, big end first": "iconv -f UTF-16BE",
    "NUL": "a NUL byte",
    "a role that is a list": "['user']",
    "label with a space": "unknown label 'DENY '",
    "label in lower case": "unknown label 'deny'",
    "label in mixed case": "unknown label 'Allow'",
    "label in wide letters": "unknown label 'ＤＥＮＹ'",
}


@pytest.mark.parametrize("name", CASES)
def test_a_bad_input_is_refused_with_place_and_fix_and_nothing_is_written(
    name: str, tmp_path: Path
) -> None:
    writer, number = CASES[name]
    path, out = writer(tmp_path), tmp_path / "out" / "prepared"
    data = DATA.model_copy(update={"sources": [Source(path=str(path), weight=1.0, use="auto")]})
    with pytest.raises(DataError) as caught:
        prepare(data, 1, out, Progress("test"))
    assert caught.value.where.startswith(str(path))
    assert caught.value.fix
    assert len(str(caught.value)) < 400
    if name in ("gz cut off", "zst cut off"):
        assert "cut off" in caught.value.problem
    if name in SAYS:
        assert SAYS[name] in str(caught.value)
    if number is not None:
        assert caught.value.where == f"{path}:{number}"
    assert not out.exists()
    assert not any(p.name.endswith(".part") for p in tmp_path.rglob("*"))


def source(path: Path) -> Data:
    return DATA.model_copy(update={"sources": [Source(path=str(path), weight=1.0, use="auto")]})


def rows_elsewhere(tmp_path: Path) -> Path:
    """A folder that holds rows only behind a link, twice."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/rows.jsonl").write_bytes(GOOD + line())
    (tmp_path / "data").mkdir()
    (tmp_path / "data/link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data/same").symlink_to(tmp_path / "elsewhere")
    return tmp_path / "data"


@pytest.mark.parametrize("pattern", ["", "**/*.jsonl", "*/rows.jsonl"])
def test_a_source_behind_a_link_is_read_once(tmp_path: Path, pattern: str) -> None:
    data = source(rows_elsewhere(tmp_path) / pattern)
    assert prepare(data, 1, tmp_path / "out", Progress("test")).kept.total() == 2


@pytest.mark.parametrize("pattern", ["", "**/*.jsonl"])
def test_a_source_with_a_link_in_a_circle_is_refused(tmp_path: Path, pattern: str) -> None:
    folder = rows_elsewhere(tmp_path)
    for name in ("one", "two"):
        (tmp_path / "elsewhere" / name).symlink_to(folder)
    with pytest.raises(DataError, match="back to a folder above"):
        prepare(source(folder / pattern), 1, tmp_path / "out", Progress("test"))


def test_documents_behind_a_link_are_found_and_utf16_is_not_mangled(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/a.txt").write_text("手順を確認する。", encoding="utf-8")
    (tmp_path / "b.md").write_bytes("Steps\nOne\nTwo".encode("utf-16-le"))
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    found = documents.files_below(tmp_path)
    assert [path.name for path in found] == ["b.md", "a.txt"]
    with pytest.raises(DataError, match="UTF-16LE"):
        documents.extract(tmp_path / "b.md")


def test_rows_of_one_group_are_refused_with_the_reason(tmp_path: Path) -> None:
    rows = "".join(
        json.dumps(
            {"text": f"{word}の点検記録を要約してください。", "label": "ALLOW", "group": "g"}
        )
        + "\n"
        for word in ("倉庫とその周り", "本社の三階の部屋", "港と桟橋")
    )
    (tmp_path / "rows.jsonl").write_text(rows, encoding="utf-8")
    with pytest.raises(DataError, match="rows are of one group, 'g'"):
        prepare(source(tmp_path / "rows.jsonl"), 1, tmp_path / "out", Progress("test"))
    assert not (tmp_path / "out").exists()


def test_a_failure_leaves_the_previous_result_as_it_was(tmp_path: Path) -> None:
    good, bad, out = tmp_path / "good.jsonl", tmp_path / "bad.jsonl", tmp_path / "prepared"
    good.write_bytes(GOOD)
    bad.write_bytes(GOOD + b"{")
    prepare(
        DATA.model_copy(update={"sources": [Source(path=str(good), weight=1.0, use="train")]}),
        1,
        out,
        Progress("test"),
    )
    before = {p.name: p.read_bytes() for p in out.iterdir()}
    with pytest.raises(DataError):
        prepare(
            DATA.model_copy(update={"sources": [Source(path=str(bad), weight=1.0, use="train")]}),
            1,
            out,
            Progress("test"),
        )
    assert {p.name: p.read_bytes() for p in out.iterdir()} == before
    assert before["train.jsonl"]


CP932 = "資料を見せて。".encode("cp932")


@pytest.mark.parametrize(("argument", "given"), [(CP932, b""), (b"-", CP932)])
def test_a_request_that_is_not_utf8_is_refused_by_ask(
    argument: bytes, given: bytes, tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "so8t.cli", "ask", argument],
        input=given,
        capture_output=True,
        check=False,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    said = done.stderr.decode("utf-8")
    assert done.returncode == DataError.exit_code, said
    assert "the request is not UTF-8 (byte 0)" in said
    assert "iconv -f CP932" in said


def test_a_truncated_tokenizer_stops_prepare_before_it_counts_tokens(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_bytes(GOOD)
    prepare(source(tmp_path / "rows.jsonl"), 1, tmp_path / "out", Progress("test"))
    (tmp_path / "base").mkdir()
    (tmp_path / "base/tokenizer.json").write_text('{"version": "1.0", "model": {"ty')
    (tmp_path / "base/tokenizer_config.json").write_text('{"chat_template": "{{ messages }}"}')
    with pytest.raises(ArtifactError, match=r"tokenizer\.json: not valid JSON"):
        token_lengths(tmp_path / "out", tmp_path / "base", DATA.system)
