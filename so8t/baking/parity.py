"""Proof that the baked model gives the trained model's logits, by real forward passes of both.

Five variants of one model are compared at full depth in float32, with one layer of weights in
memory at a time (training.streamed), so that a model of 3.8B parameters is proved in the same way
as a tiny one:

* gated: base, LoRA, SO(8) gates and heads, as trained;
* baked: the merged weights before they are cast to the file's type;
* shipped: the files as written;
* base: what the bake must differ from;
* trained: the 4- or 8-bit graph that was optimised. Its distance from the gated one is reported,
  not limited.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from so8t.base.batches import Example
from so8t.base.load import DTYPES
from so8t.errors import ArtifactError, GateError
from so8t.training import adapter
from so8t.training.distance import CHUNK, Variant, distance
from so8t.training.objective import Objective
from so8t.training.streamed import Shards, Source, attach, drop_layers, final_states, skeleton

# Largest difference of baked and gated logits, at any position, as a share of the largest logit.
# Both are float32.
LIMIT = 1e-4
# A bake that changes no logit by this share of the largest one has done nothing.
CHANGED = 1e-3
# Mean KL divergence in nats. A cast to 16 bits costs about a thousandth of it, a damaged file far
# more.
CAST_KL = 0.05
# Factors that are tried on the reserved rows, so that reserved tokens are not generated.
SCALES = (1.0, 0.5, 0.25, 0.1, 0.05)
# Mean probability of all reserved tokens together that a scale may leave.
MASS_LIMIT = 1e-3
# Floating point operations of one proof: how many texts are compared on a large model follows from
# it.
WORK = 2e13
VARIANTS = 5


@dataclass(slots=True)
class Texts:
    """Conversations as one right-padded batch.

    Attributes:
        ids: token ids.
        real: false where there is padding.
        ends: position of each prompt's last token.
    """

    ids: Int[Tensor, "texts time"]
    real: Bool[Tensor, "texts time"]
    ends: Int[Tensor, " texts"]

    @classmethod
    def of(cls, examples: list[Example], parameters: int) -> "Texts":
        """Take as many of the first examples as WORK allows for this model, at least one."""
        # A forward pass costs about two operations per parameter and token.
        budget = WORK / (2.0 * VARIANTS * parameters)
        chosen = examples[:1]
        width = max(len(example.ids) for example in chosen)
        for example in examples[1:]:
            wider = max(width, len(example.ids))
            if wider * (len(chosen) + 1) > budget:
                break
            chosen.append(example)
            width = wider
        ids = torch.zeros(len(chosen), width, dtype=torch.long)
        real = torch.zeros(len(chosen), width, dtype=torch.bool)
        for row, example in enumerate(chosen):
            length = len(example.ids)
            ids[row, :length] = torch.tensor(example.ids)
            real[row, :length] = True
        ends = torch.tensor([example.prompt - 1 for example in chosen])
        return cls(ids, real, ends)

    def at_ends(self, states: Float[Tensor, "texts time width"]) -> Float[Tensor, "texts width"]:
        """The states at the ends of prompts."""
        rows = torch.arange(len(self.ends))
        return states[rows, self.ends]


class Gated:
    """The reference: base (or its quantised image), LoRA, gates and heads, in float32."""

    def __init__(
        self,
        base: Path,
        adapter_folder: Path,
        source: Source,
        texts: Texts,
    ) -> None:
        model, self.gates, self.heads = adapter.load(adapter_folder, skeleton(base))
        # eval: dropout would make every pass another one.
        attach(model, source)
        self.objective = Objective(model, self.heads, use_pet=False).eval()
        self.states = final_states(model, texts.ids)
        drop_layers(model)

    @torch.no_grad()
    def logits(
        self, states: Float[Tensor, "positions width"], scale: float
    ) -> Float[Tensor, "positions vocab"]:
        """Full-vocabulary logits with the reserved columns scaled."""
        logits = self.objective.logits(states)
        # Scaling a column of logits is what scaling a row of the output matrix does.
        if self.heads is not None and scale != 1.0:
            logits[:, self.heads.token_ids] *= scale
        return logits

    def scaled(self, scale: float) -> Variant:
        """This model with its reserved columns scaled, for a comparison."""
        return Variant(self.states, lambda states: self.logits(states, scale))


class Stock:
    """A stock model whose weights are read from a source."""

    def __init__(
        self,
        folder: Path,
        source: Source,
        texts: Texts,
    ) -> None:
        self.model = attach(skeleton(folder), source)
        self.states = final_states(self.model, texts.ids)
        drop_layers(self.model)

    @torch.no_grad()
    def logits(self, states: Float[Tensor, "positions width"]) -> Float[Tensor, "positions vocab"]:
        """Full-vocabulary logits."""
        logits: Tensor = self.model.get_output_embeddings()(states)
        return logits

    def plain(self) -> Variant:
        """This model, for a comparison."""
        return Variant(self.states, self.logits)


def row_scale(gated: Gated, texts: Texts) -> tuple[float, dict[str, float]]:
    """Choose the factor on the reserved rows, so that their tokens are read but never generated.

    Returns:
        The largest of SCALES at which no reserved token is ever the most likely one and all of them
        together hold little probability, with what was measured there. When no scale is small
        enough, the one with the least probability is returned, and `verify` reports it.
    """
    if gated.heads is None:
        return 1.0, {"mean_mass": 0.0, "max_mass": 0.0, "greedy": 0.0}
    measured: dict[float, dict[str, float]] = {}
    for scale in SCALES:
        found = _emission(gated, gated.heads.token_ids, texts, scale)
        if found["mean_mass"] < MASS_LIMIT and found["greedy"] == 0.0:
            return scale, found
        measured[scale] = found

    def rank(scale: float) -> tuple[float, float]:
        return measured[scale]["greedy"], measured[scale]["mean_mass"]

    best = min(measured, key=rank)
    return best, measured[best]


def _emission(
    gated: Gated,
    token_ids: list[int],
    texts: Texts,
    scale: float,
) -> dict[str, float]:
    """Probability of the reserved tokens, and the share of positions where one of them leads."""
    reserved = torch.tensor(token_ids)
    masses = []
    leads = []
    for states in torch.split(gated.states[texts.real], CHUNK):
        logits = gated.logits(states, scale)
        probabilities = logits.softmax(-1)
        masses.append(probabilities[:, token_ids].sum(-1))
        leading = torch.isin(logits.argmax(-1), reserved)
        leads.append(leading.float())
    mass = torch.cat(masses)
    return {
        "mean_mass": float(mass.mean()),
        "max_mass": float(mass.max()),
        "greedy": float(torch.cat(leads).mean()),
    }


def prove(
    gated: Gated,
    baked: Stock,
    base: Stock,
    texts: Texts,
    scale: float,
) -> dict[str, Any]:
    """Compare the bake, before its cast, with the gated model and with the base.

    Raises:
        GateError: baked logits differ from gated ones by more than LIMIT of the largest logit, or
            equal the base's.
    """
    found = distance(texts.real, gated.scaled(scale), baked.plain())
    changed = distance(texts.real, base.plain(), baked.plain())
    positions = int(texts.real.sum())
    # Written so that a NaN fails: every comparison with NaN is false.
    if not found.error <= LIMIT * found.largest:
        raise GateError(
            f"baked and gated logits differ by {found.error:.3g} "
            f"where logits reach {found.largest:.3g} (limit {LIMIT:g} of that)",
            fix="do not ship this model; report the architecture "
            "(a transposed fold looks like this)",
        )
    if changed.error < CHANGED * found.largest:
        raise GateError(
            f"the baked model equals its base (largest change {changed.error:.3g})",
            fix="train longer; gates and LoRA are still at their start",
        )
    return {
        "conversations": len(texts.ids),
        "positions": positions,
        "max_abs_error": found.error,
        "largest_logit": found.largest,
        "relative_error": found.error / found.largest,
        "limit": LIMIT,
        "top1_agreement": found.agree / positions,
        "max_abs_change_from_base": changed.error,
    }


def shipped(
    gated: Gated,
    out: Path,
    base: Path,
    texts: Texts,
    scale: float,
) -> dict[str, Any]:
    """Compare the written files' logits with the gated model, their names and shapes with the base.

    Raises:
        GateError: another set of weights than the base's, or logits that a cast cannot explain.
    """
    stored = Shards(out)
    shapes = stored.shapes()
    if shapes != Shards(base).shapes():
        raise GateError(
            "the baked model's weights differ from the base's in name, shape or type",
            where=str(out),
            fix="report the architecture",
        )
    written = Stock(out, stored, texts)
    found = distance(texts.real, gated.scaled(scale), written.plain())
    dtypes = sorted({dtype for dtype, _ in shapes.values()})
    facts: dict[str, Any] = {
        "dtypes": dtypes,
        "relative_error": found.error / found.largest,
        **found.facts(),
    }
    if dtypes == ["F32"]:
        # Nothing was cast: the strict limit holds.
        close = found.error <= LIMIT * found.largest
    else:
        close = facts["kl_mean"] <= CAST_KL
    if not close:
        raise GateError(
            f"the written weights give other logits (mean KL {facts['kl_mean']:.3g} nats)",
            where=str(out),
            fix="bake again; check the disk",
        )
    return facts


def drift(
    base: Path,
    adapter_folder: Path,
    gated: Gated,
    texts: Texts,
    scale: float,
) -> dict[str, Any]:
    """How far the quantised graph that was trained is from the full-precision one that is shipped.

    It is reported and never fails.
    """
    config = adapter.read_config(adapter_folder)
    quantization = config["quantization"]
    image = quantised_image(quantization, config["compute_dtype"])
    if image is None:
        return {"quantization": quantization, "measured": False}
    plain = Shards(base)

    def quantised(name: str) -> Tensor:
        return image(name, plain(name))

    trained = Gated(base, adapter_folder, quantised, texts)
    found = distance(texts.real, trained.scaled(scale), gated.scaled(scale))
    facts: dict[str, Any] = {
        "quantization": quantization,
        "measured": True,
        **found.facts(),
    }
    was = _head_verdicts(trained, texts)
    now = _head_verdicts(gated, texts)
    if was is not None and now is not None:
        # Code 0 is ALLOW: flips towards it are the dangerous ones.
        to_allow = (was != 0) & (now == 0)
        facts["verdicts"] = len(was)
        facts["verdict_flips"] = int((was != now).sum())
        facts["flips_to_allow"] = int(to_allow.sum())
    return facts


def _head_verdicts(model: Gated, texts: Texts) -> Int[Tensor, " texts"] | None:
    """Verdict codes that the heads read at the ends of the prompts."""
    if model.heads is None:
        return None
    states = texts.at_ends(model.states)
    roles: Tensor = model.heads(states)
    return roles[:, :3].argmax(-1)


def quantised_image(
    quantization: str, compute_dtype: str
) -> Callable[[str, Tensor], Tensor] | None:
    """What weights become when bitsandbytes quantises them, as a function of (name, weight).

    NF4 with double quantisation, or int8 with one scale a row. Of LLM.int8 only the weights are
    imitated, not the quantised activations. None for a base that was not quantised.
    """
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
        wide = weight.float()
        largest = wide.abs().amax(1, keepdim=True)
        # A row of zeros would divide by zero.
        step = largest.clamp(min=1e-12) / 127.0
        return (wide / step).round() * step

    return {"nf4": nf4, "int8": int8}.get(quantization)


def _is_quantised(name: str, weight: Tensor) -> bool:
    # Embedding, output matrix and norms stay as they are.
    return weight.ndim == 2 and name.startswith("model.layers.")


def parameters_of(base: Path) -> int:
    """Numbers in a folder's weights.

    Raises:
        ArtifactError: a folder without weights.
    """
    total = 0
    for _, shape in Shards(base).shapes().values():
        total += torch.Size(shape).numel()
    if not total:
        raise ArtifactError("no weights found", where=str(base), fix="dvc repro base")
    return total
