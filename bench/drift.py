"""How often `so8t drift` reports a drift that is none, and how soon it finds one.

    python bench/drift.py

Prints the two tables of docs/drift.md. Deployments are simulated (tests/fakes/deployments.py): two
signals whose numbers are 0 for 70 % of the requests, delta 0.05. "plain" bets on smoothed conformal
p-values as they are. Drifting requests are stranger than every calibration row; there are four
domains of unequal scale, and 1,000 quiet requests before.
"""

import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.fakes.deployments import (  # noqa: E402
    SIGNALS,
    World,
    corrected,
    first_alarms,
    uncorrected,
)

DELTA = 0.05
DEPLOYMENTS = 500
FEWER = 40
AFTER = 1000


def false_alarms() -> None:
    print("| calibration rows | requests | plain | `so8t drift` |\n|---|---|---|---|")
    for rows in (150, 600):
        for requests in (500, 2000):
            world = World(rows, requests=requests, tied=0.7)
            rates = []
            for make, threshold in (
                (uncorrected, SIGNALS / DELTA),
                (corrected, 2 * SIGNALS / DELTA),
            ):
                at = first_alarms(world, make, threshold, delta=DELTA, deployments=DEPLOYMENTS)
                rates.append(f"{(at < requests).mean():.1%}")
            print(f"| {rows} | {requests} | {' | '.join(rates)} |", flush=True)


def delays() -> None:
    print("\n| calibration rows of a domain | strange | found | after requests (median) |")
    print("|---|---|---|---|")
    for rows in (150, 600):
        for strange in (1.0, 0.5, 0.2, 0.1, 0.05):
            world = World(rows, 4, 2 * AFTER, 0.7, strange, AFTER, mixed=True)
            at = first_alarms(world, corrected, 2 * SIGNALS / DELTA, delta=DELTA, deployments=FEWER)
            found = at < world.requests
            after = f"{np.median(at[found]) - AFTER + 1:.0f}" if found.any() else "-"
            print(f"| {rows} | {strange:.0%} | {found.mean():.0%} | {after} |", flush=True)


if __name__ == "__main__":
    false_alarms()
    delays()
