"""`so8t data`: compare versions of the data; import dumps and documents; collect pages, politely.

`diff` says what changed between two versions of the prepared data: rows added, removed, moved to
another split, relabelled, reworded. It takes directories made by `prepare`, or single JSONL files,
and holds a digest of each row, not its text.
"""

import json
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import click

from so8t.errors import DataError
from so8t.files import read_jsonl, sha256_json, write_jsonl

File = click.Path(dir_okay=False, path_type=Path)
Existing = click.Path(exists=True, path_type=Path)
LISTED = 20  # ids kept of each kind of change
SHOWN = 5  # of them shown to people

# The commands import what they use when they run: `so8t data --help` stays quick, and an extra that
# is not installed stops only the command that needs it.


@click.group()
def data() -> None:
    """Compare versions of the data, import dumps and documents."""


@data.command("diff")
@click.argument("before", type=Existing)
@click.argument("after", type=Existing)
@click.option("--json", "as_json", is_flag=True, help="JSON instead of text")
def diff_command(before: Path, after: Path, as_json: bool) -> None:
    """What changed between two versions (directories made by prepare, or JSONL files).
    Exit 0 whether or not they differ.
    """
    found = diff(before, after)
    text = describe(found)
    if as_json:
        text = json.dumps(found, ensure_ascii=False, indent=1)
    click.echo(text)


@data.command("import-wikipedia")
@click.argument("dump", type=Existing)
@click.argument("out", type=File)
@click.option("--license", "license_name", default="CC BY-SA 4.0", show_default=True)
@click.option("--min-chars", default=50, show_default=True)
@click.option("--max-chars", default=2048, show_default=True)
@click.option("--symbol-share", default=0.3, show_default=True, help="largest share of symbols")
@click.option("--max-rows", default=10_000, show_default=True)
def import_wikipedia(
    dump: Path,
    out: Path,
    license_name: str,
    min_chars: int,
    max_chars: int,
    symbol_share: float,
    max_rows: int,
) -> None:
    """Paragraphs of a local dump (XML, .bz2, .gz, or JSONL) as rows with provenance.
    Nothing is fetched.
    """
    from so8t.data.wikipedia import Filters, rows

    filters = Filters(min_chars, max_chars, symbol_share)
    dropped: Counter[str] = Counter()
    kept = rows(dump, license_name, filters, dropped)
    count = write_jsonl(out, islice(kept, max_rows))
    left_out = dict(sorted(dropped.items()))
    click.echo(f"{count} rows -> {out}; left out: {left_out}")


@data.command("import-documents")
@click.argument("source", type=Existing)
@click.argument("out", type=File)
@click.option(
    "--license", "license_name", required=True, help="under which the documents may be used"
)
@click.option("--domain", default="general", show_default=True)
@click.option("--max-chars", default=800, show_default=True, help="of one passage")
def import_documents(
    source: Path, out: Path, license_name: str, domain: str, max_chars: int
) -> None:
    """Passages of text, Markdown, HTML or PDF files, with provenance."""
    from so8t.data.documents import files_below, rows

    paths = files_below(source)
    passages = rows(
        paths,
        license_name=license_name,
        domain=domain,
        max_chars=max_chars,
    )
    count = write_jsonl(out, passages)
    click.echo(f"{count} passages of {len(paths)} documents -> {out}")


@data.command("collect")
@click.argument("listing", type=Existing)
@click.argument("out", type=File)
@click.option(
    "--license",
    "license_name",
    required=True,
    help="under which these pages may be used; read their terms first",
)
@click.option("--session", type=File, required=True, help="what was done; run again to resume")
@click.option(
    "--contact", required=True, help="e-mail or URL by which the site's owner can reach you"
)
@click.option(
    "--delay", default=5.0, show_default=True, help="least seconds between requests to one host"
)
def collect_command(
    listing: Path, out: Path, license_name: str, session: Path, contact: str, delay: float
) -> None:
    """Fetch listed pages where robots.txt permits it.
    Rows are appended to OUT; unreadable rules mean no.
    """
    from so8t.data.collector import AGENT, Collector, urls_of

    # The site's owner sees this in the log, and can write before blocking anything.
    collector = Collector(
        session=session,
        license_name=license_name,
        agent=f"{AGENT} (+{contact})",
        least_delay=delay,
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    # Appended, unlike every other output: a session may be stopped and resumed for days.
    with out.open("a", encoding="utf-8", newline="\n") as file:
        for row in collector.rows(urls_of(listing)):
            line = json.dumps(row, ensure_ascii=False)
            file.write(f"{line}\n")
            # The session counts the page as taken right after this.
            file.flush()
    counts = Counter(collector.done.values())
    by_outcome = dict(sorted(counts.items()))
    click.echo(f"session: {by_outcome} -> {out}")


# --- diff ---


class Seen(NamedTuple):
    """What is compared of one row; the texts are digests, so that memory does not hold them."""

    split: str
    verdict: str | None
    group: str | None
    text: bytes
    rest: bytes  # digest of every other field


Version: TypeAlias = dict[str, Seen]  # rows by id


def diff(before: Path, after: Path) -> dict[str, Any]:
    """Counts and the first ids of every kind of change; `same` is True when there is none.

    Returns:
        `same`, `rows` {"before", "after"}, `counts` {kind: rows}, `ids` {kind: at most 20 ids},
        `verdicts` {"before", "after"} of {"split/verdict": rows}, `moves` {"split -> split": rows}.

    Raises:
        DataError: a path holds no comparable rows.
    """
    old = dict(_rows(before))
    new = dict(_rows(after))
    changes = _changes(old, new)
    counts = {}
    listed = {}
    for kind, ids in changes.items():
        counts[kind] = len(ids)
        listed[kind] = ids[:LISTED]
    is_changed = any(changes.values())
    return {
        "same": not is_changed,
        "rows": {
            "before": len(old),
            "after": len(new),
        },
        "counts": counts,
        "ids": listed,
        "verdicts": {
            "before": _verdicts(old),
            "after": _verdicts(new),
        },
        "moves": _moves(old, new, changes["moved"]),
    }


def _changes(old: Version, new: Version) -> dict[str, list[str]]:
    """The ids of every kind of change, in order; a row may be under several kinds."""
    added = new.keys() - old.keys()
    removed = old.keys() - new.keys()
    changes = {
        "added": sorted(added),
        "removed": sorted(removed),
    }
    # What a change is called, and the field that it is in.
    # "other" may be an answer, a licence, or the thinking.
    kinds = {
        "moved": "split",
        "relabelled": "verdict",
        "regrouped": "group",
        "reworded": "text",
        "other": "rest",
    }
    both = old.keys() & new.keys()
    common = sorted(both)
    for kind, field in kinds.items():
        changes[kind] = []
        for key in common:
            before = getattr(old[key], field)
            after = getattr(new[key], field)
            if before != after:
                changes[kind].append(key)
    return changes


def _moves(old: Version, new: Version, moved: list[str]) -> dict[str, int]:
    """Moved rows by where from and where to."""
    moves: Counter[str] = Counter()
    for key in moved:
        before = old[key].split
        after = new[key].split
        moves[f"{before} -> {after}"] += 1
    return dict(sorted(moves.items()))


def _rows(path: Path) -> Iterator[tuple[str, Seen]]:
    files = [path]
    if path.is_dir():
        files = sorted(path.glob("*.jsonl"))
    if not files:
        raise DataError(
            "no .jsonl file found",
            where=str(path),
            fix="give a directory made by `prepare`, or a file",
        )
    for file in files:
        # Not `read_rows`: rows of `synthesize` are compared too, and they have other fields.
        for number, row in read_jsonl(file):
            if not isinstance(row.get("id"), str) or not isinstance(row.get("text"), str):
                raise DataError(
                    "a row without id or text",
                    where=f"{file}:{number}",
                    fix="compare files made by `prepare` or `synthesize`",
                )
            # The file's name is the split.
            yield row["id"], _seen(row, split=file.stem)


def _seen(row: dict[str, Any], split: str) -> Seen:
    rest = dict(row)
    for compared_alone in ("id", "text", "verdict", "group"):
        rest.pop(compared_alone, None)
    return Seen(
        split=split,
        verdict=row.get("verdict"),
        group=row.get("group"),
        text=_digest(row["text"]),
        rest=_digest(rest),
    )


def _digest(value: Any) -> bytes:
    # 12 bytes: two of a million rows share one with a probability of 1e-17.
    canonical = sha256_json(value)
    return bytes.fromhex(canonical)[:12]


def _verdicts(rows: Version) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for row in rows.values():
        counts[f"{row.split}/{row.verdict}"] += 1
    return dict(sorted(counts.items()))


def describe(found: dict[str, Any]) -> str:
    """The result of `diff` for people."""
    rows = found["rows"]
    lines = [f"rows: {rows['before']} -> {rows['after']}"]
    for kind, number in found["counts"].items():
        line = f"{kind}: {number}"
        if number:
            ids = found["ids"][kind]
            shown = ", ".join(ids[:SHOWN])
            more = " ..." if number > SHOWN else ""
            line = f"{line} ({shown}{more})"
        lines.append(line)
    for move, number in found["moves"].items():
        lines.append(f"moved {move}: {number}")
    verdicts = found["verdicts"]
    before = verdicts["before"]
    after = verdicts["after"]
    keys = {*before, *after}
    for key in sorted(keys):
        old = before.get(key, 0)
        new = after.get(key, 0)
        if old != new:
            lines.append(f"{key}: {old} -> {new}")
    return "\n".join(lines)
