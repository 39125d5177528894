"""Requests of no domain: what the policy says of them, and that what is tested was not taught."""

import os
import subprocess
import sys
from collections import Counter

import pytest

from so8t.rows import OUTSIDE
from so8t.synthetic.foreign import KINDS, RULES, foreign_rows
from so8t.verdict import Verdict

PER_KIND = 40


@pytest.fixture(scope="module")
def rows() -> list[dict]:
    return list(foreign_rows(PER_KIND, seed=1))


def test_every_kind_gives_what_was_asked_for_and_no_text_comes_twice(rows: list[dict]) -> None:
    assert Counter(row["factors"]["kind"] for row in rows) == dict.fromkeys(KINDS, PER_KIND)
    assert len({row["text"] for row in rows}) == len(rows)
    assert len({row["id"] for row in rows}) == len(rows)


def test_none_of_them_is_allowed(rows: list[dict]) -> None:
    for row in rows:
        verdict = Verdict(row["verdict"])
        assert verdict is not Verdict.ALLOW
        assert RULES[verdict] == (row["rule"], row["thinking"].rsplit(": ", 1)[1])
        assert row["domain"] == OUTSIDE


def test_what_is_tested_was_not_taught(rows: list[dict]) -> None:
    taught = {row["factors"]["kind"] for row in rows if row["held_out"] == "exposure"}
    tested = {row["factors"]["kind"] for row in rows if row["held_out"] == "foreign"}
    assert taught
    assert tested
    assert taught.isdisjoint(tested)
    assert taught | tested == set(KINDS)


def test_no_place_of_a_template_is_left_open(rows: list[dict]) -> None:
    for row in rows:
        # A request may show JSON; a slot is a name alone between braces.
        assert not any(f"{{{slot}}}" in row["text"] for slot in ("what", "german", "chinese"))
        assert "{korean}" not in row["text"]
        assert "{long}" not in row["text"]
        assert "[" not in row["text"] or row["factors"]["kind"] == "code"


def test_a_fresh_process_gives_the_same_rows(rows: list[dict]) -> None:
    program = (
        "import hashlib, json; from so8t.synthetic.foreign import foreign_rows;"
        f"text = json.dumps(list(foreign_rows({PER_KIND}, seed=1)), sort_keys=True);"
        "print(hashlib.sha256(text.encode()).hexdigest())"
    )
    told = {
        subprocess.run(
            [sys.executable, "-c", program],
            env=os.environ | {"PYTHONHASHSEED": hashing},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for hashing in ("1", "2")
    }
    assert len(told) == 1
    assert [row["id"] for row in foreign_rows(PER_KIND, seed=2)] != [row["id"] for row in rows]
