"""Say what this machine lacks before anything is installed: Python, a C++ compiler, disk.

Standard library only, because nothing else is there yet.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

OLDEST = (3, 11)
NEWEST = (3, 13)
# Virtual environment with a CPU build of torch, build directory of llama.cpp, the demo's artefacts.
DISK_GIB = 4.0
PROGRAM = """#include <filesystem>
#include <thread>
int main(){return std::filesystem::exists("/") ? 0 : 1;}
"""


def problems() -> list[str]:
    """What is missing, each line with its remedy."""
    found = []
    if not OLDEST <= sys.version_info[:2] <= NEWEST:
        found.append(
            f"Python {sys.version.split()[0]} is not supported (3.11 to 3.13); "
            "install one and run `make PYTHON=python3.12 ...`"
        )
    # Debian packs both apart from Python.
    try:
        import ensurepip  # noqa: F401
        import venv  # noqa: F401
    except ImportError:
        found.append("the venv module is missing; on Debian and Ubuntu: apt install python3-venv")
    if not _compiles():
        found.append(
            "no working C++17 compiler, which llama-cpp-python needs; "
            "Debian: apt install build-essential cmake, "
            "macOS: xcode-select --install, Windows: Visual Studio Build Tools"
        )
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    if free < DISK_GIB:
        found.append(f"only {free:.1f} GiB of disk are free here; {DISK_GIB:g} GiB are needed")
    return found


def _compiler() -> str | None:
    """The command of a C++ compiler with the options of GCC."""
    named = os.environ.get("CXX")
    if named:
        return named
    for command in ("c++", "g++", "clang++"):
        if shutil.which(command):
            return command
    return None


def _compiles() -> bool:
    """Whether a C++17 program compiles and links.

    A compiler's version says little about whether it works: its standard library may be missing or
    too old.
    """
    compiler = _compiler()
    if compiler is None:
        # Visual Studio's compiler takes other options; that it is there must do.
        return os.name == "nt" and shutil.which("cl") is not None
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "check.cpp")
        source.write_text(PROGRAM, encoding="utf-8")
        target = str(Path(folder, "check"))
        # CXX may hold options, such as `ccache g++`.
        command = [*compiler.split(), "-std=c++17", str(source), "-o", target, "-pthread"]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0


def main() -> int:
    """Print every problem; 0 when there is none."""
    found = problems()
    for problem in found:
        sys.stderr.write(f"preflight: {problem}\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
