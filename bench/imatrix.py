"""What the importance matrix is worth: KL(F16 || quantised) with and without it.

It is measured on held-out text, on the built models.

    python bench/imatrix.py [--root .] [--models a b] [--types Q4_K_M]
        [--rows 256] [--prompts 437] [--dry-run]

Needs what `dvc repro convert` built below `--root`. The matrix is computed from `--rows` training
conversations; the divergence is measured on conversations of test_iid, which neither training nor
the matrix saw, at up to 64 positions of each. "ours" is with the matrix, "peer" without it, same
F16 file, same libllama. Verdict flips against F16 are counted.
"""

import argparse
import json
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from so8t.gguf.imatrix import compute_imatrix, conversations  # noqa: E402
from so8t.gguf.quantize.quantize import Quantised, quantize  # noqa: E402
from so8t.gguf.verify import logits  # noqa: E402
from so8t.libllama import library_version  # noqa: E402
from so8t.llama import Engine  # noqa: E402
from so8t.params import load  # noqa: E402

SOURCES = {"a": "models/base", "b": "models/baked"}
N_CTX = 2048
RESULTS = ROOT / "bench" / "results" / "imatrix.jsonl"


def drift(
    f16: Path, others: dict[str, Path], texts: Path, system: str, prompts: int
) -> dict[str, dict[str, Any]]:
    """Agreement of each file with the F16 file on the same positions."""
    probes, ids = (
        logits.read_probes(f16, texts, system=system, count=prompts, n_ctx=N_CTX),
        logits.readout_ids(f16),
    )
    found = {}
    with (
        Engine(f16, n_ctx=N_CTX, threads=1, kv="f32") as engine,
        logits.stored(probes, engine.n_vocab, logits.engine_rows(engine)) as reference,
    ):
        for name, path in others.items():
            with (
                Engine(path, n_ctx=N_CTX, threads=1, kv="f32") as other,
                logits.stored(probes, other.n_vocab, logits.engine_rows(other)) as rows,
            ):
                found[name] = logits.compare(probes, reference, rows, ids) | {
                    "perplexity": logits.perplexity(probes, rows)
                }
    return found


def measure(
    root: Path, model: str, kinds: list[str], rows: int, prompts: int
) -> Iterator[dict[str, Any]]:
    """One model: the matrix once, then both files of each type."""
    system, f16 = (
        load(ROOT / "params.yaml").data.system,
        root / "models" / "gguf" / f"{model}-F16.gguf",
    )
    with tempfile.TemporaryDirectory() as name:
        matrix, source = Path(name) / "imatrix.gguf", root / SOURCES[model]
        tokens = compute_imatrix(
            source,
            conversations(source, root / "data/prepared/train.jsonl", system, rows),
            matrix,
            threads=2,
        )
        for kind in kinds:
            made = {way: Path(name) / f"{way}-{kind}.gguf" for way in ("with", "without")}
            result: dict[str, Quantised] = {
                way: quantize(f16, path, kind, threads=2, imatrix=matrix if way == "with" else None)
                for way, path in made.items()
            }
            facts = drift(f16, made, root / "data/prepared/test_iid.jsonl", system, prompts)
            yield from lines(
                f"model {model}, {kind}",
                facts,
                result["with"],
                {"matrix_tokens": tokens, "matrix_rows": rows},
            )


def lines(
    what: str, facts: dict[str, dict[str, Any]], made: Quantised, more: dict[str, int]
) -> Iterator[dict[str, Any]]:
    """Three figures: mean KL, verdict flips, perplexity of the answers."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    ).stdout.strip()
    figures = (
        ("kl_mean", "KL(F16 || file), mean", "nats", 6),
        ("verdict_flips", "verdict flips against F16", "prompts", 0),
        ("perplexity", "perplexity of the answers", "", 4),
    )
    for key, name, unit, digits in figures:
        ours, peer = facts["with"].get(key), facts["without"].get(key)
        if ours is not None and peer is not None:
            yield {
                "bench": "imatrix",
                "what": f"{what}: {name}",
                "unit": unit,
                "ours": round(ours, digits),
                "peer": round(peer, digits),
                "peer_name": "the same file without the importance matrix",
                "ratio": round(ours / peer, 4) if peer else None,
                "higher_is_better": False,
                "runs": 1,
                "prompts": facts["with"]["prompts"],
                "positions": facts["with"]["positions"],
                **more,
                "fallbacks": len(made.fallbacks),
                "commit": commit,
                "machine": f"{platform.machine()}, llama-cpp-python {library_version()}",
                "date": datetime.now(UTC).date().isoformat(),
            }


def main() -> None:
    """Measure and append to bench/results/imatrix.jsonl."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, default=ROOT)
    parser.add_argument("--models", nargs="+", default=["a", "b"], choices=sorted(SOURCES))
    parser.add_argument("--types", nargs="+", default=["Q4_K_M"])
    parser.add_argument("--rows", type=int, default=256)
    parser.add_argument("--prompts", type=int, default=437)
    parser.add_argument("--dry-run", action="store_true", help="print only")
    args = parser.parse_args()
    if not (args.root / "models" / "gguf").is_dir():
        sys.stdout.write("nothing built here: run `dvc repro convert` first\n")
        return
    for model in args.models:
        for line in measure(args.root, model, args.types, args.rows, args.prompts):
            sys.stdout.write(json.dumps(line) + "\n")
            if not args.dry_run:
                with RESULTS.open("a", encoding="utf-8") as out:
                    out.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
