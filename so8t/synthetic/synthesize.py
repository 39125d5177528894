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

from so8t.errors import ParamsError
from so8t.files import sha256_json
from so8t.synthetic import vocabulary
from so8t.synthetic.balance import BALANCED, Balance, Wordings
from so8t.synthetic.grammar import (
    SLOTS,
    TAIL,
    Phrases,
    Scenario,
    factors_of,
    final_of,
    flip,
    phrase_counts,
    text_of,
    thinking_of,
)
from so8t.synthetic.long_tail import wordings
from so8t.synthetic.policy import Cell, cells, decide

Item = TypeVar("Item")
HeldOut = Literal["", "cells", "phrases"]
CellPair: TypeAlias = tuple[Cell, Cell]

GENERATOR = "so8t.grammar/2"
LICENSE = "CC0-1.0"
CELL_SHARE = 0.15  # of blocks of cells, kept for test_cells
CANDIDATES = 10  # drawn for each group, of which the most even one is taken
PATIENCE = 25  # draws without a new wording before the distance rule is relaxed
SINGLES = 0.05  # share of groups of one row
TRIPLES = 0.05  # share of groups of three rows, one for each verdict
SIZES = (1, 2, 3)  # rows of a group
SIZE_SHARES = (SINGLES, 1 - SINGLES - TRIPLES, TRIPLES)


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
    block = (
        str(seed),
        str(cell.sensitivity),
        cell.intent,
        cell.authorisation,
        cell.frame,
    )
    # A hash and not a random draw: a cell stays where it is when the policy gets more cells.
    digest = hashlib.sha256("|".join(block).encode()).digest()
    return int.from_bytes(digest[:8]) < CELL_SHARE * 2**64


def _pools(chosen: list[Cell]) -> Pools:
    known = set(chosen)
    partners: dict[Cell, list[Cell]] = defaultdict(list)
    pairs: list[list[CellPair]] = []
    for factor in BALANCED:
        values = _values(factor)
        listed: list[CellPair] = []
        for cell in chosen:
            verdict = decide(cell).verdict
            for value in values:
                other = cell._replace(**{factor: value})
                if other in known and decide(other).verdict is not verdict:
                    listed.append((cell, other))
                    partners[cell].append(other)
        # A factor without a pair could not be picked from.
        if listed:
            pairs.append(listed)
    return Pools(chosen, pairs, partners)


def _values(factor: str) -> list[Any]:
    """The values of one factor, each once, in the order of `cells`."""
    values = (getattr(cell, factor) for cell in cells())
    return list(dict.fromkeys(values))


class Generator:
    """Draws groups; everything depends on the seed only.

    The order of the draws is part of the result: moving one moves every row after it.
    """

    def __init__(self, seed: int, tail: float) -> None:
        # An instance of its own: nothing else in the process can move its draws.
        self.random = random.Random(seed)
        seen, unseen = pools(seed)
        self.seen = seen
        self.unseen = unseen
        self.balance = Balance()
        self.wordings = Wordings()
        self.assets = _assets_by_level()
        self.counts = phrase_counts()
        self.styles = list(vocabulary.STYLES)
        self.tail = tail
        # Tries for a distant wording, by domain and kind of group; none once they ran out.
        self.patience: dict[tuple[str, HeldOut], int] = {}

    def pick(self, items: Sequence[Item]) -> Item:
        """One of the items, evenly."""
        # `Random.choice` takes twice as long, and every row is drawn with CANDIDATES others.
        place = int(self.random.random() * len(items))
        return items[place]

    def group(self, domain: str, size: int, held_out: HeldOut) -> list[Scenario]:
        """The next group of `size` rows.

        Raises:
            ParamsError: no distinct rows are left.
        """
        kind = (domain, held_out)
        group = self._search(
            domain,
            size,
            held_out,
            tries=self.patience.get(kind, PATIENCE),
            distant=True,
        )
        if group is None:
            # The space is exhausted, and the next group would only find it so again.
            self.patience[kind] = 0
            group = self._search(
                domain,
                size,
                held_out,
                tries=PATIENCE,
                distant=False,
            )
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
        pairs = self.pick(pool.pairs)
        first, second = self.pick(pairs)
        one = self._scenario(domain, first, held_out)
        group = [one, self._flipped(one, second)]
        if size == 3:
            verdicts = {decide(first).verdict, decide(second).verdict}
            thirds = []
            for cell in pool.partners[first]:
                if decide(cell).verdict not in verdicts:
                    thirds.append(cell)
            if not thirds:
                return None
            third = self.pick(thirds)
            group.append(self._flipped(one, third))
        return group

    def _flipped(self, scenario: Scenario, cell: Cell) -> Scenario:
        asset = scenario.asset
        # An asset has one sensitivity: to flip that is to ask about another asset.
        if cell.sensitivity != scenario.sensitivity:
            others = self.assets[scenario.domain, cell.sensitivity]
            asset = self.pick(others)
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

    def _phrases(self, cell: Cell, held_out: HeldOut) -> Phrases:
        chosen = []
        for count in self.counts:
            # The last phrasing of each is held out.
            phrase = int(self.random.random() * (count - 1))
            chosen.append(phrase)
        if held_out == "phrases":
            # The plain frame has one wording only, so nothing of it could be held out.
            slots = range(3 if cell.frame == "plain" else 4)
            changed = self.pick((1, 2))
            for slot in self.random.sample(slots, changed):
                chosen[slot] = self.counts[slot] - 1
        for place, factor in enumerate(SLOTS):
            rare = len(wordings(factor, getattr(cell, factor)))
            is_held_out = chosen[place] == self.counts[place] - 1
            # What is held out stays the one new wording of its row.
            if rare and not is_held_out and self.random.random() < self.tail:
                chosen[place] = TAIL + self.random.randrange(rare)
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
    rows: int,
    domains: list[str],
    seed: int,
    *,
    cells_share: float,
    phrases_share: float,
    tail: float,
) -> Iterator[dict[str, Any]]:
    """Yield exactly `rows` distinct rows, the domains in turn.

    Args:
        rows: how many.
        domains: of `vocabulary.ASSETS`.
        seed: the same seed gives the same rows; with more rows, the first ones stay.
        cells_share: share of groups for `test_cells`.
        phrases_share: share of groups for `test_phrases`.
        tail: share of phrasings that are rare ones.

    Raises:
        ParamsError: unknown domain, or more rows than the grammar has.
    """
    known = set(vocabulary.ASSETS)
    unknown = sorted(set(domains) - known)
    if unknown:
        raise ParamsError(
            f"unknown domains {unknown}",
            where="synthesize.domains",
            fix=f"choose from {list(vocabulary.ASSETS)}",
        )
    generator = Generator(seed, tail)
    left = _even_parts(rows, domains)
    credit = {domain: Credit() for domain in domains}
    while any(left.values()):
        for domain in domains:
            if left[domain] == 0:
                continue
            held_out = credit[domain].turn(cells_share, phrases_share)
            drawn = generator.random.choices(SIZES, SIZE_SHARES)[0]
            # The last group of a domain may be smaller than it was drawn.
            size = min(left[domain], drawn)
            left[domain] -= size
            group = generator.group(domain, size, held_out)
            yield from rows_of(group, held_out)


def _even_parts(rows: int, domains: list[str]) -> dict[str, int]:
    """Rows of each domain; the first ones get what does not divide evenly."""
    part, over = divmod(rows, len(domains))
    parts = {}
    for index, domain in enumerate(domains):
        parts[domain] = part + (index < over)
    return parts


def rows_of(group: list[Scenario], held_out: HeldOut) -> Iterator[dict[str, Any]]:
    """The rows of one group as they are written.

    Ids are digests of content, so that rows keep them when others are added or left out.
    """
    texts = [text_of(scenario) for scenario in group]
    name = _short_digest("\n".join(texts))
    # A row alone has no partner that it differs from.
    pair = f"p-{name}" if len(group) > 1 else None
    for scenario, text in zip(group, texts, strict=True):
        rule = scenario.rule
        row = {
            "id": f"syn-{_short_digest(text)}",
            "text": text,
            "verdict": str(rule.verdict),
            "authority": str(rule.authority),
            "domain": scenario.domain,
            "thinking": thinking_of(scenario),
            "final": final_of(scenario),
            "factors": factors_of(scenario),
            "rule": rule.id,
            "group": f"g-{name}",
            "pair": pair,
            "held_out": held_out,
            "source": "synthetic",
            "license": LICENSE,
            "generator": GENERATOR,
        }
        row["sha256"] = sha256_json(row)
        yield row


def _short_digest(text: str) -> str:
    digest = hashlib.sha256(text.encode()).hexdigest()
    return digest[:16]
