"""A GGUF file to a quantised one, through libllama in a process of its own.

The output appears whole and sealed, or not at all; its tensors are byte-identical to those of
llama.cpp's `llama-quantize`. What the file really holds is read back: a Q4_K_M file may contain no
Q4_K, because rows that are not multiples of 256 get another type and libllama reports success.
"""

import json
import math
import os
import re
import subprocess
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from so8t import identity
from so8t.errors import ResourceError, ToolError
from so8t.files import atomic_file, sha256_file
from so8t.gguf.quantize.child import FTYPES, NO_SPACE, RESULT
from so8t.gguf_file import tensor_table
from so8t.gguf_header import TensorInfo, parse
from so8t.progress import Progress
from so8t.records.ledger import Session, TensorRow, conversion

OnTensor = Callable[[int, int, str], None]  # (number from 1, total, tensor name)
TYPES = tuple(name for name in FTYPES if name != "COPY")
TAIL_LINES = 12  # of libllama's log, shown with an error
MAX_LINE = 300  # characters of a line of the log that are kept
SHOWN_FALLBACKS = 4

# Types of the matrices in a file in which nothing fell back; vectors and norms stay F32. libllama
# gives some matrices, such as the output, a better type than the file's name says.
EXPECTED = {
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
# A line of libllama's log: "[  12/ 147]  blk.0.attn_q.weight - ..."
_PROGRESS = re.compile(r"^\[\s*(\d+)/\s*(\d+)\]\s+(\S+)")


@dataclass(frozen=True, slots=True)
class Quantised:
    """What came out.

    Attributes:
        n_bytes: size of the file.
        predicted_bytes: what libllama's dry run announced, plus the head of the source.
        histogram: tensors per type.
        fallbacks: type of each matrix that is not of a type the file's name promises.
        bits_per_weight: over the whole file.
        semantic_digest: see so8t.identity.
        tensors: the table of the file, with digests.
    """

    n_bytes: int
    predicted_bytes: int
    histogram: dict[str, int]
    fallbacks: dict[str, str]
    bits_per_weight: float
    semantic_digest: str
    tensors: list[TensorInfo]


@dataclass(frozen=True, slots=True)
class _Task:
    """What the child is told, as JSON; `keys` are texts to write into the file."""

    source: str
    out: str
    type: str
    threads: int = 1
    keys: dict[str, str] = field(default_factory=dict)
    imatrix: str = ""
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class _Result:
    """What the child answers: libllama's code, and what its dry run announced."""

    code: int
    predicted_bytes: int


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
        source: a GGUF file that is intact. Its seal is checked first, because libllama quantises
            damaged data without a word.
        out: the new file.
        kind: one of `FTYPES`; COPY changes nothing.
        threads: CPU threads; they do not change the result.
        imatrix: importance matrix (so8t.gguf.imatrix); its digest goes into the file.
        on_tensor: called as libllama begins each tensor.

    Raises:
        ToolError: libllama is missing or failed; the end of its log is in the text.
        ResourceError: the disk is too small.
        ArtifactError: the source is damaged.
    """
    header = parse(source)
    if identity.SEAL in header.fields:
        identity.check_seal(source)
    keys = {}
    if imatrix:
        keys["quantize.imatrix.sha256"] = sha256_file(imatrix)
    with atomic_file(out) as temporary:
        task = _Task(
            source=str(source),
            out=str(temporary.absolute()),
            type=kind,
            threads=threads,
            keys=keys,
            imatrix=str(imatrix) if imatrix else "",
        )
        result = _run_child(task, on_tensor)
        # Read back: what libllama wrote, not what it was asked for.
        tensors = tensor_table(temporary, hashes=True)
        identity.seal(temporary, tensors)
        return Quantised(
            n_bytes=temporary.stat().st_size,
            predicted_bytes=result.predicted_bytes + header.data_start,
            histogram=histogram(tensors),
            fallbacks=fallbacks(tensors, kind),
            bits_per_weight=bits_per_weight(tensors),
            semantic_digest=identity.semantic_digest(temporary, tensors),
            tensors=tensors,
        )


def predict_bytes(source: Path, kind: str) -> int:
    """Bytes of tensor data that `quantize` would write, from libllama's dry run.

    Args:
        source: the file to quantise.
        kind: one of `FTYPES`.

    Raises:
        ToolError: libllama is missing or failed.
    """
    task = _Task(
        source=str(source),
        out=f"{source.absolute()}.dry",
        type=kind,
        dry_run=True,
    )
    return _run_child(task, None).predicted_bytes


def _run_child(task: _Task, on_tensor: OnTensor | None) -> _Result:
    """Quantise in a process of its own and follow its log.

    Raises:
        ToolError: libllama failed.
        ResourceError: the disk is too small.
    """
    # libllama explains its errors in its log only.
    log_tail: deque[str] = deque(maxlen=TAIL_LINES)
    command = [sys.executable, "-m", "so8t.gguf.quantize.child", json.dumps(asdict(task))]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        # libllama also prints, past its own log, to stderr.
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        errors="replace",
        env=_child_environment(),
    ) as child:
        try:
            result = _follow(child.stdout or (), log_tail, on_tensor)
        except BaseException:
            # Whatever stops us, Ctrl-C included: libllama would otherwise run on to its end.
            child.kill()
            raise
        code = child.wait()
    if code == NO_SPACE:
        raise ResourceError(
            log_tail[-1] if log_tail else "the disk is too small",
            where=task.out,
            fix="free some space, or write to another disk",
        )
    if code or result is None:
        shown = "\n  ".join(log_tail)
        raise ToolError(
            f"libllama could not quantise to {task.type} (exit {code}):\n  {shown}",
            where=task.source,
            fix="quantise from an F16 file; `so8t gguf verify` shows whether it is sound",
        )
    return result


def _child_environment() -> dict[str, str]:
    """The environment, in which the child finds this very copy of the package first."""
    package_parent = str(Path(__file__).parents[3])
    search_path = [package_parent, os.environ.get("PYTHONPATH", "")]
    return os.environ | {"PYTHONPATH": os.pathsep.join(search_path)}


def _follow(
    lines: Iterable[str], log_tail: deque[str], on_tensor: OnTensor | None
) -> _Result | None:
    """Read the child's output to its end; report each tensor once; return the result line."""
    passes = 0
    result: _Result | None = None
    for line in lines:
        text = line.strip()
        if line.startswith(RESULT):
            result = _Result(**json.loads(line.removeprefix(RESULT)))
        # Lines of dots are libllama's progress, and would push the error out of the tail.
        elif text.strip("."):
            log_tail.append(line.rstrip()[:MAX_LINE])
        match = _PROGRESS.match(line)
        if match is None or on_tensor is None:
            continue
        number = int(match[1])
        if number == 1:
            passes += 1
        # The first pass over the tensors is the dry run.
        if passes > 1:
            on_tensor(number, int(match[2]), match[3])
    return result


def histogram(tensors: list[TensorInfo]) -> dict[str, int]:
    """Tensors per type, in name order."""
    counts = Counter(tensor.type for tensor in tensors)
    return dict(sorted(counts.items()))


def types_text(counts: dict[str, int]) -> str:
    """A histogram for people: `9 F32, 13 Q4_K, 5 Q6_K`."""
    parts = [f"{count} {name}" for name, count in counts.items()]
    return ", ".join(parts)


def fallbacks(tensors: list[TensorInfo], kind: str) -> dict[str, str]:
    """Matrices whose type is not one that `kind` promises.

    Returns:
        Their types, by tensor name; nothing for a `kind` that promises nothing (COPY).
    """
    expected = EXPECTED.get(kind)
    if expected is None:
        return {}
    found = {}
    for tensor in tensors:
        is_matrix = len(tensor.shape) > 1
        if is_matrix and tensor.type not in expected:
            found[tensor.name] = tensor.type
    return found


def bits_per_weight(tensors: list[TensorInfo]) -> float:
    """Bits per number over the whole file; 0 for a file without numbers."""
    # Norms count too: this is what the file costs per number of the model.
    n_numbers = sum(math.prod(tensor.shape) for tensor in tensors)
    n_bytes = sum(tensor.n_bytes for tensor in tensors)
    if not n_numbers:
        return 0.0
    return 8 * n_bytes / n_numbers


def quantize_recorded(
    source: Path, out: Path, kind: str, *, threads: int, imatrix: Path | None, progress: Progress
) -> str:
    """Quantise `source` to `out` and record it in the conversion ledger, tensor by tensor.

    Returns:
        One line for people.
    """

    def on_tensor(number: int, total: int, name: str) -> None:
        progress.emit("tensor", name=name, done=number, total=total, unit="tensor")

    # Whatever ends it, the ledger says how: completed, failed or cancelled.
    with conversion(out.stem, f"quantize:{kind}", source, out) as session:
        result = quantize(source, out, kind, threads=threads, imatrix=imatrix, on_tensor=on_tensor)
        _record_tensors(session, source, result)
        session.digests = {
            "source_sha256": sha256_file(source),
            "output_sha256": sha256_file(out),
            "semantic_digest": result.semantic_digest,
        }
        session.ledger.log_performance_metric(
            session.id, "bits_per_weight", result.bits_per_weight, "bit"
        )
    return _summary(result, kind)


def _record_tensors(session: Session, source: Path, result: Quantised) -> None:
    """One row of the ledger per tensor, with its type before and after."""
    # Types of the source, because a ledger row says what a tensor was before.
    types_before = {tensor.name: tensor.type for tensor in tensor_table(source)}
    for tensor in result.tensors:
        session.tensor(
            TensorRow(
                name=tensor.name,
                source_name=tensor.name,
                shape=tensor.shape,
                source_type=types_before[tensor.name],
                type=tensor.type,
                milliseconds=0.0,  # libllama does not say
                megabytes=tensor.n_bytes / 1e6,
                sha256=tensor.sha256 or "",
            )
        )


def _summary(result: Quantised, kind: str) -> str:
    """One line for people; it must say when a type is not what was asked for."""
    types = types_text(result.histogram)
    megabytes = result.n_bytes / 1e6
    line = f"{types}; {megabytes:.1f} MB, {result.bits_per_weight:.2f} bits per weight"
    if result.fallbacks:
        fell = [f"{name} is {found}" for name, found in result.fallbacks.items()]
        line += f"; FALLBACK, not {kind}: {', '.join(fell[:SHOWN_FALLBACKS])}"
    return line
