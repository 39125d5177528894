"""Two-phase generation: think in private, then write the answer after a marker that we put there.

Phase 1 goes on after the fed label ALLOW until the model writes the final marker, ends, or has used
its tokens; that text stays in this module. Phase 2 starts from the thinking and *our* marker, so
all it writes is answer. Looking for the marker in one generation instead would show thinking
whenever the model spells the marker wrong.

The answer may be shown while it is written: `HoldBack` keeps back more characters than the shortest
copy has, so that no part of a marker or of a copy is seen. Whatever is shown is the beginning of
what the whole answer will be.

Covered: verbatim copies of the thinking (any `SHINGLE` characters of it that the user did not say),
markers, control and reserved tokens. Not covered: a paraphrase of the thinking; an answer withheld
after its beginning was shown (the beginning was clean; the caller says that it is taken back).
"""

import codecs
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import islice

from so8t.chat import ALLOW_PREFIX, Format, Thinking, final_cue, has_marker, neutralise
from so8t.llama import Engine
from so8t.prompts import Prompt, Prompter
from so8t.serving.final_only import HoldBack

# Characters: so long a piece of the thinking must not be in the answer.
SHINGLE = 20

# Visible characters held back while streaming. A Hangul syllable may come as three letters, so a
# shingle of syllables can be three times as long as it looks.
HOLD = 3 * SHINGLE

# Takes pieces of the answer as they may be shown.
Show = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Limits:
    """Most tokens of thinking and of the answer."""

    think: int
    answer: int


@dataclass(frozen=True, slots=True)
class Spoken:
    """An answer that may be shown, or None with the reason why it is withheld.

    `cut`: it ran out of tokens.
    """

    text: str | None
    reason: str
    cut: bool


@dataclass(frozen=True, slots=True)
class _Written:
    """What phase 2 generated, and whether the model ended it."""

    text: str
    ended: bool


def speak(
    prompter: Prompter[Engine],
    prompt: Prompt,
    user: str,
    fmt: Format,
    *,
    reserved: set[int],
    limits: Limits,
    show: Show | None = None,
) -> Spoken:
    """Generate the final answer to an allowed request.

    Args:
        prompter: of the opened file.
        prompt: the request's prompt.
        user: the user's own words, which the answer may repeat.
        fmt: thinking format that the model was trained on.
        reserved: ids that are never emitted.
        limits: most tokens of each phase.
        show: called with pieces of the answer while it is written. Together they are its text, or
            its beginning when it is withheld in the end.
    """
    engine = prompter.engine
    controls = prompter.controls | reserved
    # The tokens that end a generation must stay possible.
    silent = {token for token in controls if not engine.is_eog(token)}
    begun = prompter.after(prompt, ALLOW_PREFIX)
    thinking = Thinking(_think(engine, begun, final_cue(fmt), silent, limits.think))
    forced = prompter.after(prompt, ALLOW_PREFIX + _closed(thinking, fmt))
    shown = _Shown(thinking, user, fmt, show)
    written = _write(engine, forced, silent, limits.answer, shown.feed if show else None)
    answer = written.text
    closed = ""
    if fmt == "quadruple":
        answer, closed, _ = answer.partition("</final>")
    cut = not written.ended and not closed
    return shown.end(_checked(answer.strip(), thinking, user, cut=cut))


class _Shown:
    """What the user has seen of an answer: clean by the same rules as the whole."""

    def __init__(self, thinking: Thinking, user: str, fmt: Format, show: Show | None) -> None:
        self.thinking = thinking
        self.user = user
        self.show = show
        # All that was written, what was shown of it, and whether more may be shown.
        self.text = ""
        self.seen = ""
        self.open = True
        self.reader = HoldBack(HOLD)
        # The marker is ours; what the model wrote before it never gets here.
        self.reader.feed(ALLOW_PREFIX + final_cue(fmt))

    def feed(self, piece: str) -> None:
        """Take what the model wrote; show what has become free."""
        self.text += piece
        free = self.reader.feed(piece)
        if not self.open or not free:
            return
        # The whole text, for a copy may have begun in what is still held back.
        if copies(self.text, self.thinking, self.user):
            self.open = False
            return
        self._tell(free)

    def end(self, spoken: Spoken) -> Spoken:
        """Show the rest of an answer that passed every check.

        An answer that does not go on from what was seen is withheld.
        """
        if spoken.text is None or self.show is None:
            return spoken
        if not spoken.text.startswith(self.seen):
            return replace(spoken, text=None, reason="the answer is not what was shown of it")
        self._tell(spoken.text[len(self.seen) :])
        return spoken

    def _tell(self, piece: str) -> None:
        if piece and self.show:
            self.seen += piece
            self.show(piece)


def _think(engine: Engine, begun: Prompt, marker: str, silent: set[int], limit: int) -> str:
    """Phase 1: what the model writes before the final marker."""
    written = b""
    end = marker.encode()
    tokens = engine.stream(begun.ids, forbid=silent, cuts=begun.cuts)
    for count, token in enumerate(tokens, start=1):
        if engine.is_eog(token) or count > limit:
            break
        written += engine.detokenize([token])
        # In bytes, because a token may end inside a character.
        if end in written:
            break
    return written.decode("utf-8", "ignore").partition(marker)[0]


def _closed(thinking: Thinking, fmt: Format) -> str:
    """The thinking as it stands before the answer in training, with the marker."""
    text = neutralise(thinking.reveal()).strip()
    gap = "\n\n" if text and fmt == "heading" else ""
    return f"{text}{gap}{final_cue(fmt)}"


def _write(
    engine: Engine, forced: Prompt, silent: set[int], limit: int, follow: Show | None
) -> _Written:
    """Phase 2: the answer; `follow` hears every piece of it."""
    # It keeps the bytes of half a character until the other half comes.
    decoder = codecs.getincrementaldecoder("utf-8")("ignore")
    text = ""
    tokens = engine.stream(forced.ids, forbid=silent, cuts=forced.cuts)
    for token in islice(tokens, limit):
        if engine.is_eog(token):
            return _Written(text, ended=True)
        piece = decoder.decode(engine.detokenize([token]))
        text += piece
        if follow and piece:
            follow(piece)
    return _Written(text, ended=False)


def _checked(answer: str, thinking: Thinking, user: str, *, cut: bool) -> Spoken:
    """The answer, if it may be shown."""
    if not answer:
        return Spoken(None, "the model wrote no answer", cut)
    if has_marker(answer):
        return Spoken(None, "the answer held a marker of the thinking format", cut)
    if copies(answer, thinking, user):
        return Spoken(None, "the answer repeated private thinking", cut)
    return Spoken(answer, "", cut)


def copies(answer: str, thinking: Thinking, user: str) -> bool:
    """Whether the answer holds `SHINGLE` characters of the thinking that the user did not say."""
    private = set(_shingles(thinking.reveal()))
    # Thinking quotes the request, and so may the answer.
    private -= set(_shingles(user))
    return any(piece in private for piece in _shingles(answer))


def _shingles(text: str) -> Iterator[str]:
    """Every run of `SHINGLE` characters, without case, spaces and hidden characters."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    # Spaces or zero-width characters between the letters would hide a copy.
    visible = "".join(char for char in folded if _is_visible(char))
    for start in range(len(visible) - SHINGLE + 1):
        yield visible[start : start + SHINGLE]


def _is_visible(char: str) -> bool:
    return not char.isspace() and unicodedata.category(char) != "Cf"
