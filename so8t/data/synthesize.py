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
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, TypeVar

from so8t.data import vocabulary as words
from so8t.data.grammar import (
    Scenario,
    factors_of,
    final_of,
    flip,
    phrase_counts,
    text_of,
    thinking_of,
)
from so8t.data.policy import Cell, cells, decide
from so8t.errors import ParamsError
from so8t.files import sha256_json
from so8t.verdict import VERDICTS

Item = TypeVar("Item")
HeldOut = Literal["", "cells", "phrases"]
GENERATOR, LICENSE = "so8t.grammar/1", "CC0-1.0"
CELL_SHARE = 0.15  # of factor combinations kept for test_cells
CANDIDATES = 10  # drawn for each group
PATIENCE = 25  # draws without a new wording before the distance rule is relaxed
SINGLES, TRIPLES = 0.05, 0.05  # shares of groups that are not pairs
BALANCED = ("sensitivity", "intent", "authorisation", "context", "frame")


@dataclass(frozen=True, slots=True)
class Pools:
    """What one kind of group may use: cells, pairs of cells that differ in one factor and in the verdict (by factor, and by cell)."""

    cells: list[Cell]
    pairs: list[list[tuple[Cell, Cell]]]
    partners: dict[Cell, list[Cell]]


def _is_held_out(cell: Cell, seed: int) -> bool:
    """Whole blocks are held out: a combination of everything but the context, so that no near twin of a cell is ever seen."""
    block = (cell.sensitivity, cell.intent, cell.authorisation, cell.frame)
    digest = hashlib.sha256(f"{seed}|{'|'.join(map(str, block))}".encode()).digest()
    return int.from_bytes(digest[:8]) < CELL_SHARE * 2**64


@lru_cache(maxsize=4)
def pools(seed: int) -> tuple[Pools, Pools]:
    """(seen, held-out) pools; no combination is in both."""
    held = {cell: _is_held_out(cell, seed) for cell in cells()}
    return _pools([c for c in held if not held[c]]), _pools([c for c in held if held[c]])


def _pools(chosen: list[Cell]) -> Pools:
    known, values = (
        set(chosen),
        {axis: list(dict.fromkeys(getattr(c, axis) for c in cells())) for axis in BALANCED},
    )
    pairs: dict[str, list[tuple[Cell, Cell]]] = {axis: [] for axis in BALANCED}
    partners: dict[Cell, list[Cell]] = {cell: [] for cell in chosen}
    for cell in chosen:
        for axis in BALANCED:
            others = [cell._replace(**{axis: value}) for value in values[axis]]
            flips = [
                other
                for other in others
                if other in known and decide(other).verdict is not decide(cell).verdict
            ]
            pairs[axis] += [(cell, other) for other in flips]
            partners[cell] += flips
    return Pools(chosen, [listed for listed in pairs.values() if listed], partners)


class Balance:
    """Running counts of verdicts, by domain and by factor value within the domain."""

    def __init__(self) -> None:
        self.counts: dict[tuple[str, str, Any], list[int]] = defaultdict(lambda: [0, 0, 0])

    @staticmethod
    def keys(s: Scenario) -> list[tuple[str, str, Any]]:
        """The counters that one row belongs to."""
        return [
            (s.domain, "", ""),
            (s.domain, "asset", s.asset),
            *((s.domain, name, getattr(s, name)) for name in BALANCED),
        ]

    def excess(self, group: list[Scenario]) -> float:
        """How far the group's rows are above the even share of their counters; lower is better."""
        total = 0.0
        for scenario in group:
            verdict = VERDICTS.index(scenario.rule.verdict)
            for key in self.keys(scenario):
                count = self.counts[key]
                total += (3 * count[verdict] - sum(count)) * (
                    4.0 if not key[1] else 1.0
                ) + 0.15 * sum(count) * (key[1] != "")
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
        a, b, c, d, e = s.code()
        return [
            (-1, b, c, d, e),
            (a, -1, c, d, e),
            (a, b, -1, d, e),
            (a, b, c, -1, e),
            (a, b, c, d, -1),
        ]

    def take(self, group: list[Scenario], *, distant: bool) -> bool:
        """Take the group's wordings if no text is in use and, if `distant`, no other group is within one element."""
        near = {n for s in group for n in self.neighbours(s)}
        if distant and not near.isdisjoint(self.used):
            return False
        texts = {text_of(s) for s in group}
        if len(texts) < len(group) or not texts.isdisjoint(self.texts):
            return False
        self.texts |= texts
        self.used |= near
        return True


class Generator:
    """Draws groups; everything depends on the seed only."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.seen, self.unseen = pools(seed)
        self.balance, self.wordings = Balance(), Wordings()
        self.assets = {
            (d, level): [name for name, at in listed if at == level]
            for d, listed in words.ASSETS.items()
            for level in (0, 1, 2)
        }
        self.counts, self.styles = phrase_counts(), list(words.STYLES)
        self.patience: dict[
            tuple[str, str], int
        ] = {}  # tries for a distant wording, by domain and kind; few once they ran out

    def pick(self, items: Sequence[Item]) -> Item:
        """One of the items, evenly."""
        return items[int(self.random.random() * len(items))]

    def group(self, domain: str, size: int, held_out: HeldOut) -> list[Scenario]:
        """The next group of `size` rows.

        Raises:
            ParamsError: no distinct rows are left.
        """
        for distant, tries in (
            (True, self.patience.get((domain, held_out), PATIENCE)),
            (False, PATIENCE),
        ):
            for _ in range(tries):
                drawn = [g for _ in range(CANDIDATES) if (g := self._draw(domain, size, held_out))]
                for best in sorted(drawn, key=self.balance.excess):
                    if self.wordings.take(best, distant=distant):
                        self.balance.add(best)
                        return best
            self.patience[domain, held_out] = 0
        raise ParamsError(
            f"no {size} new distinct rows are left in {domain}",
            where="synthesize.rows",
            fix="ask for fewer rows, or more domains",
        )

    def _draw(self, domain: str, size: int, held_out: HeldOut) -> list[Scenario]:
        """One candidate; [] where no third row with the missing verdict exists."""
        pool = self.unseen if held_out == "cells" else self.seen
        if size == 1:
            return [self._scenario(domain, self.pick(pool.cells), held_out)]
        first, second = self.pick(self.pick(pool.pairs))
        group = [self._scenario(domain, first, held_out)]
        group.append(self._flipped(group[0], second))
        if size == 3:
            verdicts = {decide(first).verdict, decide(second).verdict}
            thirds = [cell for cell in pool.partners[first] if decide(cell).verdict not in verdicts]
            return [*group, self._flipped(group[0], self.pick(thirds))] if thirds else []
        return group

    def _flipped(self, scenario: Scenario, cell: Cell) -> Scenario:
        same = cell.sensitivity == scenario.sensitivity
        return flip(
            scenario,
            cell,
            scenario.asset if same else self.pick(self.assets[scenario.domain, cell.sensitivity]),
        )

    def _scenario(self, domain: str, cell: Cell, held_out: HeldOut) -> Scenario:
        return Scenario(
            domain,
            self.pick(self.assets[domain, cell.sensitivity]),
            *cell,
            phrases=self._phrases(cell, held_out),
            style=self.pick(self.styles),
            order=self.pick(words.ORDERS),
            number=f"{self.pick('ABCDEFGH')}-{self.pick(range(1000, 10000))}",
        )

    def _phrases(self, cell: Cell, held_out: HeldOut) -> tuple[int, int, int, int]:
        chosen = [int(self.random.random() * (count - 1)) for count in self.counts]
        if held_out == "phrases":  # one or two elements are put in the held-out way
            slots = range(3 if cell.frame == "plain" else 4)
            for slot in self.random.sample(slots, self.pick((1, 2))):
                chosen[slot] = self.counts[slot] - 1
        intent, authorisation, context, frame = chosen
        return intent, authorisation, context, frame


def generate(
    rows: int, domains: list[str], seed: int, *, cells_share: float, phrases_share: float
) -> Iterator[dict[str, Any]]:
    """Yield exactly `rows` distinct rows, the domains in turn; the shares are shares of groups for the two held-out tests.

    Raises:
        ParamsError: unknown domain, or more rows than the grammar has.
    """
    if unknown := sorted(set(domains) - set(words.ASSETS)):
        raise ParamsError(
            f"unknown domains {unknown}",
            where="synthesize.domains",
            fix=f"choose from {list(words.ASSETS)}",
        )
    generator = Generator(seed)
    left = {d: rows // len(domains) + (i < rows % len(domains)) for i, d in enumerate(domains)}
    credit = {d: {"cells": 0.0, "phrases": 0.0} for d in domains}
    while any(left.values()):
        for domain in domains:
            if left[domain]:
                held_out = _turn(credit[domain], cells_share, phrases_share)
                size = min(
                    left[domain],
                    generator.random.choices((1, 2, 3), (SINGLES, 1 - SINGLES - TRIPLES, TRIPLES))[
                        0
                    ],
                )
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
        row = {
            "id": f"syn-{hashlib.sha256(text.encode()).hexdigest()[:16]}",
            "text": text,
            "verdict": str(scenario.rule.verdict),
            "authority": str(scenario.rule.authority),
            "domain": scenario.domain,
            "thinking": thinking_of(scenario),
            "final": final_of(scenario),
            "factors": factors_of(scenario),
            "rule": scenario.rule.id,
            "group": f"g-{name}",
            "pair": f"p-{name}" if len(group) > 1 else None,
            "held_out": held_out,
            "source": "synthetic",
            "license": LICENSE,
            "generator": GENERATOR,
        }
        yield {**row, "sha256": sha256_json(row)}
