"""Time, memory and disk of each stage, from operation counts and a few measured rates.

A model of N parameters takes about 6 N operations per trained token and 2 N per read token (Kaplan
et al. 2020, arXiv 2001.08361). Times are right to a factor of two, which is enough for a plan.

Not covered: the time to fetch or install anything.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from so8t.params import Params

# Operations per parameter and token, with and without a backward pass.
TRAINED = 6.4
READ = 2.0
# Share of the measured matrix rate that whole models reach.
EFFICIENCY = 0.5
# CPU seconds per 1e9 parameters, measured on Q4_K_M.
QUANTISE_S_PER_GP = 46.0
# Bits per weight of each file type.
BITS = {
    "F16": 16.0,
    "Q8_0": 8.5,
    "Q6_K": 6.6,
    "Q5_K_M": 5.7,
    "Q5_0": 5.5,
    "Q4_K_M": 4.9,
    "Q4_K_S": 4.6,
    "Q4_0": 4.5,
    "Q4_1": 5.0,
}
# Seconds per stage for imports and DVC.
OVERHEAD_S = 4.0
# Side of the square matrices that are multiplied to time this machine.
SIDE = 768
# Models A and B go through most stages.
MODELS = 2


@dataclass(frozen=True, slots=True)
class Need:
    """One stage's needs: seconds, bytes of memory and of disk."""

    stage: str
    seconds: float
    memory: float
    disk: float


@dataclass(frozen=True, slots=True)
class Facts:
    """What the plan is computed from.

    Attributes:
        parameters: numbers in the base model.
        rows: rows of each split.
        tokens_per_row: mean length of a conversation.
        rate: float32 operations per second of this machine.
        files: GGUF files that are scored, of both models.
        training: bytes that training holds.
    """

    parameters: float
    rows: dict[str, int]
    tokens_per_row: float
    rate: float
    files: int
    training: float

    @property
    def speed(self) -> float:
        """Operations per second that a whole model reaches."""
        return self.rate * EFFICIENCY


def matrix_rate() -> float:
    """Floating point operations per second of a float32 matrix product on this machine."""
    a = np.ones((SIDE, SIDE), dtype=np.float32)
    best = float("inf")
    # The best of several tries, because other processes may be busy.
    for _ in range(20):
        began = time.perf_counter()
        a @ a
        best = min(best, time.perf_counter() - began)
    return 2.0 * SIDE**3 / best


def needs(params: Params, facts: Facts) -> Iterator[Need]:
    """Every stage of the graph, in order."""
    rows = sum(facts.rows.values())
    yield Need(
        stage="synthesize, prepare",
        seconds=OVERHEAD_S * 2 + rows / 500,
        memory=5e8,
        disk=3e3 * rows,
    )
    yield _base(params, facts)
    yield _train(params, facts)
    yield _bake(params, facts)
    yield from _files(params, facts)
    yield from _results(params, facts)


def _base(params: Params, facts: Facts) -> Need:
    n = facts.parameters
    scratch = params.active.scratch
    if scratch is None:
        # Two bytes a weight are digested at about 500 MB a second; only a description is written.
        return Need(
            stage="base",
            seconds=OVERHEAD_S + 2 * n / 5e8,
            memory=3e8,
            disk=2e7,
        )
    # Five short tasks a row, together about two and a half times as long as the row.
    tokens = scratch.epochs * facts.rows["train"] * facts.tokens_per_row * 2.5
    seconds = tokens * TRAINED * n / facts.speed
    return Need(
        stage="base",
        seconds=OVERHEAD_S + seconds,
        memory=16 * n + 1e9,
        disk=4 * n,
    )


def _train(params: Params, facts: Facts) -> Need:
    n = facts.parameters
    tokens = params.active.train.epochs * facts.rows["train"] * facts.tokens_per_row
    seconds = tokens * TRAINED * n / facts.speed
    return Need(
        stage="train",
        seconds=OVERHEAD_S + seconds,
        memory=facts.training,
        disk=0.05 * n,
    )


def _bake(params: Params, facts: Facts) -> Need:
    n = facts.parameters
    # The proof that baked and trained logits are equal reads 64 texts with three variants.
    seconds = 64 * facts.tokens_per_row * READ * 3 * n / facts.speed
    # The demo's base is float32, a real one 16-bit.
    disk = 4 * n if params.active.scratch else 2 * n
    return Need(
        stage="bake",
        seconds=OVERHEAD_S + seconds,
        memory=2 * n + 1e9,
        disk=disk,
    )


def _files(params: Params, facts: Facts) -> Iterator[Need]:
    """The stages that make GGUF files and prove them."""
    n = facts.parameters
    # Two models of two bytes a weight, written at about 150 MB a second.
    yield Need(
        stage="convert",
        seconds=OVERHEAD_S * 2 + 2 * 2 * n / 1.5e8,
        memory=3e8,
        disk=2 * 2 * n,
    )

    tokens = 0.0
    memory = 2e8
    if params.quant.imatrix:
        tokens = params.quant.imatrix_rows * facts.tokens_per_row
        memory = 4 * n + 1e9
    seconds = 2 * (OVERHEAD_S / 2 + tokens * READ * n / facts.speed)
    yield Need(
        stage="imatrix",
        seconds=seconds,
        memory=memory,
        disk=1e8,
    )

    types = params.quant.types
    one = OVERHEAD_S / 4 + QUANTISE_S_PER_GP * n / 1e9 / params.scoring.threads
    bytes_per_weight = sum(BITS[kind] / 8 for kind in types)
    yield Need(
        stage="quantize",
        seconds=2 * len(types) * one,
        memory=5e8,
        disk=2 * bytes_per_weight * n,
    )

    # Each prompt is read by the file's engine and by its reference.
    reading = params.verify.prompts * facts.tokens_per_row * READ * 2 * n / facts.speed
    yield Need(
        stage="verify",
        seconds=facts.files * (OVERHEAD_S + reading),
        memory=4 * n + 1e9,
        disk=0,
    )


def _results(params: Params, facts: Facts) -> Iterator[Need]:
    """The stages that measure the files, and what is written of them."""
    n = facts.parameters
    scored = 0
    for split, count in facts.rows.items():
        if split != "train":
            scored += count
    # Prompts begin alike, and what they share is read once; the labels add a dozen tokens.
    tail = facts.tokens_per_row * 0.4
    reading = scored * (tail + 12) * READ * n / facts.speed
    seconds = facts.files * (OVERHEAD_S / 2 + reading)
    yield Need(
        stage="score",
        seconds=seconds,
        memory=2 * n + 5e8,
        disk=400 * scored * facts.files,
    )

    yield Need(
        stage="calibrate, evaluate, compare",
        seconds=OVERHEAD_S * (2 * facts.files + 1),
        memory=5e8,
        disk=1e6,
    )

    wanted = params.evaluation
    made = wanted.generate_rows * wanted.generate_tokens + wanted.long_rows * wanted.long_tokens
    seconds = facts.files * OVERHEAD_S + 4 * made * READ * n / facts.speed
    yield Need(
        stage="generate",
        seconds=seconds,
        memory=2 * n + 5e8,
        disk=1e6,
    )

    yield Need(
        stage="release, report",
        seconds=OVERHEAD_S * 3,
        memory=5e8,
        disk=BITS[params.release.type] / 8 * n,
    )
