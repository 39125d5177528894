"""Checks of this machine: Python, packages, torch, graphics, memory, disk, clock, llama.cpp, Ollama.

Native libraries are loaded in a process of their own: one built for another CPU dies there, not here.
Not covered: how fast anything is (`so8t plan`).
"""

import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from urllib.error import URLError

from so8t.errors import ResourceError, ToolError
from so8t.operations.line import Line, judged, note, ok

OLDEST, NEWEST = (3, 11), (3, 13)
MEMORY_GIB = {
    "scratch": 3.0,
    "local": 12.0,
}  # what the largest stage holds at once (research: bake streams, training fits 12 GB cards)
DISK_GIB = {"scratch": 2.0, "local": 60.0}  # one run's artefacts, linked not copied
GRAPHICS_GIB = {"nf4": 10.0, "int8": 11.0, "none": 40.0, "full": 80.0}
FUTURE_S = 3600.0  # a file this far ahead of the clock was written by another clock
INSTALL = "make setup   (without make: python -m pip install -c constraints.txt --group dev -e .)"
_TORCH = """
import json, torch
cuda = torch.cuda.is_available()
print(json.dumps({"version": torch.__version__, "cuda": cuda, "name": torch.cuda.get_device_name(0) if cuda else "",
                  "gib": torch.cuda.mem_get_info(0)[0] / 2**30 if cuda else 0.0, "bf16": torch.cuda.is_bf16_supported() if cuda else False}))
"""
_LLAMA = """
import json, llama_cpp
print(json.dumps({"version": llama_cpp.__version__, "system": llama_cpp.llama_print_system_info().decode(), "gpu": bool(llama_cpp.llama_supports_gpu_offload()),
                  "quantize": hasattr(llama_cpp, "llama_model_quantize")}))
"""


def python(version: tuple[int, ...] = sys.version_info[:2]) -> str:
    """The interpreter's version is one the project is tested with."""
    shown = ".".join(map(str, version))
    if not OLDEST <= tuple(version[:2]) <= NEWEST:
        raise ToolError(
            f"Python {shown} is not supported (3.11 to 3.13)", fix="make PYTHON=python3.12 setup"
        )
    return f"{shown}, {sys.executable}"


def packages() -> str:
    """Every required package is installed in a version that pyproject.toml accepts."""
    from packaging.requirements import Requirement

    try:
        wanted = [Requirement(line) for line in metadata.requires("so8t") or []]
    except metadata.PackageNotFoundError:
        raise ToolError("so8t is not installed in this environment", fix=INSTALL) from None
    wrong = [
        problem
        for need in wanted
        if need.marker is None or need.marker.evaluate({"extra": ""})
        for problem in _unmet(need.name, need.specifier)
    ]
    if wrong:
        raise ToolError("; ".join(wrong), fix=INSTALL)
    return f"{len(wanted)} requirements are met"


def _unmet(name: str, specifier: object) -> Iterator[str]:
    from packaging.specifiers import SpecifierSet

    try:
        found = metadata.version(name)
    except metadata.PackageNotFoundError:
        yield f"{name} is missing"
        return
    if not SpecifierSet(str(specifier)).contains(found, prereleases=True):
        yield f"{name} {found} is installed, {specifier} is needed"


def probe(code: str, what: str) -> dict[str, object]:
    """Run a few lines in a process of their own and read the JSON they print.

    Raises:
        ToolError: they failed, or the process died (a library built for another CPU does).
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if done.returncode < 0:
        raise ToolError(
            f"{what} kills the process (signal {-done.returncode}): it was built for another CPU",
            fix=f"pip install --force-reinstall --no-cache-dir {what}",
        )
    if done.returncode:
        raise ToolError(
            f"{what} cannot be loaded: {(done.stderr.strip().splitlines() or ['?'])[-1][:300]}",
            fix=INSTALL,
        )
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def torch(quantization: str, kind: str) -> Iterator[Line]:
    """torch loads; a real model has the graphics memory it needs."""
    try:
        found = probe(_TORCH, "torch")
    except ToolError as error:
        yield Line("torch", "fail", error.problem, error.fix)
        return
    yield ok("torch", str(found["version"]))
    if found["cuda"]:
        free, need = (
            float(str(found["gib"])),
            GRAPHICS_GIB[quantization] if kind == "local" else 0.5,
        )
        if free < need:
            yield Line(
                "graphics",
                "fail",
                f"{found['name']}: {free:.1f} GiB are free, {quantization} training wants about {need:g}",
                "close what else uses the card, or train.quantization: nf4, max_length: 512, gradient_checkpointing: true",
                ResourceError.exit_code,
            )
        else:
            yield ok(
                "graphics",
                f"{found['name']}, {free:.1f} GiB free{'' if found['bf16'] else ', no bfloat16: compute_dtype: float16'}",
            )
    elif kind == "local":
        yield note(
            "graphics",
            "no CUDA device: a model of billions of parameters trains for weeks on a CPU",
            "pip install torch --index-url https://download.pytorch.org/whl/cu126",
        )
    else:
        yield ok("graphics", "no CUDA device; the demo needs none")


def memory(kind: str, available: float | None = None) -> str:
    """Memory that can be had without swapping, in GiB."""
    found = _available_gib() if available is None else available
    if found < MEMORY_GIB[kind]:
        raise ResourceError(
            f"{found:.1f} GiB of memory are available, {MEMORY_GIB[kind]:g} are needed",
            fix="close other programs, or add swap",
        )
    return f"{found:.1f} GiB available"


def _available_gib() -> float:
    path = Path("/proc/meminfo")
    if path.is_file() and (
        match := re.search(r"MemAvailable:\s+(\d+) kB", path.read_text(encoding="ascii"))
    ):
        return int(match[1]) / 2**20
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:  # macOS: what is built in
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    return float("inf")


def disk(root: Path, kind: str) -> str:
    """Free disk where the project is; what the last run made already counts."""
    free = shutil.disk_usage(root).free / 2**30
    made = sum(f.stat().st_size for f in (root / "models").rglob("*") if f.is_file()) / 2**30
    need = max(0.2, DISK_GIB[kind] - made)
    if free < need:
        raise ResourceError(
            f"{free:.2f} GiB of disk are free, {need:.1f} are needed",
            where=str(root.resolve()),
            fix="`so8t gc` shows what old runs hold; nothing is ever deleted unasked",
        )
    return f"{free:.1f} GiB free"


def writable(root: Path) -> str:
    """Where records go can be written."""
    from so8t.progress import database_dir

    folder = root / database_dir()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe_file = folder / f".doctor-{os.getpid()}"
        probe_file.write_text("x", encoding="ascii")
        probe_file.unlink()
    except OSError as error:
        raise ResourceError(
            f"cannot be written ({error.strerror})",
            where=str(folder),
            fix="check its owner and mode, or set SO8T_DATABASE",
        ) from None
    return str(folder)


def clock(root: Path) -> str:
    """No file of the project is from the future: DVC trusts times to know what to hash again."""
    files = [
        root / name for name in ("dvc.yaml", "params.yaml", "dvc.lock") if (root / name).is_file()
    ]
    ahead = max((f.stat().st_mtime - time.time() for f in files), default=0.0)
    if ahead > FUTURE_S:
        raise ToolError(
            f"files are {ahead / 3600:.0f} h ahead of this machine's clock",
            where=str(root.resolve()),
            fix="set the clock, then `so8t fsck`",
        )
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())


def threads(wanted: int) -> str:
    """No more threads than cores: libllama spins on the rest."""
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    if wanted > cores:
        raise ResourceError(
            f"scoring.threads is {wanted}, this machine has {cores} cores",
            where="params.yaml",
            fix=f"scoring.threads: {cores}",
        )
    return f"{wanted} of {cores} cores"


def llama() -> str:
    """llama.cpp loads, can quantise, and says for which CPU features it was built."""
    found = probe(_LLAMA, "llama-cpp-python")
    if not found["quantize"]:
        raise ToolError(
            "this llama.cpp cannot quantise", fix="pip install llama-cpp-python==0.3.36"
        )
    features = " ".join(re.findall(r"(\w+) = 1", str(found["system"])))
    return (
        f"llama-cpp-python {found['version']}, {'GPU' if found['gpu'] else 'CPU'} build: {features}"
    )


def ollama(host: str | None) -> Line:
    """Ollama is optional: its absence is a note, unless OLLAMA_HOST names one."""
    address = host or "127.0.0.1:11434"
    url = address if "://" in address else f"http://{address}"
    try:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"{url}/api/version", timeout=3) as reply:
            return ok("ollama", f"version {json.load(reply).get('version', '?')} at {url}")
    except (URLError, OSError, ValueError) as error:
        says, fix = (
            f"no answer from {url} ({getattr(error, 'reason', error)})",
            "start `ollama serve`; only `so8t register` needs it",
        )
        return Line("ollama", "fail", says, fix) if host else note("ollama", says, fix)


def lines(root: Path, *, kind: str, quantization: str, wanted_threads: int) -> Iterator[Line]:
    """Every check of the machine."""
    yield judged("python", python)
    yield judged("packages", packages)
    yield from torch(quantization, kind)
    yield judged("memory", lambda: memory(kind))
    yield judged("disk", lambda: disk(root, kind))
    yield judged("records", lambda: writable(root))
    yield judged("clock", lambda: clock(root))
    yield judged("threads", lambda: threads(wanted_threads))
    yield judged("llama.cpp", llama)
    yield ollama(os.environ.get("OLLAMA_HOST"))
