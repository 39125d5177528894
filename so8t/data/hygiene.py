"""Is a well-formed row fit to train, calibrate or test on? If not, the reason; if so, the row with control text broken up.

Covered: language, length, licence, personal data, control tokens, hazardous or sexual content as a target.
Not covered: whether a label is right; duplicates (near).

Personal data in Japanese text: e-mail, telephone, postal code, My Number, payment card.

Everything is read after NFKC, so full-width digits are seen. A twelve-digit number is a My Number only if its check digit
holds *and* a context word stands near it, because one random number in ten has a valid check digit.
Covered: the five kinds above. Not covered: names and street addresses (they need a language model), photographs.
"""

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import replace

from so8t.chat import neutralise
from so8t.data.formats import TEMPLATES, Row
from so8t.params import Data
from so8t.verdict import Verdict

KANA, KANJI = re.compile(r"[぀-ヿㇰ-ㇿｦ-ﾟ]"), re.compile(r"[㐀-鿿豈-﫿々]")
LETTER = re.compile(r"[^\W\d_]")
JAPANESE_SHARE = 0.2  # of letters; below it a text is not Japanese
# Detection only: what must never be a target to produce. Names of subjects, no instructions.
HAZARD = re.compile(
    r"児童ポルノ|アダルト動画|わいせつ|性行為"
    r"|(?:爆弾|爆発物|毒ガス|化学兵器|覚醒剤|銃)の?(?:作り方|製造方法|製造手順|合成方法|入手方法|作成手順)"
    r"|自殺の方法|マルウェアの作成手順|child porn|(?:how to )?(?:make|build) a bomb",
    re.IGNORECASE,
)


def clean(row: Row, data: Data) -> Row | str:
    """The row as it may be used, or the reason why it is dropped."""
    row = replace(
        row,
        text=neutralise(row.text),
        final=neutralise(row.final),
        thinking=neutralise(row.thinking) if row.thinking else None,
    )
    written = f"{row.text}\n{row.final}\n{row.thinking or ''}"
    if len(row.text) > data.max_chars or len(written) > 2 * data.max_chars:
        return "too_long"
    if row.collected and not row.license:
        return "no_license"
    if data.language == "ja" and not is_japanese(row.text):
        return "not_japanese"
    if kinds := find(written):
        return f"personal_data:{kinds[0]}"
    return _without_hazard(row)


def _without_hazard(row: Row) -> Row | str:
    """Hazardous requests may be recognised and refused, never answered: an answer that names one is replaced or dropped."""
    if row.verdict in (Verdict.ESCALATE, Verdict.DENY):
        hazard = HAZARD.search(row.final) or HAZARD.search(row.thinking or "")
        return replace(row, final=TEMPLATES[row.verdict], thinking=None) if hazard else row
    return (
        "hazard"
        if HAZARD.search(row.text) or HAZARD.search(row.final) or HAZARD.search(row.thinking or "")
        else row
    )


def is_japanese(text: str) -> bool:
    """Kana are there, and a fair share of the letters is Japanese; all-kanji requests pass when short."""
    letters = len(LETTER.findall(text))
    kana, kanji = len(KANA.findall(text)), len(KANJI.findall(text))
    return letters > 0 and kana + kanji >= JAPANESE_SHARE * letters and (kana > 0 or letters <= 12)


def is_forbidden_target(response: str) -> bool:
    """The last check, on the rendered training text."""
    return bool(HAZARD.search(response))


EMAIL = re.compile(r"[A-Za-z0-9._%+-]+@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*\.[A-Za-z]{2,}")
POSTAL = re.compile(r"〒\s*\d{3}-?\d{4}(?!\d)|(?:郵便番号|住所)[^\d]{0,6}\d{3}-\d{4}(?!\d)")
DIGITS = re.compile(
    r"\d(?:[-‐‑–ー ().]{0,2}\d){8,18}"
)  # a run that may be a telephone, My Number or card
MY_NUMBER = re.compile(r"(?<!\d)\d{4}[- ]?\d{4}[- ]?\d{4}(?!\d)")
CARD = re.compile(r"(?<!\d)\d(?:[- ]?\d){12,18}(?!\d)")
BRAND = re.compile(
    r"(?:4\d{12}(?:\d{3})?|5[1-5]\d{14}|2(?:2[2-9]|[3-6]\d|7[01])\d{13}|3[47]\d{13}|35\d{14}|3(?:0[0-5]|[68]\d)\d{11}|6(?:011|5\d\d)\d{12})"
)
MY_NUMBER_WORDS, NEAR = (
    re.compile(r"マイナンバー|個人番号|my\s*number", re.IGNORECASE),
    24,
)  # characters before and after
DECIMAL = re.compile(r"\d+(?:\.\d+)?")  # a bare run of digits, or a decimal number
PHONE_WORDS = re.compile(r"電話|携帯|tel|fax|ファックス|連絡先|☎|内線|番号は", re.IGNORECASE)


def find(text: str) -> list[str]:
    """Kinds of personal data in a text, each once, in a fixed order."""
    plain = unicodedata.normalize("NFKC", text)
    kinds = [
        kind
        for kind, pattern in (("email", EMAIL), ("postal_code", POSTAL))
        if pattern.search(plain)
    ]
    if DIGITS.search(plain):
        kinds += [
            kind
            for kind, found in (("phone", _phones), ("my_number", _my_numbers), ("card", _cards))
            if any(found(plain))
        ]
    return kinds


def _near(plain: str, match: re.Match[str], words: re.Pattern[str]) -> bool:
    return bool(words.search(plain[max(0, match.start() - NEAR) : match.end() + NEAR]))


def _my_numbers(plain: str) -> Iterator[str]:
    from stdnum.jp import in_

    return (
        m[0]
        for m in MY_NUMBER.finditer(plain)
        if in_.is_valid(m[0]) and _near(plain, m, MY_NUMBER_WORDS)
    )


def _cards(plain: str) -> Iterator[str]:
    from stdnum import luhn

    for match in CARD.finditer(plain):
        number = re.sub(r"\D", "", match[0])
        if BRAND.fullmatch(number) and luhn.is_valid(number):
            yield number


def _phones(plain: str) -> Iterator[str]:
    """Valid Japanese or international numbers; a bare run of digits counts only beside a word such as 電話."""
    import phonenumbers

    for match in phonenumbers.PhoneNumberMatcher(plain, "JP"):
        written = match.raw_string
        doubtful = DECIMAL.fullmatch(written)
        words = plain[max(0, match.start - NEAR) : match.start]
        if not doubtful or PHONE_WORDS.search(words):
            yield written
