"""What training learnt, on disk: a standard PEFT adapter with two files more (gates and heads) and their config.

A plain PEFT load would miss the gates and heads, and the folder's README says so; `load` restores everything or refuses.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from so8t.errors import ArtifactError, ParamsError
from so8t.files import atomic_dir, read_json, sha256_file, write_json, write_text
from so8t.params import Params, Train
from so8t.rotation import BLOCK
from so8t.training import gate as gate_module
from so8t.training.gate import Gate
from so8t.training.heads import Heads
from so8t.training.load import OWN
from so8t.training.streamed import Source

SCHEMA = "so8t.adapter/1"
CONFIG, GATES, HEADS, PEFT = (
    "so8t_config.json",
    "so8t_gates.safetensors",
    "so8t_heads.safetensors",
    "adapter_model.safetensors",
)
WEIGHTS = "so8t_weights.safetensors"  # the base's own weights, only after full fine-tuning
CARD = """---
library_name: peft
tags: [so8t]
---
# SO8T adapter

LoRA weights in PEFT's format, with SO(8) gates (`so8t_gates.safetensors`) and verdict heads (`so8t_heads.safetensors`).
A plain `PeftModel.from_pretrained` loads only the LoRA part: it misses every rotation and both heads, and its outputs
are not the trained model's. Use the project's loader, or the baked model, which is a stock checkpoint.
"""


def attach_lora(model: Any, train: Train) -> Any:
    """Wrap `model` with LoRA (or PEFT's OFT, for comparison) on names resolved from the model.

    Raises:
        ParamsError: a requested name that matches no linear layer.
    """
    from peft import LoraConfig, OFTConfig, get_peft_model

    if train.lora_r == 0 and train.adapter == "lora":
        return model
    targets = train.lora_targets
    if isinstance(targets, list):
        _require_targets(model, targets)
    if train.adapter == "oft":  # its default, a truncated series, is not orthogonal: exact Cayley
        return get_peft_model(
            model,
            OFTConfig(
                r=0,
                oft_block_size=BLOCK,
                use_cayley_neumann=False,
                module_dropout=train.lora_dropout,
                target_modules=targets,
                bias="none",
                task_type="CAUSAL_LM",
            ),
        )
    config = LoraConfig(
        r=train.lora_r,
        lora_alpha=train.lora_alpha,
        lora_dropout=train.lora_dropout,  # type: ignore[arg-type]
        target_modules=targets,
        bias="none",
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, config)


def _require_targets(model: nn.Module, targets: list[str]) -> None:
    leaves = {
        name.rsplit(".", 1)[-1]
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
    }
    if missing := [name for name in targets if name not in leaves]:
        raise ParamsError(
            f"train.lora_targets: {missing} match nothing in this model",
            where="params.yaml",
            fix=f"use all-linear, or some of {sorted(leaves - {'lm_head'})}",
        )


def trainable(model: Any, heads: Heads | None, *, full: bool = False) -> dict[str, Tensor]:
    """Everything that is trained, by name, in a fixed order: LoRA, gates, heads, and only with `full` the base itself.

    Raises:
        ArtifactError: another parameter wants a gradient.
    """
    named = {
        f"model.{name}": tensor for name, tensor in model.named_parameters() if tensor.requires_grad
    }
    if heads is not None:
        named |= {f"heads.{name}": tensor for name, tensor in heads.named_parameters()}
    if not full and (
        strange := [
            name
            for name in named
            if not (
                any(own in name for own in OWN) or "so8t_gate" in name or name.startswith("heads.")
            )
        ]
    ):
        raise ArtifactError(
            f"unexpected trainable parameters {strange[:5]}", fix="report this architecture"
        )
    return dict(sorted(named.items()))


def save(
    folder: Path, model: Any, gates: dict[int, Gate], heads: Heads | None, config: dict[str, Any]
) -> None:
    """Write the adapter folder, atomically and without paths, times or set-ordered lists."""
    from safetensors.torch import save_file

    with atomic_dir(folder) as out:
        if hasattr(model, "peft_config"):
            model.save_pretrained(out, safe_serialization=True)
            settings = read_json(out / "adapter_config.json")
            settings["target_modules"] = sorted(settings["target_modules"])
            settings["base_model_name_or_path"] = None  # a path would make two equal runs differ
            write_json(out / "adapter_config.json", settings)
        save_file(
            {f"layers.{i}.theta": g.theta.detach().cpu() for i, g in sorted(gates.items())},
            out / GATES,
        )
        if config.get("quantization") == "full":
            own = {
                name: tensor.detach().cpu().contiguous()
                for name, tensor in model.named_parameters()
                if "so8t_gate" not in name
            }
            save_file(own, out / WEIGHTS)
        tensors = (
            {name: tensor.detach().cpu().contiguous() for name, tensor in heads.named_parameters()}
            if heads
            else {}
        )
        save_file(tensors, out / HEADS)
        files = {
            name: sha256_file(out / name)
            for name in (GATES, HEADS, PEFT, WEIGHTS)
            if (out / name).is_file()
        }
        write_json(
            out / CONFIG, {"schema": SCHEMA, **config, "gates": sorted(gates), "files": files}
        )
        write_text(out / "README.md", CARD)


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
        if not (folder / name).is_file() or sha256_file(folder / name) != digest:
            raise ArtifactError(
                "missing or changed since training",
                where=str(folder / name),
                fix="dvc checkout train",
            )
    return config


def load(folder: Path, model: Any) -> tuple[Any, dict[int, Gate], Heads | None]:
    """Put a saved adapter on an unquantised base: (model with LoRA and gates, gates, heads)."""
    from peft import PeftModel
    from safetensors.torch import load_file

    config = read_config(folder)
    if (folder / PEFT).is_file():
        streamed = next(
            model.parameters()
        ).is_meta  # the base's weights come later, the adapter's now
        model = PeftModel.from_pretrained(
            model, str(folder), is_trainable=False, low_cpu_mem_usage=streamed
        )
        if streamed:
            _place_lora(model, load_file(folder / PEFT))
    gates = gate_module.install(model, config["gates"]) if config["gates"] else {}
    stored = load_file(folder / GATES)
    with torch.no_grad():
        for index, gate in gates.items():
            gate.theta.copy_(stored[f"layers.{index}.theta"])
    heads = None
    if config["heads"]:
        heads = Heads(
            config["heads"]["width"], config["heads"]["token_ids"], config["heads"]["mode"], seed=0
        )
        heads.load_state_dict(load_file(folder / HEADS))
    return model.eval(), gates, heads


def base_source(folder: Path, plain: Source) -> Source:
    """The base's weights under an adapter: its own, or those that full fine-tuning replaced."""
    if not (folder / WEIGHTS).is_file():
        return plain
    from safetensors import safe_open

    own: Any = safe_open(folder / WEIGHTS, framework="pt")
    names = set(own.keys())
    return lambda name: own.get_tensor(name) if name in names else plain(name)


def _place_lora(model: nn.Module, stored: dict[str, Tensor]) -> None:
    """Put LoRA's (or OFT's) tensors into a model whose base has none yet (peft leaves them empty there)."""
    modules = dict(model.named_modules())
    for key, tensor in stored.items():
        owner = modules.get(key.rpartition(".")[0] + ".default")
        if owner is None:
            raise ArtifactError(
                f"this base has no place for {key}",
                fix="bake the adapter on the base it was trained on",
            )
        owner._parameters["weight"] = nn.Parameter(tensor.float(), requires_grad=False)
        if hasattr(owner, "rows"):  # OFT's table of indices, which nothing stores
            owner.rows, owner.cols = torch.triu_indices(BLOCK, BLOCK, 1)
    if empty := [
        name
        for name, tensor in model.named_parameters()
        if any(own in name for own in OWN) and tensor.is_meta
    ]:
        raise ArtifactError(f"adapter weights missing for {empty[:3]}", fix="dvc repro train")


def describe(
    params: Params, heads: Heads | None, base_digest: str, data_digest: str
) -> dict[str, Any]:
    """What the adapter's config says beside its files."""
    shape = (
        {"width": heads.prototypes.shape[1], "token_ids": heads.token_ids, "mode": heads.mode}
        if heads
        else None
    )
    loss, train = params.active.loss, params.active.train
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
