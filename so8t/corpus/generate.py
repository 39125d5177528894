"""Groups of minimal pairs, balanced so that no single factor and no word gives the verdict away.

A group is a pair of requests that differ in exactly one factor and get different verdicts (sometimes one row or three).
Each group is the candidate, of a few drawn at random, that best evens out verdicts within its domain and within every
value of every factor. Groups for `test_cells` use factor combinations that no other group uses, groups for `test_phrases`
use phrasings that no other group uses. Two groups never share all but one element of their wording, so that
near-duplicates do not cross splits; when the space is exhausted (far above the default size) that is relaxed.

Covered: which rows exist. Not covered: how they read (grammar), what is right (policy).
"""

import hashlib
import random
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from so8t.corpus import vocabulary as words
from so8t.corpus.grammar import SLOTS, Scenario, factors_of, final_of, flip, phrase_counts, text_of, thinking_of
from so8t.corpus.policy import Cell, cells, decide
from so8t.errors import ParamsError
from so8t.files import sha256_json
from so8t.verdict import VERDICTS

HeldOut = Literal["", "cells", "phrases"]
GENERATOR, LICENSE = "so8t.grammar/1", "CC0-1.0"
CELL_SHARE = 0.15  # of factor combinations kept for test_cells
CANDIDATES = 10  # drawn for each group
PATIENCE = 25  # draws without a new wording before the distance rule is relaxed
SINGLES, TRIPLES = 0.05, 0.05  # shares of groups that are not pairs
BALANCED = ("sensitivity", "intent", "authorisation", "context", "frame")


@dataclass(frozen=True, slots=True)
class Pools:
    """Cells, and by flipped factor the pairs of cells with different verdicts, that one kind of group may use."""

    cells: list[Cell]
    pairs: dict[str, list[tuple[Cell, Cell]]]


def _is_held_out(cell: Cell, seed: int) -> bool:
    digest = hashlib.sha256(f"{seed}|{'|'.join(map(str, cell))}".encode()).digest()
    return int.from_bytes(digest[:8]) < CELL_SHARE * 2**64


@lru_cache(maxsize=4)
def pools(seed: int) -> tuple[Pools, Pools]:
    """(seen, held-out) pools; no combination is in both."""
    held = {cell: _is_held_out(cell, seed) for cell in cells()}
    return _pools([c for c in held if not held[c]]), _pools([c for c in held if held[c]])


def _pools(chosen: list[Cell]) -> Pools:
    known, pairs = set(chosen), defaultdict(list)
    for cell in chosen:
        for axis in BALANCED:
            for value in dict.fromkeys(getattr(c, axis) for c in cells()):
                other = cell._replace(**{axis: value})
                if other in known and decide(other).verdict is not decide(cell).verdict:
                    pairs[axis].append((cell, other))
    return Pools(chosen, dict(pairs))


class Balance:
    """Running counts of verdicts, by domain and by factor value within the domain."""

    def __init__(self) -> None:
        self.counts: dict[tuple[str, str, Any], list[int]] = defaultdict(lambda: [0, 0, 0])

    @staticmethod
    def keys(s: Scenario) -> list[tuple[str, str, Any]]:
        """The counters that one row belongs to."""
        return [(s.domain, "", ""), (s.domain, "asset", s.asset), *((s.domain, name, getattr(s, name)) for name in BALANCED)]

    def excess(self, group: list[Scenario]) -> float:
        """How far the group's rows are above the even share of their counters; lower is better."""
        total = 0.0
        for scenario in group:
            verdict = VERDICTS.index(scenario.rule.verdict)
            for key in self.keys(scenario):
                count = self.counts[key]
                total += (3 * count[verdict] - sum(count)) * (4.0 if not key[1] else 1.0) + 0.15 * sum(count) * (key[1] != "")
        return total

    def add(self, group: list[Scenario]) -> None:
        """Count a chosen group."""
        for scenario in group:
            for key in self.keys(scenario):
                self.counts[key][VERDICTS.index(scenario.rule.verdict)] += 1


class Wordings:
    """Wordings in use, with one element wiped in turn: a hit means that another group differs in one element only."""

    def __init__(self) -> None:
        self.texts: set[str] = set()
        self.used: set[tuple[int, ...]] = set()

    @staticmethod
    def neighbours(s: Scenario) -> list[tuple[int, ...]]:
        """The wording with each element wiped."""
        code = s.code()
        return [(*code[:i], -1, *code[i + 1:]) for i in range(len(code))]

    def is_free(self, group: list[Scenario], *, distant: bool) -> bool:
        """True if no text is in use and, if `distant`, no other group's wording is within one element."""
        texts = {text_of(s) for s in group}
        if len(texts) < len(group) or texts & self.texts:
            return False
        return not distant or not any(n in self.used for s in group for n in self.neighbours(s))

    def add(self, group: list[Scenario]) -> None:
        """Take the group's wordings."""
        for scenario in group:
            self.texts.add(text_of(scenario))
            self.used.update(self.neighbours(scenario))


class Generator:
    """Draws groups; everything depends on the seed only."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.seen, self.unseen = pools(seed)
        self.balance, self.wordings = Balance(), Wordings()

    def group(self, domain: str, size: int, held_out: HeldOut) -> list[Scenario]:
        """The next group of `size` rows."""
        for distant in (True, False):
            for _ in range(PATIENCE):
                drawn = [self._draw(domain, size, held_out) for _ in range(CANDIDATES)]
                free = [g for g in drawn if g and self.wordings.is_free(g, distant=distant)]
                if free:
                    best = min(free, key=self.balance.excess)
                    self.balance.add(best)
                    self.wordings.add(best)
                    return best
        raise ParamsError(f"no {size} new distinct rows are left in {domain}", where="synthesize.rows", fix="ask for fewer rows, or more domains")

    def _draw(self, domain: str, size: int, held_out: HeldOut) -> list[Scenario]:
        pool = self.unseen if held_out == "cells" else self.seen
        if size == 1:
            return [self._scenario(domain, self.random.choice(pool.cells), held_out)]
        axis = self.random.choice(BALANCED)
        first, second = self.random.choice(pool.pairs[axis])
        group = [self._scenario(domain, first, held_out)]
        group.append(self._flipped(group[0], second))
        return group if size == 2 else self._with_third(group, pool)

    def _with_third(self, group: list[Scenario], pool: Pools) -> list[Scenario]:
        """A third row, one factor away from the first, with the verdict that is still missing; [] if there is none."""
        verdicts = {s.rule.verdict for s in group}
        axis = self.random.choice(BALANCED)
        values = {"sensitivity": (0, 1, 2)}.get(axis) or tuple(dict.fromkeys(getattr(c, axis) for c in pool.cells))
        others = [group[0].cell._replace(**{axis: value}) for value in values]
        known = [c for c in others if c in _cell_set(tuple(pool.cells)) and decide(c).verdict not in verdicts]
        return [*group, self._flipped(group[0], self.random.choice(known))] if known else []

    def _flipped(self, scenario: Scenario, cell: Cell) -> Scenario:
        same = cell.sensitivity == scenario.sensitivity
        return flip(scenario, cell, scenario.asset if same else self._asset(scenario.domain, cell.sensitivity))

    def _asset(self, domain: str, sensitivity: int) -> str:
        return self.random.choice([name for name, level in words.ASSETS[domain] if level == sensitivity])

    def _scenario(self, domain: str, cell: Cell, held_out: HeldOut) -> Scenario:
        draw = self.random
        return Scenario(domain=domain, asset=self._asset(domain, cell.sensitivity), **cell._asdict(), phrases=self._phrases(cell, held_out),
                        style=draw.choice(list(words.STYLES)), order=draw.choice(words.ORDERS),
                        number=f"{draw.choice('ABCDEFGH')}-{draw.randrange(1000, 10000)}")

    def _phrases(self, cell: Cell, held_out: HeldOut) -> tuple[int, int, int, int]:
        counts = phrase_counts()
        chosen = [self.random.randrange(count - 1) for count in counts]
        if held_out == "phrases":  # one or two elements are put in the held-out way
            names = [slot for slot in SLOTS if not (slot == "frame" and cell.frame == "plain")]
            for slot in self.random.sample(names, self.random.choice((1, 2))):
                chosen[SLOTS.index(slot)] = counts[SLOTS.index(slot)] - 1
        intent, authorisation, context, frame = chosen
        return intent, authorisation, context, frame


@lru_cache(maxsize=4)
def _cell_set(chosen: tuple[Cell, ...]) -> frozenset[Cell]:
    return frozenset(chosen)


def generate(rows: int, domains: list[str], seed: int, *, cells_share: float, phrases_share: float) -> Iterator[dict[str, Any]]:
    """Yield exactly `rows` distinct rows, the domains in turn; the shares are shares of groups for the two held-out tests.

    Raises:
        ParamsError: unknown domain, or more rows than the grammar has.
    """
    if unknown := sorted(set(domains) - set(words.ASSETS)):
        raise ParamsError(f"unknown domains {unknown}", where="synthesize.domains", fix=f"choose from {list(words.ASSETS)}")
    generator = Generator(seed)
    left = {d: rows // len(domains) + (i < rows % len(domains)) for i, d in enumerate(domains)}
    credit = {d: {"cells": 0.0, "phrases": 0.0} for d in domains}
    while any(left.values()):
        for domain in domains:
            if left[domain]:
                held_out = _turn(credit[domain], cells_share, phrases_share)
                size = min(left[domain], generator.random.choices((1, 2, 3), (SINGLES, 1 - SINGLES - TRIPLES, TRIPLES))[0])
                left[domain] -= size
                yield from rows_of(generator.group(domain, size, held_out), held_out)


def _turn(credit: dict[str, float], cells_share: float, phrases_share: float) -> HeldOut:
    """Spread the held-out kinds evenly: each gains its share per group and pays one when it is used."""
    credit["cells"] += cells_share
    credit["phrases"] += phrases_share
    if credit["cells"] >= 1.0:
        credit["cells"] -= 1.0
        return "cells"
    if credit["phrases"] >= 1.0:
        credit["phrases"] -= 1.0
        return "phrases"
    return ""


def rows_of(group: list[Scenario], held_out: HeldOut) -> Iterator[dict[str, Any]]:
    """The rows of one group as they are written; ids are digests of content, so that old rows keep them."""
    texts = [text_of(s) for s in group]
    name = hashlib.sha256("\n".join(texts).encode()).hexdigest()[:16]
    for scenario, text in zip(group, texts, strict=True):
        row = {"id": f"syn-{hashlib.sha256(text.encode()).hexdigest()[:16]}", "text": text, "verdict": str(scenario.rule.verdict),
               "authority": str(scenario.rule.authority), "domain": scenario.domain, "thinking": thinking_of(scenario), "final": final_of(scenario),
               "factors": factors_of(scenario), "rule": scenario.rule.id, "group": f"g-{name}", "pair": f"p-{name}" if len(group) > 1 else None,
               "held_out": held_out, "source": "synthetic", "license": LICENSE, "generator": GENERATOR}
        yield {**row, "sha256": sha256_json(row)}
