"""`quant.imatrix` through the stage scripts: off changes no byte and reads no model, on weighs the file and says so."""

from pathlib import Path

import pytest

from so8t import gguf_file, identity
from so8t.errors import ArtifactError
from so8t.files import write_jsonl
from so8t.gguf.convert.write import Recipe, convert
from so8t.gguf.quantize.imatrix import read_imatrix
from so8t.gguf.quantize.quantize import quantize
from tests.fakes import tiny_models
from tests.unit.test_prepare_stage import ROOT, stage

pytestmark = pytest.mark.parity


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A project with a model, its F16 file and training rows; `imatrix` is the parameter's line."""
    convert(tiny_models.phi3(tmp_path / "hf"), tmp_path / "a-F16.gguf", Recipe("F16", "m", "short"))
    write_jsonl(
        tmp_path / "train.jsonl",
        [
            {
                "id": f"r{i}",
                "group": f"g{i}",
                "text": f"依頼{i}です。",
                "response": "# 判定\nALLOW\n# 最終回答\nはい。",
            }
            for i in range(6)
        ],
    )
    return tmp_path


def run(folder: Path, wanted: str) -> Path:
    """Both stages, with the parameter set; the quantised file."""
    text = (ROOT / "params.yaml").read_text(encoding="utf-8")
    assert "imatrix: false" in text
    (folder / "params.yaml").write_text(
        text.replace("imatrix: false", f"imatrix: {wanted}").replace(
            "imatrix_rows: 256", "imatrix_rows: 4"
        ),
        encoding="utf-8",
    )
    made = stage(
        folder, "imatrix.py", "hf" if wanted == "true" else "absent", "train.jsonl", "a.imatrix"
    )
    assert made.returncode == 0, made.stderr
    done = stage(
        folder,
        "quantize.py",
        "a-F16.gguf",
        f"{wanted}.gguf",
        "--type",
        "Q4_K_M",
        "--imatrix",
        "a.imatrix",
    )
    assert done.returncode == 0, done.stderr
    return folder / f"{wanted}.gguf"


def test_off_is_the_plain_file_and_on_is_another_that_names_its_matrix(folder: Path) -> None:
    plain = run(folder, "false")
    with pytest.raises(ArtifactError, match="not an importance matrix"):
        read_imatrix(folder / "a.imatrix")
    quantize(folder / "a-F16.gguf", folder / "direct.gguf", "Q4_K_M", threads=1)
    assert plain.read_bytes() == (folder / "direct.gguf").read_bytes()
    weighted = run(folder, "true")
    assert len(read_imatrix(folder / "a.imatrix")) == 8
    assert gguf_file.read_keys(weighted)["quantize.imatrix.sha256"]
    assert identity.semantic_digest(weighted) != identity.semantic_digest(plain)
