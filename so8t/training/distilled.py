"""Distilled `.pt` checkpoints of the founding documents: read without executing anything, described, and rebuilt as a stock model.

`so8t.distilled/1` is flat or nested (`model_state_dict`, `state_dict`, dotted or in dictionaries) with `base_model.*` in
Hugging Face names and linear heads over the final hidden state. A linear head without bias folds into reserved lm_head
rows; whatever a stock graph cannot carry (an 8x8 gate inside the network, two-layer heads, vision towers) is refused by
name, or left out when it is named in `drop`. The documents' own file held random numbers and none of the required parts.
"""

import math
import pickle
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from so8t.errors import ArtifactError
from so8t.files import atomic_dir, read_json
from so8t.training.streamed import Shards, skeleton

STATES, CONFIGS = ("model_state_dict", "state_dict"), ("config", "model_config", "hparams")
REQUIRED = ("group_structure", "task_head_a", "safety_head_b")
SAFETY = (
    "safety_head_b.safety_classifier.weight",
    "safety_head_b.weight",
    "safety_classifier.weight",
    "safety_head.weight",
)
AUTHORITY = ("authority_head.weight",)
ORIGIN_ORDER = ("ALLOW", "REFUSE", "ESCALATE")  # row order of the origin's safety head
ROW = {"ALLOW": 0, "ESCALATE": 1, "ESCALATION": 1, "REFUSE": 2, "DENY": 2}
PREFIXES = ("base_model.model.", "base_model.", "module.")
SMALL = {".json", ".model", ".jinja", ".txt"}


@dataclass(frozen=True, slots=True)
class Distilled:
    """A checkpoint's tensors by dotted name, its config, and whether it held an optimiser."""

    path: Path
    tensors: dict[str, Tensor]
    config: dict[str, Any]
    epoch: int | None
    has_optimizer: bool

    def info(self) -> dict[str, Any]:
        """What the founders' loader reported, and which required parts are missing."""
        total = sum(tensor.numel() for tensor in self.tensors.values())
        missing = [part for part in REQUIRED if not any(part in name for name in self.tensors)]
        return {
            "schema": "so8t.distilled/1",
            "total_parameters": total,
            "parameter_count_millions": round(total / 1e6, 3),
            "num_tensors": len(self.tensors),
            "has_so8t_structure": not missing,
            "missing": missing,
            "tensor_names": sorted(self.tensors),
            "training_epoch": self.epoch,
            "has_optimizer_state": self.has_optimizer,
            "config": self.config,
        }


def read(path: Path) -> Distilled:
    """Read a checkpoint with `weights_only=True`: tensors and plain values, never code.

    Raises:
        ArtifactError: a missing or damaged file, one that needs code to be read, or one without tensors.
    """
    try:
        raw = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ArtifactError(
            "file not found", where=str(path.resolve()), fix="check the path"
        ) from None
    except (
        pickle.UnpicklingError,
        RuntimeError,
        EOFError,
        ValueError,
        AttributeError,
        KeyError,
    ) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ArtifactError(
            f"not a checkpoint of plain tensors ({first[:160]})",
            where=str(path),
            fix="save it again as torch.save({'model_state_dict': model.state_dict(), 'config': {...}}, path); "
            "files that need code are never read",
        ) from None
    if not isinstance(raw, dict):
        raise ArtifactError(
            f"expected a dictionary, found {type(raw).__name__}",
            where=str(path),
            fix="save a state dictionary",
        )
    state = next((raw[key] for key in STATES if isinstance(raw.get(key), dict)), raw)
    config: dict[str, Any] = next(
        (raw[key] for key in CONFIGS if isinstance(raw.get(key), dict)), {}
    )
    tensors = {
        name: tensor
        for name, tensor in _flat(state)
        if not name.startswith(("optimizer", "scheduler"))
    }
    if not tensors:
        raise ArtifactError(
            "no tensors found",
            where=str(path),
            fix=f"put them under one of {STATES}, or at the top",
        )
    plain = {
        key: value
        for key, value in config.items()
        if isinstance(value, (str, int, float, bool, list)) or value is None
    }
    epoch = raw.get("epoch")
    return Distilled(
        path,
        tensors,
        plain,
        epoch if isinstance(epoch, int) else None,
        any(str(key).startswith("optimizer") for key in raw),
    )


def _flat(state: dict[Any, Any], prefix: str = "") -> list[tuple[str, Tensor]]:
    found: list[tuple[str, Tensor]] = []
    for key, value in state.items():
        name = f"{prefix}{key}"
        if isinstance(value, Tensor):
            found.append(
                (name, value.float() if value.dtype in {torch.float16, torch.bfloat16} else value)
            )
        elif isinstance(value, dict):
            found += _flat(value, f"{name}.")
    return found


@dataclass(frozen=True, slots=True)
class Sorted:
    """What a checkpoint's tensors are to a base model's shape."""

    base: dict[str, Tensor]
    safety: Tensor | None
    authority: Tensor | None
    missing: list[str]
    misshaped: list[str]
    refused: list[str]

    def facts(self) -> dict[str, Any]:
        """Names only."""
        return {
            "base": len(self.base),
            "safety_head": self.safety is not None,
            "authority_head": self.authority is not None,
            "missing": self.missing,
            "misshaped": self.misshaped,
            "refused": self.refused,
        }


def sort(checkpoint: Distilled, folder: Path) -> Sorted:
    """Sort a checkpoint's tensors by what the stock model in `folder` (its config.json) has a place for."""
    model = skeleton(folder)
    shapes = {name: tuple(tensor.shape) for name, tensor in model.named_parameters()}
    base: dict[str, Tensor] = {}
    misshaped, refused = [], []
    hidden = int(model.config.hidden_size)
    for name, tensor in sorted(checkpoint.tensors.items()):
        stock = _stock_name(name, shapes)
        if stock is not None:
            base[stock] = tensor
            if tuple(tensor.shape) != shapes[stock]:
                misshaped.append(
                    f"{name} {list(tensor.shape)}, the model has {list(shapes[stock])}"
                )
        elif not _is_head(name, tensor, hidden):
            refused.append(name)
    heads = [
        next(
            (
                checkpoint.tensors[name]
                for name in names
                if name in checkpoint.tensors and name not in refused
            ),
            None,
        )
        for names in (SAFETY, AUTHORITY)
    ]
    missing = sorted(set(shapes) - set(base)) if base else []
    return Sorted(base, heads[0], heads[1], missing, misshaped, refused)


def _stock_name(name: str, shapes: dict[str, tuple[int, ...]]) -> str | None:
    candidates = [name, *(name.removeprefix(prefix) for prefix in PREFIXES)]
    return next((c for one in candidates for c in (one, f"model.{one}") if c in shapes), None)


def _is_head(name: str, tensor: Tensor, hidden: int) -> bool:
    """A linear head that folds: three or two rows over the hidden state, or a bias that is zero."""
    if name in SAFETY:
        return tuple(tensor.shape) == (3, hidden)
    if name in AUTHORITY:
        return tuple(tensor.shape) == (2, hidden)
    twin = name.removesuffix(".bias") + ".weight"
    return name.endswith(".bias") and twin in (*SAFETY, *AUTHORITY) and not bool(tensor.any())


def to_model(
    checkpoint: Distilled,
    vocab_dir: Path,
    out: Path,
    token_ids: list[int],
    drop: tuple[str, ...] = (),
) -> dict[str, Any]:
    """Write a stock Hugging Face folder: weights of the checkpoint (or of `vocab_dir`), head rows in five reserved tokens.

    Args:
        vocab_dir: config.json and tokenizer files; its weights are used when the checkpoint has no `base_model`.
        token_ids: reserved tokens of (allow, escalate, deny, handle, human).
        drop: name prefixes that may be left out although nothing carries them.

    Raises:
        ArtifactError: parts that cannot be carried, by name; missing or mis-shaped weights.
    """
    found = sort(checkpoint, vocab_dir)
    left = [name for name in found.refused if not name.startswith(drop or ("\0",))]
    if left:
        raise ArtifactError(
            f"a stock model has no place for {left[:6]}{' and more' if len(left) > 6 else ''}",
            where=str(checkpoint.path),
            fix="convert without them: --drop "
            + " --drop ".join(sorted({name.split(".")[0] for name in left})),
        )
    if found.misshaped or found.missing:
        wrong = found.misshaped + [f"{name} is missing" for name in found.missing]
        raise ArtifactError(
            f"the weights do not fit this model: {wrong[:4]}",
            where=str(checkpoint.path),
            fix="give the folder of the model that was distilled",
        )
    if not found.base and found.safety is None:
        raise ArtifactError(
            "nothing to convert: neither base weights nor a linear safety head",
            where=str(checkpoint.path),
            fix="see `info` for what it holds",
        )
    weights = found.base or _own_weights(vocab_dir)
    output = "lm_head.weight" if "lm_head.weight" in weights else "model.embed_tokens.weight"
    weights = weights | {output: _with_rows(weights[output], found, checkpoint.config, token_ids)}
    _write(vocab_dir, out, weights)
    return {
        **checkpoint.info(),
        **found.facts(),
        "dropped": sorted(set(found.refused) - set(left)),
        "token_ids": token_ids,
    }


def _own_weights(folder: Path) -> dict[str, Tensor]:
    source = Shards(folder)
    return {name: source(name) for name in source.shapes()}


def _with_rows(
    matrix: Tensor, found: Sorted, config: dict[str, Any], token_ids: list[int]
) -> Tensor:
    out = matrix.clone()
    if found.safety is not None:
        order = config.get("safety_classes") or ORIGIN_ORDER
        if sorted(ROW.get(str(name), -1) for name in order) != [0, 1, 2]:
            raise ArtifactError(
                f"safety_classes {order} are not ALLOW, ESCALATE and DENY in some order",
                fix="correct the checkpoint's config",
            )
        for row, name in zip(found.safety, order, strict=True):
            out[token_ids[ROW[str(name)]]] = row.to(out.dtype)
    if found.authority is not None:
        out[token_ids[3:]] = found.authority.to(out.dtype)
    return out


def _write(vocab_dir: Path, out: Path, weights: dict[str, Tensor]) -> None:
    from safetensors.torch import save_file

    bad = [name for name, tensor in weights.items() if not math.isfinite(float(tensor.abs().max()))]
    if bad:
        raise ArtifactError(
            f"weights that are not finite: {bad[:3]}",
            fix="this checkpoint is damaged or was never trained",
        )
    with atomic_dir(out) as folder:
        for file in sorted(vocab_dir.iterdir()):
            if file.is_file() and file.suffix in SMALL and "safetensors" not in file.name:
                shutil.copyfile(file, folder / file.name)
        read_json(
            folder / "config.json",
            fix="--vocab-dir must hold config.json and the tokenizer's files",
        )
        save_file(
            {name: tensor.contiguous() for name, tensor in sorted(weights.items())},
            folder / "model.safetensors",
            metadata={"format": "pt"},
        )
