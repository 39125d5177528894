"""Verdict scoring against full re-evaluation of every prompt of the same file.

The prompts share a prefix of 300 tokens; both run in the same process.

    python bench/scoring.py [--prompts 24] [--file FILE.gguf] [--dry-run]

Without --file, random Phi-3 files of the demo's size (F16, Q4_K_M) and of 512 x 8 layers (Q4_K_M)
are made. Both sides use one thread and are timed in CPU time of this process (the machine may be
shared), pair by pair; the ratio is the median of the pairs. The logits of both sides are compared
bit by bit, in two orders, and the bench fails when one differs.
"""

import argparse
import ctypes
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from so8t.libllama import library  # noqa: E402
from so8t.llama import Engine  # noqa: E402
from tests.fakes.tiny_gguf import Size, write_tiny  # noqa: E402

PREFIX, SHORTEST, LONGEST = 300, 20, 60
RUNS = 5
FILE_TYPE_Q4_K_M = 15


def quantise(source: Path, target: Path) -> Path:
    """Q4_K_M through libllama."""
    llama = library()
    params = llama.llama_model_quantize_default_params()
    params.ftype, params.nthread = FILE_TYPE_Q4_K_M, 1
    if llama.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(params)):
        raise SystemExit("libllama could not quantise")
    return target


def files(folder: Path) -> list[Path]:
    """Random files: the demo's size, and a larger one."""
    small = write_tiny(folder / "256x4-F16.gguf", size=Size(256, 768, 4, 8))
    large = write_tiny(folder / "512x8-F16.gguf", size=Size(512, 1536, 8, 8))
    return [
        small,
        quantise(small, folder / "256x4-Q4_K_M.gguf"),
        quantise(large, folder / "512x8-Q4_K_M.gguf"),
    ]


def prompts_of(engine: Engine, count: int) -> list[list[int]]:
    """Prompts of token ids that share their first `PREFIX`."""
    random = np.random.default_rng(0)
    top = min(engine.n_vocab, 256)
    shared = random.integers(0, top, PREFIX).tolist()
    return [
        shared + random.integers(0, top, n).tolist()
        for n in random.integers(SHORTEST, LONGEST + 1, count)
    ]


def cpu_seconds(work: Callable[[], object]) -> float:
    """CPU seconds of this process."""
    began = time.process_time()
    work()
    return time.process_time() - began


def compare(file: Path, count: int) -> dict[str, object]:
    """One file: timed pairs, and the promise of equal bits."""
    with Engine(file, n_ctx=512, threads=1) as engine:
        asked = prompts_of(engine, count)

        def ours() -> list[np.ndarray]:
            engine.forget()
            return [engine.logits(ids, cuts=(PREFIX,)) for ids in asked]

        def peer() -> list[np.ndarray]:
            return [(engine.forget(), engine.logits(ids))[1] for ids in asked]

        wanted = [(engine.forget(), engine.logits(ids, cuts=(PREFIX,)))[1] for ids in asked]
        backward = [engine.logits(ids, cuts=(PREFIX,)) for ids in reversed(asked)][::-1]
        for name, found in (("in a row", ours()), ("in reverse", backward)):
            if not all(np.array_equal(a, b) for a, b in zip(wanted, found, strict=True)):
                raise SystemExit(f"{file.name}: logits {name} differ from each prompt alone")
        uncut = max(float(np.abs(a - b).max()) for a, b in zip(wanted, peer(), strict=True))
        pairs = [(cpu_seconds(ours) / count, cpu_seconds(peer) / count) for _ in range(RUNS)]
    return {
        "ours": round(1e3 * statistics.median(a for a, _ in pairs), 3),
        "peer": round(1e3 * statistics.median(b for _, b in pairs), 3),
        "ratio": round(statistics.median(a / b for a, b in pairs), 4),
        "bits_equal": True,
        "largest_difference_to_one_piece": uncut,
    }


def main() -> None:
    """Run and append one line per file to bench/results/scoring.jsonl."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--prompts", type=int, default=24)
    parser.add_argument("--file", type=Path)
    parser.add_argument("--dry-run", action="store_true", help="print, do not append")
    args = parser.parse_args()
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    with tempfile.TemporaryDirectory() as folder:
        for file in [args.file] if args.file else files(Path(folder)):
            found = compare(file, args.prompts)
            line = {
                "bench": "scoring",
                "what": f"prefill verdict, 300-token shared prefix, {file.stem}",
                "unit": "CPU ms/prompt",
                **found,
                "peer_name": "full re-evaluation of every prompt",
                "higher_is_better": False,
                "runs": RUNS,
                "commit": commit.stdout.strip(),
                "machine": f"{platform.machine()}, {library().__version__}, 1 thread",
                "date": datetime.now(UTC).date().isoformat(),
            }
            print(json.dumps(line))
            if not args.dry_run:
                with (ROOT / "bench" / "results" / "scoring.jsonl").open(
                    "a", encoding="utf-8"
                ) as out:
                    out.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
