"""Rows of a model's safetensors tensors, read in chunks.

No tensor is ever loaded whole, so that a model larger than the memory can be converted. Which files
hold the weights, and what their headers say: so8t.model_folder.
"""

from collections.abc import Iterator
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from so8t.errors import ArtifactError
from so8t.model_folder import FETCH_AGAIN, StoredTensor, stored_tensors

Array = NDArray[Any]  # uint16 (the bits of BF16), float16 or float32
Floats = NDArray[np.float32]

NUMPY_TYPES = {"BF16": "<u2", "F16": "<f2", "F32": "<f4"}  # numpy has no BF16: its bits


class Source:
    """All tensors of a directory, by Hugging Face name, in shard order.

    Raises:
        ArtifactError: weights are missing, damaged, of an unknown type, or not those of the index.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.tensors = stored_tensors(directory)

    def chunks(self, tensor: StoredTensor, rows: int) -> Iterator[Array]:
        """Yield the tensor's rows, at most `rows` at a time.

        Args:
            tensor: one of `self.tensors`.
            rows: what bounds the memory.

        Yields:
            uint16 (the bits of BF16), float16 or float32 arrays, [rows, *tensor.shape[1:]].
        """
        kind = np.dtype(NUMPY_TYPES[tensor.dtype])
        # Unbuffered: chunks are large, and Python's buffer would only copy them once more.
        with tensor.file.open("rb", buffering=0) as file:
            file.seek(tensor.offset)
            for low in range(0, tensor.shape[0], rows):
                count = min(rows, tensor.shape[0] - low)
                array = np.empty((count, *tensor.shape[1:]), dtype=kind)
                as_bytes = array.reshape(-1).view(np.uint8)
                _fill(file, as_bytes.data, tensor)
                yield array


def _fill(file: FileIO, view: memoryview, tensor: StoredTensor) -> None:
    """Read until `view` is full."""
    # An unbuffered read may return less than was asked for.
    at = 0
    while at < len(view):
        count = file.readinto(view[at:])
        if not count:
            raise ArtifactError(
                f"tensor {tensor.name} ends early",
                where=str(tensor.file),
                fix=FETCH_AGAIN,
            )
        at += count


def to_float32(array: Array) -> Floats:
    """Any of the read types to float32, without loss.

    Args:
        array: uint16 (bits of BF16), float16 or float32, of any shape.

    Returns:
        The same shape; float32 as it is, without a copy.
    """
    if array.dtype == np.uint16:
        # BF16 is the upper half of a float32.
        wide = array.astype(np.uint32)
        wide <<= 16
        return wide.view(np.float32)
    return array.astype(np.float32, copy=False)
