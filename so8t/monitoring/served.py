"""Served requests as they are recorded: one JSON object a line, in the order of time.

Each line has the request's text (`text`, or `prompt`), or the p-values that `so8t ask --json` gave
for it (`familiarity.by_signal`). Where it has both, the text counts: its p-values can be sharper.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from so8t.errors import DataError

TEXTS: Final = ("text", "prompt")
FIX: Final = 'one {"text": ...} a line, or what `so8t ask --json` printed'


@dataclass(frozen=True, slots=True)
class Served:
    """One request that was served.

    Attributes:
        line: of the file, from 1.
        text: as it arrived; None where only p-values were recorded.
        recorded: p-value by signal, where there is no text.
    """

    line: int
    text: str | None
    recorded: Mapping[str, float]


def served_of(rows: Iterable[tuple[int, dict[str, Any]]], name: str) -> Iterator[Served]:
    """Requests of a file's rows.

    Args:
        rows: line number and object.
        name: of the file, for errors.

    Raises:
        DataError: a row has neither a text nor p-values, or one of another type.
    """
    for line, row in rows:
        yield _served(line, row, f"{name}:{line}")


def _served(line: int, row: dict[str, Any], where: str) -> Served:
    for key in TEXTS:
        if key not in row:
            continue
        if not isinstance(row[key], str):
            found = type(row[key]).__name__
            raise DataError(f"`{key}` must be a text, found {found}", where=where, fix=FIX)
        return Served(line, row[key], {})
    familiarity = row.get("familiarity")
    recorded = familiarity.get("by_signal") if isinstance(familiarity, dict) else None
    if not isinstance(recorded, dict) or not recorded:
        raise DataError("neither a request nor p-values", where=where, fix=FIX)
    for signal, value in recorded.items():
        # Not isinstance: True is an int too.
        if type(value) not in (int, float):
            problem = f"the p-value of `{signal}` is not a number"
            raise DataError(problem, where=where, fix=FIX)
    return Served(line, None, recorded)
