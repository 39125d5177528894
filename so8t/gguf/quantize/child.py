"""The process in which libllama quantises one file: it can be killed, and its memory and log are its own.

Run as `python -m so8t.gguf.quantize.child JSON`. libllama's log goes to stdout line by line; the last line is
`RESULT {...}`. libllama has no way to cancel, so the parent kills this process instead.
"""

import ctypes
import json
import os
import re
import shutil
import signal
import sys
from typing import Any

import numpy as np

from so8t.identity import BLANK_SEAL, SEAL

FTYPES = {
    "F16": 1,
    "Q4_0": 2,
    "Q4_1": 3,
    "Q8_0": 7,
    "Q5_0": 8,
    "Q5_1": 9,
    "Q4_K_S": 14,
    "Q4_K_M": 15,
    "Q5_K_S": 16,
    "Q5_K_M": 17,
    "Q6_K": 18,
    "BF16": 32,
    "COPY": 0,
}
RESULT = "RESULT "
NO_SPACE = 28  # exit code: the disk is too small
MARGIN = 64 << 20  # bytes left free
STRING_OVERRIDE = 3  # LLAMA_KV_OVERRIDE_TYPE_STR
_SIZE = re.compile(r"quant size\s*=\s*([\d.]+) MiB")


def main() -> int:
    """Quantise as the JSON argument says; return libllama's code."""
    task = json.loads(sys.argv[1])
    _die_with_parent()
    import llama_cpp

    lines: list[str] = []

    def write(_level: int, text: bytes | None, _data: Any) -> None:
        shown = (text or b"").decode("utf-8", "replace")
        lines.append(shown)
        sys.stdout.write(shown)
        sys.stdout.flush()

    callback = llama_cpp.llama_log_callback(write)
    llama_cpp.llama_log_set(callback, ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()
    predicted = _predict(llama_cpp, task, lines)
    free = shutil.disk_usage(os.path.dirname(task["out"])).free  # noqa: PTH120
    if free < predicted + MARGIN:
        sys.stdout.write(
            f"\n{predicted / 1e9:.2f} GB are needed and {free / 1e9:.2f} GB are free\n"
        )
        return NO_SPACE
    code = _run(llama_cpp, task, dry_run=False) if not task["dry_run"] else 0
    sys.stdout.write(f"\n{RESULT}{json.dumps({'code': code, 'predicted_bytes': predicted})}\n")
    return 1 if code else 0


def _die_with_parent() -> None:
    """Ask Linux to stop this process when its parent dies, so that a killed stage leaves nothing running."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "prctl"):
        libc.prctl(1, signal.SIGTERM)


def _predict(library: Any, task: dict[str, Any], lines: list[str]) -> int:
    """Bytes of tensor data that libllama's dry run announces."""
    _run(library, task, dry_run=True)
    sizes = _SIZE.findall("".join(lines))
    lines.clear()
    return int(float(sizes[-1]) * (1 << 20)) if sizes else 0


def _run(library: Any, task: dict[str, Any], *, dry_run: bool) -> int:
    params = library.llama_model_quantize_default_params()
    params.nthread, params.ftype, params.dry_run = task["threads"], FTYPES[task["type"]], dry_run
    params.only_copy = task["type"] == "COPY"
    keep: list[Any] = [_overrides(library, params, {SEAL: BLANK_SEAL} | task["keys"])]
    if task["imatrix"]:
        keep.append(_imatrix(library, params, task["imatrix"]))
    return int(
        library.llama_model_quantize(
            os.fsencode(task["source"]), os.fsencode(task["out"]), ctypes.byref(params)
        )
    )


def _overrides(library: Any, params: Any, keys: dict[str, str]) -> Any:
    table = (library.llama_model_kv_override * (len(keys) + 1))()
    for row, (key, value) in zip(table, keys.items(), strict=False):
        row.key, row.tag, row.value.val_str = key.encode(), STRING_OVERRIDE, value.encode()
    table[len(keys)].key = b""
    params.kv_overrides = table
    return table


def _imatrix(library: Any, params: Any, path: str) -> Any:
    from so8t.gguf.quantize.imatrix import read_imatrix

    importance = {
        name: np.ascontiguousarray(v, np.float32) for name, v in read_imatrix(path).items()
    }
    table = (library.llama_model_imatrix_data * (len(importance) + 1))()
    for row, (name, values) in zip(table, importance.items(), strict=False):
        row.name, row.size = name.encode(), values.size
        row.data = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
    table[len(importance)].name = None
    params.imatrix = table
    return table, importance


if __name__ == "__main__":
    sys.exit(main())
