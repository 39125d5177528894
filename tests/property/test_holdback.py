"""A streamed turn shows what the whole turn's answer is, for any text cut anywhere, and nothing that is not answer."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from so8t import chat
from so8t.data.formats import TEMPLATES
from so8t.errors import DataError
from so8t.markers import bare_text
from so8t.serving import final_only
from so8t.serving.copied import CopyWatch, copies
from so8t.serving.final_only import HOLD, HoldBack
from so8t.serving.refusal import refuses
from so8t.synthetic import vocabulary
from so8t.verdict import Verdict
from tests.property.test_chat_laws import ANY, PIECES
from tests.unit.test_chat import MALFORMED, SECRET, SOUND, F, H, T

HEAD = st.sampled_from(
    [
        "# 判定\nALLOW\n",
        "# 判定\nALLOW\n# 思考ステップ\n秘\n\n# 最終回答\n",
        "# 判定\nDENY\r\n# 最終回答\r\n",
        "",
        "# 判定\nALLOW\n<think-task>秘</think-task><think-safety></think-safety><think-policy>秘</think-policy><final>",
    ]
)
TROUBLE = st.lists(
    st.sampled_from(
        [
            *"#＃<＜>/ 　\r\n\u200b\u0301\u3099゚思考ステップ最終回答判定thinkTHINKfinalｆﬁ答あ。",
            "思考ステッ",
            "最終",
            "</final>",
        ]
    ),
    max_size=40,
).map("".join)
TURNS = (
    ANY | PIECES | st.tuples(HEAD, TROUBLE | ANY, st.sampled_from(["", "</final>"])).map("".join)
)


def streamed(text: str, cuts: list[int], hold: int = HOLD) -> tuple[str, str, chat.Parsed]:
    """What leaves while the text comes in pieces cut at `cuts`, what leaves at the end, and how it is read."""
    reader, borders = (
        HoldBack(hold),
        sorted({0, len(text), *(cut % (len(text) + 1) for cut in cuts)}),
    )
    early = "".join(reader.feed(text[a:b]) for a, b in pairwise(borders))
    return early, *reader.close()


def is_beginning_of_an_answer(early: str, text: str) -> bool:
    """Whether some beginning of the text is a well-formed turn (closed where it breaks off) whose answer begins so."""
    ends = (
        chat.parse(text[:end] + close) for end in range(len(text) + 1) for close in ("", "</final>")
    )
    return early == "" or any(
        parsed.final is not None and parsed.final.startswith(early) for parsed in ends
    )


@settings(max_examples=600)
@given(TURNS, st.lists(st.integers(0, 500), max_size=30), st.sampled_from([HOLD, 60]))
def test_any_text_cut_anywhere_streams_to_what_the_whole_is(
    text: str, cuts: list[int], hold: int
) -> None:
    early, rest, parsed = streamed(text, cuts, hold)
    assert parsed == chat.parse(text)
    if parsed.final is not None:
        assert early + rest == parsed.final
    else:
        assert rest == ""
        assert not chat.has_marker(early)
        assert is_beginning_of_an_answer(early, text)
    assert streamed(text, list(range(len(text))), hold)[0] == early  # chunks change nothing


@settings(max_examples=300)
@given(
    st.sampled_from(list(Verdict)),
    st.none() | ANY,
    ANY,
    st.sampled_from(["heading", "quadruple"]),
    st.lists(st.integers(0, 400), max_size=20),
)
def test_a_rendered_turn_streams_to_its_answer_and_none_of_its_thinking(
    verdict: Verdict, thinking: str | None, final: str, fmt: chat.Format, cuts: list[int]
) -> None:
    canary = "\ue123\ue124\ue125"
    try:
        text = chat.response_of(verdict, f"{thinking}{canary}" if thinking else None, final, fmt)
    except DataError:
        return
    early, rest, parsed = streamed(text, cuts)
    assert (early + rest, parsed.errors) == (
        final.replace("\r\n", "\n").replace("\r", "\n").strip(),
        (),
    )
    assert not set(canary) & set(early + rest)


@settings(max_examples=400)
@given(TROUBLE | ANY)
def test_whatever_holds_a_marker_also_stops_the_stream(text: str) -> None:
    """The watch is at least as strict as `has_marker`, or text behind a disguised marker would leave."""
    tail = "続きの長い文章はここから先には決して出てはいけない"
    if chat.has_marker(f"{text}\n"):
        assert tail[0] not in shown_of(f"{H}ALLOW\n{F}{text}\n{tail}").removeprefix(text)


def shown_of(text: str) -> str:
    return streamed(text, list(range(len(text))))[0]


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_stream_ends_in_escalate_and_shows_nothing_private(name: str) -> None:
    text = MALFORMED[name]
    for size in (1, 2, 3, 7, 1000):
        early, rest, parsed = streamed(text, list(range(0, len(text), size)))
        assert (parsed.verdict, parsed.final, rest) == (Verdict.ESCALATE, None, "")
        assert parsed.errors
        assert not any(SECRET[i : i + 2] in early for i in range(len(SECRET) - 1))
        assert "答え".startswith(early)


LONG = "この答えは十分に長いので、終わりを待たずに少しずつ見せることができます。"
AFTER_THE_MARKER = {
    "final heading twice": f"{H}ALLOW\n{T}a\n\n{F}{LONG}\n{F}{SECRET}{LONG}",
    "thinking heading in final": f"{H}ALLOW\n{T}a\n\n{F}{LONG}\n# 思考ステップ\n{SECRET}{LONG}",
    "full-width heading": f"{H}ALLOW\n{T}a\n\n{F}{LONG}\n＃ 思考ステップ\n{SECRET}{LONG}",
    "half-width letters": f"{H}ALLOW\n{T}a\n\n{F}{LONG}\n# 思考ｽﾃｯﾌﾟ\n{SECRET}{LONG}",
    "a mark apart": f"{H}ALLOW\n{T}a\n\n{F}{LONG}\n# 思考ステッフ\u309a\n{SECRET}{LONG}",
    "hidden characters": f"{H}ALLOW\n{T}a\n\n{F}{LONG}<\u200bth\u200dink>{SECRET}{LONG}",
    "far apart": f"{H}ALLOW\n{T}a\n\n{F}{LONG}<{' ' * 500}think>{SECRET}{LONG}",
    "think tag": f"{H}ALLOW\n{T}a\n\n{F}{LONG}<think-task>{SECRET}{LONG}</think-task>",
    "a variation selector": f"{H}ALLOW\n{T}a\n\n{F}{LONG}\n# 思考\U000e0100ステ\ufe0fップ\n{SECRET}{LONG}",
    "a mark on a letter": f"{H}ALLOW\n{T}a\n\n{F}{LONG}\n# 思\u0301考ス\u20ddテップ\n{SECRET}{LONG}",
    "a Hangul filler": f"{H}ALLOW\n{T}a\n\n{F}{LONG}\n# 思\u3164考ス\uffa0テップ\n{SECRET}{LONG}",
    "dots between the letters": f"{H}ALLOW\n{T}a\n\n{F}{LONG}\n思・考・ス・テ・ッ・プ\n{SECRET}{LONG}",
    "other separators": f"{H}ALLOW\n{T}a\n\n{F}{LONG}\n最-終/回*答\n{SECRET}{LONG}",
    "brackets between the letters": f"{H}ALLOW\n{T}a\n\n{F}{LONG}\n[思][考][ス][テ][ッ][プ]\n{SECRET}{LONG}",
    "large kana": f"{H}ALLOW\n{T}a\n\n{F}{LONG}\n# 思考すてツぷ\n{SECRET}{LONG}",
    "inside a line": f"{H}ALLOW\n{T}a\n\n{F}{LONG} # 思考ステップ {SECRET}{LONG}",
    "in brackets": f"{H}ALLOW\n{T}a\n\n{F}{LONG}【思考ステップ】{SECRET}{LONG}",
    "a verdict in brackets": f"{H}ALLOW\n{T}a\n\n{F}{LONG}【判定】{SECRET}{LONG}",
    "a verdict line": f"{H}ALLOW\n{T}a\n\n{F}{LONG}判定：DENY {SECRET}{LONG}",
    "a Cyrillic letter": f"{H}ALLOW\n{T}a\n\n{F}{LONG}<th\u0456n\u043a>{SECRET}{LONG}",
    "other angle brackets": f"{H}ALLOW\n{T}a\n\n{F}{LONG}〈think〉{SECRET}{LONG}",
    "ESC and NUL": f"{H}ALLOW\n{T}a\n\n{F}{LONG}<t\x1bhi\x00nk>{SECRET}{LONG}",
    "bidi isolates": f"{H}ALLOW\n{T}a\n\n{F}{LONG}\n# 思\u2067考\u2069ステップ\n{SECRET}{LONG}",
    "written backwards": f"{H}ALLOW\n{T}a\n\n{F}{LONG}\n\u202eプッテス考思\u202c\n{SECRET}{LONG}",
    "quadruple, thinking inside": f"{H}ALLOW\n<final>{LONG}<think-safety>{SECRET}{LONG}</final>",
    "quadruple, goes on after its end": f"{H}ALLOW\n<final>{LONG}</final>{SECRET}{LONG}",
}


@pytest.mark.parametrize("name", AFTER_THE_MARKER)
def test_what_follows_a_second_marker_never_leaves(name: str) -> None:
    early, rest, parsed = streamed(AFTER_THE_MARKER[name], list(range(1000)))
    assert parsed.errors
    assert rest == ""
    assert LONG.startswith(early)
    assert len(early) >= len(LONG) - HOLD - 1


def test_a_turn_that_is_wrong_before_its_answer_shows_none_of_it() -> None:
    for head in (
        f"{H}PERMIT\n{T}a\n\n{F}",
        f"はい。\n{H}ALLOW\n{F}",
        f"{T}a\n\n{F}",
        f"{H}ALLOW\n{T}<final>\n{F}",
        f"{H}ALLOW\n<think-task>a</think-task><final>",
    ):
        assert streamed(head + LONG, list(range(200)))[0] == ""


def test_most_of_a_long_answer_leaves_before_its_end() -> None:
    """Holding everything back would pass every other test here."""
    early, rest, _ = streamed(SOUND.replace("答えです", LONG), list(range(500)))
    assert len(early) > len(LONG) - 2 * HOLD
    assert early + rest == LONG


INNOCENT = (
    "これを「最終回答」とします。",
    "判定は来週です。* 判定結果を待ちます。",
    "<finalist> の一覧を見てください。",
    "I think so (think about it).",
    "思考の過程、最終的な回答、許可の判定。",
)


@pytest.mark.parametrize("text", INNOCENT)
def test_words_that_are_no_marker_stay_an_answer(text: str) -> None:
    assert not chat.has_marker(text)
    early, rest, parsed = streamed(f"{H}ALLOW\n{T}a\n\n{F}{text}", [3, 20, 33])
    assert (early + rest, parsed.errors) == (text, ())


def test_the_text_between_two_markers_cannot_make_the_window_forget() -> None:
    for noise in ("<" * 90, ">" * 90, "[*#" * 30, "・" * 90, "\u3164" * 90):
        assert chat.has_marker(f"あ<{noise}think>")
        assert SECRET not in shown_of(f"{H}ALLOW\n{F}{LONG}<{noise}think>{SECRET}{LONG}")


def test_each_character_is_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Work grows with the length of the answer, not with its square: counted, not timed."""
    counted = 0

    def counting(text: str) -> str:
        nonlocal counted
        counted += len(text)
        return bare_text(text)

    monkeypatch.setattr(final_only, "bare_text", counting)
    reader = HoldBack()
    reader.feed(f"{H}ALLOW\n{F}")
    for _ in range(2000):
        reader.feed("あい")
    assert counted == 4000
    assert sum(map(len, (reader._tail, reader._window))) < 100


# --- copies of the thinking ---

WORDS = st.text(alphabet=[chr(code) for code in range(0x4E00, 0x4E80)], min_size=30, max_size=60)


def pieces_of(text: str, size: int) -> list[str]:
    return [text[i : i + size] for i in range(0, len(text) - size + 1, size)]


@settings(max_examples=200)
@given(WORDS, st.lists(st.integers(0, 500), max_size=20))
def test_copies_are_found_however_the_answer_is_cut(thinking: str, cuts: list[int]) -> None:
    answer = "」「".join(pieces_of(thinking, 7))
    watch = CopyWatch(chat.Thinking(thinking), "")
    borders = sorted({0, len(answer), *(cut % (len(answer) + 1) for cut in cuts)})
    for start, end in pairwise(borders):
        watch.feed(answer[start:end])
    assert watch.copied == copies(answer, chat.Thinking(thinking), "") is True


SECRETS = "弾薬庫の鍵は三番目の棚の奥に置かれており当直の責任者だけが触れてよいと定められている"


@pytest.mark.parametrize(
    ("answer", "copied"),
    [
        (SECRETS[:20], True),
        (SECRETS[:19], False),
        ("ところで、".join(pieces_of(SECRETS, 6)), True),  # many short copies are a copy
        ("ところで、".join(reversed(pieces_of(SECRETS, 6))), True),
        ("ところで、".join(pieces_of(SECRETS, 5)), False),
        ("弾薬庫の鍵は。" * 9, False),  # one word said nine times reveals one word
        ("・".join(SECRETS[:20]), True),
        ("\u3164".join(SECRETS[:20]), True),
        ("\ufe0f".join(SECRETS[:20]), True),
    ],
)
def test_short_pieces_of_the_thinking_count_together(answer: str, copied: bool) -> None:
    assert copies(f"はい。{answer}。以上です。", chat.Thinking(SECRETS), "予定は?") is copied
    assert not copies(answer, chat.Thinking(SECRETS), SECRETS)


def test_a_thinking_shorter_than_a_shingle_is_copied_when_all_of_it_is() -> None:
    assert copies("つまり三番目の棚の奥です。", chat.Thinking("三番目の棚の奥"), "")
    assert not copies("つまり三番目の棚です。", chat.Thinking("三番目の棚の奥"), "")


# --- answers that refuse ---

REPLIES = ("このご依頼は追加の確認が必要です。担当者に引き継ぎます。", "受付できない内容でした。")


@pytest.mark.parametrize(
    ("answer", "refused"),
    [
        ("申し訳ありませんが、補給計画に関するこの依頼はお受けできません。", True),
        ("申\u200bし訳\ufe0fありま\u3164せんが、お受けできません。", True),
        ("**申し訳ありません**", True),
        ("承知しました。申し訳ありませんが、お受けできません。", True),
        ("この依頼は担当者に引き継ぎます。", True),
        (REPLIES[0], True),
        (REPLIES[0][:14], True),
        (f"{REPLIES[1]}ではまた。", True),
        ("I’m sorry, but I can’t help with that.", True),
        ("Ｉ cannot do this.", True),
        (
            "承知しました。「申し訳ありませんが、お受けできません。」",
            False,
        ),  # a draft that was asked for
        ("「申し訳ありませんが、お受けできません。」", False),
        ("承知しました。会社案内の要点は三つです。", False),
        ("はいけいの書き方です。", False),
        ("承知しました。車両整備台帳に関するこの依頼はお受けできません。", True),
        ("承知しました。要点は三つです。なお、このご要望には応じられません。", True),
        ("資料を確認しました。ご質問にはお答えいたしかねます。", True),
        ("Sure. However, I cannot help with that request.", True),
        ("承知しました。当店では返品をお受けできません。", False),
        ("この依頼は今週中に受けられます。", False),
        ("依頼書の見出しは「この依頼はお受けできません。」とします。", False),
        ("承知しました。「申し訳ありませんが、この依頼はお受けできません。", False),
        ("I can help with that.", False),
        ("この依", False),
    ],
)
def test_an_answer_that_refuses_is_known(answer: str, refused: bool) -> None:
    assert refuses(answer, REPLIES) is refused


def test_every_refusal_that_training_teaches_is_known() -> None:
    taught = (*vocabulary.REFUSAL.values(), vocabulary.HAND_OVER)
    assert all(refuses(text.format(a="会社案内"), ()) for text in taught)
    for verdict, text in TEMPLATES.items():
        assert refuses(text, ()) == (verdict is not Verdict.ALLOW)
    allowed = (*vocabulary.ANSWERS.values(), vocabulary.REFUSAL_DRAFT, vocabulary.GENERAL_ADVICE)
    for text in allowed:
        said = vocabulary.ASSENT + text.format(a="会社案内", i="閲覧")
        assert not refuses(said, ())


def test_nothing_is_read_after_the_end() -> None:
    reader = HoldBack()
    reader.feed(SOUND)
    reader.close()
    assert reader.feed(LONG * 3) == ""
