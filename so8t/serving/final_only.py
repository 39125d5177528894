"""Read a turn while it is written, and let out its answer only.

The final section begins where `chat.parse` would find it, and only if everything before it is
well-formed; until then nothing leaves. Inside the answer the newest characters are held back, so
that no part of a marker leaves. Once a marker or a look-alike is in sight nothing more leaves
before the end, where `chat.parse` has the last word. What has left depends on the text alone, never
on how it was cut into chunks.

Covered: both formats, any chunking, look-alikes (full-width, other case, combining and hidden
characters). Not covered: an answer that breaks off after some of it has left (`close` says so; what
was shown was answer text, and the caller takes it back); thinking that is repeated in other words
(`so8t.serving.two_phase`).
"""

import re
import unicodedata
from collections import deque
from functools import lru_cache

from so8t.chat import FINAL_HEADING, Parsed, parse
from so8t.verdict import Verdict

# Visible characters that are held back: as many as the longest marker has.
HOLD = 8

# Visible characters in which a marker is looked for: two of the longest ones.
WINDOW = 16

_FINAL = re.compile(rf"(?:\A|\n){FINAL_HEADING.strip()}\r?\n|<final>")

# As `_visible` spells the markers: without spaces, and with ステップ losing its small circle.
_MARK = re.compile("</?(?:think|final)|思考ステッフ|最終回答|#判定")

# White space, hidden characters (both invisible, so empty) and heading signs. A marker may begin
# with them, so they wait for what comes behind them.
_MAY_BEGIN_A_MARKER = ("", "#", ">", "*", "-")


@lru_cache(maxsize=4096)
def _visible(character: str) -> str:
    """A character as markers are compared.

    That is its compatibility form, without case and without marks; empty for hidden characters and
    spaces. Unlike NFKC it works character by character, so the end of a chunk cannot hide anything.
    """
    decomposed = unicodedata.normalize("NFKD", character)
    # Folding the case can bring back characters that decompose further.
    folded = unicodedata.normalize("NFKD", decomposed.casefold())
    kept = ""
    for part in folded:
        # Mn: marks above and below a letter. Cf: zero-width spaces and their like.
        hidden = unicodedata.category(part) in ("Mn", "Cf")
        if not hidden and not part.isspace():
            kept += part
    return kept


class HoldBack:
    """An incremental `chat.parse`: `feed` gives what may be shown now, `close` the rest.

    Args:
        hold: visible characters of the answer that wait until more is known; at least `HOLD`.
    """

    def __init__(self, hold: int = HOLD) -> None:
        # The turn as it came, and how much of it was searched for the final marker.
        self._turn = ""
        self._searched = 0
        # Whether the answer has begun, and whether nothing more may leave before the end.
        self._begun = False
        self._shut = False
        # The part behind the final marker, and its newest characters as `_visible` spells them.
        self._answer = ""
        self._window = ""
        # Where the newest visible characters of the answer stand.
        self._newest: deque[int] = deque(maxlen=max(hold, HOLD))
        # How much of the answer may leave, how much was looked at for leaving, and what has left.
        self._free = 0
        self._shown = 0
        self._sent = ""

    def feed(self, chunk: str) -> str:
        """Take a piece of the turn; return the piece of the answer that may be shown now."""
        self._turn += chunk
        if self._shut:
            return ""
        new_answer = chunk if self._begun else self._open()
        self._watch(new_answer)
        return self._release()

    def close(self) -> tuple[str, Parsed]:
        """The turn is over: the rest of the answer, and the turn as `chat.parse` reads it.

        With any error in it the rest is empty, and what `feed` gave before must be taken back.
        """
        self._shut = True
        parsed = parse(self._turn)
        if parsed.final is None:
            return "", parsed
        if not parsed.final.startswith(self._sent):
            error = "what was shown is not how the answer begins"
            return "", Parsed(None, Verdict.ESCALATE, None, None, (error,))
        return parsed.final[len(self._sent) :], parsed

    def _open(self) -> str:
        """Look for the final marker; return what stands behind it.

        A turn that is wrong by then is shut for good.
        """
        text = self._turn.lstrip()
        found = _FINAL.search(text, self._searched)
        if found is None:
            # The marker may have come half: its beginning is searched again with the next chunk.
            self._searched = max(0, len(text) - WINDOW)
            return ""
        head = text[: found.end()]
        # Would the turn be well-formed if the answer were one full stop?
        closing = "</final>" if found[0] == "<final>" else ""
        trial = parse(f"{head}。{closing}")
        self._begun = True
        if trial.errors:
            self._shut = True
            return ""
        return text[found.end() :]

    def _watch(self, chunk: str) -> None:
        """Move the border of what may leave, until a marker is in sight."""
        begin = len(self._answer)
        self._answer += chunk
        # Character by character, so that how the text was cut makes no difference.
        for place, character in enumerate(chunk, start=begin):
            visible = _visible(character)
            if not visible:
                continue
            # One character can become several (ﬁ: fi), all of which must be in the window.
            self._window = (self._window + visible)[-WINDOW - len(visible) :]
            if _MARK.search(self._window):
                self._shut = True
                return
            self._newest.append(place)
            if len(self._newest) == self._newest.maxlen:
                self._free = self._newest[0]

    def _release(self) -> str:
        """What became free, without the white space and heading signs at its end."""
        end = self._free
        while end > self._shown and _visible(self._answer[end - 1]) in _MAY_BEGIN_A_MARKER:
            end -= 1
        piece = self._answer[self._shown : end].replace("\r\n", "\n")
        self._shown = end
        # `chat.parse` strips the answer, so its first piece must not begin with a space.
        if not self._sent:
            piece = piece.lstrip()
        self._sent += piece
        return piece
