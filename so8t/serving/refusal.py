"""Does an answer refuse, although the decision was ALLOW?

A small model that was trained on refusals may refuse in words what its verdict allowed. Such an
answer helps nobody and contradicts the decision, so a person gets the request. What counts is how
the answer begins, behind a word of assent, and any later sentence that turns the request itself
down. A quoted refusal is not one: "write me a polite refusal" is a request that may be allowed.
"Returns are not accepted" speaks of returns and not of the request, so it is an answer.

The openings stand in one list below, and the release's own replies count as well.
"""

import re
from collections.abc import Sequence

from so8t.markers import bare_letters
from so8t.request import canonical_form

# How refusals and hand-overs begin: those of the training answers (so8t.synthetic.vocabulary,
# so8t.data.formats), then others that models have learnt elsewhere.
OPENINGS = (
    "申し訳ありません",
    "申し訳ございません",
    "この依頼は担当者",
    "このリクエストは追加の確認",
    "このご依頼は追加の確認",
    "お受けできません",
    "お応えできません",
    "お答えできません",
    "対応できません",
    "お手伝いできません",
    "その依頼にはお応えできません",
    "ご依頼にはお応えできません",
    "そのご要望にはお応えできません",
    "すみませんが",
    "ごめんなさい",
    "残念ながら",
    "I'm sorry",
    "I am sorry",
    "Sorry, but",
    "Sorry, I",
    "I apologize",
    "I can't",
    "I cannot",
    "I can not",
    "I am unable",
    "I'm unable",
    "I'm not able",
    "I am not able",
    "I won't",
    "I will not",
    "Unfortunately, I",
    "As an AI",
)
# A sentence that turns the request itself down: it names the request and ends in "cannot".
_TURNED_DOWN = re.compile(
    r"(?:依頼|リクエスト|要望|要求|質問|お問い合わせ)[^。]*"
    r"(?:受け|応え|答え|応じ|対応|協力|手伝い|従う)[^。]{0,6}"
    r"(?:(?:でき|出来|られ)(?:ません|かねます|ない)|かねます)[\s。.!]*$"
    r"|\b(?:can(?:'|’)?t|cannot|can not|won(?:'|’)?t|unable to|not able to)\s"
    r"(?:help|assist|comply|fulfill?|answer|do)\b[^.]*\b(?:this|that|your|request|question)\b",
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(r"(?<=[。．.!?！？\n])")
# What stands in quotation marks, or from one that is never closed to the end.
_QUOTED = re.compile(r"「[^」]*(?:」|$)|『[^』]*(?:』|$)|“[^”]*(?:”|$)|\"[^\"]*(?:\"|$)")
# Letters from which an answer that breaks off inside a reply counts as that reply.
LEAST = 8

_ASSENT = re.compile(
    r"(?:承知(?:いた)?しました|承りました|かしこまりました|了解(?:いた)?しました|はい|sure|okay|ok)"
    r"(?![\w])[\s。、.,!]*",
    re.IGNORECASE,
)
_SIGNS = re.compile(r"[^\w「『“\"'‘]+")
_QUOTES = ("「", "『", "“", '"', "'", "‘")


def refuses(answer: str, replies: Sequence[str]) -> bool:
    """Whether an answer, or the beginning of one, is a refusal or a hand-over.

    Args:
        answer: what the model wrote.
        replies: the deployment's own texts for ESCALATE and DENY.
    """
    canonical = canonical_form(answer)
    if _turns_the_request_down(canonical):
        return True
    text = _without_signs(canonical)
    assent = _ASSENT.match(text)
    if assent:
        text = _without_signs(text[assent.end() :])
    if text.startswith(_QUOTES):
        return False
    said = bare_letters(text)
    if any(said.startswith(bare_letters(opening)) for opening in OPENINGS):
        return True
    return any(_is_reply(said, bare_letters(reply)) for reply in replies)


def _turns_the_request_down(canonical: str) -> bool:
    """Whether any sentence, outside quotation marks, says that the request will not be met."""
    sentences = _SENTENCE_END.split(_QUOTED.sub("", canonical))
    return any(_TURNED_DOWN.search(sentence) for sentence in sentences)


def _is_reply(said: str, reply: str) -> bool:
    """Whether it begins with the reply, or is the beginning of it."""
    if not reply:
        return False
    return said.startswith(reply) or (len(said) >= LEAST and reply.startswith(said))


def _without_signs(text: str) -> str:
    """Without what stands before the first letter or quotation mark: bullets, stars, spaces."""
    found = _SIGNS.match(text)
    return text[found.end() :] if found else text
