"""A GGUF file with some keys changed and every tensor byte the same; whole and sealed, or absent."""

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


def rewrite_keys(source: Path, out: Path, updates: dict[str, KeyValue]) -> str:
    """Copy `source` to `out` with `updates` added or replaced; return the semantic digest, which is unchanged when
    no updated key changes behaviour.

    Raises:
        ArtifactError: the source is corrupt, a split set, or its seal is broken.
    """
    if len(gguf_file.shards_of(source)) > 1:
        raise ArtifactError(
            "a split file cannot be rewritten",
            where=str(source),
            fix="quantise into one file first",
        )
    keys = gguf_file.read_typed(source)
    if identity.SEAL in keys:
        identity.check_seal(source)
    keys |= {identity.SEAL: KeyValue(identity.BLANK_SEAL, GGUFValueType.STRING)} | updates
    with atomic_file(out) as temporary:
        _write(source, temporary, keys)
        tensors = gguf_file.tensor_table(temporary, hashes=True)
        identity.seal(temporary, tensors)
        return identity.semantic_digest(temporary, tensors)


def _write(source: Path, out: Path, keys: dict[str, KeyValue]) -> None:
    header = gguf_header.parse(source)
    writer = GGUFWriter(None, str(keys["general.architecture"].value))
    writer.data_alignment = header.alignment
    for name, item in keys.items():
        if name != "general.architecture":  # the writer's first key
            writer.add_key_value(name, item.value, item.type, item.sub)
    for tensor in header.tensors:
        kind = GGMLQuantizationType[tensor.type]
        shape = quant_shape_to_byte_shape(tensor.shape, kind)
        writer.add_tensor_info(tensor.name, shape, dtype(uint8), tensor.n_bytes, raw_dtype=kind)
    writer.write_header_to_file(out)
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    try:
        _copy_tensors(source, (writer.fout or [])[0], header)
    finally:
        writer.close()


def _copy_tensors(source: Path, out: IO[bytes], header: gguf_header.Header) -> None:
    """Tensors keep their order, alignment and padding, so the whole data section is copied as it is."""
    out.write(b"\0" * (-out.tell() % header.alignment))
    with source.open("rb") as file:
        file.seek(header.data_start)
        shutil.copyfileobj(file, out, COPY_BYTES)
