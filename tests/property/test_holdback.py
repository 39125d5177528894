"""A streamed turn shows what the whole turn's answer is, for any text cut anywhere, and nothing that is not answer."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from so8t import chat
from so8t.errors import DataError
from so8t.serving.final_only import HOLD, HoldBack
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


def test_nothing_is_read_after_the_end() -> None:
    reader = HoldBack()
    reader.feed(SOUND)
    reader.close()
    assert reader.feed(LONG * 3) == ""
