"""Our converter against llama.cpp's own, on random models.

Throughput, CPU time, peak memory, equal tensor bytes.

    python bench/convert.py [--llama-cpp CHECKOUT]
        [--pairs 3] [--types f16 q8_0] [--small] [--dry-run]

Two models: 1.3 GB of ordinary layers, and one layer under a 200,000 x 3,072 embedding with a
vocabulary of that size. Each run is a process of its own, its peak resident set is what the kernel
reports (wait4). Without a checkout only ours is measured. Both sides run alternately; a ratio is
the median over pairs.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from itertools import islice, product
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from so8t import gguf_file  # noqa: E402
from tests.fakes.tiny_gguf import byte_alphabet  # noqa: E402
from tests.fakes.tiny_models import REGEX, TEMPLATE  # noqa: E402

OURS = (
    "import sys\nfrom pathlib import Path\nfrom so8t.gguf.convert.write import Recipe, convert\n"
    "convert(Path(sys.argv[1]), Path(sys.argv[2]), Recipe(sys.argv[3].upper(), 'bench', 'stock'))"
)
MODELS = {
    "layers": {
        "vocab_size": 4096,
        "hidden_size": 2048,
        "intermediate_size": 5632,
        "num_hidden_layers": 12,
        "tie_word_embeddings": False,
    },
    "embedding": {
        "vocab_size": 200_000,
        "hidden_size": 3072,
        "intermediate_size": 8192,
        "num_hidden_layers": 1,
        "tie_word_embeddings": True,
    },
}
RESULTS = ROOT / "bench" / "results" / "convert.jsonl"


def write_tokenizer(folder: Path, size: int) -> None:
    """A byte-level BPE vocabulary of `size` tokens.

    Bytes, all pairs, then triples, each by one merge.
    """
    alphabet = byte_alphabet()
    merges = list(islice(([a, b] for a, b in product(alphabet, alphabet)), size - 256))
    merges += list(
        islice(
            ([a + b, c] for a, b, c in product(alphabet, alphabet, alphabet)),
            max(0, size - 256 - len(merges)),
        )
    )
    vocab = {token: i for i, token in enumerate([*alphabet, *("".join(m) for m in merges)])}
    split = {
        "type": "Split",
        "pattern": {"Regex": REGEX["gpt-4o"]},
        "behavior": "Isolated",
        "invert": False,
    }
    level = {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": False,
    }
    (folder / "tokenizer.json").write_text(
        json.dumps(
            {
                "version": "1.0",
                "truncation": None,
                "padding": None,
                "added_tokens": [],
                "normalizer": None,
                "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, level]},
                "post_processor": None,
                "decoder": {"type": "ByteLevel"} | level,
                "model": {
                    "type": "BPE",
                    "dropout": None,
                    "unk_token": None,
                    "continuing_subword_prefix": None,
                    "end_of_word_suffix": None,
                    "fuse_unk": False,
                    "byte_fallback": False,
                    "ignore_merges": False,
                    "vocab": vocab,
                    "merges": merges,
                },
            }
        )
    )
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "GPT2Tokenizer", "chat_template": TEMPLATE})
    )


def write_model(folder: Path, shape: dict[str, Any]) -> int:
    """Random BF16 weights, written tensor by tensor; returns their bytes."""
    folder.mkdir()
    config = {
        "architectures": ["Phi3ForCausalLM"],
        "model_type": "phi3",
        "num_attention_heads": 16,
        "num_key_value_heads": 16,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 4096,
        "original_max_position_embeddings": 4096,
        "sliding_window": None,
        "rope_theta": 10000.0,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "pad_token_id": 0,
        "dtype": "bfloat16",
    } | shape
    (folder / "config.json").write_text(json.dumps(config))
    write_tokenizer(folder, shape["vocab_size"])
    h, inter, vocab = shape["hidden_size"], shape["intermediate_size"], shape["vocab_size"]
    shapes = {"model.embed_tokens.weight": (vocab, h), "model.norm.weight": (h,)}
    for i in range(shape["num_hidden_layers"]):
        block = f"model.layers.{i}."
        shapes |= {
            f"{block}input_layernorm.weight": (h,),
            f"{block}post_attention_layernorm.weight": (h,),
            f"{block}self_attn.qkv_proj.weight": (3 * h, h),
            f"{block}self_attn.o_proj.weight": (h, h),
            f"{block}mlp.gate_up_proj.weight": (2 * inter, h),
            f"{block}mlp.down_proj.weight": (h, inter),
        }
    if not shape["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (vocab, h)
    return write_safetensors(folder / "model.safetensors", shapes)


def write_safetensors(path: Path, shapes: dict[str, tuple[int, ...]]) -> int:
    """Random BF16 tensors of these shapes."""
    header, offset = {}, 0
    for name, shape in shapes.items():
        size = int(np.prod(shape)) * 2
        header[name] = {
            "dtype": "BF16",
            "shape": list(shape),
            "data_offsets": [offset, offset + size],
        }
        offset += size
    text = json.dumps(header).encode()
    draw = np.random.default_rng(0)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for shape in shapes.values():
            left = int(np.prod(shape))
            while left:
                count = min(left, 4 << 20)
                values = draw.standard_normal(count, dtype=np.float32) * 0.02
                file.write((values.view(np.uint32) >> 16).astype(np.uint16).tobytes())
                left -= count
    return offset


def run(command: list[str]) -> dict[str, float]:
    """One process: wall seconds, CPU seconds, peak resident MB."""
    began = time.perf_counter()
    process = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    error = process.stderr.read() if process.stderr else b""
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(error.decode(errors="replace")[-2000:])
    return {
        "wall": time.perf_counter() - began,
        "cpu": usage.ru_utime + usage.ru_stime,
        "rss_mb": usage.ru_maxrss * 1024 / 1e6,
    }


def record(line: dict[str, Any], *, dry_run: bool) -> None:
    """Append one figure to the results, with commit and machine."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    ).stdout.strip()
    line |= {
        "commit": commit,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}",
        "date": datetime.now(UTC).date().isoformat(),
    }
    sys.stdout.write(json.dumps(line) + "\n")
    if not dry_run:
        with RESULTS.open("a", encoding="utf-8") as out:
            out.write(json.dumps(line) + "\n")


def same_tensors(first: Path, second: Path) -> bool:
    """Whether both files hold the same tensors, byte for byte."""
    tables = [
        {t.name: (t.type, t.shape, t.sha256) for t in gguf_file.tensor_table(p, hashes=True)}
        for p in (first, second)
    ]
    return tables[0] == tables[1]


def measure(name: str, model: Path, n_bytes: int, kind: str, args: argparse.Namespace) -> None:
    """All pairs of one model and type."""
    ours_out, peer_out = model.parent / "ours.gguf", model.parent / "peer.gguf"
    ours, peer = [], []
    for _ in range(args.pairs):
        ours.append(run([sys.executable, "-c", OURS, str(model), str(ours_out), kind]))
        if args.llama_cpp:
            peer.append(
                run(
                    [
                        sys.executable,
                        str(ROOT / "bench" / "reference_convert.py"),
                        str(args.llama_cpp),
                        str(model),
                        str(peer_out),
                        "--outtype",
                        kind,
                        "--pre",
                        "gpt-4o",
                    ]
                )
            )
    if peer and not same_tensors(ours_out, peer_out):
        raise SystemExit(f"{name} {kind}: the two files differ")
    for key, unit, better in (
        ("wall", "MB/s", True),
        ("cpu", "MB per CPU second", True),
        ("rss_mb", "MB peak", False),
    ):
        rate = [n_bytes / 1e6 / r[key] if better else r[key] for r in ours]
        other = [n_bytes / 1e6 / r[key] if better else r[key] for r in peer]
        record(
            {
                "bench": "convert",
                "what": f"{name} {n_bytes / 1e9:.1f} GB to {kind}",
                "unit": unit,
                "ours": round(statistics.median(rate), 1),
                "peer": round(statistics.median(other), 1) if other else None,
                "peer_name": "llama.cpp convert_hf_to_gguf.py",
                "ratio": round(
                    statistics.median(a / b for a, b in zip(rate, other, strict=True)), 2
                )
                if other
                else None,
                "higher_is_better": better,
                "runs": args.pairs,
            },
            dry_run=args.dry_run,
        )


def main() -> None:
    """Measure every model and type."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--llama-cpp", type=Path)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--types", nargs="+", default=["f16", "q8_0"])
    parser.add_argument(
        "--small", action="store_true", help="one layer and a small vocabulary: does it run at all"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="print, do not append to the results"
    )
    args = parser.parse_args()
    for name, shape in MODELS.items():
        with tempfile.TemporaryDirectory() as folder:
            small = {"vocab_size": 1024, "num_hidden_layers": 1} if args.small else {}
            n_bytes = write_model(Path(folder, "model"), shape | small)
            for kind in args.types:
                measure(name, Path(folder, "model"), n_bytes, kind, args)


if __name__ == "__main__":
    main()
