"""Is a request like those the certificate was made on? Conformal novelty detection over a few signals.

A certificate speaks about requests drawn like the calibration rows. Anything else must go to a person, however sure the
verdict is, because a classifier is often surest of what it has never seen. Each signal below is a number that grows with
strangeness. It is compared with the same number of the calibration rows, one row per group, and gives a p-value

    p = (1 + number of calibration rows at least as strange) / (1 + number of calibration rows)

(split conformal; Vovk, Gammerman, Shafer, Algorithmic Learning in a Random World, 2005; Bates et al., Testing for
Outliers with Conformal p-values, Ann. Statist. 2023). A request that is exchangeable with the calibration rows of its
domain has p <= b with probability at most b. Its domain is unknown when it arrives, so the largest p over the domains
counts, which keeps the promise in the worst domain. With k signals each has the share budget / k (Bonferroni).

The index holds hashes of character n-grams and the calibration rows' numbers, no text. It is bound by digest to the file
and the card it was made for; without it nothing is familiar, and the ALLOW gate stays closed.

Covered: signals of the text, p-values, the index file. Not covered: the likelihood under the model (scoring reads it).
"""

import base64
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal
from zlib import crc32

import numpy as np
from jaxtyping import UInt32
from numpy import ndarray

from so8t.errors import ArtifactError
from so8t.files import read_json, sha256_json, write_json
from so8t.request import Request, sentences_of

Signal = Literal["ngrams", "length", "likelihood"]
SIGNALS: Final[tuple[Signal, ...]] = ("ngrams", "length", "likelihood")
SCHEMA: Final = "so8t.familiarity/1"
# So many different n-grams an alphabet should allow: with fewer nothing is ever unseen, with many more every new wording
# is (measured on the demo, docs/log.md: bigrams of Japanese; trigrams where the alphabet has a few dozen letters).
POSSIBLE_NGRAMS: Final = 1e5
FIX: Final = "run `dvc repro calibrate`"


@dataclass(frozen=True, slots=True)
class Usual:
    """The length of the reference rows: medians and robust standard deviations of log characters and of sentences."""

    log_characters: float
    log_characters_spread: float
    sentences: float
    sentences_spread: float


@dataclass(frozen=True, slots=True)
class Index:
    """What familiarity is judged by.

    Attributes:
        budget: share of requests like the calibration rows that may be called unfamiliar.
        signals: those in use.
        ngram_size: characters of an n-gram.
        ngrams: sorted hashes of the reference rows' n-grams.
        usual: lengths of the reference rows.
        calibration: for each signal and domain, the sorted numbers of the calibration rows.
        semantic_digest: of the file whose likelihoods are in `calibration`.
    """

    budget: float
    signals: tuple[Signal, ...]
    ngram_size: int
    ngrams: UInt32[ndarray, " m"]
    usual: Usual
    calibration: Mapping[str, Mapping[str, Sequence[float]]]
    semantic_digest: str

    def to_json(self) -> dict[str, Any]:
        """The index file."""
        packed = base64.b64encode(self.ngrams.astype("<u4").tobytes()).decode()
        return {
            "schema": SCHEMA,
            "budget": self.budget,
            "signals": list(self.signals),
            "ngram_size": self.ngram_size,
            "ngrams": packed,
            "usual": {name: getattr(self.usual, name) for name in Usual.__slots__},
            "calibration": {name: dict(by_domain) for name, by_domain in self.calibration.items()},
            "semantic_digest": self.semantic_digest,
        }

    @property
    def digest(self) -> str:
        """SHA-256 of the index's content, which the card names."""
        return sha256_json(self.to_json())


@dataclass(frozen=True, slots=True)
class Familiarity:
    """How familiar one request is.

    Attributes:
        p_value: of all signals together, already multiplied by their number; at most 1.
        by_signal: p-value of each signal alone.
        unfamiliar: the signals that call it unfamiliar; empty for a familiar request.
    """

    p_value: float
    by_signal: Mapping[str, float] = field(default_factory=dict)
    unfamiliar: tuple[str, ...] = ()

    @property
    def is_familiar(self) -> bool:
        """Whether no signal objects."""
        return not self.unfamiliar


UNKNOWN: Final = Familiarity(0.0, {}, ("no familiarity index",))


# --- signals of the text ---


def folded(canonical: str) -> str:
    """The text as n-grams are taken of it: digits alike (numbers of approvals differ), letters without case."""
    return "".join("0" if character.isdigit() else character.casefold() for character in canonical)


def ngram_size_for(texts: Iterable[str]) -> int:
    """The n for which the reference's alphabet allows about POSSIBLE_NGRAMS n-grams; at least 2."""
    alphabet: set[str] = set()
    for text in texts:
        alphabet.update(folded(text))
    return max(2, round(math.log(POSSIBLE_NGRAMS) / math.log(max(2, len(alphabet)))))


def hashed_ngrams(sentence: str, size: int) -> UInt32[ndarray, " n"]:
    """CRC-32 of every n-gram of a sentence with its two ends marked."""
    marked = f"\x02{folded(sentence)}\x03"
    count = max(1, len(marked) - size + 1)
    grams = (marked[start : start + size] for start in range(count))
    return np.fromiter((crc32(gram.encode()) for gram in grams), np.uint32, count)


def reference_ngrams(texts: Iterable[str], size: int) -> UInt32[ndarray, " m"]:
    """Sorted hashes of the texts' n-grams, sentence by sentence."""
    known: set[int] = set()
    for text in texts:
        for sentence in sentences_of(text):
            known.update(hashed_ngrams(sentence, size).tolist())
    return np.sort(np.array(list(known), dtype=np.uint32))


def usual_length(texts: Sequence[str]) -> Usual:
    """Medians, and 1.4826 x the median absolute deviation (the standard deviation, were they normal), of two lengths."""
    characters = np.log([len(text) + 1.0 for text in texts])
    sentences = np.array([float(len(sentences_of(text))) for text in texts])
    spreads = []
    for values in (characters, sentences):
        deviation = 1.4826 * float(np.median(np.abs(values - np.median(values))))
        spreads.append(deviation)
    # Lengths that never vary would make one character more infinitely strange.
    return Usual(
        float(np.median(characters)),
        max(spreads[0], 0.1),
        float(np.median(sentences)),
        max(spreads[1], 0.5),
    )


def unseen_share(canonical: str, ngrams: UInt32[ndarray, " m"], size: int) -> float:
    """The share of n-grams that are not in the reference, of the sentence where it is largest; 1 for a text without any.

    The worst sentence counts: one strange request between ten familiar sentences is still a strange request.
    """
    worst = 0.0
    sentences = sentences_of(canonical)
    for sentence in sentences:
        found = hashed_ngrams(sentence, size)
        at = np.searchsorted(ngrams, found)
        known = ngrams[np.minimum(at, len(ngrams) - 1)] == found if len(ngrams) else np.zeros(1)
        worst = max(worst, 1.0 - float(known.mean()))
    return worst if sentences else 1.0


def length_strangeness(canonical: str, usual: Usual) -> float:
    """How many robust standard deviations the characters or the sentences are from the usual; the larger of the two."""
    characters = (
        abs(math.log(len(canonical) + 1.0) - usual.log_characters) / usual.log_characters_spread
    )
    sentences = abs(len(sentences_of(canonical)) - usual.sentences) / usual.sentences_spread
    return max(characters, sentences)


def strangeness(
    request: Request, index: Index, likelihood: float | None = None
) -> dict[str, float]:
    """The number of every signal in use. An unknown likelihood (an engine that gives none) is infinitely strange.

    Args:
        request: in canonical form.
        index: the reference.
        likelihood: mean negative log-likelihood of the user's tokens in nats, of the part where it is largest.
    """
    return strangeness_of(
        request.text, index.signals, index.ngrams, index.ngram_size, index.usual, likelihood
    )


def strangeness_of(
    canonical: str,
    signals: Sequence[Signal],
    ngrams: UInt32[ndarray, " m"],
    ngram_size: int,
    usual: Usual,
    likelihood: float | None,
) -> dict[str, float]:
    """As `strangeness`, while the index is still being made."""
    found: dict[str, float] = {}
    for signal in signals:
        if signal == "ngrams":
            found[signal] = unseen_share(canonical, ngrams, ngram_size)
        elif signal == "length":
            found[signal] = length_strangeness(canonical, usual)
        else:
            found[signal] = math.inf if likelihood is None else likelihood
    return found


# --- p-values ---


def p_value(value: float, calibration: Mapping[str, Sequence[float]]) -> float:
    """The largest conformal p-value over the domains; 0 where there is nothing to compare with, or no number.

    Args:
        value: a signal's number of the request.
        calibration: the sorted numbers of the calibration rows, by domain.
    """
    if math.isnan(value) or not calibration:
        return 0.0
    largest = 0.0
    for numbers in calibration.values():
        at_least = len(numbers) - int(np.searchsorted(numbers, value, side="left"))
        largest = max(largest, (1 + at_least) / (1 + len(numbers)))
    return largest


def smallest_p(calibration: Mapping[str, Sequence[float]]) -> float:
    """The p-value of a request stranger than every calibration row: no smaller one can be told with so few rows."""
    return max((1 / (1 + len(numbers)) for numbers in calibration.values()), default=0.0)


def judge(numbers: Mapping[str, float], index: Index) -> Familiarity:
    """p-values of the signals, and which of them object.

    A signal objects at its share of the budget. With too few calibration rows to reach that share, it objects to what is
    stranger than every one of them: the budget is then exceeded, and `budget_kept` says so, but nothing gets past.
    """
    share = index.budget / max(1, len(index.signals))
    by_signal, unfamiliar = {}, []
    for signal in index.signals:
        calibration = index.calibration.get(signal, {})
        p = p_value(numbers.get(signal, math.nan), calibration)
        by_signal[signal] = p
        if p <= max(share, smallest_p(calibration)):
            unfamiliar.append(signal)
    together = min((len(by_signal) * p for p in by_signal.values()), default=0.0)
    return Familiarity(min(1.0, together), by_signal, tuple(unfamiliar))


def budget_kept(index: Index) -> bool:
    """Whether there are calibration rows enough in every domain to keep the budget."""
    share = index.budget / max(1, len(index.signals))
    return all(smallest_p(index.calibration.get(signal, {})) <= share for signal in index.signals)


# --- making and reading an index ---


@dataclass(frozen=True, slots=True)
class Example:
    """A calibration row: its canonical text, group, domain, and the likelihood that scoring read, if any."""

    text: str
    group: str
    domain: str
    likelihood: float | None


def make_index(
    reference: Sequence[str],
    calibration: Sequence[Example],
    *,
    signals: Sequence[Signal],
    budget: float,
    semantic_digest: str,
) -> Index:
    """Make the index from reference texts (training rows) and calibration rows that the reference does not hold.

    One row per group counts, the first by a hash of its text, so that a template with many rows is one observation.
    """
    size = ngram_size_for(reference)
    ngrams = reference_ngrams(reference, size)
    usual = usual_length(reference)
    numbers: dict[str, dict[str, list[float]]] = {signal: defaultdict(list) for signal in signals}
    for example in _one_per_group(calibration):
        found = strangeness_of(example.text, signals, ngrams, size, usual, example.likelihood)
        for signal, value in found.items():
            numbers[signal][example.domain].append(value)
    ordered = {
        signal: {domain: sorted(values) for domain, values in sorted(by_domain.items())}
        for signal, by_domain in numbers.items()
    }
    return Index(budget, tuple(signals), size, ngrams, usual, ordered, semantic_digest)


def _one_per_group(calibration: Sequence[Example]) -> list[Example]:
    chosen: dict[str, Example] = {}
    for example in sorted(calibration, key=lambda one: crc32(one.text.encode())):
        chosen.setdefault(example.group, example)
    return list(chosen.values())


def write_index(path: Path, index: Index) -> None:
    """Write the index file, whole or not at all."""
    write_json(path, index.to_json())


def read_index(path: Path) -> Index:
    """Read an index file.

    Raises:
        ArtifactError: missing, of another schema, or not what an index holds.
    """
    found = read_json(path, fix=FIX)
    if not isinstance(found, dict) or found.get("schema") != SCHEMA:
        raise ArtifactError(f"not a familiarity index of schema {SCHEMA}", where=str(path), fix=FIX)
    try:
        return Index(
            budget=float(found["budget"]),
            signals=tuple(found["signals"]),
            ngram_size=int(found["ngram_size"]),
            ngrams=np.frombuffer(base64.b64decode(found["ngrams"], validate=True), dtype="<u4"),
            usual=Usual(**found["usual"]),
            calibration=found["calibration"],
            semantic_digest=str(found["semantic_digest"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ArtifactError(
            f"a damaged familiarity index ({type(error).__name__})", where=str(path), fix=FIX
        ) from None
