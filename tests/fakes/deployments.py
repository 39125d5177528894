"""Simulated deployments: calibration rows, and requests that are like them or are not."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from so8t.monitoring.martingale import log_evidence
from so8t.monitoring.ruler import Ruler

SIGNALS = 2


@dataclass(frozen=True)
class World:
    """What is simulated.

    Attributes:
        rows: calibration rows of each domain.
        domains: of different scales; the requests are of the last one, whose numbers are largest.
        requests: of one deployment.
        tied: share of numbers that are exactly 0, as the share of unseen n-grams mostly is.
        strange: share of requests that are stranger than nearly every calibration row.
        since: the first of them.
        mixed: whether the requests are of all domains instead.
    """

    rows: int
    domains: int = 1
    requests: int = 500
    tied: float = 0.0
    strange: float = 0.0
    since: int = 0
    mixed: bool = False


def numbers(world: World, domain: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """A signal's numbers of rows of these domains."""
    drawn = random.exponential(1.0, len(domain)) * (1.0 + domain)
    drawn[random.random(len(domain)) < world.tied] = 0.0
    return drawn


def requests(world: World, random: np.random.Generator) -> np.ndarray:
    domain = np.full(world.requests, world.domains - 1.0)
    if world.mixed:
        domain = random.integers(0, world.domains, world.requests).astype(float)
    drawn = numbers(world, domain, random)
    index = np.arange(world.requests)
    drawn[(index >= world.since) & (random.random(world.requests) < world.strange)] = 1e3
    return drawn


def corrected(
    world: World, delta: float, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """p-values of one signal as the product makes them, from numbers and as recorded."""
    held = calibration(world, random)
    ruler = Ruler.of(held, delta / 2 / SIGNALS, random)
    served = requests(world, random)
    plain = conformal(held, served, None)
    return ruler.of_numbers(served, random.random(len(served))), ruler.of_recorded(plain)


def uncorrected(
    world: World, delta: float, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Smoothed and plain conformal p-values of one signal."""
    held = calibration(world, random)
    served = requests(world, random)
    return conformal(held, served, random.random(len(served))), conformal(held, served, None)


def calibration(world: World, random: np.random.Generator) -> dict[str, list[float]]:
    return {
        f"d{domain}": numbers(world, np.full(world.rows, float(domain)), random).tolist()
        for domain in range(world.domains)
    }


def conformal(
    held: dict[str, list[float]], served: np.ndarray, ties: np.ndarray | None
) -> np.ndarray:
    """(greater + U (equal + 1)) / (n + 1), the largest over the domains; U is 1 without ties."""
    found = []
    for values in held.values():
        ordered = np.sort(values)
        greater = len(ordered) - np.searchsorted(ordered, served, side="right")
        equal = len(ordered) - np.searchsorted(ordered, served, side="left") - greater
        share = 1.0 if ties is None else ties
        found.append((greater + share * (equal + 1)) / (len(ordered) + 1))
    return np.max(found, axis=0)


def first_alarms(
    world: World,
    make: Callable[[World, float, np.random.Generator], tuple[np.ndarray, np.ndarray]],
    threshold: float,
    *,
    delta: float = 0.05,
    deployments: int = 500,
    recorded: bool = False,
    seed: int = 0,
) -> np.ndarray:
    """Of each deployment the request at which a signal's evidence crosses; `requests` if never."""
    random = np.random.default_rng((seed, world.rows, world.domains))
    made = np.empty((deployments, SIGNALS, world.requests))
    for deployment in range(deployments):
        for signal in range(SIGNALS):
            made[deployment, signal] = make(world, delta, random)[recorded]
    crossed = (log_evidence(made) >= np.log(threshold)).any(axis=1)
    return np.where(crossed.any(axis=1), crossed.argmax(axis=1), world.requests)
