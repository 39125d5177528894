"""Two-phase generation: think in private, then write the answer after a marker that we put there.

Phase 1 goes on after the fed label ALLOW until the model writes the final marker, ends, or has used
its tokens; that text stays in this module. Phase 2 starts from the thinking and *our* marker, so
all it writes is answer. Looking for the marker in one generation instead would show thinking
whenever the model spells the marker wrong.

The answer may be shown while it is written: `HoldBack` keeps back more characters than the shortest
copy has, so that no part of a marker or of a copy is seen. Whatever is shown is the beginning of
what the whole answer will be.

An answer that refuses is withheld too (`so8t.serving.refusal`): the decision was to help.

Covered: copies of the thinking in one piece or in several (`so8t.serving.copied`), markers and
other imitations of the format in any disguise, control and reserved tokens, refusals. Time of our
own is linear in what was written. Not covered: a paraphrase of the thinking; an answer withheld
after its beginning was shown (the beginning was clean; the caller says that it is taken back).
"""

import codecs
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from so8t.chat import ALLOW_PREFIX, Format, Thinking, final_cue, has_marker, neutralise
from so8t.llama import Engine
from so8t.prompts import Prompt, Prompter
from so8t.request import canonical_form, imitates_format
from so8t.serving.copied import SHINGLE, CopyWatch
from so8t.serving.final_only import HoldBack
from so8t.serving.refusal import refuses

# Letters held back while streaming: more than a copy or the opening of a refusal has.
HOLD = 2 * SHINGLE

# Why an answer is withheld that contradicts the decision.
REFUSED = "the answer refuses what the decision allows"

# Takes pieces of the answer as they may be shown.
Show = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Limits:
    """Most tokens of thinking and of the answer."""

    think: int
    answer: int


@dataclass(frozen=True, slots=True)
class Hidden:
    """What an answer must not be.

    Attributes:
        thinking: private.
        user: the user's own words, which the answer may repeat.
        replies: the deployment's texts for ESCALATE and DENY.
    """

    thinking: Thinking
    user: str
    replies: Sequence[str]


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
    replies: Sequence[str] = (),
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
        replies: the deployment's texts for ESCALATE and DENY; an answer like one is a refusal.
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
    hidden = Hidden(thinking, user, replies)
    shown = _Shown(hidden, fmt, show)
    written = _write(engine, forced, silent, limits.answer, shown.feed if show else None)
    answer = written.text
    closed = ""
    if fmt == "quadruple":
        answer, closed, _ = answer.partition("</final>")
    cut = not written.ended and not closed
    return shown.end(_checked(answer.strip(), hidden, cut=cut))


class _Shown:
    """What the user has seen of an answer: clean by the same rules as the whole."""

    def __init__(self, hidden: Hidden, fmt: Format, show: Show | None) -> None:
        self.hidden = hidden
        self.show = show
        # What was shown of the answer, and whether more may be shown.
        self.seen = ""
        self.open = True
        self.copied = CopyWatch(hidden.thinking, hidden.user)
        self.reader = HoldBack(HOLD)
        # The marker is ours; what the model wrote before it never gets here.
        self.reader.feed(ALLOW_PREFIX + final_cue(fmt))
        # What was written before anything was shown, to see whether it opens a refusal.
        self.opening = ""

    def feed(self, piece: str) -> None:
        """Take what the model wrote; show what has become free."""
        # First, for a copy may have begun in what is still held back.
        self.copied.feed(piece)
        free = self.reader.feed(piece)
        if self.open and not self.seen:
            self.opening += piece
        # The first piece of the thinking ends the showing: whether it stays at one is known at the
        # end only.
        if self.copied.touched:
            self.open = False
        if not self.open or not free:
            return
        if not self.seen and refuses(self.opening, self.hidden.replies):
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
    written: list[bytes] = []
    end = marker.encode()
    tail = b""
    tokens = engine.stream(begun.ids, forbid=silent, cuts=begun.cuts)
    for count, token in enumerate(tokens, start=1):
        if engine.is_eog(token) or count > limit:
            break
        piece = engine.detokenize([token])
        written.append(piece)
        # In bytes, because a token may end inside a character; and only the newest of them, because
        # the rest was looked at before.
        tail = (tail + piece)[-len(end) - len(piece) :]
        if end in tail:
            break
    return b"".join(written).decode("utf-8", "ignore").partition(marker)[0]


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


def _checked(answer: str, hidden: Hidden, *, cut: bool) -> Spoken:
    """The answer, if it may be shown."""
    if not answer:
        return Spoken(None, "the model wrote no answer", cut)
    if has_marker(answer) or imitates_format(canonical_form(answer)):
        return Spoken(None, "the answer held a marker of the thinking format", cut)
    copied = CopyWatch(hidden.thinking, hidden.user)
    copied.feed(answer)
    if copied.copied:
        return Spoken(None, "the answer repeated private thinking", cut)
    if refuses(answer, hidden.replies):
        return Spoken(None, REFUSED, cut)
    return Spoken(answer, "", cut)
