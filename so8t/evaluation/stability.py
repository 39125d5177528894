"""Long-form stability: does a long answer fall into a loop?

Covered: exact tail periods (Z-function on the reversed text), n-gram repetition of characters and tokens, compression,
and flags made of them (limits from research/calibration.md 5.4). Not covered: meaning; a text that rambles without
repeating itself passes. Word uniqueness, the founding measure, is useless here: Japanese has no spaces.
"""

import unicodedata
import zlib
from collections.abc import Hashable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

LOOP_CHARS = 60  # a tail this long made of one repeated phrase is a loop
MIN_REPEATS = 3
MAX_PERIOD = 400
LONG_TEXT = 200  # repetition of shorter texts says nothing
REPETITION = 0.5


@dataclass(frozen=True, slots=True)
class Stability:
    """What one text shows; shares are between 0 and 1, lengths in characters after NFKC."""

    characters: int
    tokens: int
    rep4: float
    rep10: float
    token_rep4: float
    compression: float
    period: int
    loop_characters: int
    loop: bool
    repetitive: bool
    hit_limit: bool

    @property
    def unstable(self) -> bool:
        """Whether any flag but the length limit is up."""
        return self.loop or self.repetitive


def repetition(items: Sequence[Hashable], n: int) -> float:
    """Share of n-grams that occurred before; 0 for texts shorter than n."""
    grams = [tuple(items[i : i + n]) for i in range(len(items) - n + 1)]
    return 1.0 - len(set(grams)) / len(grams) if grams else 0.0


def _z_values(text: str) -> list[int]:
    """Length of the longest common prefix of `text` and each of its suffixes (0 at index 0)."""
    z = [0] * len(text)
    left = right = 0
    for i in range(1, len(text)):
        if i < right:
            z[i] = min(right - i, z[i - left])
        while i + z[i] < len(text) and text[z[i]] == text[i + z[i]]:
            z[i] += 1
        if i + z[i] > right:
            left, right = i, i + z[i]
    return z


def tail_period(text: str) -> tuple[int, int]:
    """Smallest period with the longest periodic tail: (period, characters covered), (0, 0) when nothing repeats."""
    z = _z_values(text[::-1])
    best = (0, 0)
    for period in range(1, min(len(text) // 2, MAX_PERIOD) + 1):
        covered = z[period] + period
        if covered >= MIN_REPEATS * period and covered > best[1]:
            best = (period, covered)
    return best


def check(text: str, tokens: Sequence[int], *, limit: int) -> Stability:
    """Measure one generated text; `limit` is the number of tokens at which generation was cut."""
    folded = unicodedata.normalize("NFKC", text)
    data = folded.encode()
    period, covered = tail_period(folded)
    rep4, rep10 = repetition(folded, 4), repetition(folded, 10)
    return Stability(
        characters=len(folded), tokens=len(tokens), rep4=rep4, rep10=rep10, token_rep4=repetition(tokens, 4),
        compression=len(zlib.compress(data, 9)) / len(data) if data else 1.0, period=period, loop_characters=covered,
        loop=covered >= LOOP_CHARS, repetitive=len(folded) >= LONG_TEXT and max(rep4, rep10) > REPETITION,
        hit_limit=len(tokens) >= limit)


def summarise(checks: Sequence[Stability]) -> dict[str, Any]:
    """Counts of flags and one record per text, ready for a metrics file."""
    count = len(checks)
    return {
        "status": "run",
        "n": count,
        "tokens": sum(c.tokens for c in checks),
        "loops": sum(c.loop for c in checks),
        "repetitive": sum(c.repetitive for c in checks),
        "unstable": sum(c.unstable for c in checks),
        "hit_limit": sum(c.hit_limit for c in checks),
        "texts": [{k: round(v, 4) if isinstance(v, float) else v for k, v in asdict(c).items()} for c in checks],
    }
