"""Does an answer repeat private thinking? Decided while the answer is written, in linear time.

Two rules, both on letters as they look (`so8t.markers.bare_letters`), so that spaces, signs and
look-alikes hide nothing. A *copy* is `SHINGLE` letters of the thinking in one piece. Shorter pieces
count together: every `PIECE` letters in a row of the thinking that the answer repeats reveal these
letters, and with `SHINGLE` letters revealed (or all of a shorter thinking) the answer is a copy. A
letter of the thinking is revealed once, however often the answer says it: an answer may use one
word of the thinking many times.

What the user said is no secret, so pieces of the request do not count.

Covered: copies in one piece and in pieces, in any order. Not covered: a paraphrase.
"""

from collections.abc import Iterator

from so8t.chat import Thinking
from so8t.markers import bare_letters

# Letters: so long a piece of the thinking must not be in the answer, nor so much of it in pieces.
SHINGLE = 20

# Letters: shorter pieces are words that any answer has.
PIECE = 6


class CopyWatch:
    """Counts what an answer reveals of the thinking.

    Args:
        thinking: the private text.
        user: the user's own words, which both may repeat.
    """

    def __init__(self, thinking: Thinking, user: str) -> None:
        private = bare_letters(thinking.reveal())
        said = bare_letters(user)
        self._copies = set(_runs(private, SHINGLE)) - set(_runs(said, SHINGLE))
        known = set(_runs(said, PIECE))
        # Where each piece of the thinking stands first.
        self._places: dict[str, int] = {}
        for place, piece in enumerate(_runs(private, PIECE)):
            if piece not in known:
                self._places.setdefault(piece, place)
        # A thinking shorter than a shingle is copied when all of it is.
        self._limit = min(SHINGLE, max(PIECE, len(private)))
        self._revealed: set[int] = set()
        self._newest = ""
        self.copied = False

    @property
    def touched(self) -> bool:
        """Whether any piece of the thinking was repeated so far."""
        return bool(self._revealed) or self.copied

    def feed(self, text: str) -> None:
        """Take the next piece of the answer; how it was cut makes no difference."""
        for letter in bare_letters(text):
            self._newest = (self._newest + letter)[-SHINGLE:]
            if self._newest in self._copies:
                self.copied = True
            place = self._places.get(self._newest[-PIECE:])
            if place is not None:
                self._revealed.update(range(place, place + PIECE))
        if len(self._revealed) >= self._limit:
            self.copied = True


def copies(answer: str, thinking: Thinking, user: str) -> bool:
    """Whether the answer repeats the thinking, in one piece or in several."""
    watch = CopyWatch(thinking, user)
    watch.feed(answer)
    return watch.copied


def _runs(letters: str, length: int) -> Iterator[str]:
    """Every run of `length` letters, in order."""
    for start in range(len(letters) - length + 1):
        yield letters[start : start + length]
