"""`so8t data`: compare versions of the data; import dumps and documents; collect pages, politely.

What changed between two versions of the prepared data: rows added, removed, moved to another split, relabelled, reworded.

Memory holds a digest per row, not its text. Covered: directories made by `prepare`, or single JSONL files.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import click

from so8t.errors import DataError
from so8t.files import read_jsonl, sha256_json

File = click.Path(dir_okay=False, path_type=Path)
Any_ = click.Path(exists=True, path_type=Path)


@click.group()
def data() -> None:
    """Compare versions of the data, import dumps and documents."""


@data.command("diff")
@click.argument("before", type=Any_)
@click.argument("after", type=Any_)
@click.option("--json", "as_json", is_flag=True, help="JSON instead of text")
def diff_command(before: Path, after: Path, as_json: bool) -> None:
    """What changed between two versions (directories made by prepare, or JSONL files). Exit 0 whether or not they differ."""
    import json

    found = diff(before, after)
    click.echo(json.dumps(found, ensure_ascii=False, indent=1) if as_json else describe(found))


@data.command("import-wikipedia")
@click.argument("dump", type=Any_)
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
    """Paragraphs of a local dump (XML, .bz2, .gz, or JSONL) as rows with provenance. Nothing is fetched."""
    from collections import Counter
    from itertools import islice

    from so8t.data.wikipedia import Filters, rows
    from so8t.files import write_jsonl

    dropped: Counter[str] = Counter()
    count = write_jsonl(
        out,
        islice(
            rows(dump, license_name, Filters(min_chars, max_chars, symbol_share), dropped), max_rows
        ),
    )
    click.echo(f"{count} rows -> {out}; left out: {dict(sorted(dropped.items()))}")


@data.command("import-documents")
@click.argument("source", type=Any_)
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
    from so8t.files import write_jsonl

    paths = files_below(source)
    count = write_jsonl(
        out, rows(paths, license_name=license_name, domain=domain, max_chars=max_chars)
    )
    click.echo(f"{count} passages of {len(paths)} documents -> {out}")


@data.command("collect")
@click.argument("listing", type=Any_)
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
    """Fetch listed pages where robots.txt permits it. Rows are appended to OUT; unreadable rules mean no."""
    import json

    from so8t.data.documents import AGENT, Collector, urls_of

    collector = Collector(session, license_name, f"{AGENT} (+{contact})", delay)
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open("a", encoding="utf-8", newline="\n") as file:
        for row in collector.rows(urls_of(listing)):
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
            file.flush()
    counts = {
        kind: list(collector.done.values()).count(kind)
        for kind in sorted(set(collector.done.values()))
    }
    click.echo(f"session: {counts} -> {out}")


LISTED = 20  # ids shown of each kind of change


class Seen(NamedTuple):
    """What is compared of one row."""

    split: str
    verdict: str | None
    group: str | None
    text: bytes
    rest: bytes


def _digest(value: Any) -> bytes:
    return hashlib.sha256(sha256_json(value).encode()).digest()[:12]


def _rows(path: Path) -> Iterator[tuple[str, Seen]]:
    files = sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
    if not files:
        raise DataError(
            "no .jsonl file found",
            where=str(path),
            fix="give a directory made by `prepare`, or a file",
        )
    for file in files:
        for number, row in read_jsonl(file):
            if "id" not in row or "text" not in row:
                raise DataError(
                    "a row without id or text",
                    where=f"{file}:{number}",
                    fix="compare files made by `prepare` or `synthesize`",
                )
            rest = {
                key: value
                for key, value in row.items()
                if key not in ("id", "text", "verdict", "group")
            }
            yield (
                row["id"],
                Seen(
                    file.stem,
                    row.get("verdict"),
                    row.get("group"),
                    _digest(row["text"]),
                    _digest(rest),
                ),
            )


def diff(before: Path, after: Path) -> dict[str, Any]:
    """Counts and the first ids of every kind of change; `same` is True when there is none.

    Raises:
        DataError: a path holds no comparable rows.
    """
    old, new = dict(_rows(before)), dict(_rows(after))
    common = [key for key in old if key in new]
    changes = {
        "added": sorted(new.keys() - old.keys()),
        "removed": sorted(old.keys() - new.keys()),
        "moved": sorted(k for k in common if old[k].split != new[k].split),
        "relabelled": sorted(k for k in common if old[k].verdict != new[k].verdict),
        "regrouped": sorted(k for k in common if old[k].group != new[k].group),
        "reworded": sorted(k for k in common if old[k].text != new[k].text),
        "other": sorted(k for k in common if old[k].rest != new[k].rest),
    }
    return {
        "same": not any(changes.values()),
        "rows": {"before": len(old), "after": len(new)},
        "counts": {kind: len(ids) for kind, ids in changes.items()},
        "ids": {kind: ids[:LISTED] for kind, ids in changes.items()},
        "verdicts": {"before": _verdicts(old), "after": _verdicts(new)},
        "moves": _moves(old, new, changes["moved"]),
    }


def _verdicts(rows: dict[str, Seen]) -> dict[str, int]:
    return dict(sorted(Counter(f"{r.split}/{r.verdict}" for r in rows.values()).items()))


def _moves(old: dict[str, Seen], new: dict[str, Seen], moved: list[str]) -> dict[str, int]:
    return dict(sorted(Counter(f"{old[k].split} -> {new[k].split}" for k in moved).items()))


def describe(found: dict[str, Any]) -> str:
    """The result for people."""
    lines = [f"rows: {found['rows']['before']} -> {found['rows']['after']}"]
    lines += [
        f"{kind}: {n}"
        + (f" ({', '.join(found['ids'][kind][:5])}{' ...' if n > 5 else ''})" if n else "")
        for kind, n in found["counts"].items()
    ]
    lines += [f"moved {move}: {n}" for move, n in found["moves"].items()]
    keys = sorted({*found["verdicts"]["before"], *found["verdicts"]["after"]})
    before, after = found["verdicts"]["before"], found["verdicts"]["after"]
    lines += [
        f"{key}: {before.get(key, 0)} -> {after.get(key, 0)}"
        for key in keys
        if before.get(key, 0) != after.get(key, 0)
    ]
    return "\n".join(lines)
