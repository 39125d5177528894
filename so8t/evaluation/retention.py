"""What fine-tuning cost: perplexity of ordinary answers, without any of the formats that were trained.

The text is the request, a line break and the answer, with no chat template, label or heading, so that a model is not
paid for having learnt the format. Lower is better; the same rows and tokens for A and B make the two comparable.
Covered: negative log-likelihood per token and per character, with a bootstrap over rows. Not covered: knowledge.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from so8t.llama import Engine
from so8t.metrics.intervals import group_bootstrap, percentile_interval

NOT_RUN = "not_run"


@dataclass(frozen=True, slots=True)
class Likelihood:
    """Summed negative log-likelihood (nats) of one answer, its tokens and its characters."""

    nats: float
    tokens: int
    characters: int


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
        context = engine.tokenize(f"{request}\n", special=False, add_special=True)
        target = engine.tokenize(answer, special=False)
        ids = [*context, *target][: engine.n_ctx]
        target = ids[len(context) :]
        if target:
            logits = engine.logits_from(ids[:-1], len(context) - 1)
            found.append(Likelihood(negative_log_likelihood(logits, target), len(target), len(answer)))
    return found


def summarise(found: Sequence[Likelihood], *, draws: int, seed: int) -> dict[str, Any]:
    """The section `retention` of the metrics file: nats per token, perplexity, bits per character."""
    if not found:
        return {"n": 0, "status": NOT_RUN}
    sums = np.array([[one.nats, one.tokens] for one in found], dtype=np.float64)
    means = group_bootstrap(sums, lambda totals: np.asarray(totals[:, 0] / totals[:, 1]), draws=draws, seed=seed)
    interval = percentile_interval(means) or [float("nan")] * 2
    nats, tokens = (float(v) for v in sums.sum(axis=0))
    mean, characters = nats / tokens, sum(one.characters for one in found)
    perplexity = [round(math.exp(v), 4) for v in (mean, *interval)]
    return {
        "n": len(found), "status": "run", "tokens": int(tokens),
        "nll_per_token": {"value": round(mean, 5), "n": len(found), "ci95": [round(v, 5) for v in interval]},
        "perplexity": {"value": perplexity[0], "n": len(found), "ci95": perplexity[1:]},
        "bits_per_character": round(nats / math.log(2) / characters, 5),
    }
