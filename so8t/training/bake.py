"""Bake: merge LoRA into the unquantised base, fold R, fold the heads into lm_head rows, save a stock model.

`W' = (W + s B A) R`, in float64, tensor by tensor from the pristine base, cast once to the base's own dtype. Weights
stream shard by shard; parity is proved before the cast and reported after it. The tokenizer's files are copied byte for
byte, because a re-saved tokenizer is one that llama.cpp reads differently.
"""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from so8t import rotation
from so8t.errors import ArtifactError
from so8t.files import atomic_dir, read_json, sha256_tree, write_json
from so8t.progress import Progress
from so8t.training import adapter
from so8t.training.batches import Example
from so8t.training.heads import Heads
from so8t.training.streamed import Shards, Source, shard_names

REPORT = "so8t_bake.json"
_PREFIX = "base_model.model."


@dataclass(slots=True)
class Recipe:
    """What the bake changes: low-rank updates and rotations by weight name, and five rows of the output matrix."""

    lora: dict[str, tuple[Tensor, Tensor]]
    scaling: float
    rotations: dict[str, Tensor]
    rows: Tensor | None
    token_ids: list[int]
    used: set[str] = field(default_factory=set)

    def names(self) -> set[str]:
        """Every weight that must be found in the base."""
        return set(self.lora) | set(self.rotations)

    def apply(self, name: str, weight: Tensor) -> Tensor:
        """The baked weight, in float64 where it changes."""
        if name in self.lora:
            down, up = self.lora[name]
            weight = weight.double() + self.scaling * (up.double() @ down.double())
        if name in self.rotations:
            weight = rotation.fold(weight, self.rotations[name])
        if name in self.names():
            self.used.add(name)
        return weight

    def exact(self, name: str, weight: Tensor, *, tied: bool) -> Tensor:
        """The baked weight before its cast, head rows included, in float32."""
        baked = self.apply(name, weight).float()
        if self.rows is not None and name == _output_name(tied=tied):
            baked = baked.clone()
            baked[self.token_ids] = self.rows.float()
        return baked


def _output_name(*, tied: bool) -> str:
    return "model.embed_tokens.weight" if tied else "lm_head.weight"


def _is_tied(base: Path) -> bool:
    return bool(read_json(base / "config.json").get("tie_word_embeddings", False))


def read_recipe(folder: Path, scale: float) -> Recipe:
    """Read an adapter folder into a recipe; `scale` shrinks the heads' rows.

    Raises:
        ArtifactError: a PEFT method that is neither LoRA nor OFT.
    """
    from safetensors.torch import load_file

    config = adapter.read_config(folder)
    lora: dict[str, tuple[Tensor, Tensor]] = {}
    scaling, turned = 0.0, {}
    settings: dict[str, Any] = (
        read_json(folder / "adapter_config.json")
        if (folder / adapter.PEFT).is_file()
        else {"peft_type": None}
    )
    if settings["peft_type"] == "OFT":
        turned = _oft_rotations(load_file(folder / adapter.PEFT))
    elif settings["peft_type"] == "LORA":
        stored = load_file(folder / adapter.PEFT)
        scaling = settings["lora_alpha"] / settings["r"]
        for name in sorted(key for key in stored if key.endswith(".lora_A.weight")):
            module = name.removeprefix(_PREFIX).removesuffix(".lora_A.weight")
            lora[f"{module}.weight"] = (stored[name], stored[name.replace(".lora_A.", ".lora_B.")])
    elif settings["peft_type"] is not None:
        raise ArtifactError(
            f"an adapter of kind {settings['peft_type']} cannot be baked",
            where=str(folder),
            fix="train with train.adapter: lora or oft",
        )
    thetas = load_file(folder / adapter.GATES)
    rotations = turned | {
        f"model.{key.removesuffix('.theta')}.self_attn.o_proj.weight": rotation.exponential(
            rotation.skew(theta.double())
        )
        for key, theta in thetas.items()
    }
    return Recipe(lora, scaling, rotations, *_head_rows(folder, config, scale))


def _oft_rotations(stored: dict[str, Tensor]) -> dict[str, Tensor]:
    """R by weight name: OFT multiplies rows, `x (I - S)(I + S)^-1`, so that `W' = W R` has the transpose of its matrix."""
    found = {}
    for name, vector in sorted(stored.items()):
        skew, eye = rotation.skew(vector.double()), torch.eye(rotation.BLOCK, dtype=torch.float64)
        found[f"{name.removeprefix(_PREFIX).partition('.oft_R')[0]}.weight"] = torch.linalg.solve(
            eye + skew, eye - skew, left=False
        ).mT
    return found


def _head_rows(
    folder: Path, config: dict[str, Any], scale: float
) -> tuple[Tensor | None, list[int]]:
    from safetensors.torch import load_file

    shape = config["heads"]
    if not shape:
        return None, []
    heads = Heads(shape["width"], shape["token_ids"], shape["mode"], seed=0)
    heads.load_state_dict(load_file(folder / adapter.HEADS))
    return heads.double().rows().detach() * scale, list(shape["token_ids"])


def bake_weights(base: Path, source: Source, recipe: Recipe, out: Path, progress: Progress) -> None:
    """Write the shards of `base` with the baked weights of `source`, and every other file of `base`, to `out`.

    Raises:
        ArtifactError: a weight that the recipe changes is not in the base, or a result that is not finite.
    """
    from safetensors.torch import save_file

    output = _output_name(tied=_is_tied(base))
    found_output = False
    for shard in progress.bar(shard_names(base), what="bake", unit="shard"):
        tensors = {}
        for name, weight in _tensors(base / shard):
            baked = _checked(name, recipe.apply(name, source(name))).to(weight.dtype)
            if name == output and recipe.rows is not None:
                found_output, baked = True, baked.clone()
                baked[recipe.token_ids] = recipe.rows.to(baked.dtype)
            tensors[name] = baked.contiguous()
        save_file(tensors, out / shard, metadata={"format": "pt"})
    if missing := recipe.names() - recipe.used:
        raise ArtifactError(
            f"weights of the adapter are not in the base: {sorted(missing)[:3]}",
            where=str(base),
            fix="bake the adapter on the base it was trained on",
        )
    if recipe.rows is not None and not found_output:
        raise ArtifactError(
            f"{output} not found", where=str(base), fix="the base must store its output matrix"
        )
    _copy_rest(base, out)


def _checked(name: str, weight: Tensor) -> Tensor:
    if not torch.isfinite(weight).all():
        raise ArtifactError(
            f"{name} is not finite after the bake",
            fix="look at reports/plots/train.csv; train again with a lower rate",
        )
    return weight


def _tensors(shard: Path) -> Iterator[tuple[str, Tensor]]:
    from safetensors import safe_open

    with safe_open(shard, framework="pt") as file:
        for name in sorted(file.keys()):
            yield name, file.get_tensor(name)


def _copy_rest(base: Path, out: Path) -> None:
    for file in sorted(base.iterdir()):
        if (
            file.is_file()
            and file.suffix in {".json", ".model", ".jinja", ".txt"}
            and not (out / file.name).exists()
        ):
            shutil.copyfile(file, out / file.name)
    (out / "so8t_base.json").unlink(missing_ok=True)


def bake(
    base: Path, adapter_folder: Path, out: Path, examples: list[Example], progress: Progress
) -> dict[str, Any]:
    """Bake, prove parity, write the report inside `out`.

    Args:
        examples: whole conversations on which gated and baked logits are compared at every position; on large models
            only the first few (parity.WORK).

    Raises:
        GateError: baked and gated logits differ, or the baked model equals the base.
    """
    from so8t.training import parity

    stock = Shards(base)
    plain = adapter.base_source(adapter_folder, stock)
    texts = parity.Texts.of(examples, parity.parameters_of(base))
    gated = parity.Gated(base, adapter_folder, plain, texts)
    scale, emission = parity.row_scale(gated, texts)
    config = adapter.read_config(adapter_folder)
    with atomic_dir(out) as folder:
        recipe = read_recipe(adapter_folder, scale)
        exact = parity.Stock(
            base, lambda name: recipe.exact(name, plain(name), tied=_is_tied(base)), texts
        )
        facts = parity.prove(gated, exact, parity.Stock(base, stock, texts), texts, scale)
        bake_weights(base, plain, recipe, folder, progress)
        report = {
            "schema": "so8t.bake/1",
            "layers": config["gates"],
            "lora_weights": len(recipe.lora),
            "rotated_weights": len(recipe.rotations),
            "head_token_ids": recipe.token_ids,
            "head_scale": scale,
            "emission": emission,
            "parity": facts,
            "shipped": parity.shipped(gated, folder, base, texts, scale),
            "drift": parity.drift(base, adapter_folder, gated, texts, scale),
            "adapter_sha256": sha256_tree(adapter_folder),
            **{
                key: config[key]
                for key in (
                    "base_sha256",
                    "data_sha256",
                    "pet_lambda",
                    "cmd_weight",
                    "safety_weight",
                    "quantization",
                    "lora",
                    "heads",
                )
            },
        }
        write_json(folder / REPORT, report)
    return report
