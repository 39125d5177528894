"""Evidence against "these p-values are like before", at any time and without a fixed end.

Somebody bets against the p-values, request after request, at odds that are fair if they are
uniform. The capital that one coin has become is the *evidence*: a nonnegative supermartingale, so
it reaches 1/delta at any time with probability at most delta (Ville's inequality, 1939; conformal
test martingales: Vovk, Nouretdinov, Gammerman, Testing Exchangeability On-Line, ICML 2003).

A bet names a level and a stake, the share of its capital that it puts on "p is at most level":

    1 - stake + stake / level    if p <= level
    1 - stake                    otherwise

Its mean is 1 for uniform p, and it falls as p grows. So the capital stays a supermartingale where
p-values are larger than uniform ones, as those of a request of unknown domain are. Many bets share
the coin, because neither the level nor the share of strange requests is known. Power bets, which
the paper uses, find far less here (docs/design.md).

A bet that runs since the first request has lost nearly everything before a late drift begins.
Therefore the coin sleeps at first: request t wakes the share 1/t - 1/(t + 1) of it, divided among
the bets. That is a mixture over the first request that drifted, and still a supermartingale. A
drift from request t on costs a factor of t (t + 1) in evidence, and no more however long the quiet
was.

Covered: evidence, where it crosses, where the drift began. Not covered: p-values (ruler).
"""

import math
from typing import Final

import numpy as np
from jaxtyping import Float
from numpy import ndarray

# From a half down to 0.4 %, about the least p that 2,000 calibration rows give; the factor between
# neighbours is the square root of 2.
_LEVELS: Final = 0.5 * 2.0 ** (-np.arange(15) / 2)
# For a few strange requests among many, for some, and for hardly anything else.
_STAKES: Final = np.array([0.05, 0.2, 0.8])
LEVELS: Final[Float[ndarray, " e"]] = np.repeat(_LEVELS, len(_STAKES))
STAKES: Final[Float[ndarray, " e"]] = np.tile(_STAKES, len(_LEVELS))


def log_bets(p: Float[ndarray, "*s"]) -> Float[ndarray, "*s e"]:
    """The log of what each bet pays for each p-value."""
    won = p[..., None] <= LEVELS
    paid: Float[ndarray, "*s e"] = np.log(1.0 - STAKES + STAKES * won / LEVELS)
    return paid


def log_evidence(p: Float[ndarray, "*s t"]) -> Float[ndarray, "*s t"]:
    """The natural log of the evidence after each p-value.

    Args:
        p: in the order of time along the last axis.
    """
    bets = log_bets(p)
    found = np.zeros(p.shape)
    capital = np.full((*p.shape[:-1], len(LEVELS)), -math.inf)
    for index in range(p.shape[-1]):
        t = index + 1
        woken = -math.log(t * (t + 1) * len(LEVELS))
        capital = np.logaddexp(capital, woken) + bets[..., index, :]
        asleep = -math.log(t + 1)
        found[..., index] = np.logaddexp(np.logaddexp.reduce(capital, axis=-1), asleep)
    return found


def first_at_least(evidence: Float[ndarray, " t"], threshold: float) -> int | None:
    """Index at which the evidence first reaches a threshold; None where it never does."""
    reached = np.flatnonzero(evidence >= threshold)
    return int(reached[0]) if len(reached) else None


def beginning(p: Float[ndarray, " t"]) -> int:
    """Index from which on a single bet earns most up to the last p-value: a best guess.

    It is the maximum-likelihood estimate of the first request that drifted, with the bets as
    alternatives (as in CUSUM; Page, Biometrika 1954). Nothing is promised about it.
    """
    earned = np.cumsum(log_bets(p), axis=0)
    before = np.vstack([np.zeros(len(LEVELS)), earned[:-1]])
    since = earned[-1] - before
    return int(np.argmax(since.max(axis=1)))
