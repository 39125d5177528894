"""Every command and stage answers `--help` without loading a model library: under a second on an idle machine."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from so8t.cli import COMMANDS

ROOT = Path(__file__).parents[2]
HEAVY = (
    "torch",
    "transformers",
    "peft",
    "bitsandbytes",
    "llama_cpp",
    "sklearn",
    "matplotlib",
    "pandas",
    "datasketch",
    "scipy",
    "dvc",
)
SCRIPTS = sorted(path.stem for path in (ROOT / "stages").glob("[a-z]*.py"))
_LOAD = """
import sys
sys.argv = {argv!r}
try:
    import runpy
    runpy.run_path({path!r}, run_name="__main__") if {path!r} else __import__("so8t.cli", fromlist=["main"]).main()
except SystemExit as end:
    code = end.code
loaded = sorted(set({heavy!r}) & set(sys.modules))
sys.stderr.write("loaded: " + ",".join(loaded))
sys.exit(code or (9 if loaded else 0))
"""


def _run(argv: list[str], path: str) -> subprocess.CompletedProcess[str]:
    code = _LOAD.format(argv=argv, path=path, heavy=HEAVY)
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
    )


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_stages_help_loads_nothing_heavy(script: str) -> None:
    done = _run([f"stages/{script}.py", "--help"], str(ROOT / f"stages/{script}.py"))
    assert done.returncode == 0, done.stderr
    assert "Usage:" in done.stdout


@pytest.mark.parametrize("command", [None, *sorted(COMMANDS)])
def test_a_commands_help_loads_nothing_heavy(command: str | None) -> None:
    done = _run(["so8t", *([command] if command else []), "--help"], "")
    assert done.returncode == 0, done.stderr
    assert "Usage:" in done.stdout


def test_help_takes_less_than_a_second_of_cpu() -> None:
    if not sys.platform.startswith(("linux", "darwin")):
        pytest.skip("CPU time of children is measured on POSIX")
    import resource

    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "so8t.cli", "--help"], cwd=ROOT, check=True, capture_output=True
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert spent < 1.0, (spent, time.perf_counter() - began)
