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

from so8t.errors import ResourceError
from so8t.files import atomic_dir, sha256_file, sha256_json, write_json
from so8t.progress import database_dir

log = logging.getLogger(__name__)
MANIFEST = "MANIFEST.json"


def code_digest(modules: list[str]) -> str:
    """SHA-256 over the syntax trees of modules: comments, layout and docstrings do not count."""
    trees = []
    for name in sorted(modules):
        spec = importlib.util.find_spec(name)
        assert spec is not None and spec.origin is not None
        tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            body = getattr(node, "body", None)
            if isinstance(body, list) and body and isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant):
                node.body = body[1:]  # type: ignore[attr-defined]
        trees.append((name, ast.dump(tree)))
    return sha256_json(trees)


@contextlib.contextmanager
def run_directory(stage: str, inputs: dict[str, Any]) -> Iterator[Path]:
    """The locked checkpoint directory of a run with these inputs.

    Raises:
        ResourceError: another process is training the same run.
    """
    root = database_dir() / "checkpoints" / stage / sha256_json(inputs)[:16]
    root.mkdir(parents=True, exist_ok=True)
    write_json(root / "inputs.json", inputs)
    die_with_parent()
    with (root / "lock").open("w") as lock:
        if sys.platform != "win32":
            import fcntl

            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ResourceError("another process is already training this run", where=str(root), fix="wait for it, or stop it") from None
        yield root


def die_with_parent() -> None:
    """Linux: when DVC dies, this process gets SIGTERM, saves and leaves, instead of training on unseen."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def save(root: Path, step: int, tensors: dict[str, Tensor], optimizer: dict[str, Any], state: dict[str, Any]) -> Path:
    """Write checkpoint `step`: trainable tensors, optimiser, and JSON-able state; RNG states are added."""
    from safetensors.torch import save_file

    target = root / f"step-{step:08d}"
    with atomic_dir(target) as folder:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, folder / "trainable.safetensors")
        cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
        torch.save({"optimizer": optimizer, "rng": torch.get_rng_state(), "cuda_rng": cuda}, folder / "optimizer.pt")
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


def prune(root: Path, keep: int, protected: str = "") -> None:
    """Keep the newest `keep` valid checkpoints and the protected one."""
    valid = [folder for folder in sorted(root.glob("step-*"), reverse=True) if is_valid(folder)]
    for folder in root.glob("step-*"):
        if folder not in valid[:keep] and folder.name != protected:
            shutil.rmtree(folder)
    for leftover in root.glob(".step-*.part"):
        if not leftover.name.endswith(f".{os.getpid()}.part"):
            shutil.rmtree(leftover)


def restore(folder: Path, tensors: dict[str, Tensor], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Load a checkpoint into `tensors` and `optimizer`, restore RNG, return its state."""
    from safetensors.torch import load_file

    stored = load_file(folder / "trainable.safetensors")
    assert set(stored) == set(tensors), "a run's digest fixes its trainable set"
    with torch.no_grad():
        for name, tensor in tensors.items():
            tensor.copy_(stored[name])
    blob = torch.load(folder / "optimizer.pt", weights_only=True)
    optimizer.load_state_dict(blob["optimizer"])
    torch.set_rng_state(blob["rng"])
    if blob["cuda_rng"]:
        torch.cuda.set_rng_state_all(blob["cuda_rng"])
    state: dict[str, Any] = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    return state


class StopFlag:
    """SIGINT and SIGTERM ask for a stop at the next step's end; a second one ends the process at once."""

    def __init__(self) -> None:
        self.signal = 0

    def __enter__(self) -> "StopFlag":
        self._before = {number: signal.signal(number, self._on) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _on(self, number: int, _frame: object) -> None:
        if self.signal:
            os._exit(128 + number)
        self.signal = number
