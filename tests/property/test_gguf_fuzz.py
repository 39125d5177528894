"""The reader survives anything: a clear error or a file that is really whole; bounded memory and time."""

import random
import resource
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from so8t import gguf_file, identity
from so8t.errors import ArtifactError
from tests.unit.test_identity import sealed


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return sealed(tmp_path_factory.mktemp("gguf") / "a.gguf").read_bytes()


def read_everything(path: Path) -> None:
    gguf_file.read_typed(path)
    identity.check_seal(path)


@settings(
    max_examples=150, deadline=2000, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.binary(max_size=400))
def test_random_bytes_behind_the_magic_are_an_artifact_error(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "f.gguf").write_bytes(b"GGUF" + data)
    with pytest.raises(ArtifactError):
        read_everything(tmp_path / "f.gguf")


def mutated(whole: bytes, generator: random.Random) -> bytes:
    """A truncated, cut, doubled, zeroed, overwritten or flipped copy."""
    data = bytearray(whole)
    at, count = generator.randrange(len(data)), generator.randrange(1, 64)
    kind = generator.randrange(6)
    if kind == 0:
        return bytes(data[:at])
    if kind == 1:
        del data[at : at + count]
    elif kind == 2:
        data[at:at] = data[at : at + count]
    elif kind == 3:
        data[at : at + count] = bytes(len(data[at : at + count]))
    elif kind == 4:
        data[at : at + count] = generator.randbytes(len(data[at : at + count]))
    else:
        for _ in range(count):
            data[generator.randrange(len(data))] ^= 1 << generator.randrange(8)
    return bytes(data)


def test_of_500_corrupted_files_none_is_accepted_and_none_crashes(
    tmp_path: Path, whole: bytes
) -> None:
    generator, path = random.Random(7), tmp_path / "f.gguf"
    before, began, tried = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic(), 0
    while tried < 500:
        data = mutated(whole, generator)
        if data == whole:
            continue
        path.write_bytes(data)
        tried += 1
        with pytest.raises(ArtifactError):
            read_everything(path)
    assert time.monotonic() - began < 60
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10  # KiB


def test_the_uncorrupted_file_is_accepted(tmp_path: Path, whole: bytes) -> None:
    (tmp_path / "f.gguf").write_bytes(whole)
    read_everything(tmp_path / "f.gguf")
