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
from so8t.metrics.intervals import group_bootstrap, percentile_interval, rate

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
    total = peak + np.log(np.exp(rows - peak[:, None]).sum(axis=1))
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
        whole = context + engine.tokenize(answer, special=False)
        ids = whole[: engine.n_ctx]
        target = ids[len(context) :]
        if not target:
            continue
        # The logits at one position predict the token at the next.
        logits = engine.logits_from(ids[:-1], len(context) - 1)
        nats = negative_log_likelihood(logits, target)
        found.append(Likelihood(nats, len(target), len(answer)))
    return found


def _context(engine: Engine, request: str) -> list[int]:
    """The request and a line break; the user's text is never read as control tokens."""
    return engine.tokenize(f"{request}\n", special=False, add_special=True)


def summarise(found: Sequence[Likelihood], *, draws: int, seed: int) -> dict[str, Any]:
    """The section `retention`: nats per token, perplexity, bits per character."""
    if not found:
        return {"n": 0, "status": NOT_RUN}
    sums = np.array([[one.nats, one.tokens] for one in found], dtype=np.float64)

    # A ratio of sums, not a mean of ratios: every token counts the same.
    def nats_per_token(totals: np.ndarray) -> np.ndarray:
        return np.asarray(totals[:, 0] / totals[:, 1])

    interval = _interval(sums, nats_per_token, draws=draws, seed=seed)
    nats, tokens = (float(total) for total in sums.sum(axis=0))
    mean = nats / tokens
    characters = sum(one.characters for one in found)
    return {
        "n": len(found),
        "status": "run",
        "tokens": int(tokens),
        "nll_per_token": {
            "value": round(mean, 5),
            "n": len(found),
            "ci95": [round(limit, 5) for limit in interval],
        },
        "perplexity": {
            "value": round(math.exp(mean), 4),
            "n": len(found),
            "ci95": [round(math.exp(limit), 4) for limit in interval],
        },
        # Comparable between models with different vocabularies, as perplexity is not.
        "bits_per_character": round(nats / math.log(2) / characters, 5),
    }


def _interval(
    sums: np.ndarray,
    statistic: Callable[[np.ndarray], np.ndarray],
    *,
    draws: int,
    seed: int,
) -> list[float]:
    """Bootstrap interval over rows; NaN where no draw gives a number."""
    values = group_bootstrap(sums, statistic, draws=draws, seed=seed)
    return percentile_interval(values) or [math.nan, math.nan]


# --- plain answers ---


def answers(engine: Engine, pairs: Sequence[tuple[str, str]]) -> list[PlainAnswer]:
    """Answer each (request, reference) plainly."""
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
    limit = max(1, len(engine.tokenize(reference, special=False)))
    # Room for one token of the answer at least.
    context = _context(engine, request)[: engine.n_ctx - 1]
    made = engine.generate(context, max_tokens=limit, stop=set(), forbid=set())
    kept: list[int] = []
    for token in made:
        # A model tuned for chat ends by opening the next turn, not always by its end token.
        if engine.is_control(token) or engine.is_eog(token):
            break
        kept.append(token)
    return engine.detokenize(kept).decode("utf-8", "replace").strip()


def summarise_answers(found: Sequence[PlainAnswer], *, draws: int, seed: int) -> dict[str, Any]:
    """The section `retention/plain`.

    `beyond_chance`: the answers fit their own requests better than others' at 95 % confidence.
    """
    # The chance level needs a second row.
    if len(found) < 2:
        return {"n": len(found), "status": NOT_RUN}
    table = np.array([[one.chrf, one.chance, one.chrf - one.chance] for one in found])
    chrf = _mean(table[:, 0:1], draws=draws, seed=seed)
    chance = _mean(table[:, 1:2], draws=draws, seed=seed)
    above_chance = _mean(table[:, 2:3], draws=draws, seed=seed)
    return {
        "n": len(found),
        "status": "run",
        "chrf": chrf,
        "chance_chrf": chance,
        "above_chance": above_chance,
        "beyond_chance": above_chance["ci95"][0] > 0,
        "marked": _rate(one.marked for one in found),
        "empty": _rate(one.empty for one in found),
    }


def _mean(column: np.ndarray, *, draws: int, seed: int) -> dict[str, Any]:
    """Mean of float64 [n, 1] with its bootstrap interval."""

    def mean(totals: np.ndarray) -> np.ndarray:
        return np.asarray(totals[:, 0] / len(column))

    interval = _interval(column, mean, draws=draws, seed=seed)
    return {
        "value": round(float(column[:, 0].mean()), 3),
        "n": len(column),
        "ci95": [round(limit, 3) for limit in interval],
    }


def _rate(flags: Iterable[bool]) -> dict[str, Any]:
    return rate(np.array(list(flags), dtype=bool)).to_dict()
