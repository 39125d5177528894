"""The process in which libllama quantises one file: it can be killed, and its memory is its own.

Run as `python -m so8t.gguf.quantize.child JSON`. libllama's log goes to stdout line by line; the
last line is `RESULT {...}`. libllama has no way to cancel, so the parent kills this process.
"""

import ctypes
import json
import os
import re
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np

from so8t.gguf.quantize.imatrix import read_imatrix
from so8t.identity import BLANK_SEAL, SEAL

# llama.cpp's numbers of the types (`llama_ftype`); COPY is ours, for copying a file unchanged.
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
NO_SPACE = 28  # exit code: the disk is too small (ENOSPC)
MARGIN = 64 << 20  # bytes left free
STRING_OVERRIDE = 3  # LLAMA_KV_OVERRIDE_TYPE_STR
PR_SET_PDEATHSIG = 1  # of Linux' prctl
MEBIBYTE = 1 << 20
_SIZE = re.compile(r"quant size\s*=\s*([\d.]+) MiB")


def main() -> int:
    """Quantise as the JSON argument says; return the process's exit code."""
    task = json.loads(sys.argv[1])
    _die_with_parent()
    # Imported late: loading libllama takes a second, and the parent imports this module too.
    import llama_cpp

    log: list[str] = []

    def write(_level: int, text: bytes | None, _data: Any) -> None:
        shown = (text or b"").decode("utf-8", "replace")
        log.append(shown)
        sys.stdout.write(shown)
        sys.stdout.flush()

    # Held in a name: C keeps the pointer, and Python would free the callback.
    callback = llama_cpp.llama_log_callback(write)
    llama_cpp.llama_log_set(callback, ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()
    predicted = _predict(llama_cpp, task, log)
    free = shutil.disk_usage(Path(task["out"]).parent).free
    if free < predicted + MARGIN:
        needed_gb = predicted / 1e9
        free_gb = free / 1e9
        sys.stdout.write(f"\n{needed_gb:.2f} GB are needed and {free_gb:.2f} GB are free\n")
        return NO_SPACE
    code = 0
    if not task["dry_run"]:
        code = _run(llama_cpp, task, dry_run=False)
    result = {"code": code, "predicted_bytes": predicted}
    sys.stdout.write(f"\n{RESULT}{json.dumps(result)}\n")
    return 1 if code else 0


def _die_with_parent() -> None:
    """Ask Linux to stop this process when its parent dies.

    A killed stage then leaves nothing running. Other systems have no such call and do without.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "prctl"):
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _predict(library: Any, task: dict[str, Any], log: list[str]) -> int:
    """Bytes of tensor data that libllama's dry run announces."""
    _run(library, task, dry_run=True)
    sizes = _SIZE.findall("".join(log))
    log.clear()
    if not sizes:
        return 0
    return int(float(sizes[-1]) * MEBIBYTE)


def _run(library: Any, task: dict[str, Any], *, dry_run: bool) -> int:
    """Quantise, or only say how large the result would be; return libllama's code."""
    params = library.llama_model_quantize_default_params()
    params.nthread = task["threads"]
    params.ftype = FTYPES[task["type"]]
    params.dry_run = dry_run
    params.only_copy = task["type"] == "COPY"
    # Tables that C points into must live as long as the call.
    keep = [_set_keys(library, params, {SEAL: BLANK_SEAL} | task["keys"])]
    if task["imatrix"]:
        keep.append(_set_imatrix(library, params, task["imatrix"]))
    source = os.fsencode(task["source"])
    out = os.fsencode(task["out"])
    return int(library.llama_model_quantize(source, out, ctypes.byref(params)))


def _set_keys(library: Any, params: Any, keys: dict[str, str]) -> Any:
    """Have libllama write these text keys; return the table that must be kept."""
    table = (library.llama_model_kv_override * (len(keys) + 1))()
    for row, (key, value) in zip(table, keys.items(), strict=False):
        row.key = key.encode()
        row.tag = STRING_OVERRIDE
        row.value.val_str = value.encode()
    # An empty name ends the table.
    table[len(keys)].key = b""
    params.kv_overrides = table
    return table


def _set_imatrix(library: Any, params: Any, path: str) -> Any:
    """Have libllama use an importance matrix; return what must be kept."""
    importance = {}
    for name, values in read_imatrix(path).items():
        importance[name] = np.ascontiguousarray(values, np.float32)
    table = (library.llama_model_imatrix_data * (len(importance) + 1))()
    for row, (name, values) in zip(table, importance.items(), strict=False):
        row.name = name.encode()
        row.size = values.size
        row.data = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
    # A missing name ends the table.
    table[len(importance)].name = None
    params.imatrix = table
    return table, importance


if __name__ == "__main__":
    sys.exit(main())
