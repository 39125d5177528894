"""Is a well-formed row fit to train, calibrate or test on? If not, the reason; if so, the row with control text broken up.

Covered: language, length, licence, personal data, control tokens, hazardous or sexual content as a target.
Not covered: whether a label is right; duplicates (near).
"""

import re
from dataclasses import replace

from so8t.chat import neutralise
from so8t.corpus import pii
from so8t.corpus.formats import TEMPLATES, Row
from so8t.params import Data
from so8t.verdict import Verdict

KANA, KANJI = re.compile(r"[぀-ヿㇰ-ㇿｦ-ﾟ]"), re.compile(r"[㐀-鿿豈-﫿々]")
LETTER = re.compile(r"[^\W\d_]")
JAPANESE_SHARE = 0.2  # of letters; below it a text is not Japanese
# Detection only: what must never be a target to produce. Names of subjects, no instructions.
HAZARD = re.compile(r"児童ポルノ|アダルト動画|わいせつ|性行為"
                    r"|(?:爆弾|爆発物|毒ガス|化学兵器|覚醒剤|銃)の?(?:作り方|製造方法|製造手順|合成方法|入手方法|作成手順)"
                    r"|自殺の方法|マルウェアの作成手順|child porn|(?:how to )?(?:make|build) a bomb", re.IGNORECASE)


def clean(row: Row, data: Data) -> Row | str:
    """The row as it may be used, or the reason why it is dropped."""
    row = replace(row, text=neutralise(row.text), final=neutralise(row.final), thinking=neutralise(row.thinking) if row.thinking else None)
    written = f"{row.text}\n{row.final}\n{row.thinking or ''}"
    if len(row.text) > data.max_chars or len(written) > 2 * data.max_chars:
        return "too_long"
    if row.collected and not row.license:
        return "no_license"
    if data.language == "ja" and not is_japanese(row.text):
        return "not_japanese"
    if kinds := pii.find(written):
        return f"personal_data:{kinds[0]}"
    return _without_hazard(row)


def _without_hazard(row: Row) -> Row | str:
    """Hazardous requests may be recognised and refused, never answered: an answer that names one is replaced or dropped."""
    if row.verdict in (Verdict.ESCALATE, Verdict.DENY):
        hazard = HAZARD.search(row.final) or HAZARD.search(row.thinking or "")
        return replace(row, final=TEMPLATES[row.verdict], thinking=None) if hazard else row
    return "hazard" if HAZARD.search(row.text) or HAZARD.search(row.final) or HAZARD.search(row.thinking or "") else row


def is_japanese(text: str) -> bool:
    """Kana are there, and a fair share of the letters is Japanese; all-kanji requests pass when short."""
    letters = len(LETTER.findall(text))
    kana, kanji = len(KANA.findall(text)), len(KANJI.findall(text))
    return letters > 0 and kana + kanji >= JAPANESE_SHARE * letters and (kana > 0 or letters <= 12)


def is_forbidden_target(response: str) -> bool:
    """The last check, on the rendered training text."""
    return bool(HAZARD.search(response))
