"""Is a well-formed row fit to train, calibrate or test on?

`clean` gives the reason why not, or the row with control text broken up.

Personal data in Japanese text are e-mail addresses, telephone numbers, postal codes, My Numbers
(Japan's personal identification numbers, twelve digits) and payment cards. Everything reads the
canonical form of a text (`so8t.request`), and the detectors read it without accents.

Covered: language, length, licence, personal data, control tokens, hazardous or sexual content as a
target. Not covered: whether a label is right; duplicates (`near_duplicates`); names and street
addresses, which need a language model to find.
"""

import re
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import replace

from so8t.chat import neutralise
from so8t.data.formats import TEMPLATES, Reason, Sample
from so8t.params import Data
from so8t.request import canonical_form
from so8t.verdict import Verdict

# Kinds of held-out rows that are there because they are unlike the others.
OUTSIDE_THE_DOMAINS = ("exposure", "foreign")
KANA = re.compile(r"[぀-ヿㇰ-ㇿｦ-ﾟ]")
KANJI = re.compile(r"[㐀-鿿豈-﫿々]")
LETTER = re.compile(r"[^\W\d_]")
JAPANESE_SHARE = 0.2  # of letters; below it a text is not Japanese
# "緊急停止手順" is Japanese without kana; a longer text without any is Chinese.
KANJI_ONLY_LETTERS = 12
# For detection only: names of subjects that must never be a target to produce, no instructions.
HAZARD = re.compile(
    r"児童ポルノ|アダルト動画|わいせつ|性行為"
    r"|(?:爆弾|爆発物|毒ガス|化学兵器|覚醒剤|銃)の?"
    r"(?:作り方|製造方法|製造手順|合成方法|入手方法|作成手順)"
    r"|自殺の方法|マルウェアの作成手順|child porn|(?:how to )?(?:make|build) a bomb",
    re.IGNORECASE,
)


def clean(sample: Sample, data: Data) -> Sample | Reason:
    """The sample as it may be used, or the reason why it is dropped."""
    thinking = neutralise(sample.thinking) if sample.thinking else None
    sample = replace(
        sample,
        text=neutralise(canonical_form(sample.text)),
        final=neutralise(sample.final),
        thinking=thinking,
    )
    written = f"{sample.text}\n{sample.final}\n{thinking or ''}"
    if len(sample.text) > data.max_chars or len(written) > 2 * data.max_chars:
        return "too_long"
    # What users wrote themselves needs no licence; what was collected elsewhere does.
    if sample.collected and not sample.license:
        return "no_license"
    is_outside = sample.held_out in OUTSIDE_THE_DOMAINS
    if data.language == "ja" and not is_outside and not is_japanese(sample.text):
        return "not_japanese"
    kinds = personal_data(written)
    if kinds:
        return f"personal_data:{kinds[0]}"
    return _without_hazard(sample)


def _without_hazard(sample: Sample) -> Sample | Reason:
    """The sample if no answer names a hazard: such a request may be refused, never answered."""
    answer_is_hazardous = _is_hazardous(sample.final) or _is_hazardous(sample.thinking or "")
    if sample.verdict in (Verdict.ESCALATE, Verdict.DENY):
        if not answer_is_hazardous:
            return sample
        # The verdict is right; only the words must not be learnt.
        return replace(sample, final=TEMPLATES[sample.verdict], thinking=None)
    if answer_is_hazardous or _is_hazardous(sample.text):
        return "hazard"
    return sample


def _is_hazardous(text: str) -> bool:
    return bool(HAZARD.search(_bare_form(text)))


def _bare_form(text: str) -> str:
    """The canonical form with Latin letters bare: an accent on each would hide an address."""
    bare = []
    for character in canonical_form(text):
        letter = unicodedata.normalize("NFD", character)[0]
        # In other scripts the marks are spelling: が without its own is か.
        bare.append(letter if letter.isascii() else character)
    return "".join(bare)


def is_japanese(text: str) -> bool:
    """Kana and a fair share of Japanese letters; a short text may be all kanji."""
    letters = len(LETTER.findall(text))
    kana = len(KANA.findall(text))
    kanji = len(KANJI.findall(text))
    if letters == 0 or kana + kanji < JAPANESE_SHARE * letters:
        return False
    return kana > 0 or letters <= KANJI_ONLY_LETTERS


def is_forbidden_target(response: str) -> bool:
    """The last check, on the rendered training text."""
    return _is_hazardous(response)


# --- personal data ---

EMAIL = re.compile(r"[A-Za-z0-9._%+-]+@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*\.[A-Za-z]{2,}")
# Seven digits alone are often a part number; a postal code follows its mark or a word for it.
POSTAL = re.compile(r"〒\s*\d{3}-?\d{4}(?!\d)|(?:郵便番号|住所)[^\d]{0,6}\d{3}-\d{4}(?!\d)")
# A run that may be a telephone number, a My Number or a card.
DIGITS = re.compile(r"\d(?:[-‐‑–ー ().]{0,2}\d){8,18}")
MY_NUMBER = re.compile(r"(?<!\d)\d{4}[- ]?\d{4}[- ]?\d{4}(?!\d)")
MY_NUMBER_WORDS = re.compile(r"マイナンバー|個人番号|my\s*number", re.IGNORECASE)
CARD = re.compile(r"(?<!\d)\d(?:[- ]?\d){12,18}(?!\d)")
# Prefixes and lengths of the card brands: one random number in ten passes the Luhn check alone.
BRAND = re.compile(
    r"(?:"
    r"4\d{12}(?:\d{3})?"  # Visa
    r"|5[1-5]\d{14}|2(?:2[2-9]|[3-6]\d|7[01])\d{13}"  # Mastercard
    r"|3[47]\d{13}"  # American Express
    r"|35\d{14}"  # JCB
    r"|3(?:0[0-5]|[68]\d)\d{11}"  # Diners Club
    r"|6(?:011|5\d\d)\d{12}"  # Discover
    r")"
)
DECIMAL = re.compile(r"\d+(?:\.\d+)?")  # a bare run of digits, or a decimal number
PHONE_WORDS = re.compile(r"電話|携帯|tel|fax|ファックス|連絡先|☎|内線|番号は", re.IGNORECASE)
NEAR = 24  # characters before and after a number in which a word about it counts


def personal_data(text: str) -> list[str]:
    """Kinds of personal data in a text, each once, in a fixed order."""
    # Digits that are spaced out or full-width are the same digits.
    plain = _bare_form(text)
    kinds = []
    if EMAIL.search(plain):
        kinds.append("email")
    if POSTAL.search(plain):
        kinds.append("postal_code")
    # The finders below are slow, phonenumbers above all, and most texts hold no long number.
    if DIGITS.search(plain):
        kinds += [kind for kind, numbers in NUMBERS.items() if any(numbers(plain))]
    return kinds


def _phones(plain: str) -> Iterator[str]:
    """Valid Japanese or international telephone numbers."""
    import phonenumbers

    for match in phonenumbers.PhoneNumberMatcher(plain, "JP"):
        number = match.raw_string
        before = plain[max(0, match.start - NEAR) : match.start]
        # A bare run of digits may be an order number: it counts only after a word such as 電話.
        if not DECIMAL.fullmatch(number) or PHONE_WORDS.search(before):
            yield number


def _my_numbers(plain: str) -> Iterator[str]:
    from stdnum.jp import in_

    for match in MY_NUMBER.finditer(plain):
        around = plain[max(0, match.start() - NEAR) : match.end() + NEAR]
        # One random number in ten has a valid check digit, so a word for it must be near too.
        if in_.is_valid(match[0]) and MY_NUMBER_WORDS.search(around):
            yield match[0]


def _cards(plain: str) -> Iterator[str]:
    from stdnum import luhn

    for match in CARD.finditer(plain):
        number = re.sub(r"\D", "", match[0])
        if BRAND.fullmatch(number) and luhn.is_valid(number):
            yield number


NUMBERS: dict[str, Callable[[str], Iterator[str]]] = {
    "phone": _phones,
    "my_number": _my_numbers,
    "card": _cards,
}
