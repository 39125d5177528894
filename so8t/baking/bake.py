"""Bake: merge LoRA into the unquantised base, fold in the rotations and heads, save a stock model.

Each weight becomes `W' = (W + s B A) R` (s B A: LoRA's update, R: the gate's rotation, or OFT's),
in float64, tensor by tensor from the pristine base, cast once to the base's own dtype. The heads
become five rows of the output matrix. Weights stream file by file; that the result has the trained
model's logits is proved before the cast, and what the cast changes is reported.

The tokenizer's files are copied byte for byte, because a re-saved tokenizer is one that llama.cpp
reads differently.
"""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from so8t import rotation
from so8t.baking import parity
from so8t.base.batches import Example
from so8t.base.load import small_files
from so8t.errors import ArtifactError
from so8t.files import atomic_dir, read_json, sha256_tree, write_json
from so8t.model_folder import MANIFEST, read_object, weight_files
from so8t.progress import Progress
from so8t.training import adapter
from so8t.training.streamed import Shards, Source

REPORT = "so8t_bake.json"
# What the report takes over from the adapter's config, in this order.
INHERITED = (
    "base_sha256",
    "data_sha256",
    "pet_lambda",
    "cmd_weight",
    "safety_weight",
    "quantization",
    "lora",
    "heads",
)
# PEFT stores its tensors under the names of the wrapped model.
_PREFIX = "base_model.model."


# --- what changes ---


@dataclass(frozen=True, slots=True)
class HeadRows:
    """Rows of the output matrix that the heads replace.

    Attributes:
        token_ids: which rows.
        values: what they become [len(token_ids), width], float64.
    """

    token_ids: list[int]
    values: Tensor

    def put_into(self, matrix: Tensor) -> Tensor:
        """A copy of the output matrix with these rows, in its own dtype."""
        out = matrix.clone()
        out[self.token_ids] = self.values.to(matrix.dtype)
        return out


@dataclass(frozen=True, slots=True)
class LoraUpdate:
    """The low-rank update of one weight [out, in].

    Attributes:
        down: A [rank, in].
        up: B [out, rank].
        scaling: s = alpha / rank.
    """

    down: Tensor
    up: Tensor
    scaling: float

    def delta(self) -> Tensor:
        """s B A in float64, to be added to the weight."""
        product = self.up.double() @ self.down.double()
        return self.scaling * product


@dataclass(frozen=True, slots=True)
class Recipe:
    """What the bake changes, by the stock weights' names.

    Attributes:
        lora: updates to add.
        rotations: R [blocks, 8, 8] of gates or OFT, float64.
        head_rows: None without heads.
    """

    lora: dict[str, LoraUpdate]
    rotations: dict[str, Tensor]
    head_rows: HeadRows | None

    def names(self) -> set[str]:
        """Every weight that must be found in the base."""
        return set(self.lora) | set(self.rotations)

    def apply(self, name: str, weight: Tensor) -> Tensor:
        """The baked weight without head rows: float64 where it changes, else as it is."""
        # LoRA first: the gate rotates what the updated projection reads.
        if name in self.lora:
            weight = weight.double() + self.lora[name].delta()
        if name in self.rotations:
            weight = rotation.fold(weight, self.rotations[name])
        return weight

    def exact(self, name: str, weight: Tensor, output: str) -> Tensor:
        """The baked weight before its cast, head rows included, in float32.

        Args:
            name: the weight's.
            weight: as the base has it.
            output: name of the output matrix.
        """
        # float32, as all variants of the proof are; the rounding is far below its limit.
        baked = self.apply(name, weight).float()
        if self.head_rows is not None and name == output:
            baked = self.head_rows.put_into(baked)
        return baked


def read_recipe(folder: Path, scale: float) -> Recipe:
    """Read an adapter folder into a recipe.

    Args:
        folder: the adapter.
        scale: factor for the heads' rows; a small one keeps reserved tokens from being generated
            and changes no verdict.

    Raises:
        ArtifactError: a PEFT method that is neither LoRA nor OFT, or a changed file.
    """
    from safetensors.torch import load_file

    config = adapter.read_config(folder)
    lora: dict[str, LoraUpdate] = {}
    rotations: dict[str, Tensor] = {}
    if (folder / adapter.PEFT).is_file():
        settings = read_json(folder / adapter.PEFT_CONFIG)
        kind = settings["peft_type"]
        if kind == "LORA":
            scaling = settings["lora_alpha"] / settings["r"]
            lora = _lora_updates(load_file(folder / adapter.PEFT), scaling)
        elif kind == "OFT":
            rotations = _oft_rotations(load_file(folder / adapter.PEFT))
        else:
            raise ArtifactError(
                f"an adapter of kind {kind} cannot be baked",
                where=str(folder),
                fix="train with train.adapter: lora or oft",
            )
    rotations |= _gate_rotations(load_file(folder / adapter.GATES))
    head_rows = _head_rows(folder, config, scale)
    return Recipe(lora, rotations, head_rows)


def _lora_updates(stored: dict[str, Tensor], scaling: float) -> dict[str, LoraUpdate]:
    """LoRA's updates by weight name."""
    found = {}
    for key in sorted(stored):
        if not key.endswith(".lora_A.weight"):
            continue
        module = key.removeprefix(_PREFIX).removesuffix(".lora_A.weight")
        found[f"{module}.weight"] = LoraUpdate(
            down=stored[key],
            up=stored[key.replace(".lora_A.", ".lora_B.")],
            scaling=scaling,
        )
    return found


def _oft_rotations(stored: dict[str, Tensor]) -> dict[str, Tensor]:
    """R by weight name, from the 28 numbers of each of OFT's blocks.

    OFT multiplies rows, `x (I - S)(I + S)^-1` (the Cayley transform), so that in our convention,
    `W' = W R` with columns, R is the transpose of its matrix.
    """
    eye = torch.eye(rotation.BLOCK, dtype=torch.float64)
    found = {}
    for key, vector in sorted(stored.items()):
        module, _, _ = key.removeprefix(_PREFIX).partition(".oft_R")
        skew = rotation.skew(vector.double())
        # A solve instead of an inverse: `left=False` gives X of X (I + S) = (I - S).
        turned = torch.linalg.solve(eye + skew, eye - skew, left=False)
        found[f"{module}.weight"] = turned.mT
    return found


def _gate_rotations(stored: dict[str, Tensor]) -> dict[str, Tensor]:
    """R of each gate by the name of the weight behind it; `stored` has "layers.7.theta"."""
    found = {}
    for key, theta in stored.items():
        layer = key.removesuffix(".theta")
        # In float64 although training rotates in float32: the bake adds no rounding of its own.
        skew = rotation.skew(theta.double())
        found[f"model.{layer}.self_attn.o_proj.weight"] = rotation.exponential(skew)
    return found


def _head_rows(folder: Path, config: dict[str, Any], scale: float) -> HeadRows | None:
    heads = adapter.load_heads(folder, config)
    if heads is None:
        return None
    values = heads.double().rows().detach()
    return HeadRows(list(heads.token_ids), values * scale)


# --- writing the weights ---


def bake_weights(base: Path, source: Source, recipe: Recipe, out: Path, progress: Progress) -> None:
    """Write the baked weights and every other file of the base to `out`.

    Args:
        base: the base's folder, whose files, names and dtypes the result has.
        source: gives the weights that the recipe starts from (after full fine-tuning others than
            the base's).
        recipe: what changes.
        out: an existing folder.
        progress: told about each file.

    Raises:
        ArtifactError: a weight that the recipe changes is not in the base, or a result that is not
            finite.
    """
    from safetensors.torch import save_file

    output = _output_name(base)
    seen: set[str] = set()
    for shard in progress.bar(weight_files(base), what="bake", unit="shard"):
        tensors = {}
        for name, weight in _read_shard(shard):
            # A tied output matrix that is stored, too, stays the same as the embedding.
            origin = output if name == "lm_head.weight" else name
            baked = recipe.apply(origin, source(origin))
            _require_finite(name, baked)
            # The base's dtype, also where full fine-tuning has replaced it by float32 weights.
            baked = baked.to(weight.dtype)
            if recipe.head_rows is not None and origin == output:
                baked = recipe.head_rows.put_into(baked)
            tensors[name] = baked.contiguous()
        seen |= set(tensors)
        # transformers expects this entry in a file of weights.
        save_file(tensors, out / shard.name, metadata={"format": "pt"})
    missing = recipe.names() - seen
    if missing:
        raise ArtifactError(
            f"weights of the adapter are not in the base: {sorted(missing)[:3]}",
            where=str(base),
            fix="bake the adapter on the base it was trained on",
        )
    if recipe.head_rows is not None and output not in seen:
        raise ArtifactError(
            f"{output} not found", where=str(base), fix="the base must store its output matrix"
        )
    _copy_small_files(base, out)


def _output_name(base: Path) -> str:
    """The stored weight that is the output matrix: the embedding's, where the two are tied."""
    config = read_object(base)
    if config.get("tie_word_embeddings", False):
        return "model.embed_tokens.weight"
    return "lm_head.weight"


def _read_shard(shard: Path) -> Iterator[tuple[str, Tensor]]:
    """One tensor at a time, in name order."""
    from safetensors import safe_open

    with safe_open(shard, framework="pt") as file:
        for name in sorted(file.keys()):
            yield name, file.get_tensor(name)


def _require_finite(name: str, weight: Tensor) -> None:
    if not torch.isfinite(weight).all():
        raise ArtifactError(
            f"{name} is not finite after the bake",
            fix="look at reports/plots/train.csv; train again with a lower rate",
        )


def _copy_small_files(base: Path, out: Path) -> None:
    for file in small_files(base):
        # The digests of a linked base are not those of the baked weights.
        if file.name != MANIFEST:
            shutil.copyfile(file, out / file.name)


# --- the whole bake ---


def bake(
    base: Path, adapter_folder: Path, out: Path, examples: list[Example], progress: Progress
) -> dict[str, Any]:
    """Bake, prove parity, write the report inside `out`.

    Args:
        base: the folder that holds the base's weights.
        adapter_folder: what training wrote.
        out: the baked model; it appears only when everything is proved.
        examples: whole conversations on which gated and baked logits are compared at every
            position; on large models only the first few (parity.WORK).
        progress: told about each file.

    Returns:
        The report.

    Raises:
        GateError: baked and gated logits differ, or the baked model equals the base.
        ArtifactError: the adapter's files do not fit the base.
    """
    stock = Shards(base)
    # Full fine-tuning changes the base, too; the proof against an unchanged base needs both.
    source = adapter.base_source(adapter_folder, stock)
    texts = parity.Texts.of(examples, parity.parameters_of(base))
    gated = parity.Gated(base, adapter_folder, source, texts)
    scale, emission = parity.row_scale(gated, texts)
    recipe = read_recipe(adapter_folder, scale)
    exact = _exact_source(base, source, recipe)
    with atomic_dir(out) as folder:
        # Before the weights are written: a wrong fold is found without a cast in between.
        baked = parity.Stock(base, exact, texts)
        unchanged = parity.Stock(base, stock, texts)
        proof = parity.prove(gated, baked, unchanged, texts, scale)
        bake_weights(base, source, recipe, folder, progress)
        facts = {
            "head_scale": scale,
            "emission": emission,
            "parity": proof,
            "shipped": parity.shipped(gated, folder, base, texts, scale),
            "drift": parity.drift(base, adapter_folder, gated, texts, scale),
        }
        report = _report(adapter_folder, recipe, facts)
        write_json(folder / REPORT, report)
    return report


def _exact_source(base: Path, source: Source, recipe: Recipe) -> Source:
    """The baked weights by name, before their cast."""
    output = _output_name(base)

    def exact(name: str) -> Tensor:
        return recipe.exact(name, source(name), output)

    return exact


def _report(adapter_folder: Path, recipe: Recipe, facts: dict[str, Any]) -> dict[str, Any]:
    config = adapter.read_config(adapter_folder)
    token_ids = []
    if recipe.head_rows is not None:
        token_ids = recipe.head_rows.token_ids
    return {
        "schema": "so8t.bake/1",
        "layers": config["gates"],
        "lora_weights": len(recipe.lora),
        "rotated_weights": len(recipe.rotations),
        "head_token_ids": token_ids,
        **facts,
        "adapter_sha256": sha256_tree(adapter_folder),
        **{key: config[key] for key in INHERITED},
    }
