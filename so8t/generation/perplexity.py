"""What fine-tuning cost: perplexity of ordinary answers, without any of the formats trained.

The text is the request, a line break and the answer, with no chat template, label or heading, so
that a model is not paid for having learnt the format. Lower is better. The same rows and tokens for
the base model (A) and the retrained one (B) make the two comparable.

The same request is also *answered* in that plain form, as long as the reference is: chrF to the
reference, beside chrF to another row's reference. Where the two do not differ the model cannot
answer, and no comparison of answers means a thing.

Covered: negative log-likelihood per token and per character, plain answers, with a bootstrap over
rows. Not covered: knowledge.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from so8t.chat import has_marker
from so8t.llama import Engine
from so8t.metrics.exact import reason_for, resampled_interval
from so8t.metrics.intervals import LEVEL, group_bootstrap, lower_bound, rate

NOT_RUN = "not_run"


@dataclass(frozen=True, slots=True)
class Likelihood:
    """Summed negative log-likelihood (nats) of one answer, its tokens and its characters."""

    nats: float
    tokens: int
    characters: int


@dataclass(frozen=True, slots=True)
class PlainAnswer:
    """One plain answer: chrF (0 to 100) to two references, and what is odd about it.

    `chrf` is to the row's own reference, `chance` to another row's. `marked`: it holds a marker of
    the triage format, which nobody asked for.
    """

    chrf: float
    chance: float
    marked: bool
    empty: bool


# --- likelihood ---


def negative_log_likelihood(logits: NDArray[np.float32], targets: Sequence[int]) -> float:
    """Summed -log p(target), nats.

    Args:
        logits: float32 [t, n_vocab], row i predicting target i.
        targets: t token ids.
    """
    # In float64: summed over thousands of tokens, float32 would lose digits that are reported.
    rows = logits.astype(np.float64)
    # Without subtracting the largest logit, exp would overflow.
    peak = rows.max(axis=1)
    shares = np.exp(rows - peak[:, None])
    total = peak + np.log(shares.sum(axis=1))
    wanted = rows[np.arange(len(targets)), targets]
    return float((total - wanted).sum())


def measure(engine: Engine, pairs: Sequence[tuple[str, str]]) -> list[Likelihood]:
    """Likelihood of each answer given its request.

    Args:
        engine: the opened file.
        pairs: (request, answer); those whose answer holds no token, or has no room in the context,
            are left out.
    """
    found: list[Likelihood] = []
    for request, answer in pairs:
        context = _context(engine, request)
        begin = len(context)
        whole = context + engine.tokenize(answer, special=False)
        ids = whole[: engine.n_ctx]
        target = ids[begin:]
        if not target:
            continue
        # The logits at one position predict the token at the next.
        logits = engine.logits_from(ids[:-1], begin - 1)
        nats = negative_log_likelihood(logits, target)
        found.append(Likelihood(nats, len(target), len(answer)))
    return found


def _context(engine: Engine, request: str) -> list[int]:
    """The request and a line break; the user's text is never read as control tokens."""
    return engine.tokenize(f"{request}\n", special=False, add_special=True)


def summarise(found: Sequence[Likelihood], *, draws: int, seed: int) -> dict[str, Any]:
    """The section `retention` of the metrics file.

    Args:
        found: one likelihood for each answer.
        draws: of the bootstrap over answers.
        seed: of the bootstrap.

    Returns:
        Nats per token and perplexity with intervals, and bits per character.
    """
    if not found:
        return {"n": 0, "status": NOT_RUN}
    n = len(found)
    pairs = [(one.nats, one.tokens) for one in found]
    sums = np.array(pairs, dtype=np.float64)

    def nats_per_token(totals: np.ndarray) -> np.ndarray:
        # A ratio of sums, not a mean of ratios: every token counts the same.
        return np.asarray(totals[:, 0] / totals[:, 1])

    interval = _interval(sums, nats_per_token, draws=draws, seed=seed)
    nats, tokens = (float(total) for total in sums.sum(axis=0))
    mean = nats / tokens
    # exp grows with its argument, so the limits of the perplexity are those of its logarithm.
    perplexity = math.exp(mean)
    perplexity_interval = interval and [math.exp(limit) for limit in interval]
    characters = sum(one.characters for one in found)
    # Comparable between models with different vocabularies, as perplexity is not.
    bits_per_character = nats / math.log(2) / characters
    return {
        "n": n,
        "status": "run",
        "tokens": int(tokens),
        "nll_per_token": _estimate(mean, n, interval, digits=5),
        "perplexity": _estimate(perplexity, n, perplexity_interval, digits=4),
        "bits_per_character": round(bits_per_character, 5),
    }


def _interval(
    sums: np.ndarray,
    statistic: Callable[[np.ndarray], np.ndarray],
    *,
    draws: int,
    seed: int,
) -> list[float] | None:
    """Bootstrap interval over rows.

    Args:
        sums: float64 [n, k], what each row adds to k sums.
        statistic: maps float64 [draws, k] of summed rows to [draws] values.
        draws: how often the rows are drawn anew.
        seed: of the drawing.

    Returns:
        Lower and upper limit; null below 30 rows, where resampling promises too much.
    """
    values = group_bootstrap(sums, statistic, draws=draws, seed=seed)
    return resampled_interval(values, len(sums))


def _estimate(
    value: float, n: int, interval: Sequence[float] | None, *, digits: int
) -> dict[str, Any]:
    """A number with its interval, as metrics files have it."""
    return {
        "value": round(value, digits),
        "n": n,
        "ci95": interval and [round(limit, digits) for limit in interval],
        **reason_for(interval, n),
    }


# --- plain answers ---


def answers(engine: Engine, pairs: Sequence[tuple[str, str]]) -> list[PlainAnswer]:
    """Answer each request plainly.

    Args:
        engine: the opened file.
        pairs: (request, reference).

    Returns:
        One plain answer for each pair.
    """
    from sacrebleu.metrics.chrf import CHRF

    metric = CHRF()
    said = [_say(engine, request, reference) for request, reference in pairs]
    references = [reference for _, reference in pairs]
    # Each row is also compared with the reference of the next one, the last with the first's.
    others = references[1:] + references[:1]
    found: list[PlainAnswer] = []
    for text, reference, other in zip(said, references, others, strict=True):
        found.append(
            PlainAnswer(
                chrf=metric.sentence_score(text, [reference]).score,
                chance=metric.sentence_score(text, [other]).score,
                marked=has_marker(text),
                empty=not text,
            )
        )
    return found


def _say(engine: Engine, request: str, reference: str) -> str:
    """Greedy continuation of the plain request, as long as the reference."""
    # An overlap measure punishes a longer answer for its length alone.
    reference_ids = engine.tokenize(reference, special=False)
    limit = max(1, len(reference_ids))
    # Room for one token of the answer at least.
    context = _context(engine, request)[: engine.n_ctx - 1]
    made = engine.generate(context, max_tokens=limit, stop=set(), forbid=set())
    kept: list[int] = []
    for token in made:
        # A model tuned for chat ends by opening the next turn, not always by its end token.
        if engine.is_control(token) or engine.is_eog(token):
            break
        kept.append(token)
    text = engine.detokenize(kept).decode("utf-8", "replace")
    return text.strip()


def summarise_answers(found: Sequence[PlainAnswer], *, draws: int, seed: int) -> dict[str, Any]:
    """The section `retention/plain` of the metrics file.

    Args:
        found: plain answers.
        draws: of the bootstrap over answers.
        seed: of the bootstrap.

    Returns:
        Mean chrF to the row's own reference, to another row's, and their difference, with
        intervals. `beyond_chance`: the answers fit their own requests better than others', at 95 %
        confidence.
    """
    # The chance level needs a second row.
    if len(found) < 2:
        return {"n": len(found), "status": NOT_RUN}
    records: list[tuple[float, float, float]] = []
    for one in found:
        # Within a row: what makes a text hard for any reference cancels.
        difference = one.chrf - one.chance
        records.append((one.chrf, one.chance, difference))
    table = np.array(records)
    chrf = _mean(table[:, 0:1], draws=draws, seed=seed)
    chance = _mean(table[:, 1:2], draws=draws, seed=seed)
    above_chance = _mean(table[:, 2:3], draws=draws, seed=seed)
    return {
        "n": len(found),
        "status": "run",
        "chrf": chrf,
        "chance_chrf": chance,
        "above_chance": above_chance,
        "beyond_chance": _is_above(above_chance["ci95"], table[:, 2]),
        "marked": _rate(one.marked for one in found),
        "empty": _rate(one.empty for one in found),
    }


def _is_above(interval: Sequence[float] | None, differences: np.ndarray) -> bool:
    """Whether the differences are above 0 at 95 %: by their interval, or by an exact sign test."""
    if interval is not None:
        return interval[0] > 0
    moved = differences[differences != 0]
    above = int(np.count_nonzero(moved > 0))
    return lower_bound(above, len(moved), (1.0 - LEVEL) / 2.0) > 0.5


def _mean(column: np.ndarray, *, draws: int, seed: int) -> dict[str, Any]:
    """Mean of a column with its bootstrap interval.

    Args:
        column: float64 [n, 1].
        draws: how often the rows are drawn anew.
        seed: of the drawing; the same rows are drawn for every column.
    """
    n = len(column)

    def mean(totals: np.ndarray) -> np.ndarray:
        # Every draw has n rows, so the mean is a sum over n.
        return np.asarray(totals[:, 0] / n)

    interval = _interval(column, mean, draws=draws, seed=seed)
    value = float(column[:, 0].mean())
    return _estimate(value, n, interval, digits=3)


def _rate(flags: Iterable[bool]) -> dict[str, Any]:
    """Share of true flags with its exact interval."""
    hits = np.array(list(flags), dtype=bool)
    return rate(hits).to_dict()
