"""Our own time per token of a streamed answer: hold-back, copies, refusals; no model involved.

Usage: python -m bench.final_only

Prints one JSON line per length. Time per token must not grow with the length.
"""

import json
import random
import time

from so8t.chat import ALLOW_PREFIX, Thinking, final_cue
from so8t.serving.copied import CopyWatch
from so8t.serving.final_only import HoldBack
from so8t.serving.two_phase import HOLD, Hidden, _checked, _Shown

TOKENS = (500, 1_000, 2_000, 4_000)
# Japanese letters of a token, in real tokenizers about this many.
LETTERS = 2
REPEATS = 5
ALPHABET = "".join(chr(code) for code in range(0x4E00, 0x4F00)) + "、。はがのをに"


def text_of(letters: int, seed: int) -> str:
    """A text without a marker and without a piece of another seed's text."""
    generator = random.Random(seed)
    return "".join(generator.choice(ALPHABET) for _ in range(letters))


def seconds(tokens: int) -> dict[str, float]:
    """The best of some runs, by part: the reader alone, the copies alone, all that `speak` does."""
    answer = text_of(tokens * LETTERS, 1)
    pieces = [answer[i : i + LETTERS] for i in range(0, len(answer), LETTERS)]
    hidden = Hidden(Thinking(text_of(2_000, 2)), text_of(200, 3), ("お断りします。",))
    found: dict[str, float] = {}
    for _ in range(REPEATS):
        started = time.perf_counter()
        reader = HoldBack(HOLD)
        reader.feed(ALLOW_PREFIX + final_cue("heading"))
        for piece in pieces:
            reader.feed(piece)
        reader.close()
        read = time.perf_counter()
        watch = CopyWatch(hidden.thinking, hidden.user)
        for piece in pieces:
            watch.feed(piece)
        compared = time.perf_counter()
        shown = _Shown(hidden, "heading", lambda _: None)
        for piece in pieces:
            shown.feed(piece)
        shown.end(_checked(answer, hidden, cut=False))
        ended = time.perf_counter()
        parts = {"reader": read - started, "copies": compared - read, "all": ended - compared}
        found = {name: min(found.get(name, spent), spent) for name, spent in parts.items()}
    return found


def main() -> None:
    # Once before, for the table of characters is made when they are first seen.
    seconds(TOKENS[0])
    for tokens in TOKENS:
        found = seconds(tokens)
        line = {"tokens": tokens, "seconds": round(found["all"], 4)}
        line |= {f"{name}_us_per_token": round(1e6 * s / tokens, 1) for name, s in found.items()}
        print(json.dumps(line))


if __name__ == "__main__":
    main()
