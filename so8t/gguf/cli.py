"""`so8t gguf ...`: convert, quantise, verify, look into and compare GGUF files.

What is in a GGUF file, for people and as JSON; and what differs between two.
"""

import json
from pathlib import Path
from typing import Any

import click

from so8t import gguf_file, gguf_header, identity
from so8t.errors import ArtifactError
from so8t.gguf.quantize.quantize import bits_per_weight, histogram
from so8t.gguf_file import KeyValue

FILE = click.Path(path_type=Path)
UNQUANTISED = ("F32", "F16", "BF16", "Q8_0")


@click.group()
def gguf() -> None:
    """GGUF files: convert, quantise, verify, inspect, compare."""


@gguf.command()
@click.argument("model_dir", type=FILE)
@click.argument("out", type=FILE)
@click.option("--type", "ftype", type=click.Choice(UNQUANTISED), default="F16", show_default=True)
@click.option("--name", help="Name in the file; default: the directory's.")
@click.option(
    "--context",
    type=click.Choice(["short", "stock"]),
    default="short",
    show_default=True,
    help="short: only the context in which llama.cpp computes what Hugging Face computes.",
)
@click.option("--split-gb", type=float, default=0.0, help="Cut into parts of at most this many GB.")
def convert(
    model_dir: Path, out: Path, ftype: Any, name: str | None, context: Any, split_gb: float
) -> None:
    """Convert a Hugging Face directory; streamed, whole or absent."""
    from so8t.gguf.convert.write import Recipe
    from so8t.gguf.convert.write import convert as run
    from so8t.records.ledger import conversion

    label = name or model_dir.resolve().name
    with conversion(label, ftype, model_dir, out):
        manifest = run(
            model_dir, out, Recipe(ftype, label, context, split_bytes=int(split_gb * 1e9))
        )
    click.echo(
        f"{', '.join(manifest['files'])}: {len(manifest['tensors'])} tensors, digest {manifest['semantic_digest']}"
    )


@gguf.command()
@click.argument("source", type=FILE)
@click.argument("out", type=FILE)
@click.option("--type", "kind", required=True)
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True)
@click.option("--imatrix", type=FILE)
def quantize(source: Path, out: Path, kind: str, threads: int, imatrix: Path | None) -> None:
    """Quantise an F16 file through libllama."""
    from so8t.gguf.quantize.quantize import quantize_recorded
    from so8t.progress import Progress

    click.echo(
        quantize_recorded(
            source, out, kind, threads=threads, imatrix=imatrix, progress=Progress("quantize")
        )
    )


@gguf.command()
@click.argument("file", type=FILE)
@click.option("--against", type=FILE, help="Hugging Face directory it was converted from.")
@click.option("--reference", type=FILE, help="F16 file it was quantised from.")
@click.option("--texts", type=FILE, default=Path("data/prepared/valid.jsonl"), show_default=True)
@click.option("--type", "kind", help="Type the file should have; default: what it says.")
@click.option("--json", "as_json", is_flag=True)
def verify(
    file: Path,
    against: Path | None,
    reference: Path | None,
    texts: Path,
    kind: str | None,
    as_json: bool,
) -> None:
    """Prove a file: seal, keys, tensors, tokens, logits. Without --against and --reference: seal and structure only."""
    from so8t import params
    from so8t.gguf.verify.verify import Subject, claimed_type, require, summary
    from so8t.gguf.verify.verify import verify as run
    from so8t.identity import check_seal

    if against is None and reference is None:
        check_seal(file)
        facts = inspect_file(file)
        click.echo(
            f"{file.name}: sealed, {len(facts['tensors'])} tensors, digest {facts['semantic_digest']}"
        )
        return
    findings = run(
        Subject(file, kind or claimed_type(file), texts, f16=reference, hf=against), params.load()
    )
    click.echo(
        json.dumps(findings.facts, ensure_ascii=False, indent=1) if as_json else summary(findings)
    )
    require(findings, file)


@gguf.command()
@click.argument("file", type=FILE)
@click.option("--json", "as_json", is_flag=True)
def inspect(file: Path, as_json: bool) -> None:
    """Print keys, tensors, types, digests and whether the seal holds."""

    facts = inspect_file(file)
    click.echo(json.dumps(facts, ensure_ascii=False, indent=1) if as_json else render(facts))


@gguf.command()
@click.argument("first", type=FILE)
@click.argument("second", type=FILE)
@click.option("--json", "as_json", is_flag=True)
def diff(first: Path, second: Path, as_json: bool) -> None:
    """Print the keys and tensors in which two files differ, and whether they behave alike."""

    facts = diff_files(first, second)
    click.echo(json.dumps(facts, ensure_ascii=False, indent=1) if as_json else render_diff(facts))


@gguf.command()
@click.argument("models_yaml", type=FILE)
@click.option("--jobs", type=click.IntRange(1), default=1, show_default=True)
@click.option(
    "--threads", type=click.IntRange(1), default=1, show_default=True, help="Of libllama, per job."
)
def batch(models_yaml: Path, jobs: int, threads: int) -> None:
    """Convert and quantise several models in parallel; run it again to finish what failed."""
    from so8t.errors import ArtifactError
    from so8t.gguf.batch import read_batch, run_batch

    outcomes = []
    for outcome in run_batch(read_batch(models_yaml), jobs=jobs, threads=threads):
        outcomes.append(outcome)
        click.echo(f"{outcome.state:<7} {outcome.model:<24} {outcome.type:<7} {outcome.detail}")
    failed = [o for o in outcomes if o.state == "failed"]
    click.echo(
        f"{len(outcomes)} files: "
        + ", ".join(
            f"{sum(o.state == s for o in outcomes)} {s}" for s in ("made", "kept", "failed")
        )
    )
    if failed:
        raise ArtifactError(
            f"{len(failed)} of {len(outcomes)} files failed",
            where=str(models_yaml),
            fix="run the same command again; finished files are kept",
        )


@gguf.command()
@click.argument("model_dir", type=FILE)
@click.argument("texts", type=FILE)
@click.argument("out", type=FILE)
@click.option("--rows", type=click.IntRange(1), default=128, show_default=True)
def imatrix(model_dir: Path, texts: Path, out: Path, rows: int) -> None:
    """Compute an importance matrix from prepared conversations, for `quantize --imatrix`."""
    from so8t import params
    from so8t.gguf.quantize.imatrix import compute_imatrix, conversations

    tokens = compute_imatrix(
        model_dir, conversations(model_dir, texts, params.load().data.system, rows), out
    )
    click.echo(f"{out.name}: {tokens:,} tokens")


@gguf.command("test")
@click.argument("file", type=FILE)
@click.argument("source", type=FILE)
@click.option(
    "--context", type=click.Choice(["short", "stock"]), default="short", show_default=True
)
def five(file: Path, source: Path, context: Any) -> None:
    """Run the founders' five tests and write {stem}_test_results.json beside the file."""
    from so8t.errors import GateError
    from so8t.files import write_json
    from so8t.gguf.verify.verify import five_tests

    results = five_tests(file, source, context)
    write_json(file.with_name(f"{file.stem}_test_results.json"), results)
    click.echo(json.dumps(results, ensure_ascii=False, indent=1))
    if results["tests_failed"]:
        raise GateError(
            f"{results['tests_failed']} of 5 tests failed", where=str(file), fix="convert again"
        )


@gguf.command()
def keys() -> None:
    """Print the table of so8t.* keys (docs/gguf-keys.md)."""
    from so8t.gguf.convert.keys import table_markdown

    click.echo(table_markdown(), nl=False)


MAX_SHOWN = 8  # items of a list that are shown
MAX_TEXT = 120  # characters of a text that are shown to people


def inspect_file(path: Path) -> dict[str, Any]:
    """Everything about a file: keys (long lists abridged), tensors with digests, histogram, semantic digest, seal.

    Raises:
        ArtifactError: the file is corrupt.
    """
    keys, table = gguf_file.read_typed(path), gguf_file.tensor_table(path, hashes=True)
    return {
        "file": path.name,
        "bytes": sum(p.stat().st_size for p in gguf_file.shards_of(path)),
        "files": len(gguf_file.shards_of(path)),
        "semantic_digest": identity.semantic_digest(path, table),
        "seal": seal_state(path),
        "histogram": histogram(table),
        "bits_per_weight": round(bits_per_weight(table), 4),
        "keys": {
            name: {
                "type": _type(item),
                "value": _abridged(item),
                "behaviour": identity.changes_behaviour(name),
            }
            for name, item in keys.items()
        },
        "tensors": [
            {
                "name": t.name,
                "type": t.type,
                "shape": list(t.shape),
                "bytes": t.n_bytes,
                "sha256": t.sha256,
            }
            for t in table
        ],
    }


def seal_state(path: Path) -> str:
    """valid, broken or absent."""
    if identity.SEAL not in gguf_header.parse(gguf_file.shards_of(path)[0]).fields:
        return "absent"
    try:
        identity.check_seal(path)
    except ArtifactError:
        return "broken"
    return "valid"


def _type(item: KeyValue) -> str:
    return f"ARRAY[{item.sub.name}]" if item.sub else item.type.name


def _abridged(item: KeyValue) -> Any:
    if isinstance(item.value, list) and len(item.value) > MAX_SHOWN:
        return {"count": len(item.value), "first": item.value[:MAX_SHOWN]}
    return item.value


def render(facts: dict[str, Any]) -> str:
    """The facts as text."""
    lines = [
        f"{facts['file']}: {facts['bytes']:,} bytes in {facts['files']} file(s), {facts['bits_per_weight']} bits per weight",
        "types: " + ", ".join(f"{count} {name}" for name, count in facts["histogram"].items()),
        f"semantic digest: {facts['semantic_digest']}",
        f"seal: {facts['seal']}",
        "",
        "keys:",
    ]
    for name, item in facts["keys"].items():
        lines.append(
            f"  {name} ({item['type']}{'' if item['behaviour'] else ', not in the digest'}) = {_short(item['value'])}"
        )
    lines += ["", "tensors:"]
    lines += [
        f"  {t['name']:<32} {t['type']:<5} {'x'.join(map(str, t['shape'])):>14} {t['bytes']:>14,} {t['sha256'][:12]}"
        for t in facts["tensors"]
    ]
    return "\n".join(lines)


def _short(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= MAX_TEXT else shown[:MAX_TEXT] + "..."


def diff_files(first: Path, second: Path) -> dict[str, Any]:
    """Keys and tensors that differ between two files.

    Raises:
        ArtifactError: a file is corrupt.
    """
    keys = [gguf_file.read_typed(path) for path in (first, second)]
    tables = [
        {t.name: t for t in gguf_file.tensor_table(path, hashes=True)} for path in (first, second)
    ]
    digests = [
        identity.semantic_digest(path, list(table.values()))
        for path, table in zip((first, second), tables, strict=True)
    ]
    changed_keys = {
        name: [_side(keys[0], name), _side(keys[1], name)]
        for name in sorted({*keys[0], *keys[1]})
        if keys[0].get(name) != keys[1].get(name)
    }
    changed_tensors = {}
    for name in sorted({*tables[0], *tables[1]}):
        sides = [
            (t.type, list(t.shape), t.sha256) if (t := table.get(name)) else None
            for table in tables
        ]
        if sides[0] != sides[1]:
            changed_tensors[name] = [
                None if side is None else {"type": side[0], "shape": side[1], "sha256": side[2]}
                for side in sides
            ]
    return {
        "same_behaviour": digests[0] == digests[1],
        "semantic_digests": digests,
        "keys": changed_keys,
        "tensors": changed_tensors,
    }


def _side(keys: dict[str, KeyValue], name: str) -> Any:
    return _abridged(keys[name]) if name in keys else None


def render_diff(facts: dict[str, Any]) -> str:
    """The differences as text."""
    lines = [f"behaviour: {'the same' if facts['same_behaviour'] else 'different'}"]
    lines += [
        f"  key {name}: {_short(left)} -> {_short(right)}"
        for name, (left, right) in facts["keys"].items()
    ]
    for name, (left, right) in facts["tensors"].items():
        shown = [
            f"{side['type']} {side['shape']} {side['sha256'][:12]}" if side else "absent"
            for side in (left, right)
        ]
        lines.append(f"  tensor {name}: {shown[0]} -> {shown[1]}")
    return "\n".join(lines if len(lines) > 1 else [*lines, "  no differing key or tensor"])
