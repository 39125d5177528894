"""What fine-tuning cost: perplexity of ordinary answers, without any of the formats that were trained.

The text is the request, a line break and the answer, with no chat template, label or heading, so that a model is not
paid for having learnt the format. Lower is better; the same rows and tokens for A and B make the two comparable.
The same request is also *answered* in that plain form, as long as the reference: chrF to the reference, beside chrF to
another row's reference. Where the two do not differ the model cannot answer, and no comparison of answers means a thing.
Covered: negative log-likelihood per token and per character, plain answers, with a bootstrap over rows. Not covered:
knowledge.
"""

import math
from collections.abc import Sequence
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
    """One plain answer: chrF (0 to 100) to its reference and to another row's, and what is odd about it."""

    chrf: float
    chance: float
    marked: bool  # it holds a marker of the triage format, which nobody asked for
    empty: bool


def negative_log_likelihood(logits: NDArray[np.float32], targets: Sequence[int]) -> float:
    """Summed -log p(target), nats.

    Args:
        logits: float32 [t, n_vocab], row i predicting target i.
        targets: t token ids.
    """
    rows = logits.astype(np.float64)
    peak = rows.max(axis=1)
    total = peak + np.log(np.exp(rows - peak[:, None]).sum(axis=1))
    return float((total - rows[np.arange(len(targets)), targets]).sum())


def measure(engine: Engine, pairs: Sequence[tuple[str, str]]) -> list[Likelihood]:
    """Likelihood of each answer given its request; pairs whose answer holds no token are left out."""
    found = []
    for request, answer in pairs:
        context = _context(engine, request)
        target = engine.tokenize(answer, special=False)
        ids = [*context, *target][: engine.n_ctx]
        target = ids[len(context) :]
        if target:
            logits = engine.logits_from(ids[:-1], len(context) - 1)
            found.append(
                Likelihood(negative_log_likelihood(logits, target), len(target), len(answer))
            )
    return found


def _context(engine: Engine, request: str) -> list[int]:
    """The request and a line break; the user's text is never read as control tokens."""
    return engine.tokenize(f"{request}\n", special=False, add_special=True)


def _say(engine: Engine, request: str, reference: str) -> str:
    """Greedy continuation of the plain request, as long as the reference; a control token ends it."""
    limit = max(1, len(engine.tokenize(reference, special=False)))
    made = engine.generate(
        _context(engine, request)[: engine.n_ctx - 1], max_tokens=limit, stop=set(), forbid=set()
    )
    kept = made[
        : next(
            (i for i, token in enumerate(made) if engine.is_control(token) or engine.is_eog(token)),
            len(made),
        )
    ]
    return engine.detokenize(kept).decode("utf-8", "replace").strip()


def answers(engine: Engine, pairs: Sequence[tuple[str, str]]) -> list[PlainAnswer]:
    """Answer each (request, reference) plainly."""
    from sacrebleu.metrics.chrf import CHRF

    metric = CHRF()
    said = [_say(engine, request, reference) for request, reference in pairs]
    others = [reference for _, reference in (*pairs[1:], *pairs[:1])]
    return [
        PlainAnswer(
            metric.sentence_score(text, [reference]).score,
            metric.sentence_score(text, [other]).score,
            has_marker(text),
            not text,
        )
        for text, (_, reference), other in zip(said, pairs, others, strict=True)
    ]


def summarise_answers(found: Sequence[PlainAnswer], *, draws: int, seed: int) -> dict[str, Any]:
    """The section `retention/plain` of the metrics file; `beyond_chance`: the answers fit their own requests better."""
    if len(found) < 2:  # another row is needed for comparison
        return {"n": len(found), "status": NOT_RUN}
    table = np.array([[one.chrf, one.chance, one.chrf - one.chance] for one in found])
    numbers: list[dict[str, Any]] = []
    for column in range(3):
        means = group_bootstrap(
            table[:, column : column + 1],
            lambda totals: np.asarray(totals[:, 0] / len(table)),
            draws=draws,
            seed=seed,
        )
        interval = percentile_interval(means) or [float("nan")] * 2
        numbers.append(
            {
                "value": round(float(table[:, column].mean()), 3),
                "n": len(table),
                "ci95": [round(v, 3) for v in interval],
            }
        )
    flags = {
        name: rate(np.array([getattr(one, name) for one in found], dtype=bool)).to_dict()
        for name in ("marked", "empty")
    }
    return {
        "n": len(found),
        "status": "run",
        "chrf": numbers[0],
        "chance_chrf": numbers[1],
        "above_chance": numbers[2],
        "beyond_chance": numbers[2]["ci95"][0] > 0,
        **flags,
    }


def summarise(found: Sequence[Likelihood], *, draws: int, seed: int) -> dict[str, Any]:
    """The section `retention` of the metrics file: nats per token, perplexity, bits per character."""
    if not found:
        return {"n": 0, "status": NOT_RUN}
    sums = np.array([[one.nats, one.tokens] for one in found], dtype=np.float64)
    means = group_bootstrap(
        sums, lambda totals: np.asarray(totals[:, 0] / totals[:, 1]), draws=draws, seed=seed
    )
    interval = percentile_interval(means) or [float("nan")] * 2
    nats, tokens = (float(v) for v in sums.sum(axis=0))
    mean, characters = nats / tokens, sum(one.characters for one in found)
    perplexity = [round(math.exp(v), 4) for v in (mean, *interval)]
    return {
        "n": len(found),
        "status": "run",
        "tokens": int(tokens),
        "nll_per_token": {
            "value": round(mean, 5),
            "n": len(found),
            "ci95": [round(v, 5) for v in interval],
        },
        "perplexity": {"value": perplexity[0], "n": len(found), "ci95": perplexity[1:]},
        "bits_per_character": round(nats / math.log(2) / characters, 5),
    }
