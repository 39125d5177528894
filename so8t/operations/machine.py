"""Checks of this machine: Python, packages, torch, memory, disk, clock, llama.cpp, Ollama.

Native libraries are loaded in a process of their own: one that was built for another CPU dies
there, not here. Not covered: how fast anything is (`so8t plan`).
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
from so8t.files import files_below
from so8t.operations.line import Line, note, ok, run_check

# Also in pyproject.toml and tools/preflight.py, which runs before this is installed.
OLDEST = (3, 11)
NEWEST = (3, 13)
GIB = 2**30
# By kind of base model: `scratch` is the demo's tiny model, `local` one of billions of parameters.
# What the largest stage holds at once; baking streams a model's weights, so it needs no more.
MEMORY_GIB = {"scratch": 3.0, "local": 12.0}
# One run's artefacts, linked and not copied.
DISK_GIB = {"scratch": 2.0, "local": 60.0}
# A run needs this much even when everything that it makes is there from the last one.
LEAST_DISK_GIB = 0.2
# By train.quantization; `local` models only. The demo fits any card.
GRAPHICS_GIB = {"nf4": 10.0, "int8": 11.0, "none": 40.0, "full": 80.0}
DEMO_GRAPHICS_GIB = 0.5
FUTURE_S = 3600.0  # a file this far ahead of the clock was written by another clock
OLLAMA_TIMEOUT_S = 3
INSTALL = "make setup   (without make: python -m pip install -c constraints.txt --group dev -e .)"
# Free memory, not built-in memory: other programs use the card too.
_TORCH = """
import json, torch
found = {"version": torch.__version__, "cuda": torch.cuda.is_available()}
if found["cuda"]:
    found["name"] = torch.cuda.get_device_name(0)
    found["gib"] = torch.cuda.mem_get_info(0)[0] / 2**30
    found["bf16"] = torch.cuda.is_bf16_supported()
print(json.dumps(found))
"""
_LLAMA = """
import json, llama_cpp
print(json.dumps({
    "version": llama_cpp.__version__,
    "system": llama_cpp.llama_print_system_info().decode(),
    "gpu": bool(llama_cpp.llama_supports_gpu_offload()),
    "quantize": hasattr(llama_cpp, "llama_model_quantize"),
}))
"""


def lines(root: Path, *, kind: str, quantization: str, wanted_threads: int) -> Iterator[Line]:
    """Every check of the machine.

    Args:
        root: the project's folder.
        kind: `scratch` or `local`, the profile's kind of base model.
        quantization: the profile's `train.quantization`.
        wanted_threads: `scoring.threads`.
    """
    yield run_check("python", python)
    yield run_check("packages", packages)
    yield from torch(quantization, kind)
    yield run_check("memory", lambda: memory(kind))
    yield run_check("disk", lambda: disk(root, kind))
    yield run_check("records", lambda: writable(root))
    yield run_check("clock", lambda: clock(root))
    yield run_check("threads", lambda: threads(wanted_threads))
    yield run_check("llama.cpp", llama)
    yield ollama(os.environ.get("OLLAMA_HOST"))


def python(version: tuple[int, ...] = sys.version_info[:2]) -> str:
    """The interpreter's version is one the project is tested with.

    Raises:
        ToolError: older or newer.
    """
    shown = ".".join(str(part) for part in version)
    if not OLDEST <= tuple(version[:2]) <= NEWEST:
        raise ToolError(
            f"Python {shown} is not supported (3.11 to 3.13)", fix="make PYTHON=python3.12 setup"
        )
    return f"{shown}, {sys.executable}"


def packages() -> str:
    """Every required package is installed in a version that pyproject.toml accepts.

    Raises:
        ToolError: naming every package that is not.
    """
    from packaging.requirements import Requirement

    try:
        wanted = [Requirement(line) for line in metadata.requires("so8t") or []]
    except metadata.PackageNotFoundError:
        # Run from a folder of sources, Python finds the code without its metadata.
        raise ToolError("so8t is not installed in this environment", fix=INSTALL) from None
    wrong = []
    for need in wanted:
        # A requirement of an extra has a marker that is false without it.
        if need.marker is None or need.marker.evaluate({"extra": ""}):
            wrong += _unmet(need.name, str(need.specifier))
    if wrong:
        raise ToolError("; ".join(wrong), fix=INSTALL)
    return f"{len(wanted)} requirements are met"


def _unmet(name: str, specifier: str) -> list[str]:
    """What is wrong with one package: nothing, or one sentence."""
    from packaging.specifiers import SpecifierSet

    try:
        found = metadata.version(name)
    except metadata.PackageNotFoundError:
        return [f"{name} is missing"]
    # A pre-release that somebody installed on purpose is not refused.
    if SpecifierSet(specifier).contains(found, prereleases=True):
        return []
    return [f"{name} {found} is installed, {specifier} is needed"]


def probe(code: str, what: str) -> dict[str, object]:
    """Run a few lines in a process of their own and read the JSON they print.

    Args:
        code: Python that prints one JSON object on its last line.
        what: the package that it loads, as pip calls it.

    Raises:
        ToolError: they failed, or the process died (a library built for another CPU does).
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    # Negative: the number of the signal, such as SIGILL for an unknown instruction.
    if done.returncode < 0:
        raise ToolError(
            f"{what} kills the process (signal {-done.returncode}): it was built for another CPU",
            fix=f"pip install --force-reinstall --no-cache-dir {what}",
        )
    if done.returncode:
        # The last line of a traceback is the exception.
        said = done.stderr.strip().splitlines() or ["?"]
        raise ToolError(f"{what} cannot be loaded: {said[-1][:300]}", fix=INSTALL)
    # The last line: a library may print something of its own when it is loaded.
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def torch(quantization: str, kind: str) -> Iterator[Line]:
    """torch loads; a real model has the graphics memory it needs.

    Args:
        quantization: key of `GRAPHICS_GIB`.
        kind: `scratch` or `local`.
    """
    try:
        found = probe(_TORCH, "torch")
    except ToolError as error:
        yield Line("torch", "fail", error.problem, error.fix)
        return
    yield ok("torch", str(found["version"]))
    if found["cuda"]:
        yield _graphics(found, quantization, kind)
    # No failure: the data and the demo can be worked on without a card.
    elif kind == "local":
        yield note(
            "graphics",
            "no CUDA device: a model of billions of parameters trains for weeks on a CPU",
            "pip install torch --index-url https://download.pytorch.org/whl/cu126",
        )
    else:
        yield ok("graphics", "no CUDA device; the demo needs none")


def _graphics(found: dict[str, object], quantization: str, kind: str) -> Line:
    """Whether the first CUDA device has enough free memory."""
    free = float(str(found["gib"]))
    need = GRAPHICS_GIB[quantization] if kind == "local" else DEMO_GRAPHICS_GIB
    if free < need:
        return Line(
            "graphics",
            "fail",
            f"{found['name']}: {free:.1f} GiB are free, {quantization} training wants "
            f"about {need:g}",
            "close what else uses the card, or train.quantization: nf4, max_length: 512, "
            "gradient_checkpointing: true",
            ResourceError.exit_code,
        )
    says = f"{found['name']}, {free:.1f} GiB free"
    if not found["bf16"]:
        says += ", no bfloat16: compute_dtype: float16"
    return ok("graphics", says)


def memory(kind: str, available: float | None = None) -> str:
    """Memory that can be had without swapping.

    Args:
        kind: `scratch` or `local`.
        available: GiB; what the system says without it.

    Raises:
        ResourceError: less than the largest stage holds.
    """
    found = _available_gib() if available is None else available
    if found < MEMORY_GIB[kind]:
        raise ResourceError(
            f"{found:.1f} GiB of memory are available, {MEMORY_GIB[kind]:g} are needed",
            fix="close other programs, or add swap",
        )
    return f"{found:.1f} GiB available"


def _available_gib() -> float:
    """Memory that can be had, in GiB.

    Linux says what is available, macOS only what is built in, Windows nothing: it counts as enough.
    """
    path = Path("/proc/meminfo")
    if path.is_file():
        match = re.search(r"MemAvailable:\s+(\d+) kB", path.read_text(encoding="ascii"))
        if match:
            return int(match[1]) / 2**20
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / GIB
    return float("inf")


def disk(root: Path, kind: str) -> str:
    """Free disk where the project is; what the last run made already counts.

    Raises:
        ResourceError: a run would fill the disk.
    """
    free = shutil.disk_usage(root).free / GIB
    models = root / "models"
    files = files_below(models, once=True) if models.is_dir() else []
    # A new run replaces these files, so their space can be used again.
    made = sum(path.stat().st_size for path in files) / GIB
    need = max(LEAST_DISK_GIB, DISK_GIB[kind] - made)
    if free < need:
        raise ResourceError(
            f"{free:.2f} GiB of disk are free, {need:.1f} are needed",
            where=str(root.resolve()),
            fix="`so8t gc` shows what old runs hold; nothing is ever deleted unasked",
        )
    return f"{free:.1f} GiB free"


def writable(root: Path) -> str:
    """Where records go can be written.

    Raises:
        ResourceError: it cannot.
    """
    from so8t.progress import database_dir

    folder = root / database_dir()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Tried, not asked: `os.access` knows nothing of a full disk.
        tried = folder / f".doctor-{os.getpid()}"
        tried.write_text("x", encoding="ascii")
        tried.unlink()
    except OSError as error:
        raise ResourceError(
            f"cannot be written ({error.strerror})",
            where=str(folder),
            fix="check its owner and mode, or set SO8T_DATABASE",
        ) from None
    return str(folder)


def clock(root: Path) -> str:
    """No file of the project is from the future: DVC trusts times to know what to hash again.

    Raises:
        ToolError: a file is more than an hour ahead.
    """
    ahead = 0.0
    for name in ("dvc.yaml", "params.yaml", "dvc.lock"):
        path = root / name
        if path.is_file():
            ahead = max(ahead, path.stat().st_mtime - time.time())
    if ahead > FUTURE_S:
        raise ToolError(
            f"files are {ahead / 3600:.0f} h ahead of this machine's clock",
            where=str(root.resolve()),
            fix="set the clock, then `so8t fsck`",
        )
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())


def cores_here() -> int:
    """Cores that this process may use, which a container or `taskset` limits."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def threads(wanted: int) -> str:
    """No more threads than cores: those of libllama spin while they wait for a core.

    Raises:
        ResourceError: `wanted` is more.
    """
    cores = cores_here()
    if wanted > cores:
        raise ResourceError(
            f"scoring.threads is {wanted}, this machine has {cores} cores",
            where="params.yaml",
            fix=f"scoring.threads: {cores}",
        )
    return f"{wanted} of {cores} cores"


def llama() -> str:
    """llama.cpp loads, can quantise, and says for which CPU features it was built.

    Raises:
        ToolError: it does not load, or was built without quantising.
    """
    found = probe(_LLAMA, "llama-cpp-python")
    if not found["quantize"]:
        raise ToolError(
            "this llama.cpp cannot quantise", fix="pip install llama-cpp-python==0.3.36"
        )
    # It lists every feature that it knows as `AVX2 = 1` or `AVX2 = 0`.
    features = re.findall(r"(\w+) = 1", str(found["system"]))
    build = "GPU" if found["gpu"] else "CPU"
    return f"llama-cpp-python {found['version']}, {build} build: {' '.join(features)}"


def ollama(host: str | None) -> Line:
    """Whether an Ollama server answers.

    Ollama is optional: without an answer this is a note, unless OLLAMA_HOST names a server.

    Args:
        host: OLLAMA_HOST, with or without `http://`; the usual local address without it.
    """
    address = host or "127.0.0.1:11434"
    url = address if "://" in address else f"http://{address}"
    # Without a proxy: one that the environment names would answer for a local server.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"{url}/api/version", timeout=OLLAMA_TIMEOUT_S) as reply:
            version = json.load(reply).get("version", "?")
    except (URLError, OSError, ValueError) as error:
        says = f"no answer from {url} ({getattr(error, 'reason', error)})"
        fix = "start `ollama serve`; only `so8t register` needs it"
        return Line("ollama", "fail" if host else "note", says, fix)
    return ok("ollama", f"version {version} at {url}")
