"""Checkpoints that are whole or absent, keyed by everything that defines the run.

A run's directory is named by the digest of its inputs (parameters, data, base, code, torch), so
that a checkpoint of other parameters is never resumed. It lies outside DVC's outs, because DVC
deletes those before a stage starts.

Each save goes to a temporary directory, is fsynced, renamed, and carries a manifest of SHA-256; the
newest valid one is resumed.
"""

import ast
import contextlib
import ctypes
import importlib.util
import json
import logging
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

import torch
from torch import Tensor

from so8t.errors import ArtifactError, ResourceError
from so8t.files import atomic_dir, sha256_file, sha256_json, write_json
from so8t.progress import database_dir

log = logging.getLogger(__name__)
MANIFEST = "MANIFEST.json"
TENSORS = "trainable.safetensors"
OPTIMIZER = "optimizer.pt"
STATE = "state.json"
# The option of Linux's prctl(2) that asks for a signal when the parent dies.
PR_SET_PDEATHSIG = 1


# --- the directory of a run ---


def code_digest(modules: list[str]) -> str:
    """SHA-256 over the syntax trees of modules: comments, layout and docstrings do not count.

    Args:
        modules: full names; they are found, but not imported.
    """
    trees = []
    for name in sorted(modules):
        spec = importlib.util.find_spec(name)
        assert spec is not None
        assert spec.origin is not None
        tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
        _drop_docstrings(tree)
        trees.append((name, ast.dump(tree)))
    return sha256_json(trees)


def _drop_docstrings(tree: ast.Module) -> None:
    # Comments and layout are not in a syntax tree anyway.
    for node in ast.walk(tree):
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:]


def runs_root(stage: str) -> Path:
    """The folder that holds the directories of a stage's runs."""
    return database_dir() / "checkpoints" / stage


@contextlib.contextmanager
def run_directory(stage: str, inputs: dict[str, Any], *, writes: bool = True) -> Iterator[Path]:
    """The checkpoint directory of a run with these inputs, locked by the process that `writes`.

    Args:
        stage: name of the stage.
        inputs: everything that defines the run, as JSON.
        writes: False for the other processes of a distributed run, which only read.

    Raises:
        ResourceError: another process is training the same run.
    """
    # 64 bits tell any number of runs apart and are short enough to type.
    root = runs_root(stage) / sha256_json(inputs)[:16]
    root.mkdir(parents=True, exist_ok=True)
    die_with_parent()
    if not writes:
        yield root
        return
    write_json(root / "inputs.json", inputs)
    with (root / "lock").open("w") as lock:
        _lock(lock, root)
        yield root


def _lock(file: TextIO, root: Path) -> None:
    """Lock the file until it is closed; the system closes those of a killed process."""
    # There is no flock on Windows; two trainings of one run are then the user's business.
    if sys.platform == "win32":
        return
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ResourceError(
            "another process is already training this run",
            where=str(root),
            fix="wait for it, or stop it",
        ) from None


def die_with_parent() -> None:
    """Linux: when DVC dies, this process gets SIGTERM, saves and leaves.

    Without it, training would go on unseen after its `dvc repro` was killed.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


# --- finding checkpoints ---


def name_of(step: int) -> str:
    """The folder of a step's checkpoint; names sort as steps do."""
    return f"step-{step:08d}"


def foreign(resume_from: str | None) -> Path | None:
    """The checkpoint of another run that `train.resume_from` names by its path.

    Raises:
        ArtifactError: no valid checkpoint there.
    """
    if resume_from is None or resume_from.startswith("step-"):
        return None
    folder = Path(resume_from)
    if not is_valid(folder):
        raise ArtifactError(
            "not a valid checkpoint",
            where=str(folder.resolve()),
            fix="train.resume_from: null, a step of this run (step-500), or a checkpoint's folder",
        )
    return folder


def starting_point(root: Path, resume_from: str | None) -> Path | None:
    """The checkpoint to go on from, or None.

    A named step of this run comes first, then the run's newest valid checkpoint, then the named
    folder of another run: once a run that began from another one has its own checkpoints, it goes
    on from those.

    Args:
        root: the run's directory.
        resume_from: `train.resume_from` of params.yaml.

    Raises:
        ArtifactError: the named step is not there or is broken.
    """
    if resume_from is not None and resume_from.startswith("step-"):
        return _named_step(root, resume_from)
    return newest_valid(root) or foreign(resume_from)


def _named_step(root: Path, name: str) -> Path:
    digits = name.removeprefix("step-")
    folder = root / name
    # "step-500" is short for "step-00000500".
    if digits.isdigit():
        folder = root / name_of(int(digits))
    if not is_valid(folder):
        present = sorted(path.name for path in root.glob("step-*"))
        raise ArtifactError(
            f"no valid checkpoint {name}; there are {present}",
            where=str(root),
            fix="name one of these, or set train.resume_from: null",
        )
    return folder


def is_valid(folder: Path) -> bool:
    """Every file is there with the digest of its manifest."""
    try:
        facts = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        return all(sha256_file(folder / name) == digest for name, digest in facts.items())
    # AttributeError: JSON, but not an object.
    except (OSError, json.JSONDecodeError, AttributeError):
        return False


def newest_valid(root: Path) -> Path | None:
    """The newest checkpoint that verifies; broken ones are skipped with a warning."""
    for folder in sorted(root.glob("step-*"), reverse=True):
        if is_valid(folder):
            return folder
        log.warning("checkpoint %s is broken and is skipped", folder.name)
    return None


# --- writing and reading one ---


def save(
    root: Path,
    step: int,
    tensors: dict[str, Tensor],
    optimizer: dict[str, Any],
    state: dict[str, Any],
) -> Path:
    """Write the checkpoint of `step`; the states of the random generators are added.

    Args:
        root: the run's directory.
        step: steps done.
        tensors: what is trained, by name.
        optimizer: the optimiser's state dictionary.
        state: whatever else the run needs to go on, as JSON.
    """
    from safetensors.torch import save_file

    target = root / name_of(step)
    with atomic_dir(target) as folder:
        stored = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        save_file(stored, folder / TENSORS)
        cuda_rng = []
        if torch.cuda.is_available():
            cuda_rng = torch.cuda.get_rng_state_all()
        blob = {"optimizer": optimizer, "rng": torch.get_rng_state(), "cuda_rng": cuda_rng}
        torch.save(blob, folder / OPTIMIZER)
        (folder / STATE).write_text(json.dumps(state), encoding="utf-8")
        # Last, over all that was written; `is_valid` reads no other list of files.
        facts = {file.name: sha256_file(file) for file in sorted(folder.iterdir())}
        (folder / MANIFEST).write_text(json.dumps(facts), encoding="utf-8")
    return target


def prune(root: Path, keep: int, protected: set[str]) -> None:
    """Remove all but the newest `keep` valid checkpoints and the protected ones (names).

    What killed processes left half-written is removed, too.
    """
    newest_first = sorted(root.glob("step-*"), reverse=True)
    valid = [folder for folder in newest_first if is_valid(folder)]
    kept = valid[:keep]
    for folder in newest_first:
        if folder not in kept and folder.name not in protected:
            shutil.rmtree(folder)
    # `atomic_dir` writes to `.step-N.PID.part`; one of this process may be in use.
    for leftover in root.glob(".step-*.part"):
        if not leftover.name.endswith(f".{os.getpid()}.part"):
            shutil.rmtree(leftover)


def restore_tensors(folder: Path, tensors: dict[str, Tensor]) -> None:
    """Load a checkpoint's trained tensors into `tensors`.

    Raises:
        ArtifactError: it holds other tensors, or other shapes.
    """
    from safetensors.torch import load_file

    stored = load_file(folder / TENSORS)
    # Names and shapes together: LoRA of another rank has the same names.
    differing = sorted(_shapes(tensors) ^ _shapes(stored))
    if differing:
        name, shape = differing[0]
        raise ArtifactError(
            f"this checkpoint trains other tensors, such as {name} {list(shape)}",
            where=str(folder),
            fix="resume with the LoRA rank, gates, heads and base that it was made with",
        )
    # In place, because the model and the optimiser hold these very tensors.
    with torch.no_grad():
        for name, tensor in tensors.items():
            tensor.copy_(stored[name])


def _shapes(tensors: dict[str, Tensor]) -> set[tuple[str, tuple[int, ...]]]:
    return {(name, tuple(tensor.shape)) for name, tensor in tensors.items()}


def restore(
    folder: Path, tensors: dict[str, Tensor], optimizer: torch.optim.Optimizer
) -> dict[str, Any]:
    """Load a checkpoint into `tensors` and `optimizer`, and restore the random generators.

    Returns:
        The `state` that `save` was given.

    Raises:
        ArtifactError: it holds other tensors, or other shapes.
    """
    restore_tensors(folder, tensors)
    # weights_only: `train.resume_from` may name a stranger's folder, and pickles can run code.
    blob = torch.load(folder / OPTIMIZER, weights_only=True)
    optimizer.load_state_dict(blob["optimizer"])
    torch.set_rng_state(blob["rng"])
    # On a machine with another number of GPUs the states have no place to go.
    if torch.cuda.is_available() and len(blob["cuda_rng"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(blob["cuda_rng"])
    state: dict[str, Any] = json.loads((folder / STATE).read_text(encoding="utf-8"))
    return state


# --- stopping ---


class StopFlag:
    """SIGINT and SIGTERM ask for a stop at the next step's end; a second one stops at once.

    Attributes:
        signal: number of the signal that came; 0 as long as none did.
    """

    def __init__(self) -> None:
        self.signal = 0

    def __enter__(self) -> "StopFlag":
        self._before = {
            number: signal.signal(number, self._on) for number in (signal.SIGINT, signal.SIGTERM)
        }
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _on(self, number: int, _frame: object) -> None:
        if self.signal:
            # The shell's convention for a process that a signal ended.
            os._exit(128 + number)
        self.signal = number
