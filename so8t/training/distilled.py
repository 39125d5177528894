"""Distilled `.pt` checkpoints: read without running code, described, and rebuilt as a stock model.

The founding documents (the design notes that this project started from) describe such checkpoints
of a distilled model; the file that came with them held random numbers and none of the parts that
the documents require.

The format `so8t.distilled/1` is flat or nested (under `model_state_dict` or `state_dict`, or bare;
dotted names or dictionaries in dictionaries), with `base_model.*` in Hugging Face names and linear
heads over the final hidden state. A linear head without bias folds into reserved rows of lm_head.
Whatever a stock graph cannot carry (an 8x8 gate inside the network, two-layer heads, vision towers)
is refused by name, or left out when it is named in `drop`.
"""

import pickle
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from so8t.base.load import first_line, small_files
from so8t.errors import ArtifactError
from so8t.files import atomic_dir, read_json
from so8t.training.streamed import Shards, skeleton

# Keys under which checkpoints hold their tensors and their settings; the first that fits is used.
STATES = ("model_state_dict", "state_dict")
CONFIGS = ("config", "model_config", "hparams")
# Parts that the founding documents require of their model, by a piece of their names.
REQUIRED = ("group_structure", "task_head_a", "safety_head_b")
# Names of the linear heads; the first that a checkpoint has is used.
SAFETY = (
    "safety_head_b.safety_classifier.weight",
    "safety_head_b.weight",
    "safety_classifier.weight",
    "safety_head.weight",
)
AUTHORITY = ("authority_head.weight",)
# Row order of the safety head where the config names none, and each label's place in ours.
ORIGIN_ORDER = ("ALLOW", "REFUSE", "ESCALATE")
ROW = {"ALLOW": 0, "ESCALATE": 1, "ESCALATION": 1, "REFUSE": 2, "DENY": 2}
# What trainers put before the names of stock weights.
PREFIXES = ("base_model.model.", "base_model.", "module.")
# Types of a config's values that are kept.
PLAIN = (str, int, float, bool, list)
# What torch.load raises for files that are damaged, or that need code to be read.
DAMAGED = (RuntimeError, EOFError, ValueError, AttributeError, LookupError, TypeError)
UNREADABLE = (pickle.UnpicklingError, *DAMAGED)


SAVE_AGAIN = (
    "save it again as torch.save({'model_state_dict': model.state_dict(), 'config': {...}}, path); "
    "files that need code are never read"
)


# --- reading ---


@dataclass(frozen=True, slots=True)
class Distilled:
    """A checkpoint as it was read.

    Attributes:
        path: the file.
        tensors: by dotted name; 16-bit ones are widened to float32.
        config: plain values of its config; others are left out.
        epoch: of training, if the file says it.
        has_optimizer: whether it held an optimiser's state.
    """

    path: Path
    tensors: dict[str, Tensor]
    config: dict[str, Any]
    epoch: int | None
    has_optimizer: bool

    def info(self) -> dict[str, Any]:
        """What the founding documents' loader reported, and which required parts are missing."""
        total = sum(tensor.numel() for tensor in self.tensors.values())
        missing = [part for part in REQUIRED if not self._has(part)]
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

    def _has(self, part: str) -> bool:
        return any(part in name for name in self.tensors)


def read(path: Path) -> Distilled:
    """Read a checkpoint with `weights_only=True`: tensors and plain values, never code.

    Raises:
        ArtifactError: a missing or damaged file, one that needs code to be read, one without
            tensors, or with tensors that are complex, sparse or quantised.
    """
    raw = _load(path)
    state = _first_dict(raw, STATES)
    if state is None:
        state = raw
    tensors = {}
    for name, tensor in _flat(state):
        if not name.startswith(("optimizer", "scheduler")):
            tensors[name] = _plain(name, tensor, path)
    if not tensors:
        fix = f"put them under one of {STATES}, or at the top"
        raise ArtifactError("no tensors found", where=str(path), fix=fix)
    config = {}
    settings = _first_dict(raw, CONFIGS) or {}
    for key, value in settings.items():
        # Only what can be written as JSON.
        if value is None or isinstance(value, PLAIN):
            config[key] = value
    epoch = raw.get("epoch")
    return Distilled(
        path=path,
        tensors=tensors,
        config=config,
        epoch=epoch if isinstance(epoch, int) else None,
        has_optimizer=any(str(key).startswith("optimizer") for key in raw),
    )


def _load(path: Path) -> dict[Any, Any]:
    where = str(path)
    try:
        raw = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        where = str(path.resolve())
        raise ArtifactError("file not found", where=where, fix="check the path") from None
    except UNREADABLE as error:
        raise ArtifactError(
            f"not a checkpoint of plain tensors ({first_line(error)[:160]})",
            where=where,
            fix=SAVE_AGAIN,
        ) from None
    if not isinstance(raw, dict):
        found = type(raw).__name__
        raise ArtifactError(
            f"expected a dictionary, found {found}", where=where, fix="save a state dictionary"
        )
    return raw


def _first_dict(raw: dict[Any, Any], keys: tuple[str, ...]) -> dict[Any, Any] | None:
    """The value of the first of these keys that holds a dictionary."""
    for key in keys:
        value = raw.get(key)
        if isinstance(value, dict):
            return value
    return None


def _flat(state: dict[Any, Any], prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """The tensors of dictionaries in dictionaries, by dotted name; other values are left out."""
    for key, value in state.items():
        name = f"{prefix}{key}"
        if isinstance(value, Tensor):
            yield name, value
        elif isinstance(value, dict):
            yield from _flat(value, f"{name}.")


def _plain(name: str, tensor: Tensor, path: Path) -> Tensor:
    """The tensor, widened if it is a 16-bit one.

    Raises:
        ArtifactError: it is complex, sparse or quantised, which no stock model's weights are.
    """
    kind = ""
    if tensor.is_complex():
        kind = "complex"
    elif tensor.is_quantized:
        kind = "quantised"
    elif tensor.layout != torch.strided:
        kind = "sparse"
    if kind:
        raise ArtifactError(
            f"tensor {name} is {kind}; only plain tensors are read",
            where=str(path),
            fix="save it as a dense tensor of real numbers, or leave it out",
        )
    # Widening loses nothing, and later steps need not know about 16-bit types.
    is_narrow = tensor.dtype in {torch.float16, torch.bfloat16}
    return tensor.float() if is_narrow else tensor


# --- what a stock model has a place for ---


@dataclass(frozen=True, slots=True)
class Sorted:
    """What a checkpoint's tensors are to a base model's shape.

    Attributes:
        base: tensors by the stock name of the weight that they are.
        safety: the safety head [3, hidden].
        authority: the authority head [2, hidden].
        missing: stock weights that the checkpoint lacks, if it has any at all.
        misshaped: weights of another shape than the model's, one sentence each.
        refused: names of tensors that a stock model has no place for.
    """

    base: dict[str, Tensor]
    safety: Tensor | None
    authority: Tensor | None
    missing: list[str]
    misshaped: list[str]
    refused: list[str]

    def facts(self) -> dict[str, Any]:
        """Names and numbers of them, without tensors."""
        return {
            "base": len(self.base),
            "safety_head": self.safety is not None,
            "authority_head": self.authority is not None,
            "missing": self.missing,
            "misshaped": self.misshaped,
            "refused": self.refused,
        }


def sort(checkpoint: Distilled, folder: Path) -> Sorted:
    """Sort a checkpoint's tensors by what the stock model in `folder` has a place for.

    Args:
        checkpoint: as `read` gives it.
        folder: holds the stock model's config.json.
    """
    model = skeleton(folder)
    shapes = {name: tuple(tensor.shape) for name, tensor in model.named_parameters()}
    hidden = int(model.config.hidden_size)
    base: dict[str, Tensor] = {}
    misshaped: list[str] = []
    refused: list[str] = []
    heads: dict[str, Tensor] = {}
    for name, tensor in sorted(checkpoint.tensors.items()):
        shape = tuple(tensor.shape)
        stock = _stock_name(name, shapes)
        if stock is not None:
            base[stock] = tensor
            if shape != shapes[stock]:
                wanted = list(shapes[stock])
                misshaped.append(f"{name} {list(shape)}, the model has {wanted}")
        elif _is_head(name, tensor, hidden):
            heads[name] = tensor
        else:
            refused.append(name)
    missing: list[str] = []
    if base:
        missing = sorted(set(shapes) - set(base))
    return Sorted(
        base=base,
        safety=_first_present(heads, SAFETY),
        authority=_first_present(heads, AUTHORITY),
        missing=missing,
        misshaped=misshaped,
        refused=refused,
    )


def _stock_name(name: str, shapes: dict[str, tuple[int, ...]]) -> str | None:
    """The stock weight that a tensor's name means, with a trainer's prefix or without."""
    candidates = [name]
    for prefix in PREFIXES:
        candidates.append(name.removeprefix(prefix))
    for candidate in candidates:
        if candidate in shapes:
            return candidate
        # Saved from the decoder alone, without its language-model head.
        if f"model.{candidate}" in shapes:
            return f"model.{candidate}"
    return None


def _is_head(name: str, tensor: Tensor, hidden: int) -> bool:
    """A linear head that folds: three or two rows over the hidden state, or a bias that is zero."""
    if name in SAFETY:
        return tuple(tensor.shape) == (3, hidden)
    if name in AUTHORITY:
        return tuple(tensor.shape) == (2, hidden)
    weight = name.removesuffix(".bias") + ".weight"
    is_bias = name.endswith(".bias") and weight in SAFETY + AUTHORITY
    # lm_head has no bias that could carry another one.
    return is_bias and not bool(tensor.any())


def _first_present(heads: dict[str, Tensor], names: tuple[str, ...]) -> Tensor | None:
    for name in names:
        if name in heads:
            return heads[name]
    return None


# --- writing a stock model ---


def to_model(
    checkpoint: Distilled,
    vocab_dir: Path,
    out: Path,
    token_ids: list[int],
    drop: tuple[str, ...] = (),
) -> dict[str, Any]:
    """Write a stock Hugging Face folder, with the heads in the rows of five reserved tokens.

    Args:
        checkpoint: as `read` gives it.
        vocab_dir: config.json and tokenizer files; its weights are used when the checkpoint has no
            base weights.
        out: the folder to write.
        token_ids: reserved tokens of (allow, escalate, deny, handle, human).
        drop: name prefixes that may be left out although nothing carries them.

    Returns:
        What the checkpoint held and what became of it, for the log.

    Raises:
        ArtifactError: parts that cannot be carried, by name; missing or mis-shaped weights.
    """
    found = sort(checkpoint, vocab_dir)
    dropped = [name for name in found.refused if drop and name.startswith(drop)]
    _require_convertible(checkpoint, found, dropped)
    weights = dict(found.base)
    if not weights:
        stock = Shards(vocab_dir)
        weights = {name: stock(name) for name in stock.shapes()}
    output = "lm_head.weight"
    # Tied weights are stored once, as the embedding.
    if output not in weights:
        output = "model.embed_tokens.weight"
    weights[output] = _with_head_rows(weights[output], found, checkpoint.config, token_ids)
    _write(vocab_dir, out, weights)
    return {
        **checkpoint.info(),
        **found.facts(),
        "dropped": sorted(dropped),
        "token_ids": token_ids,
    }


def _require_convertible(checkpoint: Distilled, found: Sorted, dropped: list[str]) -> None:
    where = str(checkpoint.path)
    uncarried = [name for name in found.refused if name not in dropped]
    if uncarried:
        more = " and more" if len(uncarried) > 6 else ""
        parts = sorted({name.split(".")[0] for name in uncarried})
        options = " ".join(f"--drop {part}" for part in parts)
        raise ArtifactError(
            f"a stock model has no place for {uncarried[:6]}{more}",
            where=where,
            fix=f"convert without them: {options}",
        )
    wrong = found.misshaped + [f"{name} is missing" for name in found.missing]
    if wrong:
        raise ArtifactError(
            f"the weights do not fit this model: {wrong[:4]}",
            where=where,
            fix="give the folder of the model that was distilled",
        )
    if not found.base and found.safety is None:
        raise ArtifactError(
            "nothing to convert: neither base weights nor a linear safety head",
            where=where,
            fix="see `info` for what it holds",
        )


def _with_head_rows(
    matrix: Tensor, found: Sorted, config: dict[str, Any], token_ids: list[int]
) -> Tensor:
    """A copy of the output matrix with the heads' rows, in our order of the verdicts."""
    out = matrix.clone()
    if found.safety is not None:
        order = config.get("safety_classes") or ORIGIN_ORDER
        rows = [ROW.get(str(label), -1) for label in order]
        if sorted(rows) != [0, 1, 2]:
            raise ArtifactError(
                f"safety_classes {order} are not ALLOW, ESCALATE and DENY in some order",
                fix="correct the checkpoint's config",
            )
        for row, values in zip(rows, found.safety, strict=True):
            out[token_ids[row]] = values.to(out.dtype)
    if found.authority is not None:
        out[token_ids[3:]] = found.authority.to(out.dtype)
    return out


def _write(vocab_dir: Path, out: Path, weights: dict[str, Tensor]) -> None:
    from safetensors.torch import save_file

    damaged = [name for name, tensor in weights.items() if not tensor.isfinite().all()]
    if damaged:
        raise ArtifactError(
            f"weights that are not finite: {damaged[:3]}",
            fix="this checkpoint is damaged or was never trained",
        )
    stored = {name: weights[name].contiguous() for name in sorted(weights)}
    with atomic_dir(out) as folder:
        for file in small_files(vocab_dir):
            # An index of shards would point to files that are not here.
            if "safetensors" not in file.name:
                shutil.copyfile(file, folder / file.name)
        # Read only to fail here, with a fix, if it was not among the files.
        read_json(
            folder / "config.json",
            fix="--vocab-dir must hold config.json and the tokenizer's files",
        )
        save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
