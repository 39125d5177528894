"""`so8t gguf ...`: convert, quantise, verify, look into and compare GGUF files."""

import json
from pathlib import Path
from typing import Any

import click

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
@click.option("--context", type=click.Choice(["short", "stock"]), default="short", show_default=True,
              help="short: only the context in which llama.cpp computes what Hugging Face computes.")
@click.option("--split-gb", type=float, default=0.0, help="Cut into parts of at most this many GB.")
def convert(model_dir: Path, out: Path, ftype: Any, name: str | None, context: Any, split_gb: float) -> None:
    """Convert a Hugging Face directory; streamed, whole or absent."""
    from so8t.export.convert import Recipe
    from so8t.export.convert import convert as run
    from so8t.records.ledger import conversion

    label = name or model_dir.resolve().name
    with conversion(label, ftype, model_dir, out):
        manifest = run(model_dir, out, Recipe(ftype, label, context, split_bytes=int(split_gb * 1e9)))
    click.echo(f"{', '.join(manifest['files'])}: {len(manifest['tensors'])} tensors, digest {manifest['semantic_digest']}")


@gguf.command()
@click.argument("source", type=FILE)
@click.argument("out", type=FILE)
@click.option("--type", "kind", required=True)
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True)
@click.option("--imatrix", type=FILE)
def quantize(source: Path, out: Path, kind: str, threads: int, imatrix: Path | None) -> None:
    """Quantise an F16 file through libllama."""
    from so8t.export.job import quantize_recorded
    from so8t.progress import Progress

    click.echo(quantize_recorded(source, out, kind, threads=threads, imatrix=imatrix, progress=Progress("quantize")))


@gguf.command()
@click.argument("file", type=FILE)
@click.option("--against", type=FILE, help="Hugging Face directory it was converted from.")
@click.option("--reference", type=FILE, help="F16 file it was quantised from.")
@click.option("--texts", type=FILE, default=Path("data/prepared/valid.jsonl"), show_default=True)
@click.option("--type", "kind", help="Type the file should have; default: what it says.")
@click.option("--json", "as_json", is_flag=True)
def verify(file: Path, against: Path | None, reference: Path | None, texts: Path, kind: str | None, as_json: bool) -> None:
    """Prove a file: seal, keys, tensors, tokens, logits. Without --against and --reference: seal and structure only."""
    from so8t import params
    from so8t.export.inspect import inspect
    from so8t.export.verify import Subject, claimed_type, require, summary
    from so8t.export.verify import verify as run
    from so8t.identity import check_seal

    if against is None and reference is None:
        check_seal(file)
        facts = inspect(file)
        click.echo(f"{file.name}: sealed, {len(facts['tensors'])} tensors, digest {facts['semantic_digest']}")
        return
    findings = run(Subject(file, kind or claimed_type(file), texts, f16=reference, hf=against), params.load())
    click.echo(json.dumps(findings.facts, ensure_ascii=False, indent=1) if as_json else summary(findings))
    require(findings, file)


@gguf.command()
@click.argument("file", type=FILE)
@click.option("--json", "as_json", is_flag=True)
def inspect(file: Path, as_json: bool) -> None:
    """Print keys, tensors, types, digests and whether the seal holds."""
    from so8t.export.inspect import inspect as run
    from so8t.export.inspect import render

    facts = run(file)
    click.echo(json.dumps(facts, ensure_ascii=False, indent=1) if as_json else render(facts))


@gguf.command()
@click.argument("first", type=FILE)
@click.argument("second", type=FILE)
@click.option("--json", "as_json", is_flag=True)
def diff(first: Path, second: Path, as_json: bool) -> None:
    """Print the keys and tensors in which two files differ, and whether they behave alike."""
    from so8t.export.inspect import diff as run
    from so8t.export.inspect import render_diff

    facts = run(first, second)
    click.echo(json.dumps(facts, ensure_ascii=False, indent=1) if as_json else render_diff(facts))


@gguf.command()
@click.argument("models_yaml", type=FILE)
@click.option("--jobs", type=click.IntRange(1), default=1, show_default=True)
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True, help="Of libllama, per job.")
def batch(models_yaml: Path, jobs: int, threads: int) -> None:
    """Convert and quantise several models in parallel; run it again to finish what failed."""
    from so8t.errors import ArtifactError
    from so8t.export.batch import read_batch, run_batch

    outcomes = []
    for outcome in run_batch(read_batch(models_yaml), jobs=jobs, threads=threads):
        outcomes.append(outcome)
        click.echo(f"{outcome.state:<7} {outcome.model:<24} {outcome.type:<7} {outcome.detail}")
    failed = [o for o in outcomes if o.state == "failed"]
    click.echo(f"{len(outcomes)} files: " + ", ".join(f"{sum(o.state == s for o in outcomes)} {s}" for s in ("made", "kept", "failed")))
    if failed:
        raise ArtifactError(f"{len(failed)} of {len(outcomes)} files failed", where=str(models_yaml), fix="run the same command again; finished files are kept")


@gguf.command()
@click.argument("model_dir", type=FILE)
@click.argument("texts", type=FILE)
@click.argument("out", type=FILE)
@click.option("--rows", type=click.IntRange(1), default=128, show_default=True)
def imatrix(model_dir: Path, texts: Path, out: Path, rows: int) -> None:
    """Compute an importance matrix from prepared conversations, for `quantize --imatrix`."""
    from so8t import params
    from so8t.export.imatrix import compute_imatrix, conversations

    tokens = compute_imatrix(model_dir, conversations(model_dir, texts, params.load().data.system, rows), out)
    click.echo(f"{out.name}: {tokens:,} tokens")


@gguf.command("test")
@click.argument("file", type=FILE)
@click.argument("source", type=FILE)
@click.option("--context", type=click.Choice(["short", "stock"]), default="short", show_default=True)
def five(file: Path, source: Path, context: Any) -> None:
    """Run the founders' five tests and write {stem}_test_results.json beside the file."""
    from so8t.errors import GateError
    from so8t.export.structure import five_tests
    from so8t.files import write_json

    results = five_tests(file, source, context)
    write_json(file.with_name(f"{file.stem}_test_results.json"), results)
    click.echo(json.dumps(results, ensure_ascii=False, indent=1))
    if results["tests_failed"]:
        raise GateError(f"{results['tests_failed']} of 5 tests failed", where=str(file), fix="convert again")


@gguf.command()
def keys() -> None:
    """Print the table of so8t.* keys (docs/gguf-keys.md)."""
    from so8t.export.keys import table_markdown

    click.echo(table_markdown(), nl=False)
