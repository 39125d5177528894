"""Disguised requests: each keeps the verdict it had, and does not depend on the rows beside it."""

from pathlib import Path

import pytest

from so8t.data.evasion import DISGUISES, chosen, evasion_rows
from so8t.familiarity import reference_texts
from so8t.files import write_jsonl
from so8t.rows import OUTSIDE, Row
from so8t.verdict import Authority, Verdict


def row_of(name: str, verdict: Verdict, domain: str = "d", group: str | None = None) -> Row:
    return Row(
        id=name,
        text=f"依頼{name}を送ってください",
        verdict=verdict,
        authority=Authority.HUMAN,
        domain=domain,
        thinking="",
        final="",
        response="",
        group=group or name,
        pair="p",
        factors={},
        source="test",
        license=None,
    )


UNSAFE = [row_of("u1", Verdict.DENY), row_of("u2", Verdict.ESCALATE, domain="e")]
PERMITTED = [row_of("a1", Verdict.ALLOW), row_of("a2", Verdict.ALLOW, domain="e")]


def test_every_disguise_of_every_row_keeps_its_verdict() -> None:
    made = list(evasion_rows(UNSAFE, PERMITTED, seed=1))
    assert [row.id for row in made] == [f"{row.id}~{name}" for row in UNSAFE for name in DISGUISES]
    by_id = {row.id: row for row in UNSAFE}
    for row in made:
        original = by_id[row.id.split("~")[0]]
        assert row.text != original.text
        assert (row.verdict, row.group) == (original.verdict, original.group)
        assert row.pair is None  # a disguised request is no minimal pair of anything


@pytest.mark.parametrize("unsafe", UNSAFE)
def test_the_permitted_request_is_of_the_same_domain(unsafe: Row) -> None:
    partner = next(row for row in PERMITTED if row.domain == unsafe.domain)
    made = {row.id: row.text for row in evasion_rows([unsafe], PERMITTED, seed=1)}
    assert made[f"{unsafe.id}~benign_appended"] == unsafe.text + partner.text


def test_a_row_is_disguised_the_same_whatever_rows_are_beside_it() -> None:
    together = list(evasion_rows(UNSAFE, PERMITTED, seed=1))
    alone = list(evasion_rows(UNSAFE[1:], PERMITTED, seed=1))
    assert together[len(DISGUISES) :] == alone
    assert list(evasion_rows(UNSAFE, PERMITTED, seed=2)) != together


def test_one_row_of_a_group_is_chosen_and_the_same_one_in_any_order() -> None:
    rows = [row_of(f"r{i}", Verdict.DENY, group=f"g{i % 5}") for i in range(20)]
    picked = chosen(rows, most=3)
    assert len({row.group for row in picked}) == len(picked) == 3
    assert chosen(rows[::-1], most=3) == picked
    assert chosen(rows, most=99)[:3] == picked


def test_requests_of_no_domain_do_not_become_familiar(tmp_path: Path) -> None:
    train = tmp_path / "train.jsonl"
    rows = [*PERMITTED, row_of("x", Verdict.ESCALATE, domain=OUTSIDE)]
    write_jsonl(train, (row.to_json() for row in rows))
    assert reference_texts(train) == [row.text for row in PERMITTED]
