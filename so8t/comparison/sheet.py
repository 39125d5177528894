"""A blind side-by-side sheet of A's and B's answers for people, and the tally of what they chose.

Rows are shuffled and sides exchanged by a seed; which side is which stands only in the key, a file of its own with its
own digest. The sheet holds requests and *final* answers, never thinking. Answers that are the same on both sides are
left out and counted. The tally refuses what it cannot trust: an edited key, an unknown or repeated row, a changed text,
a choice that is no choice. Covered: CSV (for Excel too), a page to read and print. Not covered: who chose.
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
CHOICES = {"良い": 1, "悪い": -1, "同じ": 0, "better": 1, "worse": -1, "tie": 0}
NO_ANSWER = "（読める最終回答がありません）"
CHOICE_FIX = (
    "write 良い, 悪い or 同じ (better, worse, tie); leave it empty where you have no opinion"
)
FORMULA = ("=", "+", "-", "@", "\t")  # what a spreadsheet would calculate
INTRO = (
    "どちらの回答がどのモデルのものかは伏せてあります。CSV の「回答1は回答2より」の欄に、良い・悪い・同じ のどれかを書いてください。"
    "判断できない行は空のままにします。ほかの欄は変えないでください（メモは自由です）。"
)


@dataclass(frozen=True, slots=True)
class Tally:
    """What people chose, from B's side: wins, ties, losses, rows without a choice."""

    wins: int
    ties: int
    losses: int
    unanswered: int

    def to_dict(self) -> dict[str, Any]:
        """With the exact sign test (ties left out) and the exact 95 % interval of B's share of the decided rows."""
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
    a: Path, b: Path, *, seed: int, limit: int | None
) -> tuple[list[dict[str, str]], dict[str, Any]]:
    """Rows of the blank sheet, and the key.

    Args:
        a: answers of A, as the `serve` stage writes them.
        b: answers of B.
        seed: of the order of rows and sides.
        limit: most rows; all when null.

    Raises:
        DataError: no answers, or not to the same requests.
    """
    first, second = read_answers(a, "served"), read_answers(b, "served")
    if (
        not first
        or set(first) != set(second)
        or any(first[i]["text"] != second[i]["text"] for i in first)
    ):
        raise DataError(
            "A and B have no answers to the same requests",
            where=str(b),
            fix="run `dvc repro serve`",
        )
    differ = [name for name in sorted(first) if first[name]["final"] != second[name]["final"]]
    generator = random.Random(seed)
    generator.shuffle(differ)
    rows, places = [], {}
    for number, name in enumerate(differ[:limit], start=1):
        sides = ("a", "b") if generator.random() < 0.5 else ("b", "a")
        shown = {"a": first[name]["final"] or NO_ANSWER, "b": second[name]["final"] or NO_ANSWER}
        row = {
            ROW: f"q{number:03d}",
            REQUEST: first[name]["text"],
            FIRST: shown[sides[0]],
            SECOND: shown[sides[1]],
            CHOICE: "",
            NOTE: "",
        }
        rows.append(row)
        places[row[ROW]] = {"id": name, "first": sides[0], "text_sha256": _text_digest(row)}
    body = {
        "schema": SCHEMA,
        "seed": seed,
        "same_answers": len(first) - len(differ),
        "rows": places,
        "answers": {"a": sha256_file(a), "b": sha256_file(b)},
    }
    return rows, {**body, "digest": sha256_json(body)}


def _text_digest(row: dict[str, str]) -> str:
    """Digest of what was to be judged; spreadsheets change line ends and spaces at ends, which do not count."""
    return sha256_json(
        [" ".join(row[name].removeprefix("'").split()) for name in (REQUEST, FIRST, SECOND)]
    )


def write(folder: Path, key: Path, rows: list[dict[str, str]], secret: dict[str, Any]) -> None:
    """Write sheet.csv and sheet.html below `folder`, and the key apart.

    Raises:
        ArtifactError: a filled sheet lies there already, or the key would lie beside the sheet.
    """
    if key.resolve().parent == folder.resolve():
        raise ArtifactError(
            "the key would lie beside the sheet",
            where=str(key),
            fix="keep it where the people who judge do not look",
        )
    if (folder / "sheet.csv").exists() or key.exists():
        raise ArtifactError(
            "a sheet or key is there already and is kept",
            where=str(folder),
            fix="choose another name",
        )
    write_text(folder / "sheet.csv", "\ufeff" + to_csv(rows))
    write_text(folder / "sheet.html", to_html(rows))
    write_json(key, secret)


def to_csv(rows: list[dict[str, str]]) -> str:
    """CSV; a text that a spreadsheet would calculate gets an apostrophe in front."""
    harmless = (
        {name: f"'{text}" if text.startswith(FORMULA) else text for name, text in row.items()}
        for row in rows
    )
    return csv_text(COLUMNS, harmless, end="\r\n")


def to_html(rows: list[dict[str, str]]) -> str:
    """A page to read and print: no script, no network."""
    style = (
        "body{font-family:system-ui,'Hiragino Sans','Noto Sans JP',sans-serif;max-width:70rem;margin:auto;padding:1rem;line-height:1.6}"
        "section{break-inside:avoid;border-top:1px solid #888;padding:.5rem 0}.pair{display:grid;grid-template-columns:1fr 1fr;gap:1rem}"
        ".pair>div{border:1px solid #8888;padding:.5rem}.text{white-space:pre-wrap;overflow-wrap:anywhere}"
    )
    parts = [
        f'<section><h2>{row[ROW]}</h2><p class="text">{escape(row[REQUEST])}</p><div class="pair">'
        + "".join(
            f'<div><h3>{name}</h3><div class="text">{escape(row[name])}</div></div>'
            for name in (FIRST, SECOND)
        )
        + f"</div><p>{CHOICE}: ☐ 良い ☐ 悪い ☐ 同じ　{NOTE}: ＿＿＿＿＿＿＿＿</p></section>"
        for row in rows
    ]
    return (
        f'<!doctype html>\n<html lang="ja"><head><meta charset="utf-8"><title>回答の比較</title><style>{style}</style></head><body>\n'
        f"<h1>回答の比較</h1><p>{INTRO}</p>\n" + "\n".join(parts) + "\n</body></html>\n"
    )


def read_key(path: Path) -> dict[str, Any]:
    """Read a key.

    Raises:
        ArtifactError: missing, of another schema, or edited.
    """
    key = read_json(path, fix="give the key that was made with the sheet")
    if not isinstance(key, dict) or key.get("schema") != SCHEMA:
        raise ArtifactError(
            f"not a key of schema {SCHEMA}",
            where=str(path),
            fix="give the key that was made with the sheet",
        )
    if sha256_json({name: value for name, value in key.items() if name != "digest"}) != key.get(
        "digest"
    ):
        raise ArtifactError(
            "the key was edited after it was made",
            where=str(path),
            fix="give the key as it was made, or make a new sheet",
        )
    return key


def _lines(path: Path) -> list[tuple[int, dict[str, str]]]:
    """(line number, row) of a filled sheet; UTF-8, or CP932 as a Japanese Excel saves it."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(
            f"the sheet cannot be read ({error.strerror})",
            where=str(path),
            fix="give the filled CSV",
        ) from None
    for encoding in ("utf-8-sig", "cp932"):
        try:
            text = content.decode(encoding)
            break
        except UnicodeDecodeError:
            continue
    else:
        raise DataError(
            "the sheet is neither UTF-8 nor CP932", where=str(path), fix="save it as CSV UTF-8"
        )
    reader = csv.DictReader(io.StringIO(text, newline=""))
    if missing := [name for name in COLUMNS if name not in (reader.fieldnames or [])]:
        raise DataError(
            f"columns are missing: {', '.join(missing)}",
            where=f"{path}:1",
            fix="keep the sheet's first line as it was",
        )
    return [(reader.line_num, {name: row[name] or "" for name in COLUMNS}) for row in reader]


def tally(sheet: Path, key: Path) -> Tally:
    """Count the choices of a filled sheet.

    Raises:
        DataError: unknown or repeated row, unknown choice, changed text; `where` is `file:line`.
        ArtifactError: the key is not one, or was edited.
    """
    places, chosen = read_key(key)["rows"], dict[str, int | None]()  # None: no choice
    for line, row in _lines(sheet):
        where, name, choice = f"{sheet}:{line}", row[ROW].strip(), row[CHOICE].strip()
        place = places.get(name)
        if place is None:
            raise DataError(
                f"row {name!r} is not in the key",
                where=where,
                fix="tally the sheet with the key that was made with it",
            )
        if name in chosen:
            raise DataError(f"row {name} occurs twice", where=where, fix="keep each row once")
        if _text_digest(row) != place["text_sha256"]:
            raise DataError(
                f"the texts of row {name} were changed",
                where=where,
                fix="copy the choices into the sheet as it was made",
            )
        if choice and choice.casefold() not in CHOICES:
            raise DataError(f"unknown choice {choice[:20]!r}", where=where, fix=CHOICE_FIX)
        chosen[name] = (
            CHOICES[choice.casefold()] * (1 if place["first"] == "b" else -1) if choice else None
        )
    counts = Counter(value for value in chosen.values() if value is not None)
    return Tally(counts[1], counts[0], counts[-1], len(places) - counts.total())
