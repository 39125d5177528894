"""Prose of the answers a user gets: overlap with real references, format, and tokens that must never appear.

Covered: BLEU and chrF (sacrebleu, intervals by its bootstrap), ROUGE-L (rouge-score) on the same MeCab words, format
adherence, presence of a final answer, reserved tokens. The answer is generated as it is served: after the prompt and
the fed label ALLOW. Not covered: whether an answer is true or helpful; overlap with one reference says little of it.

Long-form stability: does a long answer fall into a loop?

Covered: exact tail periods (Z-function on the reversed text), n-gram repetition of characters and tokens, compression,
and flags made of them (limits from research/calibration.md 5.4). Not covered: meaning; a text that rambles without
repeating itself passes. Word uniqueness, the founding measure, is useless here: Japanese has no spaces.
"""

import unicodedata
import zlib
from collections.abc import Hashable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from so8t.chat import ALLOW_PREFIX, Parsed, parse
from so8t.llama import Engine
from so8t.metrics.intervals import group_bootstrap, percentile_interval, rate

RESAMPLES = 1000  # sacrebleu's own default; its bootstrap knows the 95 % level only


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
    """Generate one answer greedily; `prompt` ends with the fed label."""
    ids = engine.generate(prompt, max_tokens=max_tokens, stop=set(), forbid=set(), cuts=cuts)
    spoken = ids[:-1] if ids and engine.is_eog(ids[-1]) else ids
    text = ALLOW_PREFIX + engine.detokenize(spoken).decode("utf-8", "replace")
    return Answer(ids, text, parse(text), reference)


class Words:
    """MeCab words of a Japanese text, the same for BLEU and ROUGE."""

    def __init__(self) -> None:
        from sacrebleu.tokenizers.tokenizer_ja_mecab import TokenizerJaMecab

        self._mecab = TokenizerJaMecab()  # type: ignore[no-untyped-call]

    def tokenize(self, text: str) -> list[str]:
        """Words of `text`; the name is what rouge-score calls."""
        return str(self._mecab(text)).split()


def _corpus(metric: Any, answers: Sequence[Answer]) -> dict[str, Any]:
    score = metric.corpus_score(
        [a.final for a in answers], [[a.reference for a in answers]], n_bootstrap=RESAMPLES
    )
    low, high = max(score._mean - score._ci, 0.0), min(score._mean + score._ci, 100.0)
    return {
        "value": round(score.score, 3),
        "n": len(answers),
        "ci95": [round(low, 3), round(high, 3)],
        "signature": str(metric.get_signature()),
    }


def _rouge_l(answers: Sequence[Answer], *, seed: int) -> dict[str, Any]:
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rougeL"], tokenizer=Words())
    values = np.array([[scorer.score(a.reference, a.final)["rougeL"].fmeasure] for a in answers])
    draws = group_bootstrap(
        values, lambda totals: np.asarray(totals[:, 0] / len(values)), draws=RESAMPLES, seed=seed
    )
    interval = percentile_interval(draws) or []
    return {
        "value": round(float(values.mean()), 5),
        "n": len(answers),
        "ci95": [round(v, 5) for v in interval],
    }


def overlap(answers: Sequence[Answer], *, seed: int) -> dict[str, Any]:
    """BLEU and chrF (0-100) and ROUGE-L (0-1) against the references; only rows that have one."""
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.chrf import CHRF

    kept = [a for a in answers if a.reference]
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
    """The section `generation` of the metrics file."""
    reached = np.array([len(a.ids) >= max_tokens for a in answers], dtype=bool)
    return {
        "status": "run",
        "n": len(answers),
        "tokens": sum(len(a.ids) for a in answers),
        "format_adherence": rate(
            np.array([not a.parsed.errors for a in answers], dtype=bool)
        ).to_dict(),
        "final_present": rate(np.array([bool(a.final) for a in answers], dtype=bool)).to_dict(),
        "hit_limit": rate(reached).to_dict(),
        "reserved_emitted": sum(token in reserved for a in answers for token in a.ids),
        "overlap": overlap(answers, seed=seed),
    }


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
        characters=len(folded),
        tokens=len(tokens),
        rep4=rep4,
        rep10=rep10,
        token_rep4=repetition(tokens, 4),
        compression=len(zlib.compress(data, 9)) / len(data) if data else 1.0,
        period=period,
        loop_characters=covered,
        loop=covered >= LOOP_CHARS,
        repetitive=len(folded) >= LONG_TEXT and max(rep4, rep10) > REPETITION,
        hit_limit=len(tokens) >= limit,
    )


def summarise_loops(checks: Sequence[Stability]) -> dict[str, Any]:
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
        "texts": [
            {k: round(v, 4) if isinstance(v, float) else v for k, v in asdict(c).items()}
            for c in checks
        ],
    }
