"""The generator: distinct, balanced, reproducible, and not solvable by words or by one factor."""

import hashlib
import json
import os
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path

import pytest

from so8t.data.probe import keyword_verdict, ngram, score, single_factor
from so8t.data.splits import place
from so8t.errors import ParamsError
from so8t.files import sha256_json
from so8t.params import load
from so8t.rows import SPLITS, Row
from so8t.synthetic import vocabulary
from so8t.synthetic.grammar import TAIL, factor_lines, phrase_counts
from so8t.synthetic.policy import RULES, Cell, cells, decide
from so8t.synthetic.synthesize import BALANCED, _is_held_out, generate
from so8t.verdict import VERDICTS, Authority, Verdict
from tools.policy_page import page

ROOT = Path(__file__).parents[2]
PARAMS = load(ROOT / "params.yaml")
DOMAINS = ["defense", "aerospace", "transport", "general"]
SLOTS = ("intent", "authorisation", "context", "frame")


def make(rows: int = 4999, seed: int = 42, domains: list[str] | None = None) -> list[dict]:
    return list(
        generate(rows, domains or DOMAINS, seed, cells_share=0.06, phrases_share=0.06, tail=0.3)
    )


@pytest.fixture(scope="module")
def rows() -> list[dict]:
    return make()


def prepared(row: dict) -> Row:
    """A generated row as `prepare` would keep it, without its response."""
    kept = ("id", "text", "domain", "thinking", "final", "group", "pair")
    return Row(
        **{name: row[name] for name in kept},
        verdict=Verdict(row["verdict"]),
        authority=Authority(row["authority"]),
        response="",
        factors=row["factors"],
        source=row["source"],
        license=row["license"],
    )


def cell_of(row: dict) -> Cell:
    f = row["factors"]
    return Cell(f["sensitivity"], f["intent"], f["authorisation"], f["context"], f["frame"])


def groups(rows: list[dict]) -> dict[str, list[dict]]:
    found = defaultdict(list)
    for row in rows:
        found[row["group"]].append(row)
    return found


def test_there_are_4999_distinct_rows_in_2000_groups(rows: list[dict]) -> None:
    assert len(rows) == len({r["text"] for r in rows}) == len({r["id"] for r in rows}) == 4999
    assert len(groups(rows)) >= 2000


def test_classes_are_balanced_in_every_domain(rows: list[dict]) -> None:
    for domain in DOMAINS:
        counts = Counter(r["verdict"] for r in rows if r["domain"] == domain)
        total = sum(counts.values())
        assert all(abs(counts[v] / total - 1 / 3) <= 0.02 for v in VERDICTS)


def test_two_fresh_processes_give_the_same_bytes(tmp_path: Path) -> None:
    code = (
        "import json,sys;from so8t.synthetic.synthesize import generate;"
        "rows = generate(400, ['defense', 'general'], 5, "
        "cells_share=.1, phrases_share=.1, tail=.3);"
        "[print(json.dumps(r, ensure_ascii=False)) for r in rows]"
    )
    digests = set()
    for hash_seed in ("1", "2"):
        out = subprocess.run(
            [sys.executable, "-c", code],
            cwd=ROOT,
            capture_output=True,
            check=True,
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
        )
        digests.add(hashlib.sha256(out.stdout).hexdigest())
    assert len(digests) == 1


def test_another_seed_gives_other_rows() -> None:
    assert {r["text"] for r in make(100, 1)} != {r["text"] for r in make(100, 2)}


def test_every_row_says_what_the_policy_says(rows: list[dict]) -> None:
    for row in rows:
        rule = decide(cell_of(row))
        assert (row["verdict"], row["authority"], row["rule"]) == (
            rule.verdict,
            rule.authority,
            rule.id,
        )
        assert (
            row["thinking"].split("\n")[-1]
            == f"{vocabulary.RULES[rule.verdict]}{rule.id}: {rule.ja}"
        )


def test_the_first_words_of_rule_and_answer_tell_the_verdict(rows: list[dict]) -> None:
    """A small model words what it has begun; where only refusals begin alike, permitted requests were refused (docs/log.md)."""
    for column in ("thinking", "final"):
        began = {
            verdict: {row[column].split("\n")[-1][:2] for row in rows if row["verdict"] == verdict}
            for verdict in VERDICTS
        }
        assert [len(beginnings) for beginnings in began.values()] == [1, 1, 1]
        assert len(set.union(*began.values())) == 3


def test_every_rule_decides_something_and_rows_meet_nearly_all(rows: list[dict]) -> None:
    assert {decide(c).id for c in cells()} == {r.id for r in RULES}
    assert len({r["rule"] for r in rows}) == len(RULES)


def test_authority_is_not_the_verdict(rows: list[dict]) -> None:
    pairs = Counter((r["verdict"], r["authority"]) for r in rows)
    assert (
        min(
            pairs["ALLOW", "human"],
            pairs["ALLOW", "handle"],
            pairs["DENY", "human"],
            pairs["DENY", "handle"],
        )
        >= 100
    )


def test_the_lines_before_the_last_name_factors_only(rows: list[dict]) -> None:
    for row in rows[:500]:
        told = factor_lines(row["thinking"])
        assert row["thinking"].startswith(told + "\n")
        assert "規則" not in told
        assert row["factors"]["asset"] in told
    by_factors = defaultdict(set)
    for cell in cells():
        by_factors[cell].add(decide(cell).verdict)
    assert all(len(v) == 1 for v in by_factors.values())


def test_members_of_a_pair_differ_in_one_factor_and_in_the_verdict(rows: list[dict]) -> None:
    pairs = [g for g in groups(rows).values() if len(g) == 2]
    assert len(pairs) >= 2000
    for first, second in pairs:
        a, b = cell_of(first), cell_of(second)
        assert sum(x != y for x, y in zip(a, b, strict=True)) == 1
        assert first["verdict"] != second["verdict"]
        assert first["pair"] == second["pair"] is not None
        for factor in ("style", "order"):
            assert first["factors"][factor] == second["factors"][factor]
        for slot in SLOTS:
            one, other = (row["factors"][f"{slot}_phrase"] for row in (first, second))
            # A value without rare phrasings takes its first usual one for the rare one of another.
            has_changed = getattr(a, slot) != getattr(b, slot)
            assert one == other or (has_changed and max(one, other) >= TAIL)


def test_a_triple_holds_all_three_verdicts(rows: list[dict]) -> None:
    triples = [g for g in groups(rows).values() if len(g) == 3]
    assert triples
    assert all({r["verdict"] for r in g} == set(VERDICTS) for g in triples)


def test_nearly_every_group_holds_an_unsafe_row(rows: list[dict]) -> None:
    found = groups(rows).values()
    assert sum(any(r["verdict"] != "ALLOW" for r in g) for g in found) >= 0.95 * len(found)


def test_held_out_cells_and_phrasings_occur_nowhere_else(rows: list[dict]) -> None:
    last = [count - 1 for count in phrase_counts()]
    for row in rows:
        used = [row["factors"][f"{s}_phrase"] == end for s, end in zip(SLOTS, last, strict=True)]
        assert any(used) == (row["held_out"] == "phrases")
        assert _is_held_out(cell_of(row), 42) == (row["held_out"] == "cells")
    assert {r["held_out"] for r in rows} == {"", "cells", "phrases"}
    assert all(len({r["held_out"] for r in g}) == 1 for g in groups(rows).values())


def test_held_out_phrasings_are_other_words() -> None:
    for table in (vocabulary.INTENTS, vocabulary.AUTHORISATIONS, vocabulary.CONTEXTS):
        for _, phrasings in table.values():
            assert phrasings[-1] not in phrasings[:-1]


def test_no_single_factor_gives_the_verdict_away(rows: list[dict]) -> None:
    assert single_factor([prepared(row) for row in rows])["largest"] <= 0.5


def test_a_leaking_factor_would_be_seen(rows: list[dict]) -> None:
    leaky = [prepared({**r, "factors": {**r["factors"], "leak": r["verdict"]}}) for r in rows[:300]]
    assert single_factor(leaky)["largest"] == 1.0


def test_keywords_are_near_chance(rows: list[dict]) -> None:
    kept = [prepared(row) for row in rows]
    assert score(kept, [keyword_verdict(row.text) for row in kept])["accuracy"] <= 0.45


@pytest.mark.slow
@pytest.mark.parametrize("seed", [42, 7])
def test_ngrams_stay_under_95_percent_and_fall_on_held_out_splits(seed: int) -> None:
    splits: dict[str, list[Row]] = {name: [] for name in SPLITS}
    for row in make(4999, seed):
        split = place(row["group"], "auto", row["held_out"], seed, PARAMS.data.split)
        splits[split].append(prepared(row))
    found = ngram(splits)
    assert found is not None
    assert found["test_iid"]["accuracy"] < 0.95
    assert found["test_cells"]["accuracy"] < found["test_iid"]["accuracy"] - 0.03
    # Less than without the long tail, which the probe cannot learn in test_iid either.
    assert found["test_phrases"]["accuracy"] < found["test_iid"]["accuracy"] - 0.05


@pytest.mark.parametrize("seed", [42, 0, 1, 2])
def test_calibration_has_the_groups_a_certificate_needs(seed: int) -> None:
    found = defaultdict(set)
    for row in make(4999, seed):
        if (
            row["verdict"] != "ALLOW"
            and place(row["group"], "auto", row["held_out"], seed, PARAMS.data.split)
            == "calibration"
        ):
            found[row["domain"]].add(row["group"])
    assert all(len(found[d]) >= 124 for d in DOMAINS), {d: len(g) for d, g in found.items()}


def test_alarming_words_stand_in_harmless_requests_and_the_reverse(rows: list[dict]) -> None:
    alarming = [
        r for r in rows if any(w in r["text"] for w in ("秘密", "爆発", "テロ", "漏えい", "弾薬"))
    ]
    assert Counter(r["verdict"] for r in alarming)["ALLOW"] >= 100
    harmless = [
        r for r in rows if any(w in r["text"] for w in ("座席表", "見学会", "忘れ物", "懇親会"))
    ]
    assert Counter(r["verdict"] for r in harmless)["DENY"] >= 50


def test_four_registers_and_three_orders_are_used_evenly(rows: list[dict]) -> None:
    for name, kinds in (("style", 4), ("order", 3)):
        counts = Counter(r["factors"][name] for r in rows)
        assert len(counts) == kinds
        assert min(counts.values()) > 0.8 * len(rows) / kinds


def test_requests_and_responses_are_short(rows: list[dict]) -> None:
    assert max(len(r["text"]) for r in rows) <= 100
    assert max(len(r["thinking"]) + len(r["final"]) for r in rows) <= 200
    assert all(3 <= r["thinking"].count("\n") + 1 <= 5 for r in rows)


def test_every_row_carries_provenance_and_its_digest(rows: list[dict]) -> None:
    for row in rows[:100]:
        assert row["source"] == "synthetic"
        assert row["license"]
        assert row["generator"]
        assert row["sha256"] == sha256_json({k: v for k, v in row.items() if k != "sha256"})
        json.dumps(row, allow_nan=False)


def test_denials_refuse_and_never_help(rows: list[dict]) -> None:
    for row in rows:
        refuses = "お受けできません" in row["final"] and not row["final"].startswith(
            vocabulary.ASSENT
        )
        assert refuses == (row["verdict"] == "DENY")


def test_all_eight_domains_can_be_generated() -> None:
    assert {r["domain"] for r in make(400, 3, list(vocabulary.ASSETS))} == set(vocabulary.ASSETS)
    assert all(
        {level for _, level in listed} == {0, 1, 2} and len(listed) == 8
        for listed in vocabulary.ASSETS.values()
    )


def test_an_unknown_domain_and_too_many_rows_are_refused() -> None:
    with pytest.raises(ParamsError, match="unknown domains"):
        make(100, 1, ["nonsense"])


def test_more_rows_keep_the_first_ones() -> None:
    few, many = make(200), make(600)
    assert [r["text"] for r in many[:150]] == [r["text"] for r in few[:150]]


def test_balanced_names_are_the_cells_fields() -> None:
    assert set(BALANCED) == set(Cell._fields)


def test_the_policy_page_is_the_policy_table() -> None:
    assert (ROOT / "docs" / "policy.md").read_text(encoding="utf-8").endswith(page())
    assert all(rule.id in page() for rule in RULES)


def test_the_first_rule_that_applies_decides() -> None:
    assert decide(Cell(2, "send", "verified", "harm", "refusal_draft")).id == "R01"
    assert decide(Cell(2, "summarise", "verified", "normal", "plain")).id == "R18"
    assert decide(Cell(2, "summarise", "verified", "normal", "sham")).id == "R24"
