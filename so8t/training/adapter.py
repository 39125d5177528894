"""What training has learnt, on disk: a standard PEFT adapter with two more files and their config.

The two files hold the SO(8) gates (so8t.training.gate) and the verdict heads (so8t.training.heads).
A plain PEFT load would miss both, and the folder's README says so; `load` restores everything or
refuses.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from so8t.base.load import OWN
from so8t.errors import ArtifactError, ParamsError
from so8t.files import atomic_dir, read_json, sha256_file, write_json, write_text
from so8t.params import Params, Train
from so8t.rotation import BLOCK
from so8t.training.gate import Gate, install
from so8t.training.heads import Heads
from so8t.training.streamed import Source

SCHEMA = "so8t.adapter/1"
CONFIG = "so8t_config.json"
GATES = "so8t_gates.safetensors"
HEADS = "so8t_heads.safetensors"
# PEFT's own two files.
PEFT = "adapter_model.safetensors"
PEFT_CONFIG = "adapter_config.json"
# The base's own weights; only full fine-tuning changes them and writes this file.
WEIGHTS = "so8t_weights.safetensors"
# In the README a paragraph is one line; its bytes are part of the adapter's digest.
README = (
    "---\n"
    "library_name: peft\n"
    "tags: [so8t]\n"
    "---\n"
    "# SO8T adapter\n"
    "\n"
    "LoRA weights in PEFT's format, with SO(8) gates (`so8t_gates.safetensors`) "
    "and verdict heads (`so8t_heads.safetensors`).\n"
    "A plain `PeftModel.from_pretrained` loads only the LoRA part: "
    "it misses every rotation and both heads, and its outputs\n"
    "are not the trained model's. "
    "Use the project's loader, or the baked model, which is a stock checkpoint.\n"
)


# --- putting LoRA on a model ---


def attach_lora(model: Any, train: Train) -> Any:
    """Wrap `model` with LoRA, or with PEFT's OFT for comparison; rank 0 leaves it as it is.

    Raises:
        ParamsError: a name in `train.lora_targets` that matches no linear layer.
    """
    from peft import LoraConfig, OFTConfig, get_peft_model

    # PEFT refuses rank 0, which here means gates and heads alone, or the whole base.
    if train.lora_r == 0 and train.adapter == "lora":
        return model
    targets = train.lora_targets
    if isinstance(targets, list):
        _require_targets(model, targets)
    common: dict[str, Any] = {
        "target_modules": targets,
        "bias": "none",
        "task_type": "CAUSAL_LM",
    }
    if train.adapter == "oft":
        oft = OFTConfig(
            r=0,
            oft_block_size=BLOCK,
            # PEFT's default, a truncated series, is not orthogonal; False is the exact transform.
            use_cayley_neumann=False,
            module_dropout=train.lora_dropout,
            **common,
        )
        return get_peft_model(model, oft)
    lora = LoraConfig(
        r=train.lora_r,
        # PEFT declares an int and only divides it by r.
        lora_alpha=train.lora_alpha,  # type: ignore[arg-type]
        lora_dropout=train.lora_dropout,
        **common,
    )
    return get_peft_model(model, lora)


def _require_targets(model: nn.Module, targets: list[str]) -> None:
    """PEFT itself ignores a name that matches nothing as long as another one does."""
    present = set()
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            present.add(name.rsplit(".", 1)[-1])
    missing = [name for name in targets if name not in present]
    if missing:
        raise ParamsError(
            f"train.lora_targets: {missing} match nothing in this model",
            where="params.yaml",
            fix=f"use all-linear, or some of {sorted(present - {'lm_head'})}",
        )


# --- what is trained ---


def trainable(model: Any, heads: Heads | None, *, full: bool = False) -> dict[str, Tensor]:
    """Everything that is trained, by name, in a fixed order.

    Args:
        model: with LoRA and gates on it.
        heads: verdict heads, if there are any.
        full: the base's own weights are trained, too.

    Raises:
        ArtifactError: a parameter wants a gradient that is none of these.
    """
    named: dict[str, Tensor] = {}
    for name, tensor in model.named_parameters():
        if tensor.requires_grad:
            named[f"model.{name}"] = tensor
    if heads is not None:
        for name, tensor in heads.named_parameters():
            named[f"heads.{name}"] = tensor
    strange = [name for name in named if not _is_ours(name)]
    if strange and not full:
        raise ArtifactError(
            f"unexpected trainable parameters {strange[:5]}", fix="report this architecture"
        )
    # The order is that of the optimiser's state, and so must be the same in every checkpoint.
    return dict(sorted(named.items()))


def _is_ours(name: str) -> bool:
    return _is_pefts(name) or _is_gate(name) or name.startswith("heads.")


def _is_pefts(name: str) -> bool:
    return any(part in name for part in OWN)


def _is_gate(name: str) -> bool:
    return "so8t_gate" in name


# --- writing ---


def save(
    folder: Path, model: Any, gates: dict[int, Gate], heads: Heads | None, config: dict[str, Any]
) -> None:
    """Write the adapter folder, atomically.

    Two equal runs write the same bytes: there are no paths, no times and no lists in a set's order.

    Args:
        folder: it is replaced.
        model: with LoRA and gates on it.
        gates: by layer index.
        heads: verdict heads, if there are any.
        config: what `describe` gives, and whatever else is to stand in the config.
    """
    from safetensors.torch import save_file

    with atomic_dir(folder) as out:
        if hasattr(model, "peft_config"):
            _save_peft(model, out)
        thetas = {f"layers.{index}.theta": gate.theta for index, gate in sorted(gates.items())}
        save_file(_stored(thetas), out / GATES)
        if config.get("quantization") == "full":
            named = dict(model.named_parameters())
            own = {name: tensor for name, tensor in named.items() if not _is_gate(name)}
            save_file(_stored(own), out / WEIGHTS)
        rows = dict(heads.named_parameters()) if heads else {}
        save_file(_stored(rows), out / HEADS)
        files = {}
        for name in (GATES, HEADS, PEFT, WEIGHTS):
            if (out / name).is_file():
                files[name] = sha256_file(out / name)
        facts = {"schema": SCHEMA, **config, "gates": sorted(gates), "files": files}
        write_json(out / CONFIG, facts)
        write_text(out / "README.md", README)


def _save_peft(model: Any, out: Path) -> None:
    model.save_pretrained(out, safe_serialization=True)
    settings = read_json(out / PEFT_CONFIG)
    # PEFT writes a set, in an order that changes from process to process.
    settings["target_modules"] = sorted(settings["target_modules"])
    # The base's path, which differs from machine to machine.
    settings["base_model_name_or_path"] = None
    write_json(out / PEFT_CONFIG, settings)


def _stored(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors as safetensors takes them."""
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def describe(
    params: Params, heads: Heads | None, base_digest: str, data_digest: str
) -> dict[str, Any]:
    """What the adapter's config says beside its files.

    Args:
        params: of the run.
        heads: as trained.
        base_digest: SHA-256 of models/base.
        data_digest: SHA-256 of the training split.
    """
    loss = params.active.loss
    train = params.active.train
    shape = None
    if heads:
        width = heads.prototypes.shape[1]
        shape = {"width": width, "token_ids": heads.token_ids, "mode": heads.mode}
    return {
        "heads": shape,
        "base_sha256": base_digest,
        "data_sha256": data_digest,
        "pet_lambda": params.pet.weight,
        "cmd_weight": loss.cmd_weight,
        "safety_weight": loss.safety_weight,
        "label_weight": loss.label_weight,
        "quantization": train.quantization,
        "compute_dtype": train.compute_dtype,
        "adapter": train.adapter,
        "seed": params.train_seed,
        "lora": {"r": train.lora_r, "alpha": train.lora_alpha},
    }


# --- reading ---


class Loaded(NamedTuple):
    """A model with LoRA and gates on it, its gates by layer index, and its heads."""

    model: Any
    gates: dict[int, Gate]
    heads: Heads | None


def read_config(folder: Path) -> dict[str, Any]:
    """The adapter's config, with every file's digest checked.

    Raises:
        ArtifactError: a missing or changed file, or another schema.
    """
    config: dict[str, Any] = read_json(folder / CONFIG, fix="dvc repro train")
    if config.get("schema") != SCHEMA:
        raise ArtifactError(
            f"schema {config.get('schema')!r} is not {SCHEMA}",
            where=str(folder / CONFIG),
            fix="dvc repro train",
        )
    for name, digest in config["files"].items():
        file = folder / name
        if not file.is_file() or sha256_file(file) != digest:
            raise ArtifactError(
                "missing or changed since training",
                where=str(file),
                fix="dvc checkout train",
            )
    return config


def load(folder: Path, model: Any) -> Loaded:
    """Put a saved adapter on an unquantised base, in eval mode.

    Args:
        folder: the adapter.
        model: a loaded base, or a skeleton whose weights are on "meta" and come later, layer by
            layer (so8t.training.streamed).

    Raises:
        ArtifactError: a missing or changed file, or an adapter of another base.
    """
    from peft import PeftModel
    from safetensors.torch import load_file

    config = read_config(folder)
    if (folder / PEFT).is_file():
        # Then PEFT leaves its own tensors on "meta" as well: the base's come later, these now.
        streamed = next(model.parameters()).is_meta
        model = PeftModel.from_pretrained(
            model, str(folder), is_trainable=False, low_cpu_mem_usage=streamed
        )
        if streamed:
            _place_lora(model, load_file(folder / PEFT))
    gates: dict[int, Gate] = {}
    if config["gates"]:
        gates = install(model, config["gates"])
    stored = load_file(folder / GATES)
    with torch.no_grad():
        for index, gate in gates.items():
            gate.theta.copy_(stored[f"layers.{index}.theta"])
    return Loaded(model.eval(), gates, load_heads(folder, config))


def load_heads(folder: Path, config: dict[str, Any]) -> Heads | None:
    """The adapter's heads, if it has any.

    Args:
        folder: the adapter.
        config: what `read_config` gives.
    """
    from safetensors.torch import load_file

    shape = config["heads"]
    if not shape:
        return None
    # The seed is of start values, which are overwritten at once.
    heads = Heads(shape["width"], shape["token_ids"], shape["mode"], seed=0)
    heads.load_state_dict(load_file(folder / HEADS))
    return heads


def base_source(folder: Path, plain: Source) -> Source:
    """The base's weights under an adapter: its own, or those that full fine-tuning replaced.

    Args:
        folder: the adapter.
        plain: the base's own weights by name.
    """
    if not (folder / WEIGHTS).is_file():
        return plain
    from safetensors import safe_open

    replaced: Any = safe_open(folder / WEIGHTS, framework="pt")
    names = set(replaced.keys())

    def source(name: str) -> Tensor:
        if name not in names:
            return plain(name)
        tensor: Tensor = replaced.get_tensor(name)
        return tensor

    return source


def _place_lora(model: nn.Module, stored: dict[str, Tensor]) -> None:
    """Put LoRA's or OFT's tensors into a model whose base has no weights yet.

    PEFT leaves its own tensors on "meta" there, too.
    """
    modules = dict(model.named_modules())
    for key, tensor in stored.items():
        # "...lora_A.weight" is stored for the module "...lora_A.default" ("default" is PEFT's
        # name for the one adapter).
        owner = modules.get(key.rpartition(".")[0] + ".default")
        if owner is None:
            raise ArtifactError(
                f"this base has no place for {key}",
                fix="bake the adapter on the base it was trained on",
            )
        # float32 whatever it was trained in, like everything that is compared in the proof.
        owner._parameters["weight"] = nn.Parameter(tensor.float(), requires_grad=False)
        # OFT's table of indices, which no file stores.
        if hasattr(owner, "rows"):
            owner.rows, owner.cols = torch.triu_indices(BLOCK, BLOCK, 1)
    empty = []
    for name, parameter in model.named_parameters():
        if _is_pefts(name) and parameter.is_meta:
            empty.append(name)
    if empty:
        raise ArtifactError(f"adapter weights missing for {empty[:3]}", fix="dvc repro train")
