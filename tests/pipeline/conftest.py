"""The real dvc.yaml, in a repository of its own, on a reduced profile: small data, two layers, few steps; every stage real."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from so8t import signature

ROOT = Path(__file__).parents[2]
REDUCED = {
    "synthesize.rows": 1500,
    "synthesize.foreign": 2,
    "data.evasions": 2,
    "scratch.layers": 2,
    "scratch.epochs": 0.1,
    "train.epochs": 0.4,
    # The demo trains unquantised; the graph is tested as a 12 GB card runs it.
    "train.quantization": "nf4",
    "train.batch_size": 32,
    "train.valid_steps": 5,
    "evaluation.generate_rows": 2,
    "evaluation.generate_tokens": 24,
    "evaluation.long_rows": 1,
    "evaluation.long_tokens": 48,
    "evaluation.speed_rows": 4,
    "evaluation.bootstrap": 200,
    "compare.bootstrap": 200,
    "verify.prompts": 6,
}
Run = Callable[..., subprocess.CompletedProcess[str]]


def reduce_params(path: Path, changes: dict[str, object]) -> None:
    from ruamel.yaml import YAML

    yaml = YAML()
    yaml.preserve_quotes = True
    params = yaml.load(path)
    for key, value in changes.items():
        section = params
        *parents, last = key.split(".")
        for parent in parents:
            section = section[parent]
        assert last in section, key
        section[last] = value
    yaml.dump(params, path)


def copy_of_project(target: Path, changes: dict[str, object]) -> Path:
    """Tracked files only, as a new git repository: what a clean clone holds."""
    names = (
        subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True)
        .stdout.decode()
        .split("\0")
    )
    for name in filter(None, names):
        if (ROOT / name).is_file() and not name.startswith(("bench/results", "reports/")):
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)
    reduce_params(target / "params.yaml", changes)
    (target / "dvc.lock").unlink(missing_ok=True)
    # What `so8t init` does for signing; the key is the test session's own.
    signature.prepare(target)
    for command in (
        ["git", "init", "-q", "-b", "main"],
        ["git", "config", "user.email", "test@example.invalid"],
        ["git", "config", "user.name", "test"],
        ["git", "add", "-A"],
        ["git", "commit", "-qm", "start"],
    ):
        subprocess.run(command, cwd=target, check=True)
    return target


def runner(folder: Path) -> Run:
    """Run a command in `folder` with this interpreter's environment first on PATH."""
    keep = {k: v for k, v in os.environ.items() if not k.startswith(("SO8T_", "DVC_"))}
    environment = keep | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(folder),
        "OMP_WAIT_POLICY": "passive",
        signature.KEY_VARIABLE: os.environ[signature.KEY_VARIABLE],
    }

    def run(*command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, check=False
        )
        if check:
            assert done.returncode == 0, (
                f"{' '.join(command)}\n{done.stdout[-3000:]}\n{done.stderr[-6000:]}"
            )
        return done

    return run


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose whole graph has run once; while working on these tests, SO8T_TEST_PROJECT names one that was built before."""
    if (built := os.environ.get("SO8T_TEST_PROJECT")) is not None:
        shutil.copytree(
            built, target := tmp_path_factory.mktemp("project") / "built", symlinks=True
        )
        return target
    folder = copy_of_project(tmp_path_factory.mktemp("project"), REDUCED)
    runner(folder)("dvc", "repro")
    runner(folder)("git", "add", "-A")
    runner(folder)("git", "commit", "-qm", "first run")
    return folder
