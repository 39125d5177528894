"""See a marker of the thinking format under its disguises.

A reader takes `思・考・ス・テ・ッ・プ`, `【最終回答】` or `<tһink>` (with a Cyrillic letter) for
the marker that it imitates, so text behind it would pass for another section. Texts are therefore
compared as *bare* text: each character becomes the letters and digits that it shows, and what
stands between them goes. What a character looks like is asked of `so8t.request`, whose canonical
form is the one that requests are read in. Bare text is made character by character, so that how a
stream was cut changes nothing.

Covered: compatibility forms, case, kana and small kana, look-alike letters, combining marks,
variation selectors, fillers, control and format characters, separators, brackets, headings inside a
line, overridden direction. Not covered: a marker in other words or in another language.
"""

import re
import unicodedata

from so8t.request import canonical_form

# What opens a tag, and what opens or underlines a heading, in bare text.
TAG = "<"
HEAD = "["
CLOSE = ">"
_OPENS_TAG = "<‹〈《«⟨❮˂ᐸ"
_CLOSES_TAG = ">›〉》»⟩❯˃ᐳ"
_OPENS_HEADING = "#♯[【〔〖{*■□●○◆◇▼▽★☆"

# Letters that look like those of the markers and that no compatibility form brings back; l, I and 1
# are one letter to the eye, as are o and 0.
_ALIKE = str.maketrans("ıɩɪᴛʜɴᴋꜰᴀʟᴅᴇᴏᴡʏɡl1|0", "iiithnkfaideowygiiio")
_KATAKANA = str.maketrans({code: code + 0x60 for code in range(0x3041, 0x3097)})
_LARGE_KANA = str.maketrans("ァィゥェォッャュョヮ", "アイウエオツヤユヨワ")

# Whoever overrides the direction of writing shows other words than the text has.
_OVERRIDES = re.compile("[\u202d\u202e]")


class _Bare(dict[int, str]):
    """A table for `str.translate` that works out a character when it is first asked for."""

    def __missing__(self, code: int) -> str:
        self[code] = bare = _bare_character(chr(code))
        return bare


def _bare_character(character: str) -> str:
    """Letters and digits that a character shows, or the class of bracket that it is, or nothing."""
    bare = ""
    # Folding the case can bring back characters that decompose further.
    decomposed = unicodedata.normalize("NFKD", character).casefold()
    for part in unicodedata.normalize("NFKD", decomposed):
        if part in _OPENS_TAG:
            bare += TAG
        elif part in _CLOSES_TAG:
            bare += CLOSE
        elif part in _OPENS_HEADING:
            bare += HEAD
        else:
            bare += _letter(part)
    return bare


def _letter(part: str) -> str:
    """One decomposed character as the letter that it looks like; empty for what shows none."""
    # Behind a Latin letter a look-alike is read as Latin. Both cases are tried: к looks like k only
    # because К looks like K.
    for case in (part, part.upper()):
        shown = canonical_form(f"a{case}")[1:].casefold()
        if shown.isascii():
            break
    else:
        shown = canonical_form(f"a{part}")[1:].casefold()
    shown = shown.translate(_ALIKE)
    # A voiced kana loses its mark here, on both sides of every comparison.
    return "".join(letter for letter in shown if letter.isalnum())


_TABLE = _Bare()


def bare_text(text: str) -> str:
    """The letters and digits of a text as they look, and its brackets as `<`, `>` and `[`."""
    return text.translate(_TABLE).translate(_KATAKANA).translate(_LARGE_KANA)


def bare_letters(text: str) -> str:
    """`bare_text` without the brackets: what two texts are compared by."""
    return _BRACKETS.sub("", bare_text(text))


_BRACKETS = re.compile(r"[<>\[]")


def _spelled(*words: str) -> str:
    """A pattern for any of the words, with brackets between their letters as separators."""
    return "|".join(r"[<>\[]*".join(map(re.escape, bare_letters(word))) for word in words)


_SECTIONS = _spelled("思考ステップ", "最終回答")
_LABELLED = _spelled("判定ALLOW", "判定ESCALAT", "判定DENY")
_TAGS = _spelled("think", "final")
_JUDGED = _spelled("判定")
_PRIVATE = _spelled("think-task", "think-safety", "think-policy")

# What could be a marker, in bare text. A stream stops at it, and every marker holds one.
SUSPECT = re.compile(rf"[<\[][<>\[]*(?:{_TAGS}|{_JUDGED})|{_SECTIONS}|{_LABELLED}")

# Letters and brackets of the longest match of `SUSPECT`, runs of brackets counted as one.
LONGEST = 2 * len("[判定escalat")

# What is a marker wherever it stands, in bare text.
_SURE = re.compile(
    rf"<[<>\[]*(?:{_spelled('think')}|(?:{_spelled('final')})>)"
    rf"|\[[<>\[]*(?:{_SECTIONS}|{_PRIVATE})|<[<>\[]*(?:{_SECTIONS})|{_LABELLED}"
)
# What is one only as written: "<finalist" is none, and a bullet may begin with 判定.
_WRITTEN = re.compile(r"<\W*final(?![a-z])|#\s*判定|[【\[〔〖]\W*判定\W*[】\]〕〗]", re.IGNORECASE)
_LINE = re.compile(rf"[<>\[]*(?:{_SECTIONS})[<>\[]*")


def has_marker(text: str) -> bool:
    """Whether a marker of either thinking format, or a disguise of one, is in the text."""
    if _OVERRIDES.search(text):
        return True
    bare = bare_text(text)
    if not SUSPECT.search(bare):
        return False
    if _SURE.search(bare):
        return True
    canonical = canonical_form(text)
    if _WRITTEN.search(canonical):
        return True
    # The words alone on a line are a heading; within a sentence they are words.
    lines = [*canonical.splitlines(), *text.splitlines()]
    return any(_LINE.fullmatch(bare_text(line)) for line in lines)


def overrides_direction(character: str) -> bool:
    """Whether a character makes a reader see other words than the text has."""
    return bool(_OVERRIDES.match(character))
