"""The blind sheet hides who said what and its tally trusts nothing; format-free text is compared row by row."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from so8t.cli import so8t as program
from so8t.comparison import retention, sheet
from so8t.errors import ArtifactError, DataError
from so8t.files import read_json, write_json, write_jsonl

COUNT = 40


def answers(path: Path, who: str, **final: str) -> Path:
    rows = [
        {
            "kind": "served",
            "id": f"t{i}",
            "group": f"g{i}",
            "text": f"依頼 {i}\n<b>",
            "final": final.get(f"t{i}", f"回答 {who}{i}"),
        }
        for i in range(COUNT)
    ]
    write_jsonl(path, [*rows, {"kind": "plain", "id": "v1", "group": "g", "chrf": 1.0}])
    return path


@pytest.fixture
def made(tmp_path: Path) -> tuple[Path, Path]:
    """(folder of the blank sheet, key)."""
    first = answers(tmp_path / "a.jsonl", "甲", t7="=SUM(A1)", t8="同じ", t9="")
    second = answers(tmp_path / "b.jsonl", "乙", t8="同じ")
    rows, key = sheet.make(first, second, seed=3, limit=None)
    sheet.write(tmp_path / "sheet", tmp_path / "key.json", rows, key)
    return tmp_path / "sheet", tmp_path / "key.json"


def lines(folder: Path) -> list[dict[str, str]]:
    return list(
        csv.DictReader(
            io.StringIO((folder / "sheet.csv").read_bytes().decode("utf-8-sig"), newline="")
        )
    )


def fill(folder: Path, rows: list[dict[str, str]], encoding: str = "utf-8-sig") -> Path:
    out = io.StringIO()
    writer = csv.DictWriter(out, sheet.COLUMNS)
    writer.writeheader()
    writer.writerows(rows)
    path = folder / "filled.csv"
    path.write_bytes(out.getvalue().encode(encoding))
    return path


def test_the_sheet_shows_no_name_and_no_original_id_and_both_orders(
    made: tuple[Path, Path],
) -> None:
    folder, key_path = made
    key, rows = read_json(key_path), lines(folder)
    assert len(rows) == COUNT - 1
    assert key["same_answers"] == 1
    firsts = [key["rows"][row[sheet.ROW]]["first"] for row in rows]
    assert 8 < firsts.count("a") < COUNT - 8
    assert [key["rows"][row[sheet.ROW]]["id"] for row in rows] != [
        f"t{i}" for i in range(COUNT) if i != 8
    ]  # shuffled
    for row, first in zip(rows, firsts, strict=True):
        number = key["rows"][row[sheet.ROW]]["id"][1:]
        if number not in "79":
            assert row[sheet.FIRST] == f"回答 {'甲' if first == 'a' else '乙'}{number}"
    assert all(f"t{i}" not in row.values() for i in range(COUNT) for row in rows)
    assert [path.name for path in sorted(folder.iterdir())] == ["sheet.csv", "sheet.html"]


def test_another_seed_is_another_order_and_the_same_seed_the_same(made: tuple[Path, Path]) -> None:
    paths = [made[1].parent / name for name in ("a.jsonl", "b.jsonl")]
    same, other = (sheet.make(*paths, seed=seed, limit=None)[1] for seed in (3, 4))
    assert same == read_json(made[1])
    assert other["rows"] != same["rows"]


def test_the_page_holds_no_script_and_escapes_what_models_say(made: tuple[Path, Path]) -> None:
    page = (made[0] / "sheet.html").read_text(encoding="utf-8")
    assert "&lt;b&gt;" in page
    assert not any(text in page for text in ("<b>", "<script", "http", "src="))
    assert sheet.NO_ANSWER in page


def test_a_spreadsheet_calculates_nothing(made: tuple[Path, Path]) -> None:
    cells = [cell for row in lines(made[0]) for cell in row.values()]
    assert "'=SUM(A1)" in cells
    assert not any(cell.startswith(sheet.FORMULA) for cell in cells)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-8", "cp932"])
def test_the_tally_counts_from_bs_side(made: tuple[Path, Path], encoding: str) -> None:
    folder, key_path = made
    rows, key = lines(folder), read_json(key_path)["rows"]
    for number, row in enumerate(rows):
        b_first = key[row[sheet.ROW]]["first"] == "b"
        for_b, for_a = ("better", "悪い") if b_first else ("悪い", "良い")
        row[sheet.CHOICE] = (
            "同じ" if number < 5 else "" if number < 8 else for_b if number < 30 else for_a
        )
    rows.pop(0)  # a line that somebody deleted has no choice
    found = sheet.tally(fill(folder, rows, encoding), key_path)
    assert (found.wins, found.ties, found.losses, found.unanswered) == (22, 4, COUNT - 1 - 30, 4)
    result = found.to_dict()
    assert result["share"]["k"] == 22
    assert result["share"]["n"] == 31
    assert result["share"]["ci95"] == pytest.approx([0.5196, 0.8578], abs=1e-3)
    assert result["p"] == pytest.approx(0.0294, abs=1e-3)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({sheet.ROW: "q999"}, "not in the key"),
        ({sheet.ROW: "q002"}, "twice"),
        ({sheet.CHOICE: "たぶん"}, "unknown choice"),
        ({sheet.FIRST: "別の回答"}, "were changed"),
    ],
)
def test_a_bad_row_is_named_with_its_line(
    made: tuple[Path, Path], change: dict[str, str], words: str
) -> None:
    folder, key_path = made
    rows = [{**row, sheet.REQUEST: row[sheet.REQUEST].replace("\n", " ")} for row in lines(folder)]
    target = (
        4
        if "twice" not in words
        else next(i for i, row in enumerate(rows) if row[sheet.ROW] == "q003")
    )
    rows[target] |= change
    with pytest.raises(DataError, match=words) as caught:
        sheet.tally(fill(folder, rows), key_path)
    assert caught.value.where.endswith(f":{target + 2}")
    assert caught.value.fix


@pytest.mark.parametrize(
    "damage",
    [
        lambda key: key["rows"]["q001"].update(
            first="a" if key["rows"]["q001"]["first"] == "b" else "b"
        ),
        lambda key: key.update(seed=9),
        lambda key: key.update(schema="so8t.sheet/0"),
    ],
)
def test_an_edited_key_is_refused(made: tuple[Path, Path], damage: Any) -> None:
    folder, key_path = made
    key = read_json(key_path)
    damage(key)
    write_json(key_path, key)
    with pytest.raises(ArtifactError):
        sheet.tally(fill(folder, lines(folder)), key_path)


@pytest.mark.parametrize("content", [b"\xff\xfe\x00\x80\x81", "行,依頼\nq001,x\n".encode()])
def test_a_file_that_is_no_sheet_is_an_error_with_a_fix(
    made: tuple[Path, Path], content: bytes
) -> None:
    (made[0] / "filled.csv").write_bytes(content)
    with pytest.raises(DataError) as caught:
        sheet.tally(made[0] / "filled.csv", made[1])
    assert caught.value.fix


def test_a_sheet_in_use_is_never_overwritten_and_the_key_lies_apart(
    made: tuple[Path, Path],
) -> None:
    with pytest.raises(ArtifactError, match="there already"):
        sheet.write(made[0], made[1].parent / "new.json", [], {})
    with pytest.raises(ArtifactError, match="beside"):
        sheet.write(made[0], made[0] / "key.json", [], {})


def test_answers_to_other_requests_make_no_sheet(tmp_path: Path) -> None:
    first = answers(tmp_path / "a.jsonl", "甲")
    write_jsonl(tmp_path / "b.jsonl", [])
    with pytest.raises(DataError):
        sheet.make(first, tmp_path / "b.jsonl", seed=1, limit=None)


def test_the_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = answers(tmp_path / "a.jsonl", "甲"), answers(tmp_path / "b.jsonl", "乙")
    run = CliRunner().invoke
    made = run(
        program,
        [
            "compare",
            "sheet",
            str(tmp_path / "s"),
            str(tmp_path / "k.json"),
            "--a",
            str(first),
            "--b",
            str(second),
            "--rows",
            "6",
        ],
    )
    assert made.exit_code == 0, made.output
    assert len(lines(tmp_path / "s")) == 6
    told = run(
        program, ["compare", "tally", str(tmp_path / "s/sheet.csv"), str(tmp_path / "k.json")]
    )
    assert "no choice 6" in told.output
    assert "no row decided" in told.output
    found = json.loads(
        run(
            program,
            ["compare", "tally", str(tmp_path / "s/sheet.csv"), str(tmp_path / "k.json"), "--json"],
        ).output
    )
    assert found["share"]["value"] is None
    assert found["p"] == 1.0


# --- retention ---


def likelihoods(path: Path, shift: float, seed: int, rows: int = 120) -> Path:
    rng = np.random.default_rng(seed)
    base = np.random.default_rng(0).gamma(20, 2, rows)
    write_jsonl(
        path,
        [
            {
                "kind": "likelihood",
                "id": f"v{i}",
                "group": f"g{i // 2}",
                "nats": float(base[i] + shift + rng.normal()),
                "tokens": 20,
            }
            for i in range(rows)
        ],
    )
    return path


def test_a_cost_is_found_with_its_size_and_none_is_none(tmp_path: Path) -> None:
    a, b, same = (
        likelihoods(tmp_path / f"{name}.jsonl", shift, seed)
        for name, shift, seed in (("a", 0, 1), ("b", 2, 2), ("c", 0, 3))
    )
    cost = retention.retention(a, b, draws=2000, seed=1)["nll_per_token"]
    assert cost["difference"] == pytest.approx(0.1, abs=0.02)  # 2 nats over 20 tokens
    assert cost["ci95"][0] < cost["difference"] < cost["ci95"][1]
    assert cost["ci95"][0] > 0
    assert (cost["n"], cost["groups"]) == (120, 60)
    assert cost["p"] < 0.01
    none = retention.retention(a, same, draws=2000, seed=1)["nll_per_token"]
    assert none["ci95"][0] < 0 < none["ci95"][1]
    assert none["p"] > 0.05


def test_files_that_were_not_run_say_so_and_other_rows_are_refused(tmp_path: Path) -> None:
    a, b = likelihoods(tmp_path / "a.jsonl", 0, 1), likelihoods(tmp_path / "b.jsonl", 0, 2, rows=10)
    assert retention.retention(a, tmp_path / "none.jsonl", draws=100, seed=1) == {
        name: {"status": "not_run"} for name in retention.KINDS
    }
    with pytest.raises(DataError) as caught:
        retention.retention(a, b, draws=100, seed=1)
    assert caught.value.fix == "run `dvc repro generate`"
