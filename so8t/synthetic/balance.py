"""What the generator has made so far: how even its verdicts are, and which wordings are taken.

`Balance` lets it choose the group that best evens out verdicts, so that no factor gives the verdict
away; `Wordings` keeps groups apart, so that near-duplicates do not cross splits.
"""

from collections import defaultdict
from typing import Any, TypeAlias

from so8t.synthetic.grammar import Scenario, text_of
from so8t.synthetic.policy import Cell
from so8t.verdict import VERDICTS

BALANCED = Cell._fields
# Verdicts within a domain matter most: a certificate is given by domain.
DOMAIN_WEIGHT = 4.0
# Against values that occur often, whatever their verdicts.
CROWDING = 0.15

# Rows by verdict, in the order of VERDICTS.
Tally: TypeAlias = list[int]
# Domain, factor, value.
ValueKey: TypeAlias = tuple[str, str, Any]
# One number for each element of a wording; WIPED for any.
Wording: TypeAlias = tuple[int, ...]
WIPED = -1


class Balance:
    """Running counts of verdicts, by domain and by factor value within the domain."""

    def __init__(self) -> None:
        self.by_domain: dict[str, Tally] = defaultdict(_nothing)
        self.by_value: dict[ValueKey, Tally] = defaultdict(_nothing)

    @staticmethod
    def values(scenario: Scenario) -> list[ValueKey]:
        """The keys of `by_value` that one row belongs to."""
        domain = scenario.domain
        keys: list[ValueKey] = [(domain, "asset", scenario.asset)]
        for name in BALANCED:
            value = getattr(scenario, name)
            keys.append((domain, name, value))
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
                above = _above_even(counts, verdict)
                total += above + CROWDING * sum(counts)
        return total

    def add(self, group: list[Scenario]) -> None:
        """Count a chosen group."""
        for scenario in group:
            verdict = VERDICTS.index(scenario.rule.verdict)
            self.by_domain[scenario.domain][verdict] += 1
            for key in self.values(scenario):
                self.by_value[key][verdict] += 1


def _nothing() -> Tally:
    return [0] * len(VERDICTS)


def _above_even(counts: Tally, verdict: int) -> int:
    """Three times the rows (a whole number) by which a verdict is above a third of all."""
    return len(VERDICTS) * counts[verdict] - sum(counts)


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
        wording = scenario.code()
        wiped = []
        for place in range(len(wording)):
            elements = list(wording)
            elements[place] = WIPED
            wiped.append(tuple(elements))
        return wiped

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
        # No two values of a factor read the same today; in an edited vocabulary they may.
        reads_twice = len(texts) < len(group)
        if reads_twice or not texts.isdisjoint(self.texts):
            return False
        self.texts |= texts
        self.used |= near
        return True
