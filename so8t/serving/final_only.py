"""Read a turn while it is written, and let out its answer only.

The final section begins where `chat.parse` would find it, and only if everything before it is
well-formed; until then nothing leaves. Inside the answer the newest characters are held back, so
that no part of a marker leaves. Once a marker or a look-alike is in sight nothing more leaves
before the end, where `chat.parse` has the last word. What has left depends on the text alone, never
on how it was cut into chunks.

Covered: both formats, any chunking, every disguise of `so8t.markers`. Time is linear in the length
of the turn: each character is looked at once. Not covered: an answer that breaks off after some of
it has left (`close` says so; what was shown was answer text, and the caller takes it back);
thinking that is repeated without a marker (`so8t.serving.copied`).
"""

import re
from collections import deque

from so8t.chat import FINAL_HEADING, Parsed, parse
from so8t.markers import CLOSE, HEAD, LONGEST, SUSPECT, TAG, bare_text, overrides_direction
from so8t.verdict import Verdict

# Letters that are held back: more than the longest marker shows before it is recognised.
HOLD = 10

# Characters that the final marker may be cut into by chunks.
TAIL = 16

_FINAL = re.compile(rf"(?:\A|\n){FINAL_HEADING.strip()}\r?\n|<final>")

# A marker may begin with brackets and with what shows nothing, so they wait for what comes behind.
_BRACKETS = (TAG, HEAD, CLOSE)


class HoldBack:
    """An incremental `chat.parse`: `feed` gives what may be shown now, `close` the rest.

    Args:
        hold: letters of the answer that wait until more is known; at least `HOLD`.
    """

    def __init__(self, hold: int = HOLD) -> None:
        # The turn in the pieces in which it came: joining them at each one would take a time that
        # grows with the square of its length.
        self._turn: list[str] = []
        # What stands before the answer, from where the final marker may still begin.
        self._tail = ""
        self._cut = False
        # Whether the answer has begun, and whether nothing more may leave before the end.
        self._begun = False
        self._shut = False
        # The newest bare text of the answer, in which a marker is looked for.
        self._window = ""
        # Characters of the answer that are held back, where the newest letters stand among all of
        # them, how many there were, and how many have left the queue.
        self._held: deque[tuple[str, bool]] = deque()
        self._newest: deque[int] = deque(maxlen=max(hold, HOLD))
        self._seen = 0
        self._gone = 0
        # What may leave but waits, for it shows no letter: spaces, signs, brackets.
        self._waiting: list[str] = []
        self._sent: list[str] = []

    def feed(self, chunk: str) -> str:
        """Take a piece of the turn; return the piece of the answer that may be shown now."""
        self._turn.append(chunk)
        if self._shut:
            return ""
        new_answer = chunk if self._begun else self._open(chunk)
        self._watch(new_answer)
        return self._release()

    def close(self) -> tuple[str, Parsed]:
        """The turn is over: the rest of the answer, and the turn as `chat.parse` reads it.

        With any error in it the rest is empty, and what `feed` gave before must be taken back.
        """
        self._shut = True
        parsed = parse("".join(self._turn))
        if parsed.final is None:
            return "", parsed
        sent = "".join(self._sent)
        if not parsed.final.startswith(sent):
            error = "what was shown is not how the answer begins"
            return "", Parsed(None, Verdict.ESCALATE, None, None, (error,))
        return parsed.final[len(sent) :], parsed

    def _open(self, chunk: str) -> str:
        """Look for the final marker; return what stands behind it.

        A turn that is wrong by then is shut for good.
        """
        # White space before the turn does not count as its beginning.
        text = self._tail + chunk if self._tail else chunk.lstrip()
        found = _FINAL.search(text, 1 if self._cut else 0)
        if found is None:
            # The marker may have come half: its beginning is searched again with the next chunk.
            self._cut = self._cut or len(text) > TAIL
            self._tail = text[-TAIL:]
            return ""
        answer = text[found.end() :]
        turn = "".join(self._turn)
        head = turn[: len(turn) - len(answer)]
        # Would the turn be well-formed if the answer were one full stop?
        closing = "</final>" if found[0] == "<final>" else ""
        self._begun = True
        if parse(f"{head}。{closing}").errors:
            self._shut = True
            return ""
        return answer

    def _watch(self, chunk: str) -> None:
        """Take characters of the answer, until a marker is in sight."""
        # Character by character, so that how the text was cut makes no difference.
        for character in chunk:
            bare = bare_text(character)
            shows_letter = bool(bare) and bare not in _BRACKETS
            self._held.append((character, shows_letter))
            self._seen += 1
            if bare:
                self._window = _joined(self._window, bare)
            if overrides_direction(character) or (bare and SUSPECT.search(self._window)):
                self._shut = True
                return
            if shows_letter:
                self._newest.append(self._seen - 1)

    def _release(self) -> str:
        """What became free, without the spaces and signs at its end."""
        if len(self._newest) < (self._newest.maxlen or 0):
            return ""
        piece = ""
        while self._gone < self._newest[0]:
            character, shows_letter = self._held.popleft()
            self._gone += 1
            self._waiting.append(character)
            if shows_letter:
                piece += "".join(self._waiting)
                self._waiting.clear()
        piece = piece.replace("\r\n", "\n")
        # `chat.parse` strips the answer, so its first piece must not begin with a space.
        if not self._sent:
            piece = piece.lstrip()
        if piece:
            self._sent.append(piece)
        return piece


def _joined(window: str, bare: str) -> str:
    """The window with the bare text of one more character; a run of brackets counts as one."""
    if bare in _BRACKETS and window.endswith(_BRACKETS):
        # A closing bracket opens nothing, so it does not take the place of one that does.
        return window if bare == CLOSE else window[:-1] + bare
    return (window + bare)[-LONGEST - len(bare) :]
