"""`so8t data`: compare versions of the data; import dumps and documents; collect pages, politely."""

from pathlib import Path

import click

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

    from so8t.corpus.diff import describe, diff

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
def import_wikipedia(dump: Path, out: Path, license_name: str, min_chars: int, max_chars: int, symbol_share: float, max_rows: int) -> None:
    """Paragraphs of a local dump (XML, .bz2, .gz, or JSONL) as rows with provenance. Nothing is fetched."""
    from collections import Counter
    from itertools import islice

    from so8t.corpus.wikipedia import Filters, rows
    from so8t.files import write_jsonl

    dropped: Counter[str] = Counter()
    count = write_jsonl(out, islice(rows(dump, license_name, Filters(min_chars, max_chars, symbol_share), dropped), max_rows))
    click.echo(f"{count} rows -> {out}; left out: {dict(sorted(dropped.items()))}")


@data.command("import-documents")
@click.argument("source", type=Any_)
@click.argument("out", type=File)
@click.option("--license", "license_name", required=True, help="under which the documents may be used")
@click.option("--domain", default="general", show_default=True)
@click.option("--max-chars", default=800, show_default=True, help="of one passage")
def import_documents(source: Path, out: Path, license_name: str, domain: str, max_chars: int) -> None:
    """Passages of text, Markdown, HTML or PDF files, with provenance."""
    from so8t.corpus.documents import files_below, rows
    from so8t.files import write_jsonl

    paths = files_below(source)
    count = write_jsonl(out, rows(paths, license_name=license_name, domain=domain, max_chars=max_chars))
    click.echo(f"{count} passages of {len(paths)} documents -> {out}")


@data.command("collect")
@click.argument("listing", type=Any_)
@click.argument("out", type=File)
@click.option("--license", "license_name", required=True, help="under which these pages may be used; read their terms first")
@click.option("--session", type=File, required=True, help="what was done; run again to resume")
@click.option("--contact", required=True, help="e-mail or URL by which the site's owner can reach you")
@click.option("--delay", default=5.0, show_default=True, help="least seconds between requests to one host")
def collect_command(listing: Path, out: Path, license_name: str, session: Path, contact: str, delay: float) -> None:
    """Fetch listed pages where robots.txt permits it. Rows are appended to OUT; unreadable rules mean no."""
    import json

    from so8t.corpus.collect import AGENT, Collector, urls_of

    collector = Collector(session, license_name, f"{AGENT} (+{contact})", delay)
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open("a", encoding="utf-8", newline="\n") as file:
        for row in collector.rows(urls_of(listing)):
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
            file.flush()
    counts = {kind: list(collector.done.values()).count(kind) for kind in sorted(set(collector.done.values()))}
    click.echo(f"session: {counts} -> {out}")
