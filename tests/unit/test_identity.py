"""The GGUF reader, the semantic digest and the seal."""

import random
import struct
from pathlib import Path

import gguf
import numpy as np
import pytest

from so8t import gguf_file, gguf_header, identity
from so8t.errors import ArtifactError
from so8t.gguf.convert.keys import typed
from so8t.release.rewrite import rewrite_keys
from tests.fakes.tiny_gguf import write_tiny


def sealed(path: Path, *, order: tuple[str, ...] = ("a", "b"), key: str = "x") -> Path:
    writer = gguf.GGUFWriter(path, "phi3")
    writer.add_string("so8t.seal", identity.BLANK_SEAL)
    writer.add_string("tokenizer.chat_template", key)
    writer.add_array("tokenizer.ggml.tokens", ["あ", "b"])
    writer.add_float32("so8t.safety_threshold", 0.25)
    values = {"a": np.arange(15, dtype=np.float32).reshape(3, 5), "b": np.ones((2, 64), np.float16)}
    for name in order:
        writer.add_tensor(name, values[name])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    identity.seal(path)
    return path


def test_every_single_flipped_bit_is_found(tmp_path: Path) -> None:
    """Not one of the file's bytes is outside the seal and the reader's checks."""
    whole = sealed(tmp_path / "a.gguf").read_bytes()
    generator = random.Random(0)
    for index in range(len(whole)):
        damaged = bytearray(whole)
        damaged[index] ^= 1 << generator.randrange(8)
        (tmp_path / "b.gguf").write_bytes(damaged)
        with pytest.raises(ArtifactError):
            identity.check_seal(tmp_path / "b.gguf")


def test_an_intact_file_passes(tmp_path: Path) -> None:
    identity.check_seal(sealed(tmp_path / "a.gguf"))


def test_keys_come_back_with_types_and_values(tmp_path: Path) -> None:
    keys = gguf_file.read_typed(sealed(tmp_path / "a.gguf"))
    assert keys["tokenizer.ggml.tokens"].value == ["あ", "b"]
    assert keys["so8t.safety_threshold"] == gguf_file.KeyValue(0.25, gguf.GGUFValueType.FLOAT32)


def test_the_digest_ignores_tensor_order_and_calibration_but_not_the_template(
    tmp_path: Path,
) -> None:
    first = identity.semantic_digest(sealed(tmp_path / "a.gguf"))
    assert identity.semantic_digest(sealed(tmp_path / "b.gguf", order=("b", "a"))) == first
    assert (
        rewrite_keys(
            tmp_path / "a.gguf",
            tmp_path / "c.gguf",
            typed({"so8t.safety_threshold": 0.9, "so8t.calibration.temperature": 2.0}),
        )
        == first
    )
    assert gguf_file.read_keys(tmp_path / "c.gguf")["so8t.calibration.temperature"] == 2.0
    assert identity.semantic_digest(sealed(tmp_path / "d.gguf", key="y")) != first


def test_the_digest_sees_one_changed_weight(tmp_path: Path) -> None:
    first = write_tiny(tmp_path / "a.gguf")
    data = bytearray(first.read_bytes())
    data[gguf_file.tensor_table(first)[3].offset] ^= 1
    (tmp_path / "b.gguf").write_bytes(data)
    assert identity.semantic_digest(tmp_path / "b.gguf") != identity.semantic_digest(first)


def test_rewriting_refuses_a_damaged_file(tmp_path: Path) -> None:
    path = sealed(tmp_path / "a.gguf")
    data = bytearray(path.read_bytes())
    data[-40] ^= 1
    path.write_bytes(data)
    with pytest.raises(ArtifactError, match="seal"):
        rewrite_keys(path, tmp_path / "b.gguf", {})
    assert not (tmp_path / "b.gguf").exists()


def test_a_file_without_a_seal_says_so(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"no key so8t\.seal"):
        identity.check_seal(write_tiny(tmp_path / "a.gguf"))


def head(n_tensors: int = 0, n_keys: int = 0, version: int = 3, body: bytes = b"") -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, n_tensors, n_keys) + body


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "empty"),
        (b"PK\x03\x04" + bytes(64), "first four bytes"),
        (head(version=9) + bytes(64), "version 9"),
        (head(n_keys=1 << 40), "claims"),
        (head(n_tensors=1 << 60) + bytes(64), "claims"),
        (head(n_keys=1, body=struct.pack("<Q", 1 << 62) + bytes(64)), "text of"),
        (head(n_keys=1, body=text("k") + struct.pack("<I", 99) + bytes(64)), "unknown value type"),
        (
            head(n_keys=1, body=text("k") + struct.pack("<IIQ", 9, 9, 1) + bytes(64)),
            "array of arrays",
        ),
        (head(n_keys=1, body=text("k") + struct.pack("<IIQ", 9, 8, 1 << 50) + bytes(64)), "items"),
        (
            head(n_keys=1, body=text("k") + struct.pack("<IIQ", 9, 5, 1 << 5) + bytes(64)),
            "ends in the middle",
        ),
        (head(n_keys=1, body=text("k") + struct.pack("<IB", 7, 2) + bytes(64)), "truth value"),
        (
            head(n_keys=2, body=(text("k") + struct.pack("<IB", 0, 2)) * 2 + bytes(64)),
            "given twice",
        ),
        (
            head(n_keys=1, body=text("general.alignment") + struct.pack("<II", 4, 24) + bytes(64)),
            "power of two",
        ),
        (
            head(n_tensors=1, body=text("t") + struct.pack("<IQIQ", 1, 1 << 61, 0, 0) + bytes(64)),
            "does not fit",
        ),
        (
            head(n_tensors=1, body=text("t") + struct.pack("<IQIQ", 1, 4, 77, 0) + bytes(64)),
            "unknown type",
        ),
        (
            head(n_tensors=1, body=text("t") + struct.pack("<IQIQ", 1, 4, 0, 32) + bytes(128)),
            "wrong place",
        ),
        (
            head(n_tensors=1, body=text("t") + struct.pack("<IQIQ", 1, 33, 8, 0) + bytes(128)),
            "does not fit",
        ),
        (head(n_tensors=1, body=text("t") + struct.pack("<I", 9) + bytes(128)), "dimensions"),
    ],
)
def test_a_malformed_file_is_refused_by_name(tmp_path: Path, data: bytes, problem: str) -> None:
    (tmp_path / "a.gguf").write_bytes(data)
    with pytest.raises(ArtifactError, match=problem):
        gguf_header.parse(tmp_path / "a.gguf")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="not found"):
        gguf_header.parse(tmp_path / "no.gguf")
