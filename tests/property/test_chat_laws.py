"""Laws of the assistant turn, for any Unicode text."""

from hypothesis import given, settings
from hypothesis import strategies as st

from so8t import chat
from so8t.errors import DataError
from so8t.verdict import Verdict

ANY = st.text(st.characters(blacklist_categories=["Cs"]), max_size=80)
MARKERS = [
    "# 思考ステップ\n",
    "# 最終回答\n",
    "# 判定\n",
    "ALLOW\n",
    "DENY\n",
    "\n",
    "考え",
    "<think-task>",
    "</think-task>",
    "<final>",
    "</final>",
    "＃ 最終回答\n",
    "<THINK>",
    " ",
    "<think-safety></think-safety><think-policy>x</think-policy>",
    "秘密の思考",
]
PIECES = st.lists(st.sampled_from(MARKERS), max_size=14).map("".join)


@settings(max_examples=400)
@given(
    st.sampled_from(list(Verdict)), st.none() | ANY, ANY, st.sampled_from(["heading", "quadruple"])
)
def test_what_renders_reads_back_exactly(
    verdict: Verdict, thinking: str | None, final: str, fmt: chat.Format
) -> None:
    try:
        text = chat.response_of(verdict, thinking, final, fmt)
    except DataError:
        return
    parsed = chat.parse(text)
    assert parsed.errors == ()
    assert parsed.verdict is verdict
    assert (parsed.thinking.reveal() if parsed.thinking else "") == (
        chat.tidy(thinking) if thinking else ""
    )
    assert parsed.final == final.replace("\r\n", "\n").replace("\r", "\n").strip()


@settings(max_examples=400)
@given(ANY | PIECES)
def test_reading_anything_ends_in_a_verdict_and_never_in_a_marker(text: str) -> None:
    parsed = chat.parse(text)
    assert parsed.verdict in Verdict
    if parsed.errors:
        assert (parsed.verdict, parsed.thinking, parsed.final) == (Verdict.ESCALATE, None, None)
    else:
        assert not chat.has_marker(parsed.final)


@given(ANY, st.lists(st.text(min_size=1, max_size=6), max_size=3))
def test_neutralising_is_idempotent_and_leaves_no_control_token(
    text: str, tokens: list[str]
) -> None:
    once = chat.neutralise(text, tokens)
    assert chat.neutralise(once, tokens) == once
    assert not any(
        token in once for token in [*tokens, "<|end|>"] if len(token.strip()) > 1 and token in text
    )
