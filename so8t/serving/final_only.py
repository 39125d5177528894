"""Read a turn while it is being written, and let out its answer only: nothing before the final marker, nothing doubtful.

The final section begins where `chat.parse` would find it, and only if everything before it is well-formed; until then
nothing leaves. Inside the answer the newest characters are held back, so that no part of a marker leaves; once a marker
or a look-alike is in sight nothing more leaves before the end, where `chat.parse` has the last word. What has left
depends on the text alone, never on how it was cut into chunks.

Covered: both formats, any chunking, look-alikes (full-width, other case, combining and hidden characters).
Not covered: an answer that breaks off after some of it has left (`close` says so; what was shown was answer text, and
the caller takes it back); thinking that is repeated in other words (`so8t.serving.two_phase`).
"""

import re
import unicodedata
from collections import deque
from functools import lru_cache

from so8t.chat import FINAL_HEADING, Parsed, parse
from so8t.verdict import Verdict

HOLD = 8  # visible characters held back: as many as the longest marker has
WINDOW = 16  # visible characters in which a marker is looked for
_FINAL = re.compile(rf"(?:\A|\n){FINAL_HEADING.strip()}\r?\n|<final>")
_MARK = re.compile("</?(?:think|final)|思考ステッフ|最終回答|#判定")  # as `_visible` spells them
_NOT_SOLID = (
    "",
    "#",
    ">",
    "*",
    "-",
)  # white space, hidden characters and heading signs: a marker may begin with them


@lru_cache(maxsize=4096)
def _visible(character: str) -> str:
    """A character as markers are compared: compatibility form, no case, without marks, hidden characters and spaces.

    Unlike NFKC it works character by character, so a chunk's end cannot hide anything.
    """
    folded = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", character).casefold())
    return "".join(
        c for c in folded if not c.isspace() and unicodedata.category(c) not in ("Mn", "Cf")
    )


class HoldBack:
    """An incremental `chat.parse`: `feed` gives what may be shown now, `close` the rest and the verdict on the whole.

    Args:
        hold: visible characters of the answer that wait until more is known; at least `HOLD`.
    """

    def __init__(self, hold: int = HOLD) -> None:
        self._turn = ""  # as it came
        self._searched = 0
        self._begun = self._shut = False
        self._answer = ""  # the part behind the final marker
        self._window = ""
        self._newest: deque[int] = deque(
            maxlen=max(hold, HOLD)
        )  # where the newest visible characters of the answer stand
        self._free = self._shown = 0  # how much of the answer may leave, and has left
        self._sent = ""

    def feed(self, chunk: str) -> str:
        """Take a piece of the turn; return the piece of the answer that may be shown now, often empty."""
        self._turn += chunk
        if self._shut:
            return ""
        self._watch(chunk if self._begun else self._open())
        return self._release()

    def close(self) -> tuple[str, Parsed]:
        """The turn is over: the rest of the answer, and the turn as `chat.parse` reads it.

        With any error in it the rest is empty, and what `feed` gave before must be taken back.
        """
        parsed, self._shut = parse(self._turn), True
        if parsed.final is None:
            return "", parsed
        if not parsed.final.startswith(self._sent):
            return "", Parsed(
                None, Verdict.ESCALATE, None, None, ("what was shown is not how the answer begins",)
            )
        return parsed.final[len(self._sent) :], parsed

    def _open(self) -> str:
        """Look for the final marker; return what stands behind it. A turn that is wrong by then is shut for good."""
        text = self._turn.lstrip()
        found = _FINAL.search(text, self._searched)
        if found is None:
            self._searched = max(0, len(text) - WINDOW)
            return ""
        head = text[: found.end()]
        probe = parse(f"{head}。</final>" if found[0] == "<final>" else f"{head}。")
        self._begun, self._shut = True, bool(probe.errors)
        return "" if self._shut else text[found.end() :]

    def _watch(self, chunk: str) -> None:
        """Move the border of what may leave, character by character, until a marker is in sight."""
        begins = len(self._answer)
        self._answer += chunk
        for place, character in enumerate(chunk, start=begins):
            if not (visible := _visible(character)):
                continue
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
        while end > self._shown and _visible(self._answer[end - 1]) in _NOT_SOLID:
            end -= 1
        piece = self._answer[self._shown : end].replace("\r\n", "\n")
        self._shown = end
        piece = piece if self._sent else piece.lstrip()
        self._sent += piece
        return piece
