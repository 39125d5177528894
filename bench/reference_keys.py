"""Compare our files with llama.cpp's own converter, on tiny models; write the golden.

Key for key and tensor for tensor.

    python bench/reference_keys.py LLAMA_CPP            compare
    python bench/reference_keys.py LLAMA_CPP --golden   and write tests/golden/reference_keys.json

The golden keeps what the reference wrote, so that `tests/parity/test_reference_keys.py` needs no
checkout.
"""

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from so8t import gguf_file  # noqa: E402
from so8t.gguf.convert.write import Recipe, convert  # noqa: E402
from tests.fakes import tiny_models  # noqa: E402

GOLDEN = ROOT / "tests" / "golden" / "reference_keys.json"


def described(path: Path) -> dict[str, dict[str, object]]:
    """Keys with types and values (long ones as digests), tensors with types, shapes, digests."""
    keys = {}
    for name, item in gguf_file.read_typed(path).items():
        value = item.value
        if isinstance(value, list | str) and len(value) > 200:
            value = hashlib.sha256(json.dumps(value).encode()).hexdigest()
        keys[name] = [item.type.name, item.sub.name if item.sub else None, value]
    tensors = {
        t.name: [t.type, list(t.shape), t.sha256] for t in gguf_file.tensor_table(path, hashes=True)
    }
    return {"keys": keys, "tensors": tensors}


def main() -> int:
    """Convert every tiny model with both; print what differs; return 1 when anything does."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("llama_cpp", type=Path)
    parser.add_argument("--golden", action="store_true")
    args = parser.parse_args()
    golden, differences = {}, []
    with tempfile.TemporaryDirectory() as folder:
        for name, (build, pre) in tiny_models.REFERENCE_MODELS.items():
            model, ours, theirs = (
                Path(folder, name),
                Path(folder, f"{name}.gguf"),
                Path(folder, f"{name}-ref.gguf"),
            )
            build(model)
            convert(model, ours, Recipe("F16", name, "stock"))
            command = [
                sys.executable,
                str(ROOT / "bench" / "reference_convert.py"),
                str(args.llama_cpp),
                str(model),
                str(theirs),
            ]
            subprocess.run(
                command + (["--pre", pre] if pre else []), check=True, capture_output=True
            )
            golden[name] = described(theirs)
            differences += tiny_models.differences(name, golden[name], described(ours))
    sys.stdout.write("\n".join(differences or ["no difference"]) + "\n")
    if args.golden:
        for file in golden.values():  # bytes of random weights depend on torch's version
            file["tensors"] = {
                name: [kind, shape, None] for name, (kind, shape, _) in file["tensors"].items()
            }
        GOLDEN.parent.mkdir(parents=True, exist_ok=True)
        GOLDEN.write_text(json.dumps(golden, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return 1 if differences else 0


if __name__ == "__main__":
    sys.exit(main())
