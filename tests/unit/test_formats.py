"""Every accepted shape of a row is understood; every contradiction is refused with its place."""

from pathlib import Path

import pytest

from so8t.data.formats import TEMPLATES, Sample, sample_of
from so8t.data.hygiene import clean
from so8t.data.ingest import read
from so8t.errors import DataError
from so8t.params import load
from so8t.verdict import Authority, Verdict

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "data" / "examples"
DATA = load(ROOT / "params.yaml").data


def rows(name: str) -> list[Sample]:
    found = [sample_of(raw, where, name) for where, raw in read(EXAMPLES / f"{name}.jsonl")]
    assert all(isinstance(row, Sample) for row in found)
    return found  # type: ignore[return-value]


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.jsonl")), ids=lambda p: p.stem)
def test_every_example_file_is_kept_whole(path: Path) -> None:
    for where, raw in read(path):
        row = sample_of(raw, where, str(path))
        assert isinstance(row, Sample)
        assert isinstance(clean(row, DATA), Sample)


def test_every_example_is_named_in_their_readme() -> None:
    text = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    assert all(f"`{path.name}`" in text for path in EXAMPLES.glob("*.jsonl"))


def test_text_and_label_get_a_fixed_answer_and_no_thinking() -> None:
    assert [r.verdict for r in rows("text_label")] == list(Verdict)
    assert all(
        (r.thinking, r.final, r.authority, r.group) == (None, TEMPLATES[r.verdict], None, None)
        for r in rows("text_label")
    )


def test_instruction_and_output_train_the_answer_only() -> None:
    first = rows("instruction_output")[0]
    assert (first.verdict, first.thinking) == (None, None)
    assert first.final.startswith("決定事項")


def test_input_is_put_below_the_instruction() -> None:
    assert (
        rows("instruction_input_output")[0].text
        == "次の文を丁寧な言い方に直してください。\n資料を送って。"
    )


def test_a_conversation_of_one_exchange_is_taken_and_a_longer_one_is_not() -> None:
    assert [r.verdict for r in rows("chat_messages")] == [None, Verdict.DENY, None]
    turns = [{"role": r, "content": "あ"} for r in ("user", "assistant", "user", "assistant")]
    assert sample_of({"messages": turns}, "f:1", "s") == "several_turns"


def test_four_classes_become_three_and_the_original_is_kept() -> None:
    found = rows("four_class")
    assert [r.verdict for r in found] == [
        Verdict.ALLOW,
        Verdict.ESCALATE,
        Verdict.DENY,
        Verdict.DENY,
    ]
    assert [r.factors.get("label4") for r in found] == [None, None, None, "REFUSE"]


@pytest.mark.parametrize("name", ["thinking_heading", "thinking_quadruple"])
def test_rows_already_in_a_thinking_format_are_taken_apart(name: str) -> None:
    for row in rows(name):
        assert row.verdict
        assert row.thinking
        assert "#" not in row.final + row.thinking
        assert "<" not in row.final + row.thinking


def test_a_whole_chat_text_as_output_is_taken_apart() -> None:
    text = "<|system|>\n丁寧に<|end|>\n<|user|>\n質問<|end|>\n<|assistant|>\n# 思考ステップ\n考え\n\n# 最終回答\n答え<|end|>"
    row = sample_of({"instruction": "質問です", "output": text}, "f:1", "s", "丁寧に")
    assert isinstance(row, Sample)
    assert (row.thinking, row.final) == ("考え", "答え")


def test_an_answer_is_never_cut_into_thinking_and_answer() -> None:
    long = "一つ目の段落です。\n\n二つ目の段落です。\n\n三つ目の段落です。"
    row = sample_of({"instruction": "説明して", "output": long}, "f:1", "s")
    assert isinstance(row, Sample)
    assert (row.thinking, row.final) == (None, long)


def test_plain_text_asks_for_what_follows_its_first_sentence() -> None:
    row = rows("plain_text")[0]
    assert row.text.endswith("港の朝は早い。")
    assert row.final.startswith("漁船")
    assert sample_of({"text": "一文だけ。"}, "f:1", "s") == "plain_text_too_short"


def test_own_fields_are_kept() -> None:
    first = rows("own_groups")[0]
    assert (first.id, first.group, first.pair, first.authority, first.domain) == (
        "case-001a",
        "case-001",
        "case-001",
        Authority.HANDLE,
        "aerospace",
    )


def test_prepared_rows_can_be_read_again() -> None:
    raw = {
        "id": "x",
        "text": "質問です",
        "verdict": "ALLOW",
        "authority": None,
        "domain": "d",
        "thinking": "考え",
        "final": "答え",
        "group": "g",
        "pair": None,
        "factors": {},
        "source": "s",
        "license": None,
    }
    row = sample_of(raw, "f:1", "other")
    assert isinstance(row, Sample)
    assert (row.thinking, row.final, row.source) == ("考え", "答え", "s")


CONTRADICTIONS = {
    "two labels": {"text": "あ", "label": "ALLOW", "verdict": "DENY"},
    "label against answer": {
        "instruction": "あ",
        "label": "ALLOW",
        "output": "# 判定\nDENY\n# 最終回答\n断ります",
    },
    "two answers": {"instruction": "あ", "output": "い", "final": "う"},
    "answer without final heading": {"instruction": "あ", "output": "# 思考ステップ\n考え"},
    "answer with a stray tag": {"instruction": "あ", "output": "答え<think>考え</think>"},
    "answer with unknown label": {"instruction": "あ", "output": "# 判定\nOK\n# 最終回答\n答え"},
    "unknown role": {"messages": [{"role": "narrator", "content": "あ"}]},
    "assistant first": {"messages": [{"role": "assistant", "content": "あ"}]},
    "empty message": {"messages": [{"role": "user", "content": " "}]},
    "messages not a list": {"messages": "あ"},
    "nothing to learn": {"instruction": "あ"},
    "unknown authority": {"text": "あ", "label": "ALLOW", "authority": "boss"},
    "unknown held_out": {"text": "あ", "label": "ALLOW", "held_out": "test"},
    "factors as text": {"text": "あ", "label": "ALLOW", "factors": "x"},
}


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_a_contradiction_is_refused_with_its_place_and_without_its_text(name: str) -> None:
    with pytest.raises(DataError) as caught:
        sample_of(CONTRADICTIONS[name], "rows.jsonl:7", "s")
    assert caught.value.where == "rows.jsonl:7"
    assert caught.value.fix
    assert "考え" not in str(caught.value)
