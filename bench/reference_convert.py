"""Run llama.cpp's own converter, from a checkout, on one model.

It is what tests compare with, and the peer of bench/convert.py.

    python bench/reference_convert.py LLAMA_CPP MODEL_DIR OUT.gguf [--outtype f16] [--pre qwen2]

The reference names a BPE split rule by a hash of encoded ids, which no freshly trained tokenizer
has: `--pre` answers for it. Everything else is the unchanged script.
"""

import argparse
import runpy
import sys
from pathlib import Path


def main() -> None:
    """Patch the one method when asked, then run the script as it is."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("llama_cpp", type=Path)
    parser.add_argument("model", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--outtype", default="f16")
    parser.add_argument("--pre", default="")
    args = parser.parse_args()
    sys.path.insert(0, str(args.llama_cpp))
    sys.path.insert(1, str(args.llama_cpp / "gguf-py"))
    if args.pre:
        from conversion.base import TextModel

        TextModel.get_vocab_base_pre = lambda _self, _tokenizer: args.pre
    sys.argv = [
        "convert_hf_to_gguf.py",
        str(args.model),
        "--outtype",
        args.outtype,
        "--outfile",
        str(args.out),
    ]
    runpy.run_path(str(args.llama_cpp / "convert_hf_to_gguf.py"), run_name="__main__")


if __name__ == "__main__":
    main()
