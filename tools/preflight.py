"""Say what this machine lacks before anything is installed: Python, a C++ compiler, disk. Standard library only."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

OLDEST, NEWEST = (3, 11), (3, 13)
DISK_GIB = 4.0  # virtual environment with a CPU build of torch, build directory of llama.cpp, the demo's artefacts


def problems() -> list[str]:
    """What is missing, each line with its remedy."""
    found = []
    if not OLDEST <= sys.version_info[:2] <= NEWEST:
        found.append(
            f"Python {sys.version.split()[0]} is not supported (3.11 to 3.13); install one and run `make PYTHON=python3.12 ...`"
        )
    try:
        import ensurepip  # noqa: F401
        import venv  # noqa: F401
    except ImportError:
        found.append("the venv module is missing; on Debian and Ubuntu: apt install python3-venv")
    if not _compiles():
        found.append(
            "no working C++17 compiler, which llama-cpp-python needs; Debian: apt install build-essential cmake, "
            "macOS: xcode-select --install, Windows: Visual Studio Build Tools"
        )
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    if free < DISK_GIB:
        found.append(f"only {free:.1f} GiB of disk are free here; {DISK_GIB:g} GiB are needed")
    return found


def _compiles() -> bool:
    """Compile and link one C++17 program; a compiler's version string says little about whether it works."""
    compiler = os.environ.get("CXX") or next(
        (c for c in ("c++", "g++", "clang++") if shutil.which(c)), None
    )
    if compiler is None:
        return os.name == "nt" and shutil.which("cl") is not None
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "check.cpp")
        source.write_text(
            '#include <filesystem>\n#include <thread>\nint main(){return std::filesystem::exists("/") ? 0 : 1;}\n',
            encoding="utf-8",
        )
        command = [
            *compiler.split(),
            "-std=c++17",
            str(source),
            "-o",
            str(Path(folder, "check")),
            "-pthread",
        ]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0


def main() -> int:
    """Print every problem; 0 when there is none."""
    found = problems()
    for problem in found:
        sys.stderr.write(f"preflight: {problem}\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
