"""Groups of the calibration split that resemble each other become one group.

A certificate counts groups as independent. Copies of one template under group names of their own
are not: with 60 templates, the promise failed in 10 % of simulated draws with 2 copies of each and
in 29 % with 5, where at most 5 % were promised. Rows that are near-duplicates of another group
are dropped while rows are placed; what gets past is less alike than that (a template whose slots
were filled anew), written differently (full stops or invisible characters between the letters), or
like two groups at once. So once all rows are there, groups with two rows of which at least `ALIKE`
is shared are merged, and what they merge with as well.

Covered: the calibration split, named groups too. Not covered: copies in other words, which no
comparison of letters sees; other splits, whose groups only widen intervals.
"""

import json
from collections.abc import Callable
from pathlib import Path

from so8t.data.near_duplicates import NearIndex
from so8t.files import read_jsonl
from so8t.markers import bare_letters

# Share of character 5-grams from which rows come from one template. One slot of a sentence filled
# anew leaves 0.5 to 0.7; sentences about different things share less than 0.3.
ALIKE = 0.5

# Bands of the index: two texts that share 0.5 meet in one of 40 bands of 3 numbers in 99.5 %.
BANDS = 40


class AlikeGroups:
    """Groups of rows, merged where a row of one resembles a row of the other.

    Args:
        text_of: gives the text of a row back by its number.
    """

    def __init__(self, text_of: Callable[[int], str]) -> None:
        # The numbers by which `text_of` knows the rows that came here, and their groups.
        self._numbers: list[int] = []
        self._groups: list[str] = []
        # The older group that a group was merged with (itself if none), and when each came.
        self._older: dict[str, str] = {}
        self._age: dict[str, int] = {}
        self._index = NearIndex(
            ALIKE, lambda place: bare_letters(text_of(self._numbers[place])), bands=BANDS
        )

    def add(self, number: int, text: str, group: str) -> None:
        """Take a row, and merge its group with those of the rows that it resembles."""
        # Letters alone: signs and invisible characters between them make no other template.
        sketch = self._index.sketch(bare_letters(text))
        self._older.setdefault(group, group)
        self._age.setdefault(group, len(self._age))
        for place in self._index.similar(sketch):
            first = self._first(self._groups[place])
            second = self._first(group)
            # The older name stays, whichever row showed that the two are one.
            older, newer = sorted((first, second), key=self._age.__getitem__)
            self._older[newer] = older
        self._index.add(sketch)
        self._numbers.append(number)
        self._groups.append(group)

    def merged(self) -> dict[str, str]:
        """New name of every group that was merged into an older one."""
        names = {group: self._first(group) for group in self._older}
        return {group: name for group, name in names.items() if group != name}

    def _first(self, group: str) -> str:
        """The oldest group that a group was merged with."""
        while self._older[group] != group:
            # Halving the path keeps later walks short.
            self._older[group] = self._older[self._older[group]]
            group = self._older[group]
        return group


def rename_groups(path: Path, merged: dict[str, str]) -> None:
    """Give the rows of a written split the names of their merged groups."""
    if not merged:
        return
    rows = [row for _, row in read_jsonl(path)]
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for row in rows:
            row["group"] = merged.get(row["group"], row["group"])
            file.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")
