"""A GGUF file to a quantised one, through libllama in a process of its own (byte-identical to llama-quantize).

The output appears whole and sealed, or not at all. What the file really holds is read back: a Q4_K_M file may contain
no Q4_K when its rows are not multiples of 256, and libllama reports success.
"""

import json
import os
import re
import subprocess
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from so8t import gguf_file, gguf_header, identity
from so8t.errors import ResourceError, ToolError
from so8t.files import atomic_file, sha256_file
from so8t.gguf.quantize.child import FTYPES, NO_SPACE, RESULT
from so8t.progress import Progress
from so8t.records.ledger import TensorRow, conversion

OnTensor = Callable[[int, int, str], None]  # (number from 1, total, tensor name)
TAIL_LINES = 12
EXPECTED = {  # tensor types that a file of this type holds when nothing fell back; norms stay F32
    "Q8_0": {"Q8_0"},
    "Q6_K": {"Q6_K"},
    "Q5_K_M": {"Q5_K", "Q6_K"},
    "Q5_K_S": {"Q5_K", "Q6_K"},
    "Q4_K_M": {"Q4_K", "Q6_K"},
    "Q4_K_S": {"Q4_K", "Q5_K", "Q6_K"},
    "Q5_0": {"Q5_0", "Q6_K"},
    "Q5_1": {"Q5_1", "Q6_K"},
    "Q4_0": {"Q4_0", "Q4_1", "Q6_K"},
    "Q4_1": {"Q4_1", "Q6_K"},
    "F16": {"F16"},
    "BF16": {"BF16"},
}
_PROGRESS = re.compile(r"^\[\s*(\d+)/\s*(\d+)\]\s+(\S+)")


@dataclass(frozen=True, slots=True)
class Quantised:
    """What came out: bytes, type histogram (tensors per type), tensors that fell back, digest."""

    n_bytes: int
    predicted_bytes: int  # libllama's dry run, plus the head of the source
    histogram: dict[str, int]
    fallbacks: dict[str, str]
    bits_per_weight: float
    semantic_digest: str
    tensors: list[gguf_header.TensorInfo]


def quantize(
    source: Path,
    out: Path,
    kind: str,
    *,
    threads: int,
    imatrix: Path | None = None,
    on_tensor: OnTensor | None = None,
) -> Quantised:
    """Quantise `source` (F16, BF16 or F32) to `out`.

    Args:
        source: a GGUF file that is intact: its seal is checked first, because libllama quantises damaged data gladly.
        out: the new file.
        kind: one of `FTYPES`; COPY changes nothing.
        threads: CPU threads; they do not change the result.
        imatrix: importance matrix (`so8t.gguf.quantize.imatrix`), its digest goes into the file.
        on_tensor: called as libllama begins each tensor.

    Raises:
        ToolError: libllama is missing or failed; the end of its log is in the text.
        ResourceError: the disk is too small.
        ArtifactError: the source is damaged.
    """
    if identity.SEAL in gguf_header.parse(source).fields:
        identity.check_seal(source)
    keys = {"quantize.imatrix.sha256": sha256_file(imatrix)} if imatrix else {}
    with atomic_file(out) as temporary:
        task = {
            "source": str(source),
            "out": str(temporary.absolute()),
            "type": kind,
            "threads": threads,
            "keys": keys,
            "imatrix": str(imatrix) if imatrix else "",
            "dry_run": False,
        }
        result = _run_child(task, source, on_tensor)
        tensors = gguf_file.tensor_table(temporary, hashes=True)
        identity.seal(temporary, tensors)
        predicted = result["predicted_bytes"] + gguf_header.parse(source).data_start
        return Quantised(
            temporary.stat().st_size,
            predicted,
            histogram(tensors),
            fallbacks(tensors, kind),
            bits_per_weight(tensors),
            identity.semantic_digest(temporary, tensors),
            tensors,
        )


def predict_bytes(source: Path, kind: str) -> int:
    """Bytes of tensor data that `quantize` would write, from libllama's dry run."""
    task = {
        "source": str(source),
        "out": str(source.absolute()) + ".dry",
        "type": kind,
        "threads": 1,
        "keys": {},
        "imatrix": "",
        "dry_run": True,
    }
    return int(_run_child(task, source, None)["predicted_bytes"])


def _run_child(task: dict[str, Any], source: Path, on_tensor: OnTensor | None) -> dict[str, Any]:
    tail: deque[str] = deque(maxlen=TAIL_LINES)
    command = [sys.executable, "-m", "so8t.gguf.quantize.child", json.dumps(task)]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(
            [str(Path(__file__).parents[3]), os.environ.get("PYTHONPATH", "")]
        )
    }
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        errors="replace",
        env=environment,
    ) as child:
        try:
            result = _follow(child.stdout or iter(()), tail, on_tensor)
        finally:
            if child.poll() is None and sys.exc_info()[0] is not None:
                child.kill()
        code = child.wait()
    if code == NO_SPACE:
        raise ResourceError(
            tail[-1] if tail else "the disk is too small",
            where=task["out"],
            fix="free some space, or write to another disk",
        )
    if code or result is None:
        raise ToolError(
            f"libllama could not quantise to {task['type']} (exit {code}):\n  " + "\n  ".join(tail),
            where=str(source),
            fix="quantise from an F16 file; `so8t gguf verify` shows whether it is sound",
        )
    return result


def _follow(
    lines: Iterator[str] | Any, tail: deque[str], on_tensor: OnTensor | None
) -> dict[str, Any] | None:
    """Read the child's output to its end; report each tensor once; return the result line."""
    reported = 0
    result: dict[str, Any] | None = None
    for line in lines:
        if line.startswith(RESULT):
            result = json.loads(line.removeprefix(RESULT))
        elif line.strip() and line.strip().strip("."):
            tail.append(line.rstrip()[:300])
        if (match := _PROGRESS.match(line)) and on_tensor:
            number, total = int(match[1]), int(match[2])
            if number == 1:
                reported += 1  # the first pass is the dry run
            if reported > 1:
                on_tensor(number, total, match[3])
    return result


def histogram(tensors: list[gguf_header.TensorInfo]) -> dict[str, int]:
    """Tensors per type, in name order."""
    return dict(sorted(Counter(tensor.type for tensor in tensors).items()))


def fallbacks(tensors: list[gguf_header.TensorInfo], kind: str) -> dict[str, str]:
    """Matrices whose type is not one that `kind` promises, by tensor name."""
    expected = EXPECTED.get(kind, set())
    return {
        t.name: t.type for t in tensors if expected and len(t.shape) > 1 and t.type not in expected
    }


def bits_per_weight(tensors: list[gguf_header.TensorInfo]) -> float:
    """Bits per number over the whole file."""
    numbers = 0
    for tensor in tensors:
        product = 1
        for size in tensor.shape:
            product *= size
        numbers += product
    return 8 * sum(tensor.n_bytes for tensor in tensors) / numbers if numbers else 0.0


TYPES = tuple(name for name in FTYPES if name != "COPY")


def quantize_recorded(
    source: Path, out: Path, kind: str, *, threads: int, imatrix: Path | None, progress: Progress
) -> str:
    """Quantise `source` to `out` within a ledger session; return what to say about it."""
    with conversion(out.stem, f"quantize:{kind}", source, out) as session:
        result = quantize(
            source,
            out,
            kind,
            threads=threads,
            imatrix=imatrix,
            on_tensor=lambda done, total, name: progress.emit(
                "tensor", name=name, done=done, total=total, unit="tensor"
            ),
        )
        before = {tensor.name: tensor.type for tensor in gguf_file.tensor_table(source)}
        for tensor in result.tensors:
            session.tensor(
                TensorRow(
                    tensor.name,
                    tensor.name,
                    tensor.shape,
                    before[tensor.name],
                    tensor.type,
                    0.0,
                    tensor.n_bytes / 1e6,
                    tensor.sha256 or "",
                )
            )
        session.digests = {
            "source_sha256": sha256_file(source),
            "output_sha256": sha256_file(out),
            "semantic_digest": result.semantic_digest,
        }
        session.ledger.log_performance_metric(
            session.id, "bits_per_weight", result.bits_per_weight, "bit"
        )
    shown = ", ".join(f"{count} {name}" for name, count in result.histogram.items())
    fell = (
        f"; FALLBACK, not {kind}: "
        + ", ".join(f"{n} is {t}" for n, t in list(result.fallbacks.items())[:4])
        if result.fallbacks
        else ""
    )
    return f"{shown}; {result.n_bytes / 1e6:.1f} MB, {result.bits_per_weight:.2f} bits per weight{fell}"
