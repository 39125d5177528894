"""Files that several parity tests read."""

from pathlib import Path

import pytest

from tests.fakes.tiny_gguf import write_tiny


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random GGUF with reserved tokens; nobody writes to it."""
    return write_tiny(tmp_path_factory.mktemp("gguf") / "b-F16.gguf")
