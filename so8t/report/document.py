"""A report as blocks, so that Markdown and HTML say the same and neither computes anything."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from so8t.report.sources import Line


@dataclass(frozen=True, slots=True)
class Heading:
    """A heading; level 1 is the title."""

    level: int
    text: str


@dataclass(frozen=True, slots=True)
class Paragraph:
    """Running text; `tone` good, bad or plain."""

    line: Line
    tone: str = "plain"


@dataclass(frozen=True, slots=True)
class Items:
    """A bulleted list."""

    lines: list[Line]


@dataclass(frozen=True, slots=True)
class Table:
    """A table; `source` says which files its numbers are from."""

    head: list[str]
    rows: list[list[Line]]
    source: str = ""
    measured: bool = True  # its cells are numbers, so that without any it is "not run"


@dataclass(frozen=True, slots=True)
class Figure:
    """An SVG in the figures directory."""

    name: str
    caption: str


Block = Heading | Paragraph | Items | Table | Figure


@dataclass(slots=True)
class Document:
    """The blocks in order."""

    language: str
    blocks: list[Block] = field(default_factory=list)

    def add(self, *blocks: Block | None) -> None:
        """Append blocks; null is left out."""
        self.blocks += [block for block in blocks if block is not None]


def row(*cells: str | Line) -> list[Line]:
    """A table row of texts and lines."""
    return [(cell,) if isinstance(cell, str) else cell for cell in cells]


def plain(line: Line) -> str:
    """A line as text."""
    return "".join(part if isinstance(part, str) else part.shown for part in line)


def first_sentence(blocks: Sequence[Block]) -> str:
    """The first paragraph's text."""
    return next(plain(block.line) for block in blocks if isinstance(block, Paragraph))
