"""Near-duplicates: MinHash over NFKC character 5-grams finds candidates, the exact Jaccard similarity decides.

Band keys and signature bytes live in flat arrays, so that memory per row is a few hundred bytes; the texts
themselves are asked back from whoever holds them. The chance to miss a pair at similarity 0.8 is 0.2 %.
"""

import math
import unicodedata
import zlib
from array import array
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from numpy import ndarray

SHINGLE = 5  # characters
BANDS, WIDTH = 20, 6
CACHED = 4_000  # shingle sets kept for comparison: about 25 MB


def normalise(text: str) -> str:
    """NFKC, case-folded, without spaces: how texts are compared."""
    return "".join(unicodedata.normalize("NFKC", text).casefold().split())


def shingles(text: str) -> frozenset[int]:
    """Hashes of the character 5-grams of the normalised text (the whole text if shorter)."""
    plain = normalise(text)
    return frozenset(
        zlib.crc32(plain[i : i + SHINGLE].encode()) for i in range(max(1, len(plain) - SHINGLE + 1))
    )


def jaccard(a: frozenset[int], b: frozenset[int]) -> float:
    """Shared over all; 1 for two empty sets."""
    return len(a & b) / len(a | b) if a or b else 1.0


class Buckets:
    """A multimap from 32-bit keys to numbers in flat arrays: chained, doubled when full."""

    def __init__(self) -> None:
        self.heads, self.keys, self.numbers, self.links = (
            array("i", [-1]) * 1024,
            array("I"),
            array("i"),
            array("i"),
        )

    def add(self, key: int, number: int) -> None:
        """Put a number under a key."""
        if len(self.keys) >= len(self.heads):
            self._grow()
        slot = key & (len(self.heads) - 1)
        self.links.append(self.heads[slot])
        self.heads[slot] = len(self.keys)
        self.keys.append(key)
        self.numbers.append(number)

    def get(self, key: int) -> Iterator[int]:
        """Every number under a key."""
        entry = self.heads[key & (len(self.heads) - 1)]
        while entry >= 0:
            if self.keys[entry] == key:
                yield self.numbers[entry]
            entry = self.links[entry]

    def _grow(self) -> None:
        self.heads = array("i", [-1]) * (2 * len(self.heads))
        mask = len(self.heads) - 1
        for entry, key in enumerate(self.keys):
            self.links[entry], self.heads[key & mask] = self.heads[key & mask], entry


class Sketch(NamedTuple):
    """One text as it is compared: its shingles, a key for each band, and the low byte of every signature value."""

    grams: frozenset[int]
    keys: list[int]
    low: UInt8[ndarray, " permutations"]


class NearIndex:
    """Rows seen so far, numbered from 0; `similar` finds those at least `threshold` alike.

    Candidates share a band; the low bytes of the signatures estimate their similarity (standard error 0.04 at 0.8), and
    only those within four standard errors of the threshold are compared exactly.
    """

    def __init__(self, threshold: float, text_of: Callable[[int], str]) -> None:
        from datasketch import MinHash

        self._like = MinHash(num_perm=BANDS * WIDTH, seed=1, hashfunc=int)
        self.threshold, self.least = (
            threshold,
            threshold - 4.0 * math.sqrt(threshold * (1.0 - threshold) / (BANDS * WIDTH)),
        )
        self.grams_of = lru_cache(maxsize=CACHED)(lambda number: shingles(text_of(number)))
        self.buckets, self.count = Buckets(), 0
        self.low = np.empty((1024, BANDS * WIDTH), dtype=np.uint8)

    def sketch(self, text: str) -> Sketch:
        """What is needed of a text, computed once."""
        grams, minhash = shingles(text), self._like.copy()
        minhash.update_batch(sorted(grams))
        values: ndarray = np.ascontiguousarray(minhash.hashvalues, dtype=np.uint64)
        bands = values.reshape(BANDS, WIDTH)
        return Sketch(
            grams,
            [zlib.crc32(bands[band].tobytes(), band) for band in range(BANDS)],
            values.astype(np.uint8),
        )

    def similar(self, sketch: Sketch) -> list[int]:
        """Numbers of earlier rows that are near-duplicates, in order."""
        candidates = sorted({number for key in sketch.keys for number in self.buckets.get(key)})
        if not candidates:
            return []
        likely = (self.low[candidates] == sketch.low).mean(axis=1) >= self.least
        return [
            n
            for n, hit in zip(candidates, likely, strict=True)
            if hit and jaccard(sketch.grams, self.grams_of(n)) >= self.threshold
        ]

    def add(self, sketch: Sketch) -> None:
        """Remember a row under the next number."""
        if self.count == len(self.low):
            self.low = np.concatenate([self.low, np.empty_like(self.low)])
        self.low[self.count] = sketch.low
        for key in sketch.keys:
            self.buckets.add(key, self.count)
        self.count += 1
