"""Where every number of the report comes from: a result file, a JSON pointer into it, and how it is shown.

Nothing is computed here. A file or key that is missing shows as "not run". Every number that is shown is recorded with
file, key, value and text, and every file with its SHA-256, which is what `check` compares later.
Covered: JSON files, params.yaml, rows of prepared splits by id (request texts), the record of looks.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from so8t.files import read_json, read_jsonl, sha256_file

Language = Literal["ja", "en"]
Value = str | int | float | bool | None
NOT_RUN = {"ja": "未実行", "en": "not run"}
PARAMS = "params.yaml"
LOOKS = "database/looks"  # not a file of the graph: how often calibration and test rows were read so far
MISSING = object()


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _size(value: float) -> str:
    return f"{value / 2**20:.2f} MiB" if value < 2**30 else f"{value / 2**30:.2f} GiB"


STYLES: dict[str, Callable[[Any], str]] = {
    "percent": lambda v: f"{v * 100:.1f} %",
    "points": lambda v: f"{v * 100:+.1f} pt",
    "width": lambda v: f"{v * 100:.1f} pt",
    "count": lambda v: f"{v:,}",
    "ratio": lambda v: f"{v:.3f}",
    "signed": lambda v: f"{v:+.3f}",
    "general": lambda v: f"{v:.3g}",
    "p": lambda v: "< 0.001" if v < 0.001 else f"{v:.3f}",
    "score": lambda v: f"{v:.1f}",
    "signed_score": lambda v: f"{v:+.1f}",
    "milliseconds": lambda v: f"{v * 1000:.2f} ms",
    "size": _size,
    "text": str,
    "digest": lambda v: str(v)[:12],
}


@dataclass(frozen=True, slots=True)
class Number:
    """One shown value with its origin. `value` null: the file or the key is missing."""

    file: str
    key: str
    style: str
    value: Value
    shown: str


Line = tuple["str | Number", ...]


def resolve(content: Any, pointer: str) -> Any:
    """Value at a JSON pointer (RFC 6901), `MISSING` where there is none."""
    here = content
    for part in pointer.split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        if isinstance(here, dict) and name in here:
            here = here[name]
        elif isinstance(here, list) and name.isdigit() and int(name) < len(here):
            here = here[int(name)]
        else:
            return MISSING
    return here


def escape(name: str) -> str:
    """A key as a part of a JSON pointer."""
    return name.replace("~", "~0").replace("/", "~1")


def show(value: Any, style: str, language: Language) -> str:
    """A value as text; anything that is not there, or is not what its style takes, reads "not run"."""
    if (
        value is None
        or value is MISSING
        or (style not in ("text", "digest") and not _number(value))
    ):
        return NOT_RUN[language]
    return STYLES[style](value)


def load(root: Path, file: str) -> Any:
    """Content of one source, `MISSING` when it does not exist.

    Raises:
        ArtifactError: a JSON file that does not parse.
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
        return {str(row["id"]): row for _, row in read_jsonl(path) if "id" in row}
    return read_json(path)


@dataclass(slots=True)
class Sources:
    """The result files below `root`, read once, and what was shown of them."""

    root: Path
    language: Language
    numbers: list[Number] = field(default_factory=list)
    files: dict[str, str | None] = field(default_factory=dict)
    _cache: dict[str, Any] = field(default_factory=dict)

    def content(self, file: str) -> Any:
        """A file's content; its digest is recorded (null: it does not exist)."""
        if file not in self._cache:
            self._cache[file] = load(self.root, file)
            if file != LOOKS:
                self.files[file] = (
                    sha256_file(self.root / file) if (self.root / file).is_file() else None
                )
        return self._cache[file]

    def table(self, file: str) -> list[dict[str, str]]:
        """Rows of a CSV file (figures only); empty when it does not exist."""
        import csv
        import io

        path = self.root / file
        self.files[file] = sha256_file(path) if path.is_file() else None
        return (
            list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))))
            if path.is_file()
            else []
        )

    def value(self, file: str, key: str) -> Any:
        """The value at a key, null when missing; for choosing words and drawing, not for showing."""
        found = resolve(self.content(file), key)
        return None if found is MISSING else found

    def show(self, file: str, key: str, style: str) -> Number:
        """The value at a key as it appears in the report; recorded."""
        found = self.value(file, key)
        scalar = found if isinstance(found, str | int | float | bool) else None
        number = Number(file, key, style, scalar, show(scalar, style, self.language))
        self.numbers.append(number)
        return number

    def has(self, file: str, key: str = "") -> bool:
        """Whether the file exists and the key leads to something that is not null."""
        return self.value(file, key) is not None

    def rate(
        self, file: str, key: str, style: str = "percent", *, interval: str = "ci95", n: bool = True
    ) -> Line:
        """`value (low - high; n)`; without the bracket when there is no interval."""
        line: list[str | Number] = [self.show(file, f"{key}/value", style)]
        if not self.has(file, f"{key}/value"):
            return tuple(line)
        if self.has(file, f"{key}/{interval}/0") and self.has(file, f"{key}/{interval}/1"):
            low, high = (self.show(file, f"{key}/{interval}/{i}", style) for i in range(2))
            line += (
                [" (", low, " – ", high, "; n=", self.show(file, f"{key}/n", "count"), ")"]
                if n
                else [" (", low, " – ", high, ")"]
            )
        return tuple(line)

    def twin(self) -> list[dict[str, Any]]:
        """Every number shown, once, in order of appearance."""
        return [asdict(number) for number in dict.fromkeys(self.numbers)]


def joined(parts: Sequence[Line], between: str) -> Line:
    """Lines joined by a text."""
    result: list[str | Number] = []
    for index, part in enumerate(parts):
        result += [between, *part] if index else part
    return tuple(result)
