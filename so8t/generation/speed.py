"""Speed and memory of one served file, as distributions with distribution-free intervals.

Covered: prefill of a whole prompt, the verdict as served (shared prefix already in the cache) by either readout, decoding, peak resident
memory; median and 95th percentile with order-statistic intervals, `None` where so few runs resolve no limit.
Not covered: loading the file, several users at once.
"""

import resource
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from so8t.llama import Engine
from so8t.metrics.intervals import LEVEL

WARM_UP = 2  # runs that are thrown away
Piece = tuple[list[int], tuple[int, ...], int]
Interval = tuple[float | None, float | None]
QUANTILES = {"p50": 0.5, "p95": 0.95}


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds of every measured run, and how many tokens each stands for."""

    prefill_s: list[float]
    prefill_tokens: list[int]
    verdict_s: list[float]
    decode_s: list[float]
    decode_tokens: list[int]
    cue_s: list[float] = field(default_factory=list)

    def add(
        self,
        prefill: float,
        verdict: float,
        decode: float,
        cue: float | None,
        *,
        prompt: int,
        decoded: int,
    ) -> None:
        """Append one run."""
        if cue is not None:
            self.cue_s.append(cue)
        self.prefill_s.append(prefill)
        self.verdict_s.append(verdict)
        self.decode_s.append(decode)
        self.prefill_tokens.append(prompt)
        self.decode_tokens.append(decoded)


def order_statistic_interval(
    values: Sequence[float], quantile: float, *, level: float = LEVEL
) -> Interval:
    """Distribution-free interval of a quantile: X(l) and X(u) with P(X(l) <= q <= X(u)) >= level; None = not resolved.

    Source: David and Nagaraja, Order Statistics, 7.1; each side gets half of the error. At the 95th percentile the
    upper limit does not exist below 72 runs.
    """
    from scipy.stats import binom

    ordered, n, tail = sorted(values), len(values), (1.0 - level) / 2.0
    ranks = np.arange(n + 1)
    cumulative = binom.cdf(ranks, n, quantile)  # P(fewer than r+1 runs lie below the quantile)
    below = np.flatnonzero(cumulative <= tail)  # X(r+1) > quantile has at most this chance
    above = np.flatnonzero(1.0 - cumulative[:-1] <= tail) if n else np.array([], dtype=int)
    low = ordered[int(below[-1])] if below.size and below[-1] < n else None
    high = ordered[int(above[0])] if above.size and above[0] < n else None
    return low, high


def distribution(values: Sequence[float], *, digits: int = 6) -> dict[str, Any]:
    """Median and 95th percentile: {"n", "p50": {"value", "n", "ci95": [low, high]}, "p95"}; null = not resolved."""
    result: dict[str, Any] = {"n": len(values)}
    for name, quantile in QUANTILES.items():
        value = float(np.quantile(values, quantile, method="inverted_cdf")) if values else None
        limits = order_statistic_interval(values, quantile)
        numbers = [None if v is None else round(v, digits) for v in (value, *limits)]
        result[name] = {"value": numbers[0], "n": len(values), "ci95": numbers[1:]}
    return result


def _timed(action: Callable[[], Any]) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def _read_cue(engine: Engine, pieces: Sequence[Piece]) -> None:
    """The evaluations that the cue readout makes: every label's tokens but the last, after the cue."""
    for ids, cuts, start in pieces:
        engine.logits_from(ids[:-1], start - 1, cuts=cuts)


def measure(
    engine: Engine,
    prompts: Sequence[tuple[list[int], tuple[int, ...]]],
    *,
    decode_tokens: int,
    cues: Sequence[Sequence[Piece]] = (),
) -> Timings:
    """Time each prompt four ways, one after the other.

    Args:
        engine: the loaded file.
        prompts: token ids and cuts; different prompts, so that nothing but the shared prefix can be kept.
        decode_tokens: tokens generated per prompt.
        cues: of each prompt, the turn begun with each label (ids, cuts, position of the first label token): the readout
            by text, timed like the verdict with the shared prefix kept.
    """
    endless = {token for token in range(engine.n_vocab) if engine.is_eog(token)}
    timings = Timings([], [], [], [], [])
    places = [*range(min(WARM_UP, len(prompts))), *range(len(prompts))]
    for run, place in enumerate(places):
        ids, cuts = prompts[place]
        whole = _timed(partial(engine.logits, ids))
        engine.logits([*ids[: max(cuts, default=0)], ids[-1]], cuts=cuts)  # only the prefix stays
        verdict = _timed(partial(engine.logits, ids, cuts=cuts))
        engine.logits([*ids[: max(cuts, default=0)], ids[-1]], cuts=cuts)
        cue = _timed(partial(_read_cue, engine, cues[place])) if cues else None
        generate = partial(engine.generate, ids, stop=set(), forbid=endless, cuts=cuts)
        one = _timed(partial(generate, max_tokens=1))
        many = _timed(partial(generate, max_tokens=1 + decode_tokens))
        if run >= min(WARM_UP, len(prompts)):
            timings.add(
                whole, verdict, max(many - one, 1e-9), cue, prompt=len(ids), decoded=decode_tokens
            )
    return timings


def peak_rss_bytes() -> int:
    """Largest resident set of this process so far, in bytes (getrusage counts KiB on Linux, bytes on macOS)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak) if sys.platform == "darwin" else int(peak) * 1024


def _rate(tokens: Sequence[int], seconds: Sequence[float]) -> list[float]:
    return [count / taken for count, taken in zip(tokens, seconds, strict=True)]


def summarise(timings: Timings, *, threads: int) -> dict[str, Any]:
    """The section `speed` of the metrics file; seconds, tokens per second, bytes."""
    return {
        "status": "run",
        "n": len(timings.prefill_s),
        "threads": threads,
        "prefill_tokens_per_s": distribution(
            _rate(timings.prefill_tokens, timings.prefill_s), digits=1
        ),
        "decode_tokens_per_s": distribution(
            _rate(timings.decode_tokens, timings.decode_s), digits=1
        ),
        "prefill_s": distribution(timings.prefill_s),
        "verdict_s": distribution(timings.verdict_s),
        "cue_s": distribution(timings.cue_s),
        "prompt_tokens_mean": round(float(np.mean(timings.prefill_tokens)), 1)
        if timings.prefill_tokens
        else None,
        "peak_rss_bytes": peak_rss_bytes(),
    }
