"""A GGUF file with some keys changed and every tensor byte the same; whole and sealed, or absent.

The seal is a key with the SHA-256 of the rest of the file, by which damage is found later.
"""

import shutil
from pathlib import Path
from typing import IO

from gguf import GGMLQuantizationType, GGUFValueType, GGUFWriter
from gguf.quants import quant_shape_to_byte_shape
from numpy import dtype, uint8

from so8t import gguf_file, gguf_header, identity
from so8t.errors import ArtifactError
from so8t.files import atomic_file
from so8t.gguf_file import KeyValue

COPY_BYTES = 4 << 20
ARCHITECTURE = "general.architecture"


def rewrite_keys(source: Path, out: Path, updates: dict[str, KeyValue]) -> str:
    """Copy `source` to `out` with `updates` added or replaced.

    Returns:
        The semantic digest of the copy: the source's, unless an updated key changes behaviour.

    Raises:
        ArtifactError: the source is corrupt, a split set, or its seal is broken.

    Args:
        source: a GGUF file.
        out: the copy; whole or absent.
        updates: keys with their GGUF types.
    """
    # Keys lie in the first shard and the seal is over one file.
    if len(gguf_file.shards_of(source)) > 1:
        raise ArtifactError(
            "a split file cannot be rewritten",
            where=str(source),
            fix="quantise into one file first",
        )
    keys = gguf_file.read_typed(source)
    if identity.SEAL in keys:
        identity.check_seal(source)
    # The seal is written over a blank one of the same length, once all other bytes are there.
    blank_seal = KeyValue(identity.BLANK_SEAL, GGUFValueType.STRING)
    keys |= {identity.SEAL: blank_seal}
    keys |= updates
    with atomic_file(out) as temporary:
        _write(source, temporary, keys)
        tensors = gguf_file.tensor_table(temporary, hashes=True)
        identity.seal(temporary, tensors)
        return identity.semantic_digest(temporary, tensors)


def _write(source: Path, out: Path, keys: dict[str, KeyValue]) -> None:
    """Write header, keys and tensor table, then the tensors as they are.

    Args:
        source: a GGUF file.
        out: where the copy goes.
        keys: all keys of the copy, in order.
    """
    header = gguf_header.parse(source)
    writer = GGUFWriter(None, str(keys[ARCHITECTURE].value))
    # Another alignment would move every tensor.
    writer.data_alignment = header.alignment
    for name, item in keys.items():
        # The writer has written this one by itself, as its first key.
        if name == ARCHITECTURE:
            continue
        writer.add_key_value(name, item.value, item.type, item.sub)
    for tensor in header.tensors:
        kind = GGMLQuantizationType[tensor.type]
        shape = quant_shape_to_byte_shape(tensor.shape, kind)
        writer.add_tensor_info(tensor.name, shape, dtype(uint8), tensor.n_bytes, raw_dtype=kind)
    writer.write_header_to_file(out)
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    try:
        # The writer keeps one open file per shard; there is one shard.
        (file,) = writer.fout or []
        _copy_tensors(source, file, header)
    finally:
        writer.close()


def _copy_tensors(source: Path, out: IO[bytes], header: gguf_header.Header) -> None:
    """Tensors keep their order, alignment and padding, so the data section is copied as a whole."""
    padding = -out.tell() % header.alignment
    out.write(b"\0" * padding)
    with source.open("rb") as file:
        file.seek(header.data_start)
        shutil.copyfileobj(file, out, COPY_BYTES)
