"""Reading an importance matrix, for the quantising child (computing one: so8t.gguf.imatrix)."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from so8t.errors import ArtifactError
from so8t.gguf_file import tensor_table
from so8t.gguf_header import TensorInfo

Floats = NDArray[np.float32]

SUMS = ".in_sum2"  # sum of squares of each input column
COUNTS = ".counts"  # tokens that were summed over


def read_imatrix(path: Path | str) -> dict[str, Floats]:
    """Mean square of every input column, [columns] float32, by tensor name.

    Raises:
        ArtifactError: not an imatrix file, or a tensor without counts.
    """
    path = Path(path)
    table = {tensor.name: tensor for tensor in tensor_table(path)}
    names = sorted(name.removesuffix(SUMS) for name in table if name.endswith(SUMS))
    means = {}
    for name in names:
        if f"{name}{COUNTS}" not in table:
            raise ArtifactError(
                f"{name} has no counts",
                where=str(path),
                fix="compute the importance matrix again",
            )
        sums = _floats(path, table[f"{name}{SUMS}"])
        counts = _floats(path, table[f"{name}{COUNTS}"])
        # At least 1, for a weight that no token ever reached.
        count = np.maximum(counts.max(initial=0), 1.0)
        means[name] = (sums / count).astype(np.float32)
    if not means:
        raise ArtifactError(
            "not an importance matrix",
            where=str(path),
            fix="compute it with `so8t gguf imatrix`",
        )
    return means


def _floats(path: Path, tensor: TensorInfo) -> Floats:
    """A float32 tensor of the file, flat."""
    return np.fromfile(path, dtype="<f4", count=tensor.n_bytes // 4, offset=tensor.offset)
