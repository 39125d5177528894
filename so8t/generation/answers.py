"""The answers that a user gets: their prose, and whether long ones fall into a loop.

Prose covers BLEU and chrF (sacrebleu, with the intervals of its bootstrap), ROUGE-L (rouge-score)
on the same MeCab words, format adherence, presence of a final answer, and reserved tokens. An
answer is generated as it is served: after the prompt and the fed label ALLOW. Not covered: whether
an answer is true or helpful; overlap with one reference says little of that.

Stability covers exact tail periods (Z-function on the reversed text), n-gram repetition of
characters and tokens, compression, and flags made of them. Not covered: meaning; a text that
rambles without repeating itself passes.
"""

import unicodedata
import zlib
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from so8t.chat import ALLOW_PREFIX, Parsed, parse
from so8t.llama import Engine
from so8t.metrics.exact import reason_for, resampled_interval
from so8t.metrics.intervals import group_bootstrap, rate

# --- prose ---

# sacrebleu's own default. Its bootstrap knows the 95 % level only.
RESAMPLES = 1000


@dataclass(frozen=True, slots=True)
class Answer:
    """One generated completion, the label it was fed included."""

    ids: list[int]
    text: str
    parsed: Parsed
    reference: str

    @property
    def final(self) -> str:
        """What the user would read; empty when there is no final answer."""
        return self.parsed.final or ""


def answer(
    engine: Engine, prompt: list[int], cuts: Sequence[int], *, reference: str, max_tokens: int
) -> Answer:
    """Generate one answer greedily.

    Args:
        engine: the opened file.
        prompt: token ids that end with the fed label.
        cuts: where the prompt's pieces end.
        reference: a real answer to the same request.
        max_tokens: most tokens of the answer.
    """
    # Nothing is forbidden: whether reserved tokens appear is part of what is measured.
    ids = engine.generate(prompt, max_tokens=max_tokens, stop=set(), forbid=set(), cuts=cuts)
    spoken = ids
    if ids and engine.is_eog(ids[-1]):
        spoken = ids[:-1]
    # An answer cut by the limit may end inside a character.
    written = engine.detokenize(spoken).decode("utf-8", "replace")
    text = ALLOW_PREFIX + written
    return Answer(ids, text, parse(text), reference)


class Words:
    """MeCab words of a Japanese text, the same for BLEU and ROUGE."""

    def __init__(self) -> None:
        from sacrebleu.tokenizers.tokenizer_ja_mecab import TokenizerJaMecab

        mecab: Any = TokenizerJaMecab
        self._mecab = mecab()

    def tokenize(self, text: str) -> list[str]:
        """Words of `text`; the name is what rouge-score calls."""
        return str(self._mecab(text)).split()


def _corpus(metric: Any, answers: Sequence[Answer]) -> dict[str, Any]:
    """One of sacrebleu's scores over all answers, 0 to 100, with its interval.

    The signature says how it was computed; scores with different ones cannot be compared.
    """
    said = [answer.final for answer in answers]
    references = [answer.reference for answer in answers]
    score = metric.corpus_score(said, [references], n_bootstrap=RESAMPLES)
    # sacrebleu has its interval in private attributes and in a formatted line only.
    mean = score._mean
    half_width = score._ci
    # It is symmetric, so near either end it would leave the scale.
    low = max(mean - half_width, 0.0)
    high = min(mean + half_width, 100.0)
    return {
        "value": round(score.score, 3),
        "n": len(answers),
        "ci95": [round(low, 3), round(high, 3)],
        "signature": str(metric.get_signature()),
    }


def _rouge_l(answers: Sequence[Answer], *, seed: int) -> dict[str, Any]:
    """Mean ROUGE-L F-measure, 0 to 1, with a bootstrap interval over answers.

    Args:
        answers: all with a reference.
        seed: of the bootstrap.
    """
    from rouge_score.rouge_scorer import RougeScorer

    # rouge-score's own tokenizer keeps ASCII letters and digits only, which leaves nothing of
    # Japanese.
    scorer = RougeScorer(["rougeL"], tokenizer=Words())
    measures: list[list[float]] = []
    for answer in answers:
        score = scorer.score(answer.reference, answer.final)["rougeL"]
        measures.append([score.fmeasure])
    values = np.array(measures)
    n = len(answers)

    def mean(totals: np.ndarray) -> np.ndarray:
        return np.asarray(totals[:, 0] / n)

    draws = group_bootstrap(values, mean, draws=RESAMPLES, seed=seed)
    interval = resampled_interval(draws, n)
    value = float(values.mean())
    return {
        "value": round(value, 5),
        "n": n,
        "ci95": interval and [round(limit, 5) for limit in interval],
        **reason_for(interval, n),
    }


def overlap(answers: Sequence[Answer], *, seed: int) -> dict[str, Any]:
    """BLEU and chrF (0-100) and ROUGE-L (0-1) against the references.

    Args:
        answers: those without a reference are left out.
        seed: of the bootstrap for ROUGE-L; sacrebleu seeds its own.
    """
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.chrf import CHRF

    kept = [answer for answer in answers if answer.reference]
    if not kept:
        return {"n": 0}
    return {
        "n": len(kept),
        "bleu": _corpus(BLEU(tokenize="ja-mecab"), kept),
        "chrf": _corpus(CHRF(), kept),
        "rouge_l": _rouge_l(kept, seed=seed),
    }


def summarise(
    answers: Sequence[Answer], *, reserved: set[int], max_tokens: int, seed: int
) -> dict[str, Any]:
    """The section `generation` of the metrics file.

    Args:
        answers: what was generated.
        reserved: token ids that must never be emitted.
        max_tokens: the limit that the answers were generated under.
        seed: of the bootstrap.
    """
    emitted = [token for answer in answers for token in answer.ids]
    return {
        "status": "run",
        "n": len(answers),
        "tokens": len(emitted),
        "format_adherence": _rate(not answer.parsed.errors for answer in answers),
        "final_present": _rate(bool(answer.final) for answer in answers),
        "hit_limit": _rate(len(answer.ids) >= max_tokens for answer in answers),
        "reserved_emitted": sum(token in reserved for token in emitted),
        "overlap": overlap(answers, seed=seed),
    }


def _rate(flags: Iterable[bool]) -> dict[str, Any]:
    """Share of true flags with its exact interval."""
    # The type is given, because an empty list would become an array of floats.
    hits = np.array(list(flags), dtype=bool)
    return rate(hits).to_dict()


# --- stability of long texts ---

# A tail of so many characters that is made of one repeated phrase is a loop ...
LOOP_CHARS = 60
# ... if the phrase comes so often; twice happens in ordinary prose.
MIN_REPEATS = 3
# Longest phrase that is looked for, in characters.
MAX_PERIOD = 400

# Shorter texts repeat n-grams by chance or not at all; a share says nothing of them.
LONG_TEXT = 200
# Share of repeated n-grams above which a long text is flagged.
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
    """Share of n-grams that occurred before; 0 for texts shorter than n.

    Args:
        items: characters or token ids.
        n: length of an n-gram.
    """
    # Of characters or tokens, never of words: Japanese has no spaces between them.
    grams: list[tuple[Hashable, ...]] = []
    for start in range(len(items) - n + 1):
        end = start + n
        grams.append(tuple(items[start:end]))
    if not grams:
        return 0.0
    distinct = set(grams)
    return 1.0 - len(distinct) / len(grams)


def _z_values(text: str) -> list[int]:
    """Length of the longest common prefix of `text` and each of its suffixes (0 at index 0).

    The Z-algorithm, linear in the length (Gusfield, Algorithms on Strings, Trees and Sequences).
    """
    z = [0] * len(text)
    # The rightmost stretch that was found to repeat a prefix: its values can be copied.
    left = 0
    right = 0
    for i in range(1, len(text)):
        length = 0
        if i < right:
            # What lies beyond the stretch has not been compared yet.
            length = min(right - i, z[i - left])
        while i + length < len(text) and text[length] == text[i + length]:
            length += 1
        z[i] = length
        if i + length > right:
            left = i
            right = i + length
    return z


def tail_period(text: str) -> tuple[int, int]:
    """Smallest period with the longest periodic tail.

    Returns:
        (period, characters covered), or (0, 0) when nothing repeats.
    """
    # Reversed, the tail is a prefix, and a Z-value says how far it repeats at a period.
    z = _z_values(text[::-1])
    longest = min(len(text) // 2, MAX_PERIOD)
    best_period = 0
    best_covered = 0
    for period in range(1, longest + 1):
        covered = z[period] + period
        if covered >= MIN_REPEATS * period and covered > best_covered:
            best_period = period
            best_covered = covered
    return best_period, best_covered


def check(text: str, tokens: Sequence[int], *, limit: int) -> Stability:
    """Measure one generated text.

    Args:
        text: the text.
        tokens: its ids.
        limit: number of tokens at which generation was cut.
    """
    # Full-width and half-width forms of the same letters repeat each other too.
    folded = unicodedata.normalize("NFKC", text)
    data = folded.encode()
    compression = 1.0
    if data:
        compression = len(zlib.compress(data, 9)) / len(data)
    period, covered = tail_period(folded)
    rep4 = repetition(folded, 4)
    rep10 = repetition(folded, 10)
    is_long = len(folded) >= LONG_TEXT
    return Stability(
        characters=len(folded),
        tokens=len(tokens),
        rep4=rep4,
        rep10=rep10,
        token_rep4=repetition(tokens, 4),
        compression=compression,
        period=period,
        loop_characters=covered,
        loop=covered >= LOOP_CHARS,
        repetitive=is_long and max(rep4, rep10) > REPETITION,
        hit_limit=len(tokens) >= limit,
    )


def summarise_loops(checks: Sequence[Stability]) -> dict[str, Any]:
    """The section `stability` of the metrics file.

    Args:
        checks: one for each long text.

    Returns:
        How many texts raised each flag, and one record per text.
    """
    return {
        "status": "run",
        "n": len(checks),
        "tokens": sum(one.tokens for one in checks),
        "loops": sum(one.loop for one in checks),
        "repetitive": sum(one.repetitive for one in checks),
        "unstable": sum(one.unstable for one in checks),
        "hit_limit": sum(one.hit_limit for one in checks),
        "texts": [_record(one) for one in checks],
    }


def _record(one: Stability) -> dict[str, Any]:
    """One text's numbers, short enough to read."""
    record = asdict(one)
    for name, value in record.items():
        if isinstance(value, float):
            record[name] = round(value, 4)
    return record
