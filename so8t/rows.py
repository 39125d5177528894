"""The two rows that travel through the pipeline: `Row` after `prepare`, `Scored` after `score`.

Every stage reads and writes them here, so that a field has one name, one type and one check. On
disk they are JSON Lines: one object a line, keys in the order of the fields.

Not covered: rows as users bring them (`so8t.data.formats`), score files as arrays
(`so8t.metrics.scores`).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from so8t.errors import DataError
from so8t.files import read_jsonl
from so8t.verdict import Authority, Verdict

SPLITS = (
    "train",
    "valid",
    "calibration",
    "test_iid",
    "test_cells",
    "test_phrases",
    "test_foreign",
    "test_evasion",
    "probe",
)
# Domain of requests that belong to none: trained and tested on, never part of a certificate.
OUTSIDE = "foreign"
PREPARE_AGAIN = "run `dvc repro prepare`"


@dataclass(frozen=True, slots=True)
class Row:
    """One prepared sample.

    A row without a verdict trains language only. `response` is the assistant's turn as it is
    trained, rendered from `verdict`, `thinking` and `final`. Rows of one template share a `group`;
    minimal pairs (requests that differ in one factor and in the verdict) share a `pair`.
    """

    # The order of the fields is the order of the keys on disk.
    id: str
    text: str
    verdict: Verdict | None
    authority: Authority | None
    domain: str
    thinking: str | None
    final: str
    response: str
    group: str
    pair: str | None
    factors: Mapping[str, Any]
    source: str
    license: str | None

    def to_json(self) -> dict[str, Any]:
        """The object that `write_jsonl` writes."""
        # Not `dataclasses.asdict`: it copies `factors` deeply, for every row.
        return {field.name: getattr(self, field.name) for field in fields(self)}


@dataclass(frozen=True, slots=True)
class Scored:
    """What `score` writes of one labelled row; a number that was not finite is None.

    `prefill` and `cue` are three numbers each (ALLOW, ESCALATE, DENY): logits of the reserved rows
    at the end of the prompt, and log-probabilities of the labels after the cue. `residual` is the
    cue's probability of anything else, `reserved_mass` the probability of the reserved rows at the
    end of the prompt.

    `strangeness` holds the familiarity signals of the text (`so8t.familiarity`). `refusal` says why
    the model was not asked, where it was not. A request that asks several things is read whole and
    in `parts`: the numbers are then those of the most restrictive reading, and `whole` keeps
    prefill and cue of the whole alone.
    """

    # The order of the fields is the order of the keys on disk.
    id: str
    group: str
    domain: str | None
    verdict: Verdict
    authority: Authority | None
    prefill: list[float | None] | None
    authority_logits: list[float | None] | None
    cue: list[float | None]
    residual: float | None
    reserved_mass: float | None
    strangeness: dict[str, float]
    refusal: str | None
    parts: int
    whole: dict[str, Any] | None

    def to_json(self) -> dict[str, Any]:
        """The object that `write_jsonl` writes."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def read_rows(path: Path) -> Iterator[Row]:
    """The rows of one prepared split, in the file's order.

    Raises:
        DataError: missing file, not JSON, a field missing, an unknown label; `where` is
            `file:line`.
    """
    for line, found in read_jsonl(path):
        yield _row(found, f"{path}:{line}")


def _row(found: Mapping[str, Any], where: str) -> Row:
    # A language row may lack every field but these three, without which nothing downstream works.
    for name in ("id", "text", "group"):
        if not isinstance(found.get(name), str):
            raise DataError(f"`{name}` is missing or not text", where=where, fix=PREPARE_AGAIN)
    return Row(
        id=found["id"],
        text=found["text"],
        verdict=_verdict(found.get("verdict"), where),
        authority=_authority(found.get("authority"), where),
        domain=found.get("domain") or "general",
        thinking=found.get("thinking"),
        final=found.get("final") or "",
        response=found.get("response") or "",
        group=found["group"],
        pair=found.get("pair"),
        factors=found.get("factors") or {},
        source=found.get("source") or "",
        license=found.get("license"),
    )


def _verdict(label: Any, where: str) -> Verdict | None:
    if label is None:
        return None
    try:
        return Verdict(label)
    except ValueError as error:
        raise _unknown_label(error, where) from None


def _authority(label: Any, where: str) -> Authority | None:
    if label is None:
        return None
    try:
        return Authority(label)
    except ValueError as error:
        raise _unknown_label(error, where) from None


def _unknown_label(error: ValueError, where: str) -> DataError:
    return DataError(f"unknown label ({error})", where=where, fix=PREPARE_AGAIN)
