"""Is a request like those the certificate was made on? Conformal novelty detection.

A certificate speaks about requests drawn like the calibration rows. Anything else must go to a
person, however sure the verdict is: a classifier is often surest of what it has never seen. Each
*signal* is a number that grows with strangeness. It is compared with the same number of the
calibration rows, one row per group, and gives a p-value

    p = (1 + calibration rows at least as strange) / (1 + calibration rows)

(split conformal: Vovk, Gammerman, Shafer, Algorithmic Learning in a Random World, 2005; Bates et
al., Testing for Outliers with Conformal p-values, Ann. Statist. 2023). A request exchangeable with
the calibration rows of its domain has p <= b with probability at most b. Its domain is unknown when
it arrives, so the largest p over the domains counts, which keeps the promise in the worst domain.
Each of k signals has the share budget / k (Bonferroni).

The index holds hashes of character n-grams and numbers of the calibration rows, and no text. It is
bound by digest to the card; without it nothing is familiar, and the ALLOW gate stays closed.
"""

import base64
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final
from zlib import crc32

import numpy as np
from jaxtyping import UInt32
from numpy import ndarray

from so8t.errors import ArtifactError
from so8t.files import read_json, sha256_json, write_json
from so8t.request import sentences_of
from so8t.rows import OUTSIDE, read_rows

SIGNALS: Final = ("ngrams", "length")
SCHEMA: Final = "so8t.familiarity/1"
# So many different n-grams an alphabet should allow: with fewer nothing is ever unseen, with many
# more every new wording is (measured on the demo, docs/log.md: pairs of characters in Japanese,
# triples where the alphabet has a few dozen letters).
POSSIBLE_NGRAMS: Final = 1e5
# 1.4826 x the median absolute deviation is the standard deviation, were the values normal.
NORMAL: Final = 1.4826
# Lengths that never vary would make one character more infinitely strange.
LEAST_SPREAD: Final = {"characters": 0.1, "sentences": 0.5}
FIX: Final = "run `dvc repro calibrate`"

# Signal -> domain -> the numbers of the calibration rows, sorted.
Numbers = Mapping[str, Mapping[str, Sequence[float]]]


# --- what training rows look like ---


@dataclass(frozen=True, slots=True)
class Usual:
    """Medians and robust standard deviations: of log characters, and of sentences."""

    characters: float
    characters_spread: float
    sentences: float
    sentences_spread: float

    @classmethod
    def of(cls, texts: Sequence[str]) -> "Usual":
        """Of canonical texts; at least one."""
        characters = np.log([len(text) + 1.0 for text in texts])
        sentences = np.array([float(len(sentences_of(text))) for text in texts])
        return cls(
            float(np.median(characters)),
            max(_spread(characters), LEAST_SPREAD["characters"]),
            float(np.median(sentences)),
            max(_spread(sentences), LEAST_SPREAD["sentences"]),
        )


def _spread(values: ndarray) -> float:
    return NORMAL * float(np.median(np.abs(values - np.median(values))))


@dataclass(frozen=True, slots=True)
class Reference:
    """What training rows look like: the n-grams they are made of, and how long they are.

    Attributes:
        ngram_size: characters of an n-gram.
        ngrams: sorted hashes.
        usual: lengths.
    """

    ngram_size: int
    ngrams: UInt32[ndarray, " m"]
    usual: Usual

    @classmethod
    def of(cls, texts: Sequence[str]) -> "Reference":
        """Of canonical texts. Without any, nothing is known and everything is strange."""
        size = ngram_size_for(texts)
        known: set[int] = set()
        for text in texts:
            for sentence in sentences_of(text):
                known.update(_hashes(sentence, size).tolist())
        ngrams = np.sort(np.array(list(known), dtype=np.uint32))
        return cls(size, ngrams, Usual.of(texts or [""]))


def reference_texts(train: Path) -> list[str]:
    """Texts of the training split, without the requests that belong to no domain.

    Those are shown in training so that the verdict heads have seen the unknown. As part of the
    reference they would make it familiar.
    """
    return [row.text for row in read_rows(train) if row.domain != OUTSIDE]


def ngram_size_for(texts: Iterable[str]) -> int:
    """The n for which the texts' alphabet allows about POSSIBLE_NGRAMS n-grams; at least 2."""
    alphabet: set[str] = set()
    for text in texts:
        alphabet.update(_folded(text))
    letters = max(2, len(alphabet))
    return max(2, round(math.log(POSSIBLE_NGRAMS) / math.log(letters)))


def _folded(canonical: str) -> str:
    """Digits alike, because numbers of approvals differ; letters without case."""
    folded = ("0" if character.isdigit() else character.casefold() for character in canonical)
    return "".join(folded)


def _hashes(sentence: str, size: int) -> UInt32[ndarray, " n"]:
    """CRC-32 of every n-gram of a sentence whose two ends are marked."""
    marked = f"\x02{_folded(sentence)}\x03"
    count = max(1, len(marked) - size + 1)
    grams = (marked[start : start + size] for start in range(count))
    return np.fromiter((crc32(gram.encode()) for gram in grams), np.uint32, count)


# --- signals of a text ---


def text_strangeness(canonical: str, reference: Reference) -> dict[str, float]:
    """The number of every signal that needs the text alone."""
    return {
        "ngrams": unseen_share(canonical, reference),
        "length": length_strangeness(canonical, reference.usual),
    }


def unseen_share(canonical: str, reference: Reference) -> float:
    """The share of n-grams that no training row has, in the sentence where it is largest.

    The worst sentence counts: one strange request between ten familiar sentences is still a strange
    request. A text without any sentence is wholly unseen.
    """
    sentences = sentences_of(canonical)
    if not sentences or not len(reference.ngrams):
        return 1.0
    worst = 0.0
    last = len(reference.ngrams) - 1
    for sentence in sentences:
        found = _hashes(sentence, reference.ngram_size)
        # The reference is sorted, so each is looked up by bisection.
        places = np.minimum(np.searchsorted(reference.ngrams, found), last)
        known = reference.ngrams[places] == found
        worst = max(worst, 1.0 - float(known.mean()))
    return worst


def length_strangeness(canonical: str, usual: Usual) -> float:
    """Robust standard deviations of characters or sentences from the usual; the larger."""
    characters = math.log(len(canonical) + 1.0) - usual.characters
    sentences = len(sentences_of(canonical)) - usual.sentences
    return max(
        abs(characters) / usual.characters_spread,
        abs(sentences) / usual.sentences_spread,
    )


# --- p-values ---


@dataclass(frozen=True, slots=True)
class Familiarity:
    """How familiar one request is.

    Attributes:
        p_value: of all signals together, multiplied by their number; at most 1.
        by_signal: p-value of each signal alone.
        unfamiliar: the signals that object; none for a familiar request.
    """

    p_value: float
    by_signal: Mapping[str, float] = field(default_factory=dict)
    unfamiliar: tuple[str, ...] = ()

    @property
    def is_familiar(self) -> bool:
        """Whether no signal objects."""
        return not self.unfamiliar


# Of a request that was compared with nothing.
UNKNOWN: Final = Familiarity(0.0, {}, ("no familiarity index",))


@dataclass(frozen=True, slots=True)
class Index:
    """What familiarity is judged by.

    Attributes:
        budget: share of requests like the calibration rows that may be called unfamiliar.
        signals: those in use.
        reference: what training rows look like.
        calibration: what the calibration rows' numbers are.
    """

    budget: float
    signals: tuple[str, ...]
    reference: Reference
    calibration: Numbers

    @property
    def digest(self) -> str:
        """SHA-256 of the content, which the card names."""
        return sha256_json(to_json(self))

    @property
    def share(self) -> float:
        """The part of the budget that each signal may spend."""
        return self.budget / max(1, len(self.signals))

    @property
    def keeps_budget(self) -> bool:
        """Whether there are calibration rows enough, in every domain, to keep the budget."""
        return all(
            smallest_p(self.calibration.get(signal, {})) <= self.share for signal in self.signals
        )


def p_value(value: float, calibration: Mapping[str, Sequence[float]]) -> float:
    """The largest conformal p-value over the domains; 0 where nothing can be compared."""
    if math.isnan(value):
        return 0.0
    largest = 0.0
    for numbers in calibration.values():
        at_least = len(numbers) - int(np.searchsorted(numbers, value, side="left"))
        largest = max(largest, (1 + at_least) / (1 + len(numbers)))
    return largest


def smallest_p(calibration: Mapping[str, Sequence[float]]) -> float:
    """The p-value of what is stranger than every calibration row; with few rows it is large."""
    return max((1 / (1 + len(numbers)) for numbers in calibration.values()), default=0.0)


def judge(strangeness: Mapping[str, float], index: Index) -> Familiarity:
    """p-values of a request's signals, and which of them object.

    A signal objects at its share of the budget. Where the calibration rows are too few to reach
    that share, it objects to what is stranger than every one of them: the budget is then exceeded
    (`Index.keeps_budget` says so), but nothing gets past.
    """
    by_signal = {}
    unfamiliar = []
    for signal in index.signals:
        calibration = index.calibration.get(signal, {})
        p = p_value(strangeness.get(signal, math.nan), calibration)
        by_signal[signal] = p
        if p <= max(index.share, smallest_p(calibration)):
            unfamiliar.append(signal)
    together = min((len(by_signal) * p for p in by_signal.values()), default=1.0)
    return Familiarity(min(1.0, together), by_signal, tuple(unfamiliar))


def limits_of(index: Index) -> dict[str, float]:
    """The largest number of each signal that is still familiar; -1 where none is.

    A request is familiar by `judge` exactly if every number is at most its limit, so a card that
    holds the limits decides without the index.
    """
    limits = {}
    for signal in index.signals:
        calibration = index.calibration.get(signal, {})
        bound = max(index.share, smallest_p(calibration))
        observed = {number for numbers in calibration.values() for number in numbers}
        limits[signal] = -1.0
        # p falls as the number grows, so the first that is familiar from above is the largest.
        for number in sorted(observed, reverse=True):
            if p_value(number, calibration) > bound:
                limits[signal] = number
                break
    return limits


def familiarity_of(canonical: str, index: Index | None) -> Familiarity:
    """Judge a text; without an index nothing is familiar."""
    if index is None:
        return UNKNOWN
    return judge(text_strangeness(canonical, index.reference), index)


# --- making, writing, reading ---


@dataclass(frozen=True, slots=True)
class Example:
    """A calibration row as the index needs it."""

    id: str
    group: str
    domain: str
    strangeness: Mapping[str, float]


def make_index(
    reference: Reference, examples: Iterable[Example], signals: Sequence[str], budget: float
) -> Index:
    """Make the index from the reference and the calibration rows, which it must not hold.

    One row per group counts, the first by a hash of its id: a template with many rows is one
    observation.
    """
    numbers: dict[str, dict[str, list[float]]] = {signal: defaultdict(list) for signal in signals}
    for example in _one_per_group(examples):
        for signal in signals:
            numbers[signal][example.domain].append(example.strangeness[signal])
    ordered = {}
    for signal, by_domain in numbers.items():
        ordered[signal] = {domain: sorted(by_domain[domain]) for domain in sorted(by_domain)}
    return Index(budget, tuple(signals), reference, ordered)


def _one_per_group(examples: Iterable[Example]) -> Iterator[Example]:
    chosen: dict[str, Example] = {}
    for example in sorted(examples, key=lambda one: crc32(one.id.encode())):
        chosen.setdefault(example.group, example)
    yield from chosen.values()


def to_json(index: Index) -> dict[str, Any]:
    """The index file's content."""
    packed = base64.b64encode(index.reference.ngrams.astype("<u4").tobytes()).decode()
    return {
        "schema": SCHEMA,
        "budget": index.budget,
        "signals": list(index.signals),
        "ngram_size": index.reference.ngram_size,
        "ngrams": packed,
        "usual": asdict(index.reference.usual),
        "calibration": {name: dict(numbers) for name, numbers in index.calibration.items()},
    }


def write_index(path: Path, index: Index) -> None:
    """Write the index file, whole or not at all."""
    write_json(path, to_json(index))


def read_index(path: Path) -> Index:
    """Read an index file.

    Raises:
        ArtifactError: missing, of another schema, or damaged.
    """
    found = read_json(path, fix=FIX)
    if not isinstance(found, dict) or found.get("schema") != SCHEMA:
        raise ArtifactError(f"not a familiarity index of {SCHEMA}", where=str(path), fix=FIX)
    try:
        ngrams = np.frombuffer(base64.b64decode(found["ngrams"], validate=True), dtype="<u4")
        reference = Reference(int(found["ngram_size"]), ngrams, Usual(**found["usual"]))
        return Index(
            budget=float(found["budget"]),
            signals=tuple(found["signals"]),
            reference=reference,
            calibration=found["calibration"],
        )
    except (KeyError, TypeError, ValueError) as error:
        what = f"a damaged familiarity index ({type(error).__name__})"
        raise ArtifactError(what, where=str(path), fix=FIX) from None
