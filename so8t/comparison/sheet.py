"""A blind side-by-side sheet of A's and B's answers for people, and the tally of what they chose.

Rows are shuffled and sides exchanged by a seed. Which side is which stands only in the key, a file
of its own that carries its own digest. The sheet holds requests and *final* answers, never
thinking. Answers that are the same on both sides are left out and counted.

The tally refuses what it cannot trust: an edited key, an unknown or repeated row, a changed text, a
choice that is no choice.

Covered: CSV (for Excel too), a page to read and print. Not covered: who chose.
"""

import csv
import io
import random
from collections import Counter
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from so8t.comparison.retention import read_answers
from so8t.errors import ArtifactError, DataError
from so8t.files import csv_text, read_json, sha256_file, sha256_json, write_json, write_text
from so8t.metrics import clopper_pearson
from so8t.metrics.intervals import binomial_two_sided

SCHEMA = "so8t.sheet/1"
COLUMNS = ("行", "依頼", "回答1", "回答2", "回答1は回答2より", "メモ")
ROW, REQUEST, FIRST, SECOND, CHOICE, NOTE = COLUMNS
# What answer 1 is beside answer 2: better (1), worse (-1), the same (0).
CHOICES = {"良い": 1, "悪い": -1, "同じ": 0, "better": 1, "worse": -1, "tie": 0}
# An empty cell would tell people which model fails to answer in the format.
NO_ANSWER = "（読める最終回答がありません）"
CHOICE_FIX = (
    "write 良い, 悪い or 同じ (better, worse, tie); leave it empty where you have no opinion"
)
KEY_FIX = "give the key that was made with the sheet"
FORMULA = ("=", "+", "-", "@", "\t")  # what a spreadsheet would calculate
INTRO = (
    "どちらの回答がどのモデルのものかは伏せてあります。"
    "CSV の「回答1は回答2より」の欄に、良い・悪い・同じ のどれかを書いてください。"
    "判断できない行は空のままにします。ほかの欄は変えないでください（メモは自由です）。"
)
STYLE = (
    "body{font-family:system-ui,'Hiragino Sans','Noto Sans JP',sans-serif;"
    "max-width:70rem;margin:auto;padding:1rem;line-height:1.6}"
    "section{break-inside:avoid;border-top:1px solid #888;padding:.5rem 0}"
    ".pair{display:grid;grid-template-columns:1fr 1fr;gap:1rem}"
    ".pair>div{border:1px solid #8888;padding:.5rem}"
    ".text{white-space:pre-wrap;overflow-wrap:anywhere}"
)


@dataclass(frozen=True, slots=True)
class Tally:
    """What people chose, from B's side: wins, ties, losses, rows without a choice."""

    wins: int
    ties: int
    losses: int
    unanswered: int

    def to_dict(self) -> dict[str, Any]:
        """As JSON, with the exact sign test and B's share of the decided rows.

        Both leave ties out; the share has its exact 95 % interval.
        """
        decided = self.wins + self.losses
        share = {
            "value": self.wins / decided if decided else None,
            "k": self.wins,
            "n": decided,
            "ci95": list(clopper_pearson(self.wins, decided)),
        }
        return {
            "wins": self.wins,
            "ties": self.ties,
            "losses": self.losses,
            "unanswered": self.unanswered,
            "share": share,
            "p": binomial_two_sided(self.wins, decided),
        }


def make(
    a: Path,
    b: Path,
    *,
    seed: int,
    limit: int | None,
) -> tuple[list[dict[str, str]], dict[str, Any]]:
    """Rows of the blank sheet, and the key.

    Args:
        a: answers of A, as the `generate` stage writes them.
        b: answers of B.
        seed: of the order of rows and sides.
        limit: most rows; all when null.

    Raises:
        DataError: no answers, or not to the same requests.
    """
    answers_a = read_answers(a, "served")
    answers_b = read_answers(b, "served")
    if not answers_a or not _same_requests(answers_a, answers_b):
        raise DataError(
            "A and B have no answers to the same requests",
            where=str(b),
            fix="run `dvc repro generate`",
        )
    # Sorted before shuffling: the sheet depends on the seed, not on the order of the file.
    names = sorted(answers_a)
    differ = [name for name in names if answers_a[name]["final"] != answers_b[name]["final"]]
    # One generator for the order and then the sides: the seed fixes the whole sheet.
    generator = random.Random(seed)
    generator.shuffle(differ)
    # Two records of one shuffle: what people see, and what only the key says.
    rows = []
    places = {}
    for number, name in enumerate(differ[:limit], start=1):
        first, second = answers_a[name]["final"], answers_b[name]["final"]
        first_side = "a"
        if generator.random() >= 0.5:
            first, second = second, first
            first_side = "b"
        row = {
            # A number of its own: the id may tell which data set the request is from.
            ROW: f"q{number:03d}",
            REQUEST: answers_a[name]["text"],
            FIRST: first or NO_ANSWER,
            SECOND: second or NO_ANSWER,
            CHOICE: "",
            NOTE: "",
        }
        rows.append(row)
        places[row[ROW]] = {"id": name, "first": first_side, "text_sha256": _text_digest(row)}
    body = {
        "schema": SCHEMA,
        "seed": seed,
        "same_answers": len(answers_a) - len(differ),
        "rows": places,
        # So that a tally can be traced to the very files that people compared.
        "answers": {"a": sha256_file(a), "b": sha256_file(b)},
    }
    return rows, {**body, "digest": sha256_json(body)}


def _same_requests(a: dict[str, dict[str, Any]], b: dict[str, dict[str, Any]]) -> bool:
    if set(a) != set(b):
        return False
    return all(a[name]["text"] == b[name]["text"] for name in a)


def _text_digest(row: dict[str, str]) -> str:
    """Digest of the texts that people compare.

    Spreadsheets change line ends and spaces at ends, so neither counts; nor does the apostrophe
    that `to_csv` puts before a formula.
    """
    texts = []
    for column in (REQUEST, FIRST, SECOND):
        words = row[column].removeprefix("'").split()
        texts.append(" ".join(words))
    return sha256_json(texts)


def write(
    folder: Path,
    key: Path,
    rows: list[dict[str, str]],
    secret: dict[str, Any],
) -> None:
    """Write sheet.csv and sheet.html below `folder`, and the key apart.

    Args:
        folder: for the people who choose.
        key: where the key goes, outside `folder`.
        rows: of the sheet.
        secret: what the key says.

    Raises:
        ArtifactError: a filled sheet lies there already, or the key would lie beside the sheet.
    """
    # People who are sent the folder would be sent the key.
    if key.resolve().parent == folder.resolve():
        raise ArtifactError(
            "the key would lie beside the sheet",
            where=str(key),
            fix="keep it where the people who judge do not look",
        )
    # A filled sheet is work of people, which no command may overwrite.
    if (folder / "sheet.csv").exists() or key.exists():
        raise ArtifactError(
            "a sheet or key is there already and is kept",
            where=str(folder),
            fix="choose another name",
        )
    # Excel takes a CSV for UTF-8 only if it begins with a byte order mark.
    write_text(folder / "sheet.csv", "\ufeff" + to_csv(rows))
    write_text(folder / "sheet.html", to_html(rows))
    write_json(key, secret)


def to_csv(rows: list[dict[str, str]]) -> str:
    """CSV; a text that a spreadsheet would calculate gets an apostrophe in front."""
    # A cell that begins with "=" runs as a formula on the reader's machine.
    harmless = []
    for row in rows:
        cells = {}
        for column, text in row.items():
            cells[column] = f"'{text}" if text.startswith(FORMULA) else text
        harmless.append(cells)
    return csv_text(COLUMNS, harmless, end="\r\n")


def to_html(rows: list[dict[str, str]]) -> str:
    """A page to read and print: no script, no network."""
    sections = [_section(row) for row in rows]
    return (
        '<!doctype html>\n<html lang="ja"><head><meta charset="utf-8">'
        f"<title>回答の比較</title><style>{STYLE}</style></head><body>\n"
        f"<h1>回答の比較</h1><p>{INTRO}</p>\n" + "\n".join(sections) + "\n</body></html>\n"
    )


def _section(row: dict[str, str]) -> str:
    """One request with both answers; texts are escaped, since a model may answer in HTML."""
    answers = ""
    for column in (FIRST, SECOND):
        answers += f'<div><h3>{column}</h3><div class="text">{escape(row[column])}</div></div>'
    return (
        f'<section><h2>{row[ROW]}</h2><p class="text">{escape(row[REQUEST])}</p>'
        f'<div class="pair">{answers}</div>'
        f"<p>{CHOICE}: ☐ 良い ☐ 悪い ☐ 同じ　{NOTE}: ＿＿＿＿＿＿＿＿</p></section>"
    )


def read_key(path: Path) -> dict[str, Any]:
    """Read a key.

    Raises:
        ArtifactError: missing, of another schema, or edited.
    """
    key = read_json(path, fix=KEY_FIX)
    if not isinstance(key, dict) or key.get("schema") != SCHEMA:
        raise ArtifactError(f"not a key of schema {SCHEMA}", where=str(path), fix=KEY_FIX)
    # The digest covers everything but itself.
    body = {name: value for name, value in key.items() if name != "digest"}
    if sha256_json(body) != key.get("digest"):
        raise ArtifactError(
            "the key was edited after it was made",
            where=str(path),
            fix="give the key as it was made, or make a new sheet",
        )
    return key


def _text_of(path: Path) -> str:
    """The filled sheet as text: UTF-8, or CP932 as a Japanese Excel saves it."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(
            f"the sheet cannot be read ({error.strerror})",
            where=str(path),
            fix="give the filled CSV",
        ) from None
    # CP932 accepts nearly any bytes, so UTF-8, which does not, is tried first.
    for encoding in ("utf-8-sig", "cp932"):
        try:
            return content.decode(encoding)
        except UnicodeDecodeError:
            continue
    raise DataError(
        "the sheet is neither UTF-8 nor CP932",
        where=str(path),
        fix="save it as CSV UTF-8",
    )


def _lines(path: Path) -> list[tuple[int, dict[str, str]]]:
    """(line number, row) of a filled sheet.

    Raises:
        DataError: it cannot be read, or a column is missing.
    """
    reader = csv.DictReader(io.StringIO(_text_of(path), newline=""))
    head = reader.fieldnames or []
    missing = [column for column in COLUMNS if column not in head]
    if missing:
        raise DataError(
            f"columns are missing: {', '.join(missing)}",
            where=f"{path}:1",
            fix="keep the sheet's first line as it was",
        )
    lines = []
    # Columns that people added are ignored; `csv` puts them under names of their own.
    for cells in reader:
        # A line that was cut short has null for the cells it lacks.
        row = {column: cells[column] or "" for column in COLUMNS}
        lines.append((reader.line_num, row))
    return lines


def tally(sheet: Path, key: Path) -> Tally:
    """Count the choices of a filled sheet.

    Args:
        sheet: the filled CSV.
        key: that was made with it.

    Raises:
        DataError: unknown or repeated row, unknown choice, changed text; `where` is `file:line`.
        ArtifactError: the key is not one, or was edited.
    """
    places = read_key(key)["rows"]
    chosen: set[str] = set()
    for_b: Counter[int] = Counter()
    for line, row in _lines(sheet):
        where = f"{sheet}:{line}"
        name = row[ROW].strip()
        if name in chosen:
            raise DataError(f"row {name} occurs twice", where=where, fix="keep each row once")
        # Even without a choice: a second line with the same number is a copying mistake.
        chosen.add(name)
        place = _checked_place(
            row,
            name,
            places,
            where,
        )
        choice = _choice(row, where)
        if choice is None:
            continue
        # The choice is about answer 1, the tally about B.
        if place["first"] == "b":
            for_b[choice] += 1
        else:
            for_b[-choice] += 1
    # A line that somebody deleted counts as a row without a choice.
    unanswered = len(places) - for_b.total()
    return Tally(
        wins=for_b[1],
        ties=for_b[0],
        losses=for_b[-1],
        unanswered=unanswered,
    )


def _checked_place(
    row: dict[str, str],
    name: str,
    places: dict[str, dict[str, str]],
    where: str,
) -> dict[str, str]:
    """What the key says of a row, after a check that the row still shows the same texts."""
    place = places.get(name)
    if place is None:
        raise DataError(
            f"row {name!r} is not in the key",
            where=where,
            fix="tally the sheet with the key that was made with it",
        )
    if _text_digest(row) != place["text_sha256"]:
        raise DataError(
            f"the texts of row {name} were changed",
            where=where,
            fix="copy the choices into the sheet as it was made",
        )
    return place


def _choice(row: dict[str, str], where: str) -> int | None:
    """What was chosen about answer 1; null for an empty cell."""
    choice = row[CHOICE].strip()
    if not choice:
        return None
    if choice.casefold() not in CHOICES:
        raise DataError(f"unknown choice {choice[:20]!r}", where=where, fix=CHOICE_FIX)
    return CHOICES[choice.casefold()]
