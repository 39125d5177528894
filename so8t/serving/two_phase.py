"""Two-phase generation: think in private, then write the answer after a marker that we put there.

Phase 1 goes on after the fed label ALLOW until the model writes the final marker, ends, or has used its tokens; that
text stays in this function. Phase 2 starts from the thinking and *our* marker, so all it writes is answer. Scanning one
generation for the marker instead is what leaks elsewhere (research/serving.md section 4).

The answer may be shown while it is written: `HoldBack` keeps back more characters than the shortest copy has, so that
no part of a marker or of a copy is seen. Whatever is shown is the beginning of what the whole answer will be.

Covered: verbatim copies of the thinking (any `SHINGLE` characters of it that the user did not say), markers, control
and reserved tokens. Not covered: a paraphrase of the thinking; an answer withheld after its beginning was shown (the
beginning was clean; the caller says that it is taken back).
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

SHINGLE = 20  # characters; SPEC 3.22: no 20-character piece of the thinking may leave
HOLD = (
    3 * SHINGLE
)  # visible characters held back while streaming: a Hangul syllable may come as three letters

Show = Callable[[str], None]  # takes pieces of the answer as they may be shown


@dataclass(frozen=True, slots=True)
class Limits:
    """Most tokens of thinking and of the answer."""

    think: int
    answer: int


@dataclass(frozen=True, slots=True)
class Spoken:
    """An answer that may be shown, or None with the reason why it is withheld; `cut` when it ran out of tokens."""

    text: str | None
    reason: str
    cut: bool


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
        show: called with pieces of the answer while it is written; together they are its text, or its beginning when
            it is withheld in the end.
    """
    engine = prompter.engine
    silent = {i for i in prompter.controls | reserved if not engine.is_eog(i)}
    begun = prompter.after(prompt, ALLOW_PREFIX)
    thinking = Thinking(_think(prompter, begun, final_cue(fmt), silent, limits.think))
    forced = prompter.after(prompt, ALLOW_PREFIX + _closed(thinking, fmt))
    shown = _Shown(thinking, user, fmt, show)
    text, ended = _text(prompter, forced, silent, limits.answer, shown.feed if show else None)
    answer, closed, _ = text.partition("</final>") if fmt == "quadruple" else (text, "", "")
    return shown.end(_checked(answer.strip(), thinking, user, cut=not (ended or closed)))


class _Shown:
    """What the user has seen of an answer: clean by the same rules as the whole, and its beginning."""

    def __init__(self, thinking: Thinking, user: str, fmt: Format, show: Show | None) -> None:
        self.thinking, self.user, self.show = thinking, user, show
        self.reader, self.text, self.seen, self.open = HoldBack(HOLD), "", "", True
        self.reader.feed(
            ALLOW_PREFIX + final_cue(fmt)
        )  # the marker is ours; what the model wrote before it never gets here

    def feed(self, piece: str) -> None:
        """Take what the model wrote; show what has become free."""
        self.text += piece
        free = self.reader.feed(piece)
        if self.open and free:
            self.open = not copies(self.text, self.thinking, self.user)
            self._tell(free if self.open else "")

    def end(self, spoken: Spoken) -> Spoken:
        """Show the rest of an answer that passed every check; withhold it if it does not go on from what was seen."""
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


def _think(
    prompter: Prompter[Engine], begun: Prompt, marker: str, silent: set[int], limit: int
) -> str:
    text = b""
    for count, token in enumerate(
        prompter.engine.stream(begun.ids, forbid=silent, cuts=begun.cuts), start=1
    ):
        if prompter.engine.is_eog(token) or count > limit:
            break
        text += prompter.engine.detokenize([token])
        if marker.encode() in text:
            break
    return text.decode("utf-8", "ignore").partition(marker)[0]


def _closed(thinking: Thinking, fmt: Format) -> str:
    """The thinking as it stands before the answer in training, with the marker."""
    text = neutralise(thinking.reveal()).strip()
    gap = "\n\n" if text and fmt == "heading" else ""
    return f"{text}{gap}{final_cue(fmt)}"


def _text(
    prompter: Prompter[Engine], forced: Prompt, silent: set[int], limit: int, follow: Show | None
) -> tuple[str, bool]:
    """The generated answer, and whether the model ended it; `follow` hears every piece of it."""
    decoder, text = codecs.getincrementaldecoder("utf-8")("ignore"), ""
    for token in islice(prompter.engine.stream(forced.ids, forbid=silent, cuts=forced.cuts), limit):
        if prompter.engine.is_eog(token):
            return text, True
        text += (piece := decoder.decode(prompter.engine.detokenize([token])))
        if follow and piece:
            follow(piece)
    return text, False


def _checked(answer: str, thinking: Thinking, user: str, *, cut: bool) -> Spoken:
    if not answer:
        return Spoken(None, "the model wrote no answer", cut)
    if has_marker(answer):
        return Spoken(None, "the answer held a marker of the thinking format", cut)
    if copies(answer, thinking, user):
        return Spoken(None, "the answer repeated private thinking", cut)
    return Spoken(answer, "", cut)


def copies(answer: str, thinking: Thinking, user: str) -> bool:
    """Whether the answer holds `SHINGLE` characters of the thinking that the user did not say."""
    own = set(_shingles(user))
    private = {piece for piece in _shingles(thinking.reveal()) if piece not in own}
    return any(piece in private for piece in _shingles(answer))


def _shingles(text: str) -> Iterator[str]:
    visible = "".join(
        c
        for c in unicodedata.normalize("NFKC", text).casefold()
        if not c.isspace() and unicodedata.category(c) != "Cf"
    )
    return (visible[i : i + SHINGLE] for i in range(len(visible) - SHINGLE + 1))
