"""The long-form check against texts whose answer is known."""

import pytest

from so8t.generation.answers import check, repetition, summarise_loops, tail_period

NORMAL = (
    "この依頼は、定期点検の準備として車両整備台帳の要点を確認する目的で出されています。申請番号と責任者の承認が記録されており、"
    "対象の情報は社内限定の範囲に収まります。そのため、要約の提供は手順書の第三項に沿って許可できると判断します。"
    "ただし、外部への送付を伴う場合は別途の承認が必要です。最終的な判断は担当部門の確認記録に残してください。"
    "また、点検の結果に異常が見つかった場合は、速やかに安全管理者へ報告し、記録の写しを保管庫に移す必要があります。"
)
TABLE = NORMAL + "\n".join(f"- 項目{i}: 値{i * 7}" for i in range(30))
UNSTABLE = {
    "one character": NORMAL + "あ" * 120,
    "a phrase": NORMAL + "確認が必要です。" * 20,
    "a long sentence": NORMAL + NORMAL[:60] * 5,
    "two answers in turn": NORMAL + "許可します。いや、許可しません。" * 15,
    "a numbered drift": NORMAL + "".join(f"{i}. 担当者が確認します。" for i in range(1, 40)),
}


@pytest.mark.parametrize("text", [NORMAL, TABLE, ""], ids=["normal", "table", "empty"])
def test_a_text_that_says_different_things_is_stable(text):
    assert not check(text, [], limit=1024).unstable


@pytest.mark.parametrize("text", UNSTABLE.values(), ids=UNSTABLE.keys())
def test_a_text_that_repeats_itself_is_flagged(text):
    assert check(text, [], limit=1024).unstable


def test_the_tail_period_is_the_smallest_one():
    assert tail_period("前置き" + "アイウ" * 30) == (3, 90)
    assert tail_period("繰り返しのない文") == (0, 0)
    assert tail_period("") == (0, 0)


def test_token_repetition_sees_what_the_characters_hide():
    assert repetition([1, 2, 3, 4] * 10, 4) == pytest.approx(1 - 4 / 37)
    assert repetition(list(range(40)), 4) == 0.0


def test_cutting_at_the_limit_is_flagged_apart_from_looping():
    result = check(NORMAL, list(range(64)), limit=64)
    assert result.hit_limit
    assert not result.unstable
    assert summarise_loops([result, check(UNSTABLE["a phrase"], [1, 2], limit=64)])["unstable"] == 1
