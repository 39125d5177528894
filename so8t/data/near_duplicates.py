"""Near-duplicates: MinHash finds candidates, the exact Jaccard similarity decides.

A text is compared as the set of its character 5-grams after normalisation. MinHash (Broder, 1997)
gives it a signature of 120 numbers; the share of equal numbers estimates the Jaccard similarity of
two sets (shared over all). Locality-sensitive hashing puts texts into one bucket for each of 20
bands of 6 numbers: two texts of similarity s share no band with probability (1 - s^6)^20, which is
0.2 % at 0.8.

Band keys and signature bytes live in flat arrays, so that memory per row is a few hundred bytes;
the texts themselves are asked back from whoever holds them.
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
BANDS = 20
WIDTH = 6  # numbers of the signature in one band
PERMUTATIONS = BANDS * WIDTH
FIRST_SIZE = 1024  # of the arrays that are doubled when full; a power of two
NO_ENTRY = array("i", [-1])  # of `Buckets`, ends a chain
CACHED = 4_000  # shingle sets kept for comparison: about 25 MB


def normalise(text: str) -> str:
    """NFKC, case-folded, without spaces: how texts are compared."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return "".join(folded.split())


def shingles(text: str) -> frozenset[int]:
    """Hashes of the character 5-grams of the normalised text (the whole text if shorter)."""
    plain = normalise(text)
    number = max(1, len(plain) - SHINGLE + 1)
    hashes = set()
    for start in range(number):
        shingle = plain[start : start + SHINGLE]
        # CRC-32 and not `hash`, which differs between processes.
        hashes.add(zlib.crc32(shingle.encode()))
    return frozenset(hashes)


def jaccard(a: frozenset[int], b: frozenset[int]) -> float:
    """Shared over all; 1 for two empty sets."""
    union = a | b
    if not union:
        return 1.0
    return len(a & b) / len(union)


class Buckets:
    """A multimap from 32-bit keys to numbers: a hash table with chaining, in flat arrays.

    A dict of lists would take about 200 bytes an entry instead of 20. Entry i has `keys[i]` and
    `numbers[i]`; `heads` holds the newest entry of each slot, `links` the next older one of the
    same slot, and -1 ends a chain.
    """

    def __init__(self) -> None:
        self.heads = NO_ENTRY * FIRST_SIZE
        self.keys = array("I")
        self.numbers = array("i")
        self.links = array("i")

    def add(self, key: int, number: int) -> None:
        """Put a number under a key."""
        if len(self.keys) >= len(self.heads):
            self._grow()
        slot = self._slot(key)
        self.links.append(self.heads[slot])
        self.heads[slot] = len(self.keys)
        self.keys.append(key)
        self.numbers.append(number)

    def get(self, key: int) -> Iterator[int]:
        """Every number under a key."""
        entry = self.heads[self._slot(key)]
        while entry >= 0:
            if self.keys[entry] == key:
                yield self.numbers[entry]
            entry = self.links[entry]

    def _slot(self, key: int) -> int:
        # The number of slots is a power of two, so this is the key modulo it.
        return key & (len(self.heads) - 1)

    def _grow(self) -> None:
        size = 2 * len(self.heads)
        self.heads = NO_ENTRY * size
        for entry, key in enumerate(self.keys):
            slot = self._slot(key)
            self.links[entry] = self.heads[slot]
            self.heads[slot] = entry


class Sketch(NamedTuple):
    """One text as it is compared."""

    grams: frozenset[int]  # hashes of its shingles
    keys: list[int]  # one for each band
    low: UInt8[ndarray, " permutations"]  # the low byte of every signature value


class NearIndex:
    """Rows seen so far, numbered from 0; `similar` finds those at least `threshold` alike.

    Candidates share a band. The low bytes of the signatures estimate their similarity (standard
    error 0.04 at 0.8), and only those within four standard errors of the threshold are compared
    exactly.

    Args:
        threshold: Jaccard similarity from which two texts are near-duplicates.
        text_of: gives the text of a row back by its number.
        bands: of the signature, a divisor of `PERMUTATIONS`; a lower threshold needs more.
    """

    def __init__(
        self, threshold: float, text_of: Callable[[int], str], *, bands: int = BANDS
    ) -> None:
        from datasketch import MinHash

        # The shingles are hashes already, so they are taken as they are. Copying one MinHash is
        # far cheaper than drawing its permutations again.
        self._empty = MinHash(num_perm=PERMUTATIONS, seed=1, hashfunc=int)
        self.threshold = threshold
        self.bands = bands
        variance = threshold * (1.0 - threshold) / PERMUTATIONS
        standard_error = math.sqrt(variance)
        self.least = threshold - 4.0 * standard_error
        self.grams_of = lru_cache(maxsize=CACHED)(lambda number: shingles(text_of(number)))
        self.buckets = Buckets()
        self.count = 0
        self.low = np.empty((FIRST_SIZE, PERMUTATIONS), dtype=np.uint8)

    def sketch(self, text: str) -> Sketch:
        """What is needed of a text, computed once: for `similar`, and for `add` if it is kept."""
        grams = shingles(text)
        minhash = self._empty.copy()
        minhash.update_batch(sorted(grams))
        values: ndarray = np.ascontiguousarray(minhash.hashvalues, dtype=np.uint64)
        bands = values.reshape(self.bands, PERMUTATIONS // self.bands)
        # The band's number starts the checksum, so that equal numbers in two bands do not collide.
        keys = []
        for number, band in enumerate(bands):
            keys.append(zlib.crc32(band.tobytes(), number))
        return Sketch(
            grams=grams,
            keys=keys,
            low=values.astype(np.uint8),
        )

    def similar(self, sketch: Sketch) -> list[int]:
        """Numbers of earlier rows that are near-duplicates, in order."""
        found: set[int] = set()
        for key in sketch.keys:
            found.update(self.buckets.get(key))
        if not found:
            return []
        candidates = sorted(found)
        agreement = self.low[candidates] == sketch.low
        estimates = agreement.mean(axis=1)
        similar = []
        for number, estimate in zip(candidates, estimates, strict=True):
            # The estimate spares most exact comparisons, which need the other text from disk.
            if estimate < self.least:
                continue
            grams = self.grams_of(number)
            if jaccard(sketch.grams, grams) >= self.threshold:
                similar.append(number)
        return similar

    def add(self, sketch: Sketch) -> None:
        """Remember a row under the next number."""
        if self.count == len(self.low):
            more = np.empty_like(self.low)
            self.low = np.concatenate([self.low, more])
        self.low[self.count] = sketch.low
        for key in sketch.keys:
            self.buckets.add(key, self.count)
        self.count += 1
