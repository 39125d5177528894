"""How the suite is dealt to two workers: one file on one worker, as a real run shows."""

import os
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

from tests.conftest import group_of

ROOT = Path(__file__).parents[2]
# Every test writes down which worker ran it, and waits so that the other worker asks for work.
TESTS = """
import os, time
import pytest

@pytest.mark.parametrize("number", range(6))
def test_it(number):
    time.sleep(0.05)
    with open({seen!r}, "a") as out:
        out.write(__name__ + " " + os.environ["PYTEST_XDIST_WORKER"] + "\\n")
"""


def test_what_shares_the_built_graph_is_one_group() -> None:
    graph = group_of("tests/pipeline/test_graph_runs.py::test_a[x]")
    assert graph == group_of("tests/pipeline/test_sharing.py::test_b")
    assert graph != group_of("tests/pipeline/test_strangers_job.py::test_c")
    assert group_of("tests/unit/test_d.py::test_e[1::2]") == "tests/unit/test_d.py"


@pytest.mark.slow
def test_a_file_is_never_shared_by_two_workers(tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    for name in ("one", "two", "three", "four"):
        text = TESTS.format(seen=str(seen))
        (tmp_path / f"test_{name}.py").write_text(text, encoding="utf-8")
    environment = {name: value for name, value in os.environ.items() if "XDIST" not in name}
    options = ["-n", "2", "--dist", "loadscope", "--no-loadscope-reorder", "-p", "tests.conftest"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-c", os.devnull, *options, str(tmp_path)],
        cwd=tmp_path,
        env=environment | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    workers = defaultdict(set)
    for line in seen.read_text(encoding="utf-8").splitlines():
        file, worker = line.split()
        workers[file].add(worker)
    assert len(workers) == 4
    assert all(len(by) == 1 for by in workers.values()), workers
    assert len(set.union(*workers.values())) == 2
