"""Key for key and tensor for tensor what llama.cpp's own converter writes (golden of bench/reference_keys.py)."""

import json
from pathlib import Path
from typing import Any

import pytest

from bench.reference_keys import GOLDEN, described
from so8t.gguf.convert.write import Recipe, convert
from tests.fakes import tiny_models

pytestmark = pytest.mark.parity


@pytest.fixture(scope="module")
def golden() -> dict[str, Any]:
    return dict(json.loads(GOLDEN.read_text(encoding="utf-8")))


@pytest.mark.parametrize("name", tiny_models.REFERENCE_MODELS)
def test_our_keys_and_tensors_are_the_references(
    tmp_path: Path, golden: dict[str, Any], name: str
) -> None:
    model = tmp_path / name
    tiny_models.REFERENCE_MODELS[name][0](model)
    convert(model, tmp_path / "a.gguf", Recipe("F16", name, "stock"))
    ours = described(tmp_path / "a.gguf")
    assert tiny_models.differences(name, golden[name], ours) == []
    prefix = ours["keys"]["general.architecture"][2]
    ours["keys"][f"{prefix}.block_count"][2] = 99
    ours["tensors"].pop("output_norm.weight")
    assert len(tiny_models.differences(name, golden[name], ours)) == 2  # the comparison can fail
