"""Every tensor of a file, dequantised chunk by chunk and compared with where it came from.

The error is the normalised mean square error: sum (x - y)^2 / sum x^2 over the tensor. The bounds
are four times what each type does to normally distributed numbers; for the float types, twice the
error of rounding.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize
from numpy.typing import NDArray

from so8t.architectures import read_model
from so8t.errors import ArtifactError
from so8t.gguf.convert.source import Array, Floats, Source, to_float32
from so8t.gguf.convert.tensor_plan import Planned, plan_tensors
from so8t.gguf.convert.tensors import chunks_of
from so8t.gguf_file import shards_of, tensor_table
from so8t.gguf_header import TensorInfo, parse
from so8t.model_check import ContextProfile
from so8t.model_folder import read_object

# Four times the error is far from the next coarser type, and above what real weights do, which are
# not quite normally distributed.
NMSE_BOUND = {
    "F32": 0.0,
    "F16": 1e-6,
    "BF16": 1e-5,
    "Q8_0": 1.2e-4,
    "Q6_K": 1.3e-3,
    "Q5_K": 5.2e-3,
    "Q5_1": 5e-3,
    "Q5_0": 6.8e-3,
    "Q4_K": 2.1e-2,
    "Q4_1": 2.5e-2,
    "Q4_0": 2.9e-2,
}
CHUNK_ELEMENTS = 2 << 20  # numbers compared at a time

Pairs = Iterator[tuple[Array, Array]]  # (source, file), of the same rows


@dataclass(frozen=True, slots=True)
class TensorCheck:
    """One tensor against its source.

    Attributes:
        name: of the tensor.
        type: its type in the file.
        nmse: error as in the module's docstring; infinite where a number is not finite.
        finite: whether all numbers are.
    """

    name: str
    type: str
    nmse: float
    finite: bool

    @property
    def passes(self) -> bool:
        """Whether it is finite and within its type's bound."""
        return self.finite and self.nmse <= NMSE_BOUND[self.type]


class _Placed(NamedTuple):
    """A tensor, and the file of a split set that it is in."""

    info: TensorInfo
    file: Path


def rows_of(path: Path, tensor: TensorInfo, rows: int) -> Iterator[Floats]:
    """Yield a GGUF tensor as float32 rows.

    Args:
        path: the file.
        tensor: one of its tensors, of two or more dimensions; a vector is one row.
        rows: how many at a time.

    Yields:
        [at most `rows`, columns], where all dimensions but the last are flattened into rows.
    """
    kind = GGMLQuantizationType[tensor.type]
    # Quantised types store blocks of numbers that share a scale.
    block, block_bytes = GGML_QUANT_SIZES[kind]
    n_rows = math.prod(tensor.shape[:-1])
    row_bytes = tensor.shape[-1] // block * block_bytes
    # A vector is one row: blocks cannot be cut, and a vector is small.
    if len(tensor.shape) == 1:
        rows = 1
    with path.open("rb", buffering=0) as file:
        file.seek(tensor.offset)
        for low in range(0, n_rows, rows):
            count = min(rows, n_rows - low)
            data = file.read(count * row_bytes)
            raw = np.frombuffer(data, dtype=np.uint8).reshape(count, row_bytes)
            yield _to_float32(raw, kind)


def _to_float32(raw: NDArray[np.uint8], kind: GGMLQuantizationType) -> Floats:
    """Rows of bytes as they lie in the file, [rows, bytes of a row], to numbers."""
    if kind == GGMLQuantizationType.F32:
        return raw.view("<f4")
    if kind == GGMLQuantizationType.F16:
        return raw.view("<f2").astype(np.float32)
    return dequantize(raw, kind).astype(np.float32, copy=False)


def _rows_per_chunk(shape: tuple[int, ...], heads: int = 0) -> int:
    """Rows per chunk; whole heads where rows are permuted."""
    # The same bound for wide and narrow tensors.
    rows = max(1, CHUNK_ELEMENTS // shape[-1])
    if not heads:
        return rows
    head_rows = shape[0] // heads
    return max(1, rows // head_rows) * head_rows


def _compare(name: str, kind: str, pairs: Pairs) -> TensorCheck:
    """NMSE over all chunks of a tensor, summed in float64."""
    error = 0.0
    power = 0.0
    is_finite = True
    for source, found in pairs:
        # Looked at first: one NaN makes every sum NaN.
        if not np.isfinite(found).all():
            is_finite = False
        difference = found.reshape(-1).astype(np.float64) - source.reshape(-1)
        error += float(difference @ difference)
        power += float(np.square(source, dtype=np.float64).sum())
    # A tensor of zeros has no power to divide by; any error on it is too much.
    nmse = error / power if power > 0 else error
    if not is_finite:
        nmse = float("inf")
    return TensorCheck(name, kind, nmse, is_finite)


def against_gguf(path: Path, reference: Path) -> list[TensorCheck]:
    """Every tensor of `path` against the same tensor of the F16 file it was quantised from.

    Args:
        path: the quantised file.
        reference: the F16 file.

    Raises:
        ArtifactError: the two files do not hold the same tensors.
    """
    originals = {tensor.name: tensor for tensor in tensor_table(reference)}
    tensors = tensor_table(path)
    # Shapes, too: two sizes of one model have the same tensor names.
    shapes_wanted = {name: tensor.shape for name, tensor in originals.items()}
    shapes_found = {tensor.name: tensor.shape for tensor in tensors}
    if shapes_found != shapes_wanted:
        raise ArtifactError(
            f"the tensors are not those of {reference.name}",
            where=str(path),
            fix="quantise from the right F16 file",
        )
    checks = []
    for tensor in tensors:
        rows = _rows_per_chunk(tensor.shape)
        source = rows_of(reference, originals[tensor.name], rows)
        found = rows_of(path, tensor, rows)
        # Both are read side by side, so that neither model is ever whole in memory.
        pairs = zip(source, found, strict=True)
        checks.append(_compare(tensor.name, tensor.type, pairs))
    return checks


def against_hf(path: Path, directory: Path, profile: ContextProfile) -> list[TensorCheck]:
    """Every tensor of `path` against the Hugging Face directory it was converted from.

    Args:
        path: a file, or any part of a split set.
        directory: the source.
        profile: the one that it was converted with.

    Raises:
        ArtifactError: the file does not hold exactly the tensors that a conversion would write.
    """
    source = Source(directory)
    model = read_model(read_object(directory), directory)
    plan = plan_tensors(model, source, profile)
    found: dict[str, _Placed] = {}
    for file in shards_of(path):
        for tensor in parse(file).tensors:
            found[tensor.name] = _Placed(tensor, file)
    shapes_wanted = {item.name: item.shape for item in plan}
    shapes_found = {name: placed.info.shape for name, placed in found.items()}
    if shapes_found != shapes_wanted:
        raise ArtifactError(
            f"the tensors are not those of {directory.name}",
            where=str(path),
            fix="convert again",
        )
    checks = []
    for item in plan:
        placed = found[item.name]
        pairs = _pairs(source, item, placed)
        checks.append(_compare(item.name, placed.info.type, pairs))
    return checks


def _pairs(source: Source, item: Planned, placed: _Placed) -> Pairs:
    """The same rows of a tensor from the source and from the file, chunk by chunk."""
    if len(item.shape) == 1:
        # The source has a vector as many rows of one number, the file as one row.
        chunks = [to_float32(chunk) for chunk in chunks_of(source, item, item.shape[0])]
        yield np.concatenate(chunks), next(rows_of(placed.file, placed.info, 1))
        return
    rows = _rows_per_chunk(item.shape, item.heads)
    originals = chunks_of(source, item, rows)
    found = rows_of(placed.file, placed.info, rows)
    for original, chunk in zip(originals, found, strict=True):
        yield to_float32(original), chunk
