"""`so8t gguf ...`: convert, quantise, verify, look into and compare GGUF files."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import click

from so8t import params
from so8t.errors import ArtifactError, GateError
from so8t.files import write_json
from so8t.gguf.batch import read_batch, run_batch
from so8t.gguf.convert.keys import table_markdown
from so8t.gguf.convert.write import FileType, Recipe, convert
from so8t.gguf.describe import diff_files, inspect_file, render, render_diff
from so8t.gguf.imatrix import compute_imatrix, conversations
from so8t.gguf.quantize.quantize import quantize_recorded
from so8t.gguf.verify.five_tests import five_tests
from so8t.gguf.verify.verify import Subject, claimed_type, require, summary, verify
from so8t.identity import check_seal
from so8t.model_check import ContextProfile
from so8t.progress import Progress
from so8t.records.ledger import conversion

FILE = click.Path(path_type=Path)
# What conversion writes by itself; all other types are made by `quantize`.
UNQUANTISED = ("F32", "F16", "BF16", "Q8_0")
OUTCOME_ORDER = ("made", "kept", "failed")
GIGABYTE = 1e9

as_json_option = click.option("--json", "as_json", is_flag=True)


@click.group()
def gguf() -> None:
    """GGUF files: convert, quantise, verify, inspect, compare."""


@gguf.command("convert")
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
def convert_command(
    model_dir: Path,
    out: Path,
    ftype: FileType,
    name: str | None,
    context: ContextProfile,
    split_gb: float,
) -> None:
    """Convert a Hugging Face directory; streamed, whole or absent."""
    # Resolved, because the directory may be given as `.`.
    label = name or model_dir.resolve().name
    recipe = Recipe(ftype, label, context, split_bytes=int(split_gb * GIGABYTE))
    with conversion(label, ftype, model_dir, out):
        manifest = convert(model_dir, out, recipe)
    files = ", ".join(manifest["files"])
    digest = manifest["semantic_digest"]
    click.echo(f"{files}: {len(manifest['tensors'])} tensors, digest {digest}")


@gguf.command("quantize")
@click.argument("source", type=FILE)
@click.argument("out", type=FILE)
@click.option("--type", "kind", required=True)
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True)
@click.option("--imatrix", type=FILE)
def quantize_command(
    source: Path, out: Path, kind: str, threads: int, imatrix: Path | None
) -> None:
    """Quantise an F16 file through libllama."""
    # Events go to a file below database/, so that another program can watch.
    progress = Progress("quantize")
    line = quantize_recorded(source, out, kind, threads=threads, imatrix=imatrix, progress=progress)
    click.echo(line)


@gguf.command("verify")
@click.argument("file", type=FILE)
@click.option("--against", type=FILE, help="Hugging Face directory it was converted from.")
@click.option("--reference", type=FILE, help="F16 file it was quantised from.")
@click.option("--texts", type=FILE, default=Path("data/prepared/valid.jsonl"), show_default=True)
@click.option("--type", "kind", help="Type the file should have; default: what it says.")
@as_json_option
def verify_command(
    file: Path,
    against: Path | None,
    reference: Path | None,
    texts: Path,
    kind: str | None,
    as_json: bool,
) -> None:
    """Prove a file: seal, keys, tensors, tokens, logits.
    Without --against and --reference: seal and structure only."""
    if against is None and reference is None:
        # Here a broken seal is an error; `inspect` only shows it.
        check_seal(file)
        facts = inspect_file(file)
        n_tensors = len(facts["tensors"])
        click.echo(f"{file.name}: sealed, {n_tensors} tensors, digest {facts['semantic_digest']}")
        return
    subject = Subject(file, kind or claimed_type(file), texts, f16=reference, hf=against)
    findings = verify(subject, params.load())
    # Printed before the failure is raised: who looks for the reason wants the numbers.
    if as_json:
        _echo_json(findings.facts)
    else:
        click.echo(summary(findings))
    require(findings, file)


def _echo_json(value: Any) -> None:
    click.echo(json.dumps(value, ensure_ascii=False, indent=1))


@gguf.command("inspect")
@click.argument("file", type=FILE)
@as_json_option
def inspect_command(file: Path, as_json: bool) -> None:
    """Print keys, tensors, types, digests and whether the seal holds."""
    facts = inspect_file(file)
    if as_json:
        _echo_json(facts)
    else:
        click.echo(render(facts))


@gguf.command("diff")
@click.argument("first", type=FILE)
@click.argument("second", type=FILE)
@as_json_option
def diff_command(first: Path, second: Path, as_json: bool) -> None:
    """Print the keys and tensors in which two files differ, and whether they behave alike."""
    facts = diff_files(first, second)
    if as_json:
        _echo_json(facts)
    else:
        click.echo(render_diff(facts))


@gguf.command("batch")
@click.argument("models_yaml", type=FILE)
@click.option("--jobs", type=click.IntRange(1), default=1, show_default=True)
@click.option(
    "--threads", type=click.IntRange(1), default=1, show_default=True, help="Of libllama, per job."
)
def batch_command(models_yaml: Path, jobs: int, threads: int) -> None:
    """Convert and quantise several models in parallel; run it again to finish what failed."""
    counts: Counter[str] = Counter()
    wanted = read_batch(models_yaml)
    # Printed as they end: a batch may take hours.
    for outcome in run_batch(wanted, jobs=jobs, threads=threads):
        counts[outcome.state] += 1
        click.echo(f"{outcome.state:<7} {outcome.model:<24} {outcome.type:<7} {outcome.detail}")
    total = counts.total()
    shown = ", ".join(f"{counts[state]} {state}" for state in OUTCOME_ORDER)
    click.echo(f"{total} files: {shown}")
    if counts["failed"]:
        raise ArtifactError(
            f"{counts['failed']} of {total} files failed",
            where=str(models_yaml),
            fix="run the same command again; finished files are kept",
        )


@gguf.command("imatrix")
@click.argument("model_dir", type=FILE)
@click.argument("texts", type=FILE)
@click.argument("out", type=FILE)
@click.option("--rows", type=click.IntRange(1), default=128, show_default=True)
def imatrix_command(model_dir: Path, texts: Path, out: Path, rows: int) -> None:
    """Compute an importance matrix from prepared conversations, for `quantize --imatrix`."""
    system = params.load().data.system
    token_rows = conversations(model_dir, texts, system, rows)
    tokens = compute_imatrix(model_dir, token_rows, out)
    click.echo(f"{out.name}: {tokens:,} tokens")


@gguf.command("test")
@click.argument("file", type=FILE)
@click.argument("source", type=FILE)
@click.option(
    "--context", type=click.Choice(["short", "stock"]), default="short", show_default=True
)
def test_command(file: Path, source: Path, context: ContextProfile) -> None:
    """Run the founders' five tests and write {stem}_test_results.json beside the file."""
    results = five_tests(file, source, context)
    # Written before a failure is raised, because it says what failed.
    write_json(file.with_name(f"{file.stem}_test_results.json"), results)
    _echo_json(results)
    if results["tests_failed"]:
        raise GateError(
            f"{results['tests_failed']} of 5 tests failed", where=str(file), fix="convert again"
        )


@gguf.command("keys")
def keys_command() -> None:
    """Print the table of so8t.* keys (docs/gguf-keys.md)."""
    click.echo(table_markdown(), nl=False)
