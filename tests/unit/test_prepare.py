"""prepare: nothing straddles splits, old rows stay, a user's own split stays, warnings are true."""

import gzip
import json
from collections import Counter, defaultdict
from pathlib import Path

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from so8t.data import summary
from so8t.data.census import census, token_lengths
from so8t.data.evasion import DISGUISES
from so8t.data.near_duplicates import Buckets, NearIndex, jaccard, shingles
from so8t.data.page import page_text
from so8t.data.prepare import Counts, prepare
from so8t.data.splits import DRAWN, split_of
from so8t.errors import DataError
from so8t.files import read_jsonl, write_jsonl
from so8t.params import Source, load
from so8t.progress import Progress
from so8t.rows import SPLITS, read_rows
from so8t.synthetic.foreign import foreign_rows
from so8t.synthetic.synthesize import generate

PARAMS = load(Path(__file__).parents[2] / "params.yaml")
# Disguised rows are copies of test rows; the tests that want them ask for them.
DATA = PARAMS.data.model_copy(update={"evasions": 0})
DOMAINS = ["defense", "aerospace", "transport", "general"]


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    return list(generate(1000, DOMAINS, 42, cells_share=0.06, phrases_share=0.06, tail=0.3))


def run(
    folder: Path, *sources: tuple[list[dict], str, float], **changes: object
) -> tuple[dict[str, list[dict]], Counts]:
    """Write each source, prepare them, and read the splits back."""
    listed = []
    for number, (rows, use, weight) in enumerate(sources):
        path = folder / f"source{number}.jsonl"
        write_jsonl(path, rows)
        listed.append(Source(path=str(path), weight=weight, use=use))
    counts = prepare(
        DATA.model_copy(update={"sources": listed, **changes}),
        42,
        folder / "prepared",
        Progress("test"),
    )
    return {
        s: [row for _, row in read_jsonl(folder / "prepared" / f"{s}.jsonl")] for s in SPLITS
    }, counts


def plain(text: str, label: str = "ALLOW", **more: object) -> dict:
    return {"text": text, "label": label, **more}


WORDS = [
    "倉庫",
    "車両",
    "会議",
    "資料",
    "点検",
    "予定",
    "契約",
    "在庫",
    "研修",
    "案内",
    "設備",
    "通路",
    "電源",
    "書庫",
    "受付",
    "食堂",
    "屋上",
    "中庭",
    "機械",
    "工具",
]


def many(count: int, label: str = "DENY") -> list[dict]:
    """Rows that resemble one another little."""
    return [
        plain(
            f"{WORDS[i % 20] * 3}と{WORDS[(i // 20) % 20] * 3}を{WORDS[(i * 7 + i // 20) % 20] * 3}へ移す件です。{i:05d}番。",
            label,
        )
        for i in range(count)
    ]


def test_every_row_is_kept_once_and_no_group_pair_or_near_duplicate_straddles_splits(
    synthetic: list[dict], tmp_path: Path
) -> None:
    splits, counts = run(tmp_path, (synthetic, "auto", 1.0))
    kept = [r for rows in splits.values() for r in rows]
    assert len(kept) == len({r["id"] for r in kept}) == sum(counts.kept.values())
    assert len(kept) + sum(counts.dropped.values()) == len(synthetic)
    assert straddlers(splits) == []


def straddlers(splits: dict[str, list[dict]]) -> list[tuple[str, str]]:
    """Everything that two splits share: groups, pairs, and near-duplicates by exact comparison of all rows."""
    from sklearn.feature_extraction.text import CountVectorizer

    found: list[tuple[str, str]] = []
    for key in ("group", "pair"):
        where = defaultdict(set)
        for name, rows in splits.items():
            for row in rows:
                if row[key]:
                    where[row[key]].add(name)
        found += [(key, value) for value, names in where.items() if len(names) > 1]
    names = [name for name, rows in splits.items() for _ in rows]
    grams = CountVectorizer(analyzer="char", ngram_range=(5, 5), binary=True).fit_transform(
        [r["text"] for rows in splits.values() for r in rows]
    )
    sizes, shared = (
        grams.sum(axis=1).A1 if hasattr(grams.sum(axis=1), "A1") else grams.sum(axis=1),
        (grams @ grams.T).tocoo(),
    )
    for a, b, common in zip(shared.row, shared.col, shared.data, strict=True):
        if (
            a < b
            and names[a] != names[b]
            and common / (sizes[a] + sizes[b] - common) >= DATA.near_duplicate
        ):
            found.append(("near", f"{a} {b}"))
    return found


def test_the_check_for_straddlers_would_see_one(synthetic: list[dict], tmp_path: Path) -> None:
    splits, _ = run(tmp_path, (synthetic[:400], "auto", 1.0))
    moved = splits["train"][0]
    splits["train"], splits["calibration"] = splits["train"][1:], [*splits["calibration"], moved]
    assert straddlers(splits)


def test_the_check_for_straddlers_would_see_a_near_duplicate_alone(
    synthetic: list[dict], tmp_path: Path
) -> None:
    splits, _ = run(tmp_path, (synthetic[:400], "auto", 1.0))
    row = max(splits["train"], key=lambda r: len(r["text"]))
    splits["calibration"].append(
        {**row, "id": "x", "group": "of its own", "pair": None, "text": row["text"] + "ね"}
    )
    assert [kind for kind, _ in straddlers(splits)] == ["near"]


@pytest.mark.slow
def test_of_the_4999_rows_of_the_demo_all_are_kept_balanced_and_none_straddles(
    tmp_path: Path,
) -> None:
    made = PARAMS.synthesize
    rows = list(
        generate(
            made.rows,
            made.domains,
            PARAMS.seed,
            cells_share=DATA.split.test_cells,
            tail=0.3,
            phrases_share=DATA.split.test_phrases,
        )
    )
    splits, counts = run(tmp_path, (rows, "auto", 1.0))
    assert (sum(map(len, splits.values())), sum(counts.dropped.values())) == (4999, 0)
    assert straddlers(splits) == []
    assert all(
        abs(share - 1 / 3) <= 0.02
        for shares in summary.balance(counts).values()
        for share in shares.values()
    )


def test_a_domain_out_of_balance_would_be_seen(synthetic: list[dict], tmp_path: Path) -> None:
    lean = [
        r
        for i, r in enumerate(synthetic)
        if not (r["domain"] == "defense" and r["verdict"] == "DENY" and i % 2)
    ]
    _, counts = run(tmp_path, (lean, "auto", 1.0))
    assert abs(summary.balance(counts)["defense"]["DENY"] - 1 / 3) > 0.02


def test_adding_rows_moves_no_old_row(synthetic: list[dict], tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    before, _ = run(tmp_path / "a", (synthetic[:250] + many(60), "auto", 1.0))
    after, _ = run(
        tmp_path / "b",
        (synthetic[:250] + many(60) + synthetic[250:400] + many(90, "ALLOW")[60:], "auto", 1.0),
    )
    home = {r["id"]: s for s, rows in after.items() for r in rows}
    assert all(home[r["id"]] == s for s, rows in before.items() for r in rows)


def test_generated_held_out_rows_go_to_their_own_tests(
    synthetic: list[dict], tmp_path: Path
) -> None:
    outside = list(foreign_rows(4, 42))
    splits, _ = run(tmp_path, (synthetic + outside, "auto", 1.0))
    kinds = {r["id"]: r["held_out"] for r in synthetic + outside}
    found = {split: {kinds[r["id"]] for r in rows} for split, rows in splits.items()}
    assert found == {
        "train": {"", "exposure"},
        "valid": {""},
        "calibration": {""},
        "test_iid": {""},
        "test_cells": {"cells"},
        "test_phrases": {"phrases"},
        "test_foreign": {"foreign"},
        "test_evasion": set(),
        "probe": set(),
    }


def test_a_probe_is_kept_apart_and_foreign_domains_need_no_certificate(tmp_path: Path) -> None:
    probes = [plain(f"お弁当の献立を{i:03d}通り考えてください。", "ESCALATE") for i in range(9)]
    splits, counts = run(
        tmp_path,
        (many(40), "train", 1.0),
        (many(60)[40:], "calibration", 1.0),
        (probes, "probe", 1.0),
    )
    assert {row["text"] for row in splits["probe"]} == {row["text"] for row in probes}
    assert len(splits["train"]) == 40
    assert summary.unsafe_groups(counts) == {"general": 20}


def test_evasions_are_disguises_of_unsafe_test_rows(synthetic: list[dict], tmp_path: Path) -> None:
    splits, counts = run(tmp_path, (synthetic, "auto", 1.0), evasions=3)
    by_id = {row["id"]: row for row in splits["test_iid"]}
    disguised = splits["test_evasion"]
    assert len(disguised) == 3 * len(DISGUISES)
    assert Counter(row["factors"]["evasion"] for row in disguised) == dict.fromkeys(DISGUISES, 3)
    for row in disguised:
        original = by_id[row["id"].split("~")[0]]
        assert original["verdict"] == row["verdict"] != "ALLOW"
        assert original["group"] == row["group"]
    assert sum(n for (split, *_), n in counts.kept.items() if split == "test_evasion") == len(
        disguised
    )


def test_a_users_own_test_and_calibration_sets_stay_what_they_are(tmp_path: Path) -> None:
    rows = many(90)
    splits, _ = run(
        tmp_path,
        (rows[:30], "train", 1.0),
        (rows[30:60], "calibration", 1.0),
        (rows[60:], "test", 1.0),
    )
    assert [len(splits[s]) for s in SPLITS] == [30, 0, 30, 30, 0, 0, 0, 0, 0]
    assert {r["text"] for r in splits["test_iid"]} == {r["text"] for r in rows[60:]}


def test_a_training_row_like_a_test_row_is_dropped_not_the_test_row(tmp_path: Path) -> None:
    text = "倉庫の点検記録を次の会議までに要約して担当者に渡してください。"
    splits, counts = run(
        tmp_path, ([plain(text + "ね"), *many(20)], "train", 1.0), ([plain(text)], "test", 1.0)
    )
    assert [r["text"] for r in splits["test_iid"]] == [text]
    assert text not in {r["text"][: len(text)] for r in splits["train"]}
    assert counts.dropped["would_straddle_splits"] == 1


def test_near_duplicates_without_groups_become_one_group(tmp_path: Path) -> None:
    base = "倉庫の点検記録を次の会議までに要約して担当者に渡してください。"
    splits, counts = run(
        tmp_path, ([plain(base + tail) for tail in ("", "ね", "よ", "な")] + many(30), "auto", 1.0)
    )
    homes = {s for s, rows in splits.items() for r in rows if r["text"].startswith(base)}
    groups = {r["group"] for rows in splits.values() for r in rows if r["text"].startswith(base)}
    assert len(homes) == len(groups) == 1
    assert not counts.dropped


def test_duplicates_and_contradicting_labels_are_dropped_and_counted(tmp_path: Path) -> None:
    text = "倉庫の点検記録を要約してください。"
    wide = "倉庫の点検記録を要約して ください｡"
    _, counts = run(
        tmp_path,
        (
            [plain(text), plain(text, id="b"), plain(wide, id="c"), plain(text, "DENY", id="d")],
            "auto",
            1.0,
        ),
    )
    assert counts.dropped == {"exact_duplicate": 2, "same_text_other_label": 1}


def test_a_near_duplicate_of_another_named_group_is_dropped(tmp_path: Path) -> None:
    text = "倉庫の点検記録を次の会議までに要約して担当者に渡してください。"
    _, counts = run(
        tmp_path,
        (
            [
                plain(text, group="a"),
                plain(text + "ね", group="b"),
                plain("別の依頼です。", group="c"),
            ],
            "auto",
            1.0,
        ),
    )
    assert counts.dropped == {"near_duplicate_of_another_group": 1}


TEMPLATE = "倉庫の{}を次の会議までに要約して、担当者と責任者の両方に渡してください。急ぎの件です。"
SLOTS = ("点検記録一覧", "入退室の履歴", "設備配置図面", "保守契約書類", "当番割当表類")


def group_of_texts(splits: dict[str, list[dict]]) -> dict[str, str]:
    return {row["text"]: row["group"] for row in splits["calibration"]}


def test_copies_of_a_template_under_own_group_names_are_one_calibration_group(
    tmp_path: Path,
) -> None:
    copies = [TEMPLATE.format(slot) for slot in SLOTS]
    below = [jaccard(shingles(copies[0]), shingles(copy)) for copy in copies[1:]]
    assert max(below) < DATA.near_duplicate  # what lets them past the check for near-duplicates
    rows = [plain(text, "DENY", group=f"own{i}") for i, text in enumerate(copies)]
    splits, counts = run(tmp_path, ([*rows, *many(20)], "calibration", 1.0))
    groups = group_of_texts(splits)
    assert {groups[text] for text in copies} == {"own0"}
    assert (counts.merged, counts.dropped) == (4, {})
    assert len(set(groups.values())) == len(counts.groups["calibration"]) == 21
    found = summary.metrics_of(counts)["calibration"]
    assert found == {"unsafe_groups": {"general": 21}, "merged_groups": 4}


def test_a_copy_with_signs_between_its_letters_is_merged_too(tmp_path: Path) -> None:
    text = TEMPLATE.format(SLOTS[0])
    spaced = "・".join(text[:30]) + "\u200b".join(text[30:])
    rows = [plain(text, "DENY", group="a"), plain(spaced, "DENY", group="b")]
    splits, counts = run(tmp_path, ([*rows, *many(20)], "calibration", 1.0))
    # Both are kept in their canonical form, which joins the letters again.
    assert group_of_texts(splits)[text] == "a"
    assert spaced not in group_of_texts(splits)
    assert len(splits["calibration"]) + sum(counts.dropped.values()) == 22


def test_a_row_like_two_groups_makes_them_one(tmp_path: Path) -> None:
    parts = [
        "倉庫の点検記録を次の会議までに、",
        "責任者と担当者に渡してください、",
        "車両の整備台帳は来月の監査用に、",
        "受付の窓口で保管してあります、",
        "研修の案内文書は食堂に貼って、",
        "予備の工具は屋上の棚へ戻します、",
    ]
    left, bridge, right = ("".join(parts[i : i + 4]) for i in range(3))
    assert jaccard(shingles(left), shingles(right)) < 0.5
    rows = [plain(t, "DENY", group=g) for g, t in (("a", left), ("b", right), ("c", bridge))]
    splits, counts = run(tmp_path, ([*rows, *many(20)], "calibration", 1.0))
    groups = group_of_texts(splits)
    assert {groups[left], groups[right], groups[bridge]} == {"a"}
    assert counts.merged == 2


def test_other_splits_and_other_templates_keep_their_groups(tmp_path: Path) -> None:
    copies = [TEMPLATE.format(slot) for slot in SLOTS]
    rows = [plain(text, "DENY", group=f"own{i}") for i, text in enumerate(copies)]
    splits, counts = run(tmp_path, ([*rows, *many(20)], "train", 1.0))
    assert len({row["group"] for row in splits["train"]}) == 25
    assert counts.merged == 0


def test_weights_below_one_sample_groups_and_above_one_repeat_training_rows_only(
    tmp_path: Path,
) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    _, half = run(tmp_path / "a", (many(200), "auto", 0.5))
    assert 60 < sum(half.kept.values()) < 140
    splits, _ = run(tmp_path / "b", (many(200), "auto", 2.0))
    assert set(Counter(r["text"] for r in splits["train"]).values()) == {2}
    assert len({r["id"] for r in splits["train"]}) == len(splits["train"])
    assert all(n == 1 for s in SPLITS[1:] for n in Counter(r["text"] for r in splits[s]).values())


def test_a_held_out_domain_goes_to_test_cells_whole(synthetic: list[dict], tmp_path: Path) -> None:
    splits, _ = run(
        tmp_path,
        ([r for r in synthetic[:400] if not r["held_out"]], "auto", 1.0),
        held_out_domain="defense",
    )
    assert {r["domain"] for r in splits["test_cells"]} == {"defense"}
    assert all(r["domain"] != "defense" for s in SPLITS if s != "test_cells" for r in splits[s])


def test_directories_globs_and_compressed_files_are_read_and_listed(tmp_path: Path) -> None:
    folder, rows = tmp_path / "mine", many(60)
    (folder / "sub").mkdir(parents=True)
    lines = [json.dumps(r, ensure_ascii=False).encode() + b"\n" for r in rows]
    (folder / "a.jsonl").write_bytes(b"".join(lines[:20]))
    (folder / "b.jsonl.gz").write_bytes(gzip.compress(b"".join(lines[20:40])))
    (folder / "sub" / "c.jsonl.zst").write_bytes(
        zstandard.compress(b"".join(lines[40:50])) + zstandard.compress(b"".join(lines[50:]))
    )
    (folder / "notes.txt").write_text("not data")
    sources = [Source(path=str(folder), weight=1.0, use="auto")]
    counts = prepare(DATA.model_copy(update={"sources": sources}), 1, None, Progress("test"))
    assert list(counts.sources[0].files.values()) == [20, 20, 20]
    assert sum(counts.kept.values()) == 60
    glob = [Source(path=str(folder / "*.gz"), weight=1.0, use="auto")]
    assert (
        sum(
            prepare(
                DATA.model_copy(update={"sources": glob}), 1, None, Progress("test")
            ).kept.values()
        )
        == 20
    )


def test_parquet_is_read(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    rows = [{**r, "domain": None} for r in many(5)] + [
        plain("表の中の依頼文です。", domain="finance")
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    sources = [Source(path=str(tmp_path / "rows.parquet"), weight=1.0, use="train")]
    counts = prepare(DATA.model_copy(update={"sources": sources}), 1, None, Progress("test"))
    assert counts.kept["train", "finance", "ALLOW"] == 1


def test_a_dry_run_writes_nothing(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", many(5))
    sources = [Source(path=str(tmp_path / "a.jsonl"), weight=1.0, use="auto")]
    prepare(DATA.model_copy(update={"sources": sources}), 1, None, Progress("test"))
    assert [p.name for p in tmp_path.iterdir()] == ["a.jsonl"]


def test_nothing_kept_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no row was kept"):
        run(tmp_path, ([plain("English only, please do it.")], "auto", 1.0))
    assert not (tmp_path / "prepared").exists()


def test_two_runs_write_the_same_bytes(synthetic: list[dict], tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    for name in ("a", "b"):
        run(tmp_path / name, (synthetic[:300], "auto", 1.5))
    assert all(
        (tmp_path / "a/prepared" / f"{s}.jsonl").read_bytes()
        == (tmp_path / "b/prepared" / f"{s}.jsonl").read_bytes()
        for s in SPLITS
    )


def test_rows_without_a_verdict_train_the_language_only(tmp_path: Path) -> None:
    splits, _ = run(
        tmp_path, ([{"instruction": "要点を教えて。", "output": "三つあります。"}], "train", 1.0)
    )
    row = splits["train"][0]
    assert (row["verdict"], row["authority"], row["thinking"], row["response"]) == (
        None,
        None,
        None,
        "# 最終回答\n三つあります。",
    )


# --- what is said about it ---


def test_groups_needed_are_59_and_299() -> None:
    assert summary.groups_needed(0.05, 0.05) == 59
    assert summary.groups_needed(0.01, 0.05) == 299


def test_a_calibration_split_that_is_too_small_is_warned_of_with_the_number_missing(
    tmp_path: Path,
) -> None:
    _, counts = run(tmp_path, ([{**r, "domain": "finance"} for r in many(40)], "calibration", 1.0))
    found = summary.certifiable(counts, PARAMS.calibration)
    assert (found["unsafe_groups"], found["missing"], found["can_certify"]) == (
        {"finance": 40},
        {"finance": 19},
        False,
    )
    assert "finance 19" in str(summary.warning_of(found))


def test_enough_groups_are_not_warned_of(tmp_path: Path) -> None:
    _, counts = run(tmp_path, (many(59), "calibration", 1.0))
    assert summary.warning_of(summary.certifiable(counts, PARAMS.calibration)) is None


def test_duplicates_of_every_kind_are_counted_apart_from_other_drops(tmp_path: Path) -> None:
    text = "倉庫の点検記録を次の会議までに要約して担当者に渡してください。"
    _, counts = run(
        tmp_path,
        (
            [
                plain(text, group="a"),
                plain(text, group="a"),
                plain(text, "DENY", group="a"),
                plain(text + "ね", group="b"),
                plain("English only, please."),
            ],
            "auto",
            1.0,
        ),
    )
    found = summary.metrics_of(counts)
    assert found["duplicates"] == {
        "exact_duplicate": 1,
        "same_text_other_label": 1,
        "near_duplicate_of_another_group": 1,
        "would_straddle_splits": 0,
    }
    assert found["dropped"]["not_japanese"] == 1


def test_the_census_counts_every_row_under_every_field_and_factor(
    synthetic: list[dict], tmp_path: Path
) -> None:
    splits, _ = run(
        tmp_path,
        (synthetic, "auto", 1.0),
        ([{"instruction": "要点を教えて。", "output": "三つあります。"}], "train", 1.0),
    )
    found = census(tmp_path / "prepared")
    for counts in found["fields"].values():
        assert {split: sum(c.values()) for split, c in counts.items()} == {
            split: len(rows) for split, rows in splits.items()
        }
    assert (
        found["fields"]["authority"]["train"]["none"]
        == found["fields"]["thinking"]["train"]["no"]
        == 1
    )
    labelled = len(synthetic)
    assert all(
        sum(n for c in values.values() for n in c.values()) == labelled
        for values in found["factors"].values()
        if values
    )
    assert {
        split: sum(int(size) * n for size, n in c.items())
        for split, c in found["group_sizes"].items()
    } == {s: len(r) for s, r in splits.items()}


def test_a_factor_of_many_values_is_not_listed(tmp_path: Path) -> None:
    run(
        tmp_path,
        (
            [{**r, "factors": {"number": i, "kind": i % 2}} for i, r in enumerate(many(90))],
            "train",
            1.0,
        ),
    )
    found = census(tmp_path / "prepared")["factors"]
    assert found["number"] is None
    assert found["kind"] == {"0": {"DENY": 45}, "1": {"DENY": 45}}


def test_tokens_are_counted_as_training_renders_them(synthetic: list[dict], tmp_path: Path) -> None:
    from so8t.base.batches import example_of
    from so8t.template import Template
    from tests.fakes.tiny_models import train_bpe

    splits, counts = run(tmp_path, (synthetic[:60], "auto", 1.0))
    assert token_lengths(tmp_path / "prepared", None, DATA.system) is None
    assert token_lengths(tmp_path / "prepared", tmp_path, DATA.system) is None
    train_bpe(tmp_path, vocab_size=400)
    found = token_lengths(tmp_path / "prepared", tmp_path, DATA.system)
    template = Template.of(tmp_path)
    wanted = []
    for split in splits:
        for row in read_rows(tmp_path / "prepared" / f"{split}.jsonl"):
            wanted.append(example_of(row, template, DATA.system))
    assert found is not None
    assert found["conversation"] == dict(sorted(Counter(len(e.ids) for e in wanted).items()))
    assert found["prompt"] == dict(sorted(Counter(e.prompt for e in wanted).items()))
    assert found["rows"] == len(wanted)
    shown = page_text(
        {
            **summary.metrics_of(counts),
            "census": census(tmp_path / "prepared"),
            "tokens": summary.tokens_of(found),
        },
        tmp_path / "prepared",
        {},
    )
    assert f"| conversation | tokens | {min(found['conversation'])} |" in shown
    assert "(tokens)," in summary.lengths_table(counts, found)


# --- pieces ---


@given(
    st.lists(
        st.tuples(st.integers(0, 2**32 - 1) | st.integers(0, 5), st.integers(0, 100)), max_size=300
    )
)
def test_buckets_are_a_multimap(entries: list[tuple[int, int]]) -> None:
    buckets, plain_map = Buckets(), defaultdict(list)
    buckets.heads = buckets.heads[:4]
    for key, number in entries:
        buckets.add(key, number)
        plain_map[key].append(number)
    assert all(sorted(buckets.get(key)) == sorted(plain_map[key]) for key in [*plain_map, 7])


def test_near_index_finds_what_exact_comparison_finds(synthetic: list[dict]) -> None:
    texts = [r["text"] for r in synthetic[:300]]
    texts += [f"{t}ね" for t in texts[:40]]
    index, found, wanted, close = NearIndex(0.7, texts.__getitem__), set(), set(), set()
    grams = [shingles(t) for t in texts]
    for number, gram in enumerate(grams):
        sketch = index.sketch(texts[number])
        found |= {(other, number) for other in index.similar(sketch)}
        index.add(sketch)
        wanted |= {(other, number) for other in range(number) if jaccard(gram, grams[other]) >= 0.7}
        close |= {(other, number) for other in range(number) if jaccard(gram, grams[other]) >= 0.8}
    assert len(wanted) > len(close) > 5
    assert close <= found <= wanted
    assert len(found) >= 0.8 * len(wanted)


def test_shares_of_the_drawn_splits_are_met() -> None:
    counts = Counter(split_of(f"g{i}", 42, DATA.split) for i in range(20_000))
    total = sum(getattr(DATA.split, name) for name in DRAWN)
    assert all(
        abs(counts[name] / 20_000 - getattr(DATA.split, name) / total) < 0.015 for name in DRAWN
    )


def test_the_split_depends_on_the_seed() -> None:
    assert [split_of(f"g{i}", 1, DATA.split) for i in range(100)] != [
        split_of(f"g{i}", 2, DATA.split) for i in range(100)
    ]
