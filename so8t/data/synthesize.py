"""Groups of minimal pairs, balanced so that no single factor and no word gives the verdict away.

A group is a pair of requests that differ in exactly one factor and get different verdicts (a
minimal pair); a few groups are one row or three. Each group is the candidate, of a few drawn at
random, that best evens out verdicts within its domain and within every value of every factor.

Two kinds of groups are held out for tests of their own. Groups for `test_cells` use cells
(combinations of the factors that the policy looks at) that no other group uses; groups for
`test_phrases` use phrasings that no other group uses. Two groups never share all but one element of
their wording, so that near-duplicates do not cross splits; when the space is exhausted (far above
the default size) that is relaxed.

Covered: which rows exist. Not covered: how they read (`grammar`), what is right (`policy`).
"""

import hashlib
import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, TypeAlias, TypeVar

from so8t.data import vocabulary
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
CellPair: TypeAlias = tuple[Cell, Cell]
Wording: TypeAlias = tuple[int, ...]

GENERATOR = "so8t.grammar/1"
LICENSE = "CC0-1.0"
CELL_SHARE = 0.15  # of cells kept for test_cells
CANDIDATES = 10  # drawn for each group
PATIENCE = 25  # draws without a new wording before the distance rule is relaxed
SINGLES = 0.05  # share of groups of one row
TRIPLES = 0.05  # share of groups of three rows, one for each verdict
BALANCED = ("sensitivity", "intent", "authorisation", "context", "frame")
# Verdicts within a domain matter most: a certificate is given by domain.
DOMAIN_WEIGHT = 4.0
# Against values that occur often, whatever their verdicts.
CROWDING = 0.15


@dataclass(frozen=True, slots=True)
class Pools:
    """What one kind of group may use.

    `pairs` are cells that differ in one factor and in the verdict, one list for each factor;
    `partners` are the same pairs by their first cell.
    """

    cells: list[Cell]
    pairs: list[list[CellPair]]
    partners: dict[Cell, list[Cell]]


@lru_cache(maxsize=4)
def pools(seed: int) -> tuple[Pools, Pools]:
    """(seen, held-out) pools; no cell is in both."""
    seen = []
    held_out = []
    for cell in cells():
        if _is_held_out(cell, seed):
            held_out.append(cell)
        else:
            seen.append(cell)
    return _pools(seen), _pools(held_out)


def _is_held_out(cell: Cell, seed: int) -> bool:
    """Whether a cell is kept for test_cells.

    Whole blocks are held out, that is, everything but the context, so that training never sees a
    cell that differs from a held-out one in the context alone.
    """
    block = f"{cell.sensitivity}|{cell.intent}|{cell.authorisation}|{cell.frame}"
    digest = hashlib.sha256(f"{seed}|{block}".encode()).digest()
    return int.from_bytes(digest[:8]) < CELL_SHARE * 2**64


def _pools(chosen: list[Cell]) -> Pools:
    known = set(chosen)
    values = {axis: _values(axis) for axis in BALANCED}
    pairs: dict[str, list[CellPair]] = {axis: [] for axis in BALANCED}
    partners: dict[Cell, list[Cell]] = {cell: [] for cell in chosen}
    for cell in chosen:
        verdict = decide(cell).verdict
        for axis in BALANCED:
            for value in values[axis]:
                other = cell._replace(**{axis: value})
                if other in known and decide(other).verdict is not verdict:
                    pairs[axis].append((cell, other))
                    partners[cell].append(other)
    return Pools(chosen, [listed for listed in pairs.values() if listed], partners)


def _values(axis: str) -> list[Any]:
    """The values of one factor, each once, in the order of `cells`."""
    return list(dict.fromkeys(getattr(cell, axis) for cell in cells()))


class Balance:
    """Running counts of verdicts, by domain and by factor value within the domain."""

    def __init__(self) -> None:
        # Three counts each, in the order of VERDICTS.
        self.by_domain: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0])
        self.by_value: dict[tuple[str, str, Any], list[int]] = defaultdict(lambda: [0, 0, 0])

    @staticmethod
    def values(scenario: Scenario) -> list[tuple[str, str, Any]]:
        """The keys of `by_value` that one row belongs to: (domain, factor, value)."""
        keys: list[tuple[str, str, Any]] = [(scenario.domain, "asset", scenario.asset)]
        for name in BALANCED:
            keys.append((scenario.domain, name, getattr(scenario, name)))
        return keys

    def excess(self, group: list[Scenario]) -> float:
        """How far the group's verdicts are above their even share; lower is better."""
        total = 0.0
        for scenario in group:
            verdict = VERDICTS.index(scenario.rule.verdict)
            counts = self.by_domain[scenario.domain]
            total += DOMAIN_WEIGHT * _above_even(counts, verdict)
            for key in self.values(scenario):
                counts = self.by_value[key]
                total += _above_even(counts, verdict) + CROWDING * sum(counts)
        return total

    def add(self, group: list[Scenario]) -> None:
        """Count a chosen group."""
        for scenario in group:
            verdict = VERDICTS.index(scenario.rule.verdict)
            self.by_domain[scenario.domain][verdict] += 1
            for key in self.values(scenario):
                self.by_value[key][verdict] += 1


def _above_even(counts: list[int], verdict: int) -> int:
    """Three times the rows by which a verdict is above a third of all."""
    return 3 * counts[verdict] - sum(counts)


class Wordings:
    """Wordings in use, each with one element wiped in turn.

    A wording whose wiped form is in use differs from another group's in one element only.
    """

    def __init__(self) -> None:
        self.texts: set[str] = set()
        self.used: set[Wording] = set()

    @staticmethod
    def neighbours(scenario: Scenario) -> list[Wording]:
        """The wording with each element wiped."""
        code = scenario.code()
        # -1 is no element's number.
        return [(*code[:place], -1, *code[place + 1 :]) for place in range(len(code))]

    def take(self, group: list[Scenario], *, distant: bool) -> bool:
        """Take the group's wordings, unless one of its texts is in use.

        With `distant`, no other group may be within one element either.
        """
        near: set[Wording] = set()
        for scenario in group:
            near.update(self.neighbours(scenario))
        if distant and not near.isdisjoint(self.used):
            return False
        texts = {text_of(scenario) for scenario in group}
        if len(texts) < len(group) or not texts.isdisjoint(self.texts):
            return False
        self.texts |= texts
        self.used |= near
        return True


class Generator:
    """Draws groups; everything depends on the seed only.

    The order of the draws is part of the result: moving one moves every row after it.
    """

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.seen, self.unseen = pools(seed)
        self.balance = Balance()
        self.wordings = Wordings()
        self.assets = _assets_by_level()
        self.counts = phrase_counts()
        self.styles = list(vocabulary.STYLES)
        # Tries for a distant wording, by domain and kind of group; none once they ran out.
        self.patience: dict[tuple[str, HeldOut], int] = {}

    def pick(self, items: Sequence[Item]) -> Item:
        """One of the items, evenly."""
        # `Random.choice` takes twice as long, and every row is drawn with CANDIDATES others.
        return items[int(self.random.random() * len(items))]

    def group(self, domain: str, size: int, held_out: HeldOut) -> list[Scenario]:
        """The next group of `size` rows.

        Raises:
            ParamsError: no distinct rows are left.
        """
        kind = (domain, held_out)
        tries = self.patience.get(kind, PATIENCE)
        group = self._search(domain, size, held_out, tries=tries, distant=True)
        if group is None:
            self.patience[kind] = 0
            group = self._search(domain, size, held_out, tries=PATIENCE, distant=False)
        if group is None:
            raise ParamsError(
                f"no {size} new distinct rows are left in {domain}",
                where="synthesize.rows",
                fix="ask for fewer rows, or more domains",
            )
        self.balance.add(group)
        return group

    def _search(
        self, domain: str, size: int, held_out: HeldOut, *, tries: int, distant: bool
    ) -> list[Scenario] | None:
        """The most even group whose wording is free; None after `tries` rounds of candidates."""
        for _ in range(tries):
            candidates = []
            for _ in range(CANDIDATES):
                drawn = self._draw(domain, size, held_out)
                if drawn is not None:
                    candidates.append(drawn)
            for group in sorted(candidates, key=self.balance.excess):
                if self.wordings.take(group, distant=distant):
                    return group
        return None

    def _draw(self, domain: str, size: int, held_out: HeldOut) -> list[Scenario] | None:
        """One candidate; None where no third row with the missing verdict exists."""
        pool = self.unseen if held_out == "cells" else self.seen
        if size == 1:
            return [self._scenario(domain, self.pick(pool.cells), held_out)]
        # The factor first, then the pair: some factors have far more pairs than others.
        first, second = self.pick(self.pick(pool.pairs))
        one = self._scenario(domain, first, held_out)
        group = [one, self._flipped(one, second)]
        if size == 3:
            verdicts = {decide(first).verdict, decide(second).verdict}
            thirds = [cell for cell in pool.partners[first] if decide(cell).verdict not in verdicts]
            if not thirds:
                return None
            group.append(self._flipped(one, self.pick(thirds)))
        return group

    def _flipped(self, scenario: Scenario, cell: Cell) -> Scenario:
        asset = scenario.asset
        if cell.sensitivity != scenario.sensitivity:
            asset = self.pick(self.assets[scenario.domain, cell.sensitivity])
        return flip(scenario, cell, asset)

    def _scenario(self, domain: str, cell: Cell, held_out: HeldOut) -> Scenario:
        asset = self.pick(self.assets[domain, cell.sensitivity])
        phrases = self._phrases(cell, held_out)
        style = self.pick(self.styles)
        order = self.pick(vocabulary.ORDERS)
        letter = self.pick("ABCDEFGH")
        number = self.pick(range(1000, 10000))
        return Scenario(
            domain,
            asset,
            *cell,
            phrases=phrases,
            style=style,
            order=order,
            number=f"{letter}-{number}",
        )

    def _phrases(self, cell: Cell, held_out: HeldOut) -> tuple[int, int, int, int]:
        # The last phrasing of each is held out.
        chosen = [int(self.random.random() * (count - 1)) for count in self.counts]
        if held_out == "phrases":
            # The plain frame has one wording only, so nothing of it could be held out.
            slots = range(3 if cell.frame == "plain" else 4)
            changed = self.pick((1, 2))
            for slot in self.random.sample(slots, changed):
                chosen[slot] = self.counts[slot] - 1
        intent, authorisation, context, frame = chosen
        return intent, authorisation, context, frame


def _assets_by_level() -> dict[tuple[str, int], list[str]]:
    """Assets by (domain, sensitivity)."""
    assets: dict[tuple[str, int], list[str]] = defaultdict(list)
    for domain, listed in vocabulary.ASSETS.items():
        for name, level in listed:
            assets[domain, level].append(name)
    return assets


@dataclass(slots=True)
class Credit:
    """Spreads the held-out kinds of one domain evenly over its groups.

    Each kind gains its share with every group, and pays 1 when a group is of that kind.
    """

    cells: float = 0.0
    phrases: float = 0.0

    def turn(self, cells_share: float, phrases_share: float) -> HeldOut:
        """The kind of the next group."""
        self.cells += cells_share
        self.phrases += phrases_share
        if self.cells >= 1.0:
            self.cells -= 1.0
            return "cells"
        if self.phrases >= 1.0:
            self.phrases -= 1.0
            return "phrases"
        return ""


def generate(
    rows: int, domains: list[str], seed: int, *, cells_share: float, phrases_share: float
) -> Iterator[dict[str, Any]]:
    """Yield exactly `rows` distinct rows, the domains in turn.

    Args:
        rows: how many.
        domains: of `vocabulary.ASSETS`.
        seed: the same seed gives the same rows; with more rows, the first ones stay.
        cells_share: share of groups for `test_cells`.
        phrases_share: share of groups for `test_phrases`.

    Raises:
        ParamsError: unknown domain, or more rows than the grammar has.
    """
    unknown = sorted(set(domains) - set(vocabulary.ASSETS))
    if unknown:
        raise ParamsError(
            f"unknown domains {unknown}",
            where="synthesize.domains",
            fix=f"choose from {list(vocabulary.ASSETS)}",
        )
    generator = Generator(seed)
    sizes = (1, 2, 3)
    shares = (SINGLES, 1 - SINGLES - TRIPLES, TRIPLES)
    left = _even_parts(rows, domains)
    credit = {domain: Credit() for domain in domains}
    while any(left.values()):
        for domain in domains:
            if left[domain] == 0:
                continue
            held_out = credit[domain].turn(cells_share, phrases_share)
            drawn = generator.random.choices(sizes, shares)[0]
            size = min(left[domain], drawn)
            left[domain] -= size
            yield from rows_of(generator.group(domain, size, held_out), held_out)


def _even_parts(rows: int, domains: list[str]) -> dict[str, int]:
    """Rows of each domain; the first ones get what does not divide evenly."""
    part, over = divmod(rows, len(domains))
    return {domain: part + (index < over) for index, domain in enumerate(domains)}


def rows_of(group: list[Scenario], held_out: HeldOut) -> Iterator[dict[str, Any]]:
    """The rows of one group as they are written.

    Ids are digests of content, so that rows keep them when others are added or left out.
    """
    texts = [text_of(scenario) for scenario in group]
    name = _short_digest("\n".join(texts))
    for scenario, text in zip(group, texts, strict=True):
        row = {
            "id": f"syn-{_short_digest(text)}",
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


def _short_digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
