"""Checkpoints that are whole or absent, keyed by everything that defines the run.

A run's directory is named by the digest of its inputs (parameters, data, base, code, torch), so that a checkpoint of
other parameters is never resumed; it lies outside DVC's outs, which are deleted before a stage starts. Each save goes
to a temporary directory, is fsynced, renamed, and carries a manifest of SHA-256; the newest valid one is resumed.
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
from typing import Any

import torch
from torch import Tensor

from so8t.errors import ArtifactError, ResourceError
from so8t.files import atomic_dir, sha256_file, sha256_json, write_json
from so8t.progress import database_dir

log = logging.getLogger(__name__)
MANIFEST = "MANIFEST.json"


def code_digest(modules: list[str]) -> str:
    """SHA-256 over the syntax trees of modules: comments, layout and docstrings do not count."""
    trees = []
    for name in sorted(modules):
        spec = importlib.util.find_spec(name)
        assert spec is not None
        assert spec.origin is not None
        tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            body = getattr(node, "body", None)
            if (
                isinstance(body, list)
                and body
                and isinstance(body[0], ast.Expr)
                and isinstance(body[0].value, ast.Constant)
            ):
                node.body = body[1:]  # type: ignore[attr-defined]
        trees.append((name, ast.dump(tree)))
    return sha256_json(trees)


@contextlib.contextmanager
def run_directory(stage: str, inputs: dict[str, Any], *, writes: bool = True) -> Iterator[Path]:
    """The checkpoint directory of a run with these inputs, locked by the process that `writes`.

    Raises:
        ResourceError: another process is training the same run.
    """
    root = database_dir() / "checkpoints" / stage / sha256_json(inputs)[:16]
    root.mkdir(parents=True, exist_ok=True)
    die_with_parent()
    if not writes:
        yield root
        return
    write_json(root / "inputs.json", inputs)
    with (root / "lock").open("w") as lock:
        if sys.platform != "win32":
            import fcntl

            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ResourceError(
                    "another process is already training this run",
                    where=str(root),
                    fix="wait for it, or stop it",
                ) from None
        yield root


def die_with_parent() -> None:
    """Linux: when DVC dies, this process gets SIGTERM, saves and leaves, instead of training on unseen."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def name_of(step: int) -> str:
    """The folder of a step's checkpoint."""
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
    """Where to go on: a named step of this run, else its newest valid checkpoint, else the named folder of another run.

    Raises:
        ArtifactError: the named step is not there or is broken.
    """
    if resume_from is not None and resume_from.startswith("step-"):
        digits = resume_from.removeprefix("step-")
        folder = root / (name_of(int(digits)) if digits.isdigit() else resume_from)
        if not is_valid(folder):
            raise ArtifactError(
                f"no valid checkpoint {resume_from}; there are {sorted(p.name for p in root.glob('step-*'))}",
                where=str(root),
                fix="name one of these, or set train.resume_from: null",
            )
        return folder
    return newest_valid(root) or foreign(resume_from)


def save(
    root: Path,
    step: int,
    tensors: dict[str, Tensor],
    optimizer: dict[str, Any],
    state: dict[str, Any],
) -> Path:
    """Write checkpoint `step`: trainable tensors, optimiser, and JSON-able state; RNG states are added."""
    from safetensors.torch import save_file

    target = root / name_of(step)
    with atomic_dir(target) as folder:
        save_file(
            {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()},
            folder / "trainable.safetensors",
        )
        cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
        torch.save(
            {"optimizer": optimizer, "rng": torch.get_rng_state(), "cuda_rng": cuda},
            folder / "optimizer.pt",
        )
        (folder / "state.json").write_text(json.dumps(state), encoding="utf-8")
        facts = {file.name: sha256_file(file) for file in sorted(folder.iterdir())}
        (folder / MANIFEST).write_text(json.dumps(facts), encoding="utf-8")
    return target


def is_valid(folder: Path) -> bool:
    """Every file is there with the digest of its manifest."""
    try:
        facts = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        return all(sha256_file(folder / name) == digest for name, digest in facts.items())
    except (OSError, json.JSONDecodeError, AttributeError):
        return False


def newest_valid(root: Path) -> Path | None:
    """The newest checkpoint that verifies; broken ones are skipped with a warning."""
    for folder in sorted(root.glob("step-*"), reverse=True):
        if is_valid(folder):
            return folder
        log.warning("checkpoint %s is broken and is skipped", folder.name)
    return None


def prune(root: Path, keep: int, protected: set[str]) -> None:
    """Keep the newest `keep` valid checkpoints and the protected ones."""
    valid = [folder for folder in sorted(root.glob("step-*"), reverse=True) if is_valid(folder)]
    for folder in root.glob("step-*"):
        if folder not in valid[:keep] and folder.name not in protected:
            shutil.rmtree(folder)
    for leftover in root.glob(".step-*.part"):
        if not leftover.name.endswith(f".{os.getpid()}.part"):
            shutil.rmtree(leftover)


def restore_tensors(folder: Path, tensors: dict[str, Tensor]) -> None:
    """Load a checkpoint's trained tensors.

    Raises:
        ArtifactError: it holds other tensors, or other shapes.
    """
    from safetensors.torch import load_file

    stored = load_file(folder / "trainable.safetensors")
    want, got = ({name: tuple(t.shape) for name, t in which.items()} for which in (tensors, stored))
    if strange := sorted(set(want.items()) ^ set(got.items())):
        raise ArtifactError(
            f"this checkpoint trains other tensors, such as {strange[0][0]} {list(strange[0][1])}",
            where=str(folder),
            fix="resume with the LoRA rank, gates, heads and base that it was made with",
        )
    with torch.no_grad():
        for name, tensor in tensors.items():
            tensor.copy_(stored[name])


def restore(
    folder: Path, tensors: dict[str, Tensor], optimizer: torch.optim.Optimizer
) -> dict[str, Any]:
    """Load a checkpoint into `tensors` and `optimizer`, restore RNG, return its state."""
    restore_tensors(folder, tensors)
    blob = torch.load(folder / "optimizer.pt", weights_only=True)
    optimizer.load_state_dict(blob["optimizer"])
    torch.set_rng_state(blob["rng"])
    if (
        blob["cuda_rng"]
        and torch.cuda.is_available()
        and len(blob["cuda_rng"]) == torch.cuda.device_count()
    ):
        torch.cuda.set_rng_state_all(blob["cuda_rng"])
    state: dict[str, Any] = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    return state


class StopFlag:
    """SIGINT and SIGTERM ask for a stop at the next step's end; a second one ends the process at once."""

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
            os._exit(128 + number)
        self.signal = number
