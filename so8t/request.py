"""One canonical form of a request, and its parts: what every reader of a request sees.

Two texts that look alike to a person must be one text to the model, to the detectors of personal
data and hazards, and to the familiarity index. Otherwise a zero-width joiner between the characters
walks around all three: 78 of 90 refused requests of the demo were allowed that way. The same
function is used for training data, scoring and serving.

Covered: Unicode compatibility forms, invisible and control characters, stacked combining marks,
look-alike letters, letters spelled out with spaces or dots, text that imitates the assistant's own
format, requests without content, parts. Not covered: what a request means, and whether it is
familiar (familiarity).
"""

import re
import unicodedata
from dataclasses import dataclass

from so8t.errors import DataError

# Code points that draw nothing but are letters or marks to Unicode, so that their category does not
# give them away: combining grapheme joiner, Hangul fillers, Khmer inherent vowels, Mongolian and
# other variation selectors, blank braille.
_INVISIBLE = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)
# Scripts whose spelling needs combining marks; elsewhere what NFKC could not compose is decoration.
_MARKED_SCRIPTS = re.compile(
    "[\u0590-\u08ff\u0900-\u109f\u1780-\u17ff\u1a00-\u1aff\ua800-\ua8ff\uaa00-\uaaff]"
)
# Cyrillic and Greek letters that print like Latin ones. Read as Latin only inside a word that also
# has Latin letters: a word wholly in another script is that script's word.
_LOOKALIKES = str.maketrans(
    "аеорсухіјѕԁһԛԝӏАВЕЗКМНОРСТУХІЈЅԌοαεικνρτυχΑΒΕΖΗΙΚΜΝΟΡΤΥΧ",
    "aeopcyxijsdhqwlABE3KMHOPCTYXIJSGoaeiknptuxABEZHIKMNOPTYX",
)
_WORD = re.compile(r"[^\W\d_]+")
_LATIN = re.compile("[A-Za-z]")
_CJK = "\u3005-\u3007\u3041-\u3096\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
# Japanese is written without spaces, so a space between two of its characters is never content.
_CJK_SPACE = re.compile(rf"(?<=[{_CJK}、。])[^\S\n]+(?=[{_CJK}、。])")
# One character, a separator, one character, the same separator, ...: at least four characters
# spelled out.
_SPELLED = re.compile(
    r"(?<![^\W_])\S(?P<by>[\s.・･·,、_\-‐–—*|/\\+~=^'`:;]{1,3})(?:\S(?P=by)){2,}\S(?![^\W_])"
)
_BLANKS = re.compile(r"[^\S\n]+")
_LINE_ENDS = re.compile(r" *\n[ \n]*")

# The assistant's own format, in the loosest spelling that a reader could take for it.
_LABELS = r"(?:allow|escalat(?:e|ion)|deny|refuse)"
_HEADINGS = r"(?:判定|思考(?:ステップ)?|最終回答)"
_ROLES = r"(?:user|assistant|system|human|ai|ユーザー?|利用者|アシスタント|システム)"
_IMITATIONS = (
    re.compile(rf"#+\s*{_HEADINGS}", re.IGNORECASE),
    re.compile(
        rf"(?:^|[\n\[(【<*])\s*{_HEADINGS}\s*[\])】>*:]*\s*(?:は|=)?\s*(?:\n|$|{_LABELS})",
        re.IGNORECASE,
    ),
    re.compile(rf"{_HEADINGS}\W{{0,4}}{_LABELS}", re.IGNORECASE),
    re.compile(rf"(?:^|\n)\W*{_LABELS}\W*(?=\n|$)", re.IGNORECASE),
    re.compile(r"<\s*/?\s*(?:think|final\b)", re.IGNORECASE),
    re.compile(
        r"<\s*\|[^<>\n]{1,64}\|\s*>|<\s*/?\s*s\s*>|\[\s*/?\s*inst\s*\]|<<\s*/?\s*sys\s*>>",
        re.IGNORECASE,
    ),
    re.compile(r"<\s*(?:start|end)_of_turn\s*>|<\s*(?:unk|pad|bos|eos|mask)\s*>", re.IGNORECASE),
    re.compile(rf"(?:^|[\n\s。.!?])\W*{_ROLES}\W?\s*:", re.IGNORECASE),
    re.compile(rf"(?:^|\n)\s*#+\s*{_ROLES}\b", re.IGNORECASE),
)

_SENTENCE_END = re.compile(r"(?<=[。！？!?])(?![」』）)])|(?<=[.;])(?=\s)|\n")
# What asks for something, in Japanese; checked first, because some of it ends like a statement.
_ASKS = re.compile(
    r"(?:ください|下さい|くださ[いる]|お?願い|願います|ほしい|欲しい|頂け|いただけ|もらえ|もらい|貰え|くれ(?:る|ない|ませんか|よ|$)"
    r"|ちょうだい|頼[むみ]|なさい|せよ|しろ|(?:て|で|といて|ておいて)$|(?:か|かな|の)$|[?？]$)"
)
# What tells something, in Japanese. Every other sentence counts as a request, which is the careful
# side.
_TELLS = re.compile(
    r"(?:です|ます|ました|ません|ませんでした|でした|でしょう|である|であった|だった|だ|した|いる|ある|ない|なる|った|んだ)(?:が|けど|ので|から|ね|よ)?$"
)
_TRAILING = re.compile(r"[\s。.!！…]+$")


@dataclass(frozen=True, slots=True)
class Request:
    """A request as it is read.

    Attributes:
        text: the canonical form.
        parts: the parts to be judged beside the whole; empty where the whole is the only one.
        refusal: why nobody needs to ask the model (nothing in it, or an imitation of the
            assistant's format), or None.
    """

    text: str
    parts: tuple[str, ...]
    refusal: str | None


# Counts the changes of what `canonical_form` and `parts_of` give; scores and cards carry it.
CANONICAL_FORM = 1
EMPTY = "the request says nothing"
IMITATION = "the request imitates the assistant's own format"


def request_of(text: str) -> Request:
    """A user's text as everything reads it.

    A request with a `refusal` is ESCALATE, whatever a model would say.
    """
    canonical = canonical_form(text)
    refusal = None
    if not any(character.isalnum() for character in canonical):
        refusal = EMPTY
    elif imitates_format(canonical):
        refusal = IMITATION
    return Request(canonical, parts_of(canonical), refusal)


def decoded(data: bytes, where: str) -> str:
    """Bytes as text.

    Raises:
        DataError: not UTF-8; `where` names the input.
    """
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"not UTF-8 at byte {error.start}", where=where, fix="save the text as UTF-8"
        ) from None


def canonical_form(text: str) -> str:
    """The one spelling of everything that looks like `text`;

    the canonical form of a canonical form is itself.
    """
    # Each step can uncover work for one before it (a joined word that NFKC composes), so they run
    # until nothing changes; every step shortens the text or maps into a smaller alphabet, so this
    # ends.
    previous = None
    while text != previous:
        previous = text
        text = _without_lookalikes(
            _without_decoration(_visible(unicodedata.normalize("NFKC", text)))
        )
        text = _SPELLED.sub(_joined, text)
        text = _CJK_SPACE.sub("", text)
        text = _LINE_ENDS.sub("\n", _BLANKS.sub(" ", text)).strip()
    return text


def _visible(text: str) -> str:
    """Without control, format, private and unassigned characters, and without letters that draw
    nothing.
    """
    text = (
        text.replace("\r\n", "\n")
        .replace("\r", "\n")
        .replace("\u2028", "\n")
        .replace("\u2029", "\n")
    )
    kept = []
    for character in _INVISIBLE.sub("", text):
        if character in "\n\t" or not unicodedata.category(character).startswith("C"):
            kept.append(character)
    return "".join(kept)


def _without_decoration(text: str) -> str:
    """Without combining marks that belong to no spelling:

    those NFKC left on Latin, Greek, Cyrillic, kana, kanji.
    """
    kept: list[str] = []
    carrier = ""
    for character in text:
        if unicodedata.combining(character) or unicodedata.category(character) in ("Mn", "Me"):
            if _MARKED_SCRIPTS.match(character) and _MARKED_SCRIPTS.match(carrier or " "):
                kept.append(character)
            continue
        carrier = character
        kept.append(character)
    return "".join(kept)


def _without_lookalikes(text: str) -> str:
    def latin(word: re.Match[str]) -> str:
        return word[0].translate(_LOOKALIKES) if _LATIN.search(word[0]) else word[0]

    return _WORD.sub(latin, text)


def _joined(spelled: re.Match[str]) -> str:
    """The characters of a spelled-out run;

    a version number or an address (1.2.3.4) is none and stays.
    """
    characters = spelled[0][:: len(spelled["by"]) + 1]
    return characters if any(character.isalpha() for character in characters) else spelled[0]


def imitates_format(canonical: str) -> bool:
    """Whether a canonical text holds a heading, tag, control token, label line or speaker's name of
    a conversation.
    """
    return any(pattern.search(canonical) for pattern in _IMITATIONS)


def sentences_of(canonical: str) -> list[str]:
    """Sentences and lines, in order; a quotation stays within its sentence."""
    found = (sentence.strip() for sentence in _SENTENCE_END.split(canonical))
    return [sentence for sentence in found if any(c.isalnum() for c in sentence)]


def asks(sentence: str) -> bool:
    """Whether a sentence asks for something.

    Only what plainly tells something, in Japanese, does not.
    """
    bare = _TRAILING.sub("", sentence)
    return bool(_ASKS.search(bare)) or not _TELLS.search(bare)


def parts_of(canonical: str) -> tuple[str, ...]:
    """The text once for each sentence that asks, without the other sentences that ask.

    What a sentence tells (an approval, a purpose) belongs to every part: it decides what may be
    done with what is asked. A text that asks once has no parts beside itself.
    """
    sentences = sentences_of(canonical)
    asking = [index for index, sentence in enumerate(sentences) if asks(sentence)]
    if len(asking) <= 1:
        return ()
    parts = []
    for chosen in asking:
        kept = [s for index, s in enumerate(sentences) if index == chosen or index not in asking]
        parts.append("".join(_closed(sentence) for sentence in kept).strip())
    return tuple(dict.fromkeys(parts))


def _closed(sentence: str) -> str:
    """A sentence that can stand before another one: Latin sentences are parted by a space."""
    return f"{sentence} " if sentence[-1].isascii() else sentence
