"""Speed and memory of one file, as distributions with distribution-free intervals.

Covered: prefill of a whole prompt; the verdict as served (the shared frame is in the cache already)
by either readout; decoding; peak resident memory. Of each the median and the 95th percentile with
order-statistic intervals, `None` where so few runs resolve no limit.
Not covered: loading the file, several users at once.
"""

import resource
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from so8t.llama import Engine
from so8t.metrics.intervals import LEVEL
from so8t.prompts import Prompt

# Runs that are thrown away: the first ones read the file from disk and fill the caches.
WARM_UP = 2

QUANTILES = {"p50": 0.5, "p95": 0.95}
Interval = tuple[float | None, float | None]


@dataclass(frozen=True, slots=True)
class LabelledTurn:
    """A prompt with the turn begun by the cue and one label; `start` is the label's first token."""

    prompt: Prompt
    start: int


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds of one measured prompt, and how many tokens they stand for."""

    prefill_s: float
    verdict_s: float
    cue_s: float | None
    decode_s: float
    prompt_tokens: int
    decoded_tokens: int


# --- measuring ---


def measure(
    engine: Engine,
    prompts: Sequence[Prompt],
    *,
    decode_tokens: int,
    cues: Sequence[Sequence[LabelledTurn]] = (),
) -> list[Timing]:
    """Time each prompt four ways, one after the other.

    Args:
        engine: the loaded file.
        prompts: different prompts, so that nothing but the shared frame can be kept.
        decode_tokens: tokens generated per prompt.
        cues: of each prompt, the turn begun with each label: the readout by text, timed like the
            verdict with the frame kept. Empty: that readout is not timed.
    """
    endless = {token for token in range(engine.n_vocab) if engine.is_eog(token)}
    warm_up = min(WARM_UP, len(prompts))
    places = [*range(warm_up), *range(len(prompts))]
    timings: list[Timing] = []
    for run, place in enumerate(places):
        turns = cues[place] if cues else None
        timing = _time_prompt(engine, prompts[place], turns, decode_tokens, endless)
        if run >= warm_up:
            timings.append(timing)
    return timings


def _time_prompt(
    engine: Engine,
    prompt: Prompt,
    turns: Sequence[LabelledTurn] | None,
    decode_tokens: int,
    endless: set[int],
) -> Timing:
    """Time one prompt.

    Args:
        engine: the loaded file.
        prompt: what is timed.
        turns: the turn begun with each label; None: the readout by text is not timed.
        decode_tokens: tokens that are generated.
        endless: the end tokens, which are not taken.
    """
    # Without cuts, nothing of the prompt before is kept.
    prefill = _seconds(partial(engine.logits, prompt.ids))
    _keep_frame_only(engine, prompt)
    verdict = _seconds(partial(engine.logits, prompt.ids, cuts=prompt.cuts))
    _keep_frame_only(engine, prompt)
    cue = None
    if turns is not None:
        cue = _seconds(partial(_read_cue, engine, turns))
    # The end tokens are forbidden, or a model that ends early would look slow.
    generate = partial(
        engine.generate,
        prompt.ids,
        stop=set(),
        forbid=endless,
        cuts=prompt.cuts,
    )
    # The difference of the two is decoding alone, without the prompt.
    one = _seconds(partial(generate, max_tokens=1))
    many = _seconds(partial(generate, max_tokens=1 + decode_tokens))
    # On a busy machine the shorter run may take longer; a rate needs a positive time.
    decode = max(many - one, 1e-9)
    return Timing(
        prefill_s=prefill,
        verdict_s=verdict,
        cue_s=cue,
        decode_s=decode,
        prompt_tokens=len(prompt.ids),
        decoded_tokens=decode_tokens,
    )


def _keep_frame_only(engine: Engine, prompt: Prompt) -> None:
    """Leave in the cache what a server has there when another user's request comes in."""
    end = max(prompt.cuts, default=0)
    frame = prompt.ids[:end]
    # One token behind the frame takes the place of all that was there.
    last = prompt.ids[-1]
    engine.logits([*frame, last], cuts=prompt.cuts)


def _read_cue(engine: Engine, turns: Sequence[LabelledTurn]) -> None:
    """The evaluations of the cue readout: every label's tokens but the last, after the cue."""
    for turn in turns:
        prompt = turn.prompt
        # The last token predicts nothing that the readout asks for.
        ids = prompt.ids[:-1]
        engine.logits_from(ids, turn.start - 1, cuts=prompt.cuts)


def _seconds(action: Callable[[], Any]) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def peak_rss_bytes() -> int:
    """Largest resident set of this process so far, in bytes."""
    peak = int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    # getrusage counts bytes on macOS and KiB on Linux.
    if sys.platform == "darwin":
        return peak
    return peak * 1024


# --- summarising ---


def order_statistic_interval(
    values: Sequence[float], quantile: float, *, level: float = LEVEL
) -> Interval:
    """Distribution-free interval of a quantile q: X(l) and X(u) with P(X(l) <= q <= X(u)) >= level.

    Source: David and Nagaraja, Order Statistics, 7.1; each side gets half of the error. At the 95th
    percentile the upper limit does not exist below 72 runs.

    Returns:
        (low, high); None for a limit that so few values do not resolve.
    """
    from scipy.stats import binom

    n = len(values)
    if n == 0:
        return None, None
    ordered = sorted(values)
    tail = (1.0 - level) / 2.0
    ranks = np.arange(n + 1)
    # cumulative[r] = P(at most r of the runs lie below the quantile).
    cumulative = binom.cdf(ranks, n, quantile)
    # X(r+1) lies above the quantile with at most this chance, X(r+1) below it likewise.
    below = np.flatnonzero(cumulative <= tail)
    above = np.flatnonzero(1.0 - cumulative[:-1] <= tail)
    low = None
    if below.size and below[-1] < n:
        low = ordered[int(below[-1])]
    high = None
    if above.size and above[0] < n:
        high = ordered[int(above[0])]
    return low, high


def distribution(values: Sequence[float], *, digits: int = 6) -> dict[str, Any]:
    """Median and 95th percentile; null = not resolved.

    Args:
        values: one for each run, in seconds or tokens per second.
        digits: behind the point.

    Returns:
        {"n", "p50": {"value", "n", "ci95": [low, high]}, "p95"}.
    """
    result: dict[str, Any] = {"n": len(values)}
    for name, quantile in QUANTILES.items():
        value = None
        if values:
            # A measured value, never one between two, as the limits are.
            value = float(np.quantile(values, quantile, method="inverted_cdf"))
        limits = order_statistic_interval(values, quantile)
        result[name] = {
            "value": _rounded(value, digits),
            "n": len(values),
            "ci95": [_rounded(limit, digits) for limit in limits],
        }
    return result


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)


def summarise(timings: Sequence[Timing], *, threads: int) -> dict[str, Any]:
    """`Timings.speed` (so8t.generated); seconds, tokens per second, bytes."""
    # Rates are formed run by run: a quantile of rates is not the rate at a quantile of times.
    prefill_rates = [one.prompt_tokens / one.prefill_s for one in timings]
    decode_rates = [one.decoded_tokens / one.decode_s for one in timings]
    prefill = [one.prefill_s for one in timings]
    verdict = [one.verdict_s for one in timings]
    # Where the readout by text was not timed, its distribution is of no run.
    cue = [one.cue_s for one in timings if one.cue_s is not None]
    prompt_tokens_mean = None
    # The mean of nothing would be NaN, which JSON does not have.
    if timings:
        lengths = [one.prompt_tokens for one in timings]
        prompt_tokens_mean = round(float(np.mean(lengths)), 1)
    return {
        "status": "run",
        "n": len(timings),
        "threads": threads,
        "prefill_tokens_per_s": distribution(prefill_rates, digits=1),
        "decode_tokens_per_s": distribution(decode_rates, digits=1),
        "prefill_s": distribution(prefill),
        "verdict_s": distribution(verdict),
        "cue_s": distribution(cue),
        "prompt_tokens_mean": prompt_tokens_mean,
        "peak_rss_bytes": peak_rss_bytes(),
    }
