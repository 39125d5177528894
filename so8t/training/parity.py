"""Gated and baked logits side by side, through the real forward passes, and against the base that must differ.

All variants run at full depth in float32 with one layer in memory at a time (tuning.streamed), so that a 3.8B model is
proved like a tiny one: `gated` (base + LoRA + gates + heads), `baked` (the bake before its weights are cast), `shipped`
(the files as written), `base`, and `trained` (the 4- or 8-bit graph that was optimised, whose drift is reported).
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from so8t.errors import ArtifactError, GateError
from so8t.training import adapter
from so8t.training.batches import Example
from so8t.training.load import DTYPES
from so8t.training.objective import Objective
from so8t.training.streamed import Shards, Source, attach, drop_layers, final_states, skeleton

LIMIT = 1e-4  # of the largest logit, fp32, every position (DESIGN section 8)
CHANGED = 1e-3  # of the largest logit: a bake that did nothing is not a bake
CAST_KL = (
    0.05  # nats, mean: a cast to 16 bits costs about a thousandth of it, a damaged file far more
)
SCALES = (1.0, 0.5, 0.25, 0.1, 0.05)
MASS_LIMIT = 1e-3  # mean sampling mass on the reserved ids
WORK = 2e13  # operations of one proof; decides how many texts are compared on large models
VARIANTS = 5
CHUNK = 64  # positions whose logits are held at once
Logits = Callable[[Tensor], Tensor]  # final states [positions, width] -> logits [positions, vocab]


@dataclass(slots=True)
class Texts:
    """Conversations as one right-padded batch: token ids, which positions are real, and where prompts end."""

    ids: Int[Tensor, "texts time"]
    real: Tensor
    ends: Tensor

    @classmethod
    def of(cls, examples: list[Example], parameters: int) -> "Texts":
        """As many examples as WORK allows for a model of this size, at least one."""
        budget, chosen = WORK / (2.0 * VARIANTS * parameters), examples[:1]
        for example in examples[1:]:
            width = max(len(one.ids) for one in [*chosen, example])
            if width * (len(chosen) + 1) > budget:
                break
            chosen = [*chosen, example]
        width = max(len(one.ids) for one in chosen)
        ids, real = (
            torch.zeros(len(chosen), width, dtype=torch.long),
            torch.zeros(len(chosen), width, dtype=torch.bool),
        )
        for row, example in enumerate(chosen):
            ids[row, : len(example.ids)] = torch.tensor(example.ids)
            real[row, : len(example.ids)] = True
        return cls(ids, real, torch.tensor([example.prompt - 1 for example in chosen]))

    def at_ends(self, states: Tensor) -> Tensor:
        """The states at the ends of prompts."""
        return states[torch.arange(len(self.ends)), self.ends]


class Gated:
    """The reference: base (or its quantised image) + LoRA + gates + heads, in float32."""

    def __init__(self, base: Path, adapter_folder: Path, source: Source, texts: Texts) -> None:
        model, self.gates, self.heads = adapter.load(adapter_folder, skeleton(base))
        self.objective = Objective(attach(model, source), self.heads, use_pet=False).eval()
        self.states = final_states(model, texts.ids)
        drop_layers(model)

    @torch.no_grad()
    def logits(
        self, states: Float[Tensor, "positions width"], scale: float
    ) -> Float[Tensor, "positions vocab"]:
        """Full-vocabulary logits with the reserved columns scaled."""
        logits = self.objective.logits(states)
        if self.heads is not None and scale != 1.0:
            logits[:, self.heads.token_ids] *= scale
        return logits


class Stock:
    """A stock model read from a source."""

    def __init__(self, folder: Path, source: Source, texts: Texts) -> None:
        self.model = attach(skeleton(folder), source)
        self.states = final_states(self.model, texts.ids)
        drop_layers(self.model)

    @torch.no_grad()
    def logits(self, states: Float[Tensor, "positions width"]) -> Float[Tensor, "positions vocab"]:
        """Full-vocabulary logits."""
        logits: Tensor = self.model.get_output_embeddings()(states)
        return logits


def row_scale(gated: Gated, texts: Texts) -> tuple[float, dict[str, float]]:
    """The largest scale at which reserved tokens are never the greedy choice and hold little mass, and what was measured.

    Every scale is measured; when none is small enough the one with the least mass is used, and `verify` reports it.
    """
    if gated.heads is None:
        return 1.0, {"mean_mass": 0.0, "max_mass": 0.0, "greedy": 0.0}
    measured = {}
    for scale in SCALES:
        measured[scale] = _emission(gated, texts, scale)
        if measured[scale]["mean_mass"] < MASS_LIMIT and measured[scale]["greedy"] == 0.0:
            return scale, measured[scale]
    best = min(measured, key=lambda s: (measured[s]["greedy"], measured[s]["mean_mass"]))
    return best, measured[best]


def _emission(gated: Gated, texts: Texts, scale: float) -> dict[str, float]:
    assert gated.heads is not None
    ids, masses, greedy = gated.heads.token_ids, [], []
    for states in torch.split(gated.states[texts.real], CHUNK):
        logits = gated.logits(states, scale)
        masses.append(logits.softmax(-1)[:, ids].sum(-1))
        greedy.append(torch.isin(logits.argmax(-1), torch.tensor(ids)).float())
    mass = torch.cat(masses)
    return {
        "mean_mass": float(mass.mean()),
        "max_mass": float(mass.max()),
        "greedy": float(torch.cat(greedy).mean()),
    }


@dataclass(slots=True)
class Distance:
    """How far one variant's logits are from another's, over positions."""

    error: float = 0.0
    largest: float = 0.0
    agree: int = 0
    divergences: list[Tensor] = field(default_factory=list)

    def add(self, want: Tensor, got: Tensor) -> None:
        """Count some positions."""
        if not (torch.isfinite(want).all() and torch.isfinite(got).all()):
            raise GateError(
                "a logit is not finite",
                fix="train again with a lower rate; if the base model does this too, its files are damaged",
            )
        self.error = max(self.error, float((want - got).abs().max()))
        self.largest = max(self.largest, float(want.abs().max()))
        self.agree += int((want.argmax(-1) == got.argmax(-1)).sum())
        first, second = want.double().log_softmax(-1), got.double().log_softmax(-1)
        self.divergences.append((first.exp() * (first - second)).sum(-1).clamp(min=0.0))

    def facts(self) -> dict[str, float]:
        """KL divergence in nats and top-1 agreement."""
        all_kl = torch.cat(self.divergences)
        return {
            "kl_mean": float(all_kl.mean()),
            "kl_max": float(all_kl.max()),
            "top1_agreement": self.agree / len(all_kl),
        }


def distance(texts: Texts, one: tuple[Tensor, Logits], other: tuple[Tensor, Logits]) -> Distance:
    """Compare two variants at every real position."""
    found = Distance()
    pairs = zip(
        torch.split(one[0][texts.real], CHUNK),
        torch.split(other[0][texts.real], CHUNK),
        strict=True,
    )
    for left, right in pairs:
        found.add(one[1](left), other[1](right))
    return found


def prove(gated: Gated, baked: Stock, base: Stock, texts: Texts, scale: float) -> dict[str, Any]:
    """Compare the bake, before its cast, with the gated model and with the base.

    Raises:
        GateError: baked differs from gated by more than 1e-4 of the largest logit, or equals the base.
    """
    reference: tuple[Tensor, Logits] = (gated.states, lambda states: gated.logits(states, scale))
    found = distance(texts, reference, (baked.states, baked.logits))
    changed = distance(texts, (base.states, base.logits), (baked.states, baked.logits))
    positions = int(texts.real.sum())
    facts = {
        "conversations": len(texts.ids),
        "positions": positions,
        "max_abs_error": found.error,
        "largest_logit": found.largest,
        "relative_error": found.error / found.largest,
        "limit": LIMIT,
        "top1_agreement": found.agree / positions,
        "max_abs_change_from_base": changed.error,
    }
    if not found.error <= LIMIT * found.largest:
        raise GateError(
            f"baked and gated logits differ by {found.error:.3g} where logits reach {found.largest:.3g} (limit {LIMIT:g} of that)",
            fix="do not ship this model; report the architecture (a transposed fold looks like this)",
        )
    if changed.error < CHANGED * found.largest:
        raise GateError(
            f"the baked model equals its base (largest change {changed.error:.3g})",
            fix="train longer; gates and LoRA are still at their start",
        )
    return facts


def shipped(gated: Gated, out: Path, base: Path, texts: Texts, scale: float) -> dict[str, Any]:
    """Compare the files as written with the gated model, and their names and shapes with the base's.

    Raises:
        GateError: another set of weights than the base's, or logits that a cast cannot explain.
    """
    stored, before = Shards(out), Shards(base)
    if stored.shapes() != before.shapes():
        raise GateError(
            "the baked model's weights differ from the base's in name, shape or type",
            where=str(out),
            fix="report the architecture",
        )
    written = Stock(out, stored, texts)
    found = distance(
        texts,
        (gated.states, lambda states: gated.logits(states, scale)),
        (written.states, written.logits),
    )
    kinds = sorted({kind for kind, _ in stored.shapes().values()})
    facts: dict[str, Any] = {
        "dtypes": kinds,
        "relative_error": found.error / found.largest,
        **found.facts(),
    }
    bound = (
        found.error <= LIMIT * found.largest if kinds == ["F32"] else facts["kl_mean"] <= CAST_KL
    )
    if not bound:
        raise GateError(
            f"the written weights give other logits (mean KL {facts['kl_mean']:.3g} nats)",
            where=str(out),
            fix="bake again; check the disk",
        )
    return facts


def drift(
    base: Path, adapter_folder: Path, gated: Gated, texts: Texts, scale: float
) -> dict[str, Any]:
    """How far the quantised graph that was trained is from the full-precision one that is shipped; never fails."""
    config = adapter.read_config(adapter_folder)
    image = quantised_image(config["quantization"], config["compute_dtype"])
    if image is None:
        return {"quantization": config["quantization"], "measured": False}
    plain = Shards(base)
    trained = Gated(base, adapter_folder, lambda name: image(name, plain(name)), texts)
    found = distance(
        texts,
        (trained.states, lambda s: trained.logits(s, scale)),
        (gated.states, lambda s: gated.logits(s, scale)),
    )
    facts: dict[str, Any] = {
        "quantization": config["quantization"],
        "measured": True,
        **found.facts(),
    }
    if gated.heads is not None and trained.heads is not None:
        was, now = (
            model.heads(texts.at_ends(model.states))[:, :3].argmax(-1) for model in (trained, gated)
        )  # type: ignore[misc]
        facts |= {
            "verdicts": len(was),
            "verdict_flips": int((was != now).sum()),
            "flips_to_allow": int(((was != 0) & (now == 0)).sum()),
        }
    return facts


def quantised_image(
    quantization: str, compute_dtype: str
) -> Callable[[str, Tensor], Tensor] | None:
    """What a weight is after bitsandbytes has quantised it: NF4 with double quantisation, or int8 by rows (weights only)."""
    dtype = DTYPES[compute_dtype]

    def nf4(name: str, weight: Tensor) -> Tensor:
        from bitsandbytes.functional import dequantize_4bit, quantize_4bit

        if not _is_quantised(name, weight):
            return weight
        packed, state = quantize_4bit(
            weight.to(dtype).contiguous(), quant_type="nf4", compress_statistics=True
        )
        image: Tensor = dequantize_4bit(packed, state)
        return image

    def int8(name: str, weight: Tensor) -> Tensor:
        if not _is_quantised(name, weight):
            return weight
        step = weight.float().abs().amax(1, keepdim=True).clamp(min=1e-12) / 127.0
        return (weight.float() / step).round() * step

    return {"nf4": nf4, "int8": int8}.get(quantization)


def _is_quantised(name: str, weight: Tensor) -> bool:
    return weight.ndim == 2 and name.startswith("model.layers.")


def parameters_of(base: Path) -> int:
    """Numbers in a folder's weights.

    Raises:
        ArtifactError: a folder without weights.
    """
    total = sum(int(torch.Size(shape).numel()) for _, shape in Shards(base).shapes().values())
    if not total:
        raise ArtifactError("no weights found", where=str(base), fix="dvc repro base")
    return total
