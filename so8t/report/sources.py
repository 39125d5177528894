"""Where every number of the report comes from: a result file, a key in it, and how it is shown.

A key is a JSON pointer (RFC 6901), such as `/splits/test_iid/accuracy/value`. Nothing is computed
here: a file or key that is missing shows as "not run". Every number that is shown is recorded with
file, key, value and text, and every file that is read with its SHA-256, so that `build.check` can
compare report and files later.

Read are JSON files, params.yaml, the rows of prepared splits by id (for request texts), and the
record of looks: how often calibration and test rows were read so far.
"""

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from so8t.errors import ArtifactError
from so8t.files import read_object, sha256_file
from so8t.rows import read_rows

Language = Literal["ja", "en"]
Value = str | int | float | bool | None
NOT_RUN = {"ja": "未実行", "en": "not run"}
# In place of an interval that would promise too much (so8t.metrics.exact).
TOO_FEW = {"ja": "区間なし: 群が少なすぎます", "en": "no interval: too few groups"}
PARAMS = "params.yaml"
# Not a file that a stage makes: the record grows with every run, so it has no digest to compare.
LOOKS = "database/looks"
# What stands where a file or key is not there; null is a value that a file may hold.
MISSING = object()


@dataclass(frozen=True, slots=True)
class Style:
    """How a number is printed: times `scale`, in this format, followed by its unit."""

    format: str
    unit: str = ""
    scale: int = 1


TEXT = "text"
P_VALUE = "p"
SIZE = "size"
STYLES = {
    "percent": Style(".1f", " %", scale=100),
    "points": Style("+.1f", " pt", scale=100),
    "width": Style(".1f", " pt", scale=100),
    "count": Style(","),
    "ratio": Style(".3f"),
    "signed": Style("+.3f"),
    "general": Style(".3g"),
    P_VALUE: Style(".3f"),
    "score": Style(".1f"),
    "signed_score": Style("+.1f"),
    "milliseconds": Style(".2f", " ms", scale=1000),
}
# A p-value below this would be printed as 0.000, which none is.
SMALLEST_P = 0.001
MIB = 2**20
GIB = 2**30


@dataclass(frozen=True, slots=True)
class Number:
    """One shown value with its origin. `value` null: the file or the key is missing."""

    file: str
    key: str
    style: str
    value: Value
    shown: str


# Rows of a CSV table: text by column, empty where nothing was measured.
Records = list[dict[str, str]]
# Running text: words, and numbers that know where they are from.
Line = tuple["str | Number", ...]


def resolve(content: Any, pointer: str) -> Any:
    """Value at a JSON pointer (RFC 6901), `MISSING` where there is none.

    Args:
        content: of a JSON file.
        pointer: empty for all of it, else `/key/key`.
    """
    here = content
    for part in pointer.split("/")[1:]:
        # In this order: `~01` is the key `~1`, not a slash.
        name = part.replace("~1", "/").replace("~0", "~")
        if isinstance(here, dict) and name in here:
            here = here[name]
        # A list is asked by place; other words lead nowhere in it.
        elif isinstance(here, list) and name.isdigit() and int(name) < len(here):
            here = here[int(name)]
        else:
            return MISSING
    return here


def escape(name: str) -> str:
    """A key as a part of a JSON pointer.

    Args:
        name: a key as it stands in the file.
    """
    return name.replace("~", "~0").replace("/", "~1")


def show(value: Any, style: str, language: Language) -> str:
    """A value as text; one that is missing or that its style cannot print reads "not run".

    Args:
        value: of a file.
        style: one of `STYLES`, or text or size.
        language: of the words for a missing value.

    Returns:
        What stands on the page.
    """
    if value is None or value is MISSING:
        return NOT_RUN[language]
    if style == TEXT:
        return str(value)
    # Python counts a bool as an int, but True is no measured number.
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number:
        return NOT_RUN[language]
    if style == SIZE:
        return _size(value)
    if style == P_VALUE and value < SMALLEST_P:
        return f"< {SMALLEST_P}"
    how = STYLES[style]
    return format(value * how.scale, how.format) + how.unit


def _size(n_bytes: float) -> str:
    # Two digits in the larger unit would hide the difference of two types.
    if n_bytes < GIB:
        return f"{n_bytes / MIB:.2f} MiB"
    return f"{n_bytes / GIB:.2f} GiB"


def load(root: Path, file: str) -> Any:
    """Content of one source, `MISSING` when it does not exist.

    Raises:
        ArtifactError: a JSON file that does not parse, or names no schema of the project.
        DataError: a prepared split with a damaged row.
    """
    if file == LOOKS:
        from so8t.records import looks

        return looks.count()
    path = root / file
    if not path.is_file():
        return MISSING
    if file == PARAMS:
        from so8t import params

        return params.read_yaml(path)
    if path.suffix == ".jsonl":
        # By id, because the comparison names rows by it.
        return {row.id: row.to_json() for row in read_rows(path)}
    found = read_object(path)
    # Sections rely on the shape of a file, so one that no stage wrote is not read as "not run".
    if not str(found.get("schema")).startswith("so8t."):
        raise ArtifactError(
            "no stage's record", where=str(path), fix="run `dvc repro`, or `dvc pull`"
        )
    return found


def digest_of(path: Path) -> str | None:
    """SHA-256 of a file, null when it does not exist.

    Args:
        path: of any file.
    """
    if not path.is_file():
        return None
    return sha256_file(path)


@dataclass(slots=True)
class Sources:
    """The result files below `root`, read once, and what was shown of them.

    Attributes:
        root: the directory with reports/, models/, data/ and params.yaml.
        language: of the words that stand for a missing number.
        numbers: every number shown, in order of appearance.
        files: SHA-256 of every file asked for, null where it does not exist.
    """

    root: Path
    language: Language
    numbers: list[Number] = field(default_factory=list)
    files: dict[str, str | None] = field(default_factory=dict)
    _cache: dict[str, Any] = field(default_factory=dict)

    def content(self, file: str) -> Any:
        """A file's content, `MISSING` when it does not exist; its digest is recorded.

        Args:
            file: path below `root`.
        """
        # Read once, so that one page never mixes two states of a file.
        if file not in self._cache:
            self._cache[file] = load(self.root, file)
            if file != LOOKS:
                self.files[file] = digest_of(self.root / file)
        return self._cache[file]

    def table(self, file: str) -> Records:
        """Rows of a CSV file, for figures only; empty when it does not exist.

        Args:
            file: path below `root`.

        Returns:
            Text by column; empty where nothing was measured.
        """
        path = self.root / file
        # Recorded although no number of it is printed: the figures are drawn from it.
        self.files[file] = digest_of(path)
        if not path.is_file():
            return []
        # As text: an empty cell is no number, and must not become zero.
        text = path.read_text(encoding="utf-8")
        return list(csv.DictReader(io.StringIO(text)))

    def record(self, file: str, key: str, style: str) -> Number:
        """The value at a key as it appears in the report, noted down for the twin.

        Args:
            file: path below `root`.
            key: JSON pointer.
            style: how it is shown.
        """
        found = resolve(self.content(file), key)
        if not isinstance(found, str | int | float | bool):
            found = None
        # The text is kept too, so that the check can look for it on the page.
        number = Number(file, key, style, found, show(found, style, self.language))
        self.numbers.append(number)
        return number

    def file(self, name: str) -> "ResultFile":
        """One of the files, there or not.

        Args:
            name: path below `root`.
        """
        return ResultFile(self, name)

    def twin(self) -> list[dict[str, Any]]:
        """Every number shown, once, in order of appearance."""
        # One entry, however often a number is shown: order stays, repetitions go.
        return [asdict(number) for number in dict.fromkeys(self.numbers)]


@dataclass(frozen=True, slots=True)
class ResultFile:
    """One result file of the sources, or a part of it: its values, and its numbers as shown.

    Attributes:
        sources: which read it and record what is shown.
        name: path below the sources' root.
        prefix: what every key begins with; empty for the whole file.
    """

    sources: Sources
    name: str
    prefix: str = ""

    def at(self, key: str) -> "ResultFile":
        """The part at a key: `file.at("/a").value("/b")` is `file.value("/a/b")`.

        Args:
            key: JSON pointer from here.
        """
        return ResultFile(self.sources, self.name, self.prefix + key)

    def value(self, key: str) -> Any:
        """The value at a key, null when missing.

        For choosing words and for drawing; what is printed goes through `show`, which records it.
        """
        found = resolve(self.sources.content(self.name), self.prefix + key)
        if found is MISSING:
            return None
        return found

    def has(self, key: str) -> bool:
        """Whether the file exists and the key leads to something that is not null."""
        return self.value(key) is not None

    def show(self, key: str, style: str) -> Number:
        """The value at a key as it appears in the report; recorded.

        Args:
            key: JSON pointer from here.
            style: how it is shown.
        """
        return self.sources.record(self.name, self.prefix + key, style)

    def cell(self, key: str, style: str) -> Line:
        """A line of one number; recorded.

        Args:
            key: JSON pointer from here.
            style: how it is shown.
        """
        return (self.show(key, style),)

    def rate(self, key: str, style: str = "percent", *, n: bool = True) -> Line:
        """A measured value with its interval and count: `value (low - high; n=count)`.

        Args:
            key: of an object with `value`, `n` and `ci95` (a pair, or null).
            style: of the value and of both ends.
            n: whether the count is shown.

        Returns:
            The line; without the bracket when there is no value or no interval.
        """
        measured = self.at(key)
        value = measured.show("/value", style)
        if not measured.has("/value"):
            return (value,)
        # The upper end of a percentile is null where too few runs leave it open.
        if not measured.has("/ci95/0") or not measured.has("/ci95/1"):
            return (value,)
        low = measured.show("/ci95/0", style)
        high = measured.show("/ci95/1", style)
        # Left out where a table is wide already.
        if not n:
            return (value, " (", low, " – ", high, ")")
        count = measured.show("/n", "count")
        return (value, " (", low, " – ", high, "; n=", count, ")")

    def interval(self, key: str, style: str) -> Line:
        """An interval by itself: `[low, high]`, or in brackets why there is none.

        Args:
            key: of a pair.
            style: of both ends.
        """
        ends = self.at(key)
        if self.has(f"{key}_reason"):
            return (f"[{TOO_FEW[self.sources.language]}]",)
        low = ends.show("/0", style)
        high = ends.show("/1", style)
        return ("[", low, ", ", high, "]")


def joined(parts: Sequence[Line], between: str) -> Line:
    """Lines joined by a text.

    Args:
        parts: lines.
        between: what stands between two of them.
    """
    result: list[str | Number] = []
    for index, part in enumerate(parts):
        if index > 0:
            result.append(between)
        result.extend(part)
    return tuple(result)
