"""Gated and baked logits side by side, through the real forward passes, and against the base that must differ."""

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from so8t.errors import GateError
from so8t.tuning import adapter
from so8t.tuning.load import load_full
from so8t.tuning.objective import Objective

LIMIT = 1e-4  # of the largest logit, fp32, every position (DESIGN section 8)
CHANGED = 1e-3  # of the largest logit: a bake that did nothing is not a bake
SCALES = (1.0, 0.5, 0.25, 0.1, 0.05)
MASS_LIMIT = 1e-3  # mean sampling mass on the reserved ids


class Gated:
    """The reference: unquantised base + LoRA + gates + heads, in float32."""

    def __init__(self, base: Path, adapter_folder: Path) -> None:
        model, self.gates, self.heads = adapter.load(adapter_folder, load_full(base))
        self.objective = Objective(model, self.heads, use_pet=False).eval()

    @torch.no_grad()
    def logits(self, ids: list[int], scale: float) -> Float[Tensor, "time vocab"]:
        """Full-vocabulary logits of one conversation, reserved columns scaled."""
        from so8t.tuning.load import bare

        batch = torch.tensor([ids])
        hidden = bare(self.objective.model).model(input_ids=batch, use_cache=False).last_hidden_state
        logits = self.objective.logits(hidden)[0]
        if self.heads is not None and scale != 1.0:
            logits[:, self.heads.token_ids] *= scale
        return logits


@torch.no_grad()
def _stock_logits(model: Any, ids: list[int]) -> Float[Tensor, "time vocab"]:
    out: Tensor = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]
    return out.float()


def row_scale(gated: Gated, texts: list[list[int]]) -> tuple[float, dict[str, float]]:
    """The largest scale at which reserved tokens are never the greedy choice and hold little mass, and what was measured.

    Every scale is measured; when none is small enough the one with the least mass is used, and `verify` reports it.
    """
    if gated.heads is None:
        return 1.0, {"mean_mass": 0.0, "max_mass": 0.0, "greedy": 0.0}
    logits = torch.cat([gated.logits(ids, 1.0) for ids in texts])
    measured = {}
    for scale in SCALES:
        scaled = logits.clone()
        scaled[:, gated.heads.token_ids] *= scale
        mass = scaled.softmax(-1)[:, gated.heads.token_ids].sum(-1)
        greedy = torch.isin(scaled.argmax(-1), torch.tensor(gated.heads.token_ids)).float().mean()
        measured[scale] = {"mean_mass": float(mass.mean()), "max_mass": float(mass.max()), "greedy": float(greedy)}
        if measured[scale]["mean_mass"] < MASS_LIMIT and measured[scale]["greedy"] == 0.0:
            return scale, measured[scale]
    best = min(measured, key=lambda s: (measured[s]["greedy"], measured[s]["mean_mass"]))
    return best, measured[best]


def prove(gated: Gated, base: Path, baked: Path, texts: list[list[int]], scale: float) -> dict[str, Any]:
    """Compare at every position of `texts`.

    Raises:
        GateError: baked differs from gated by more than 1e-4 of the largest logit, or equals the base.
    """
    stock, plain = load_full(baked), load_full(base)
    error = change = largest = 0.0
    agree = positions = 0
    for ids in texts:
        want, got, before = gated.logits(ids, scale), _stock_logits(stock, ids), _stock_logits(plain, ids)
        error = max(error, float((want - got).abs().max()))
        change = max(change, float((before - got).abs().max()))
        largest = max(largest, float(want.abs().max()))
        agree += int((want.argmax(-1) == got.argmax(-1)).sum())
        positions += len(ids)
    facts = {"conversations": len(texts), "positions": positions, "max_abs_error": error, "largest_logit": largest,
             "relative_error": error / largest, "limit": LIMIT, "top1_agreement": agree / positions, "max_abs_change_from_base": change}
    if error > LIMIT * largest:
        raise GateError(f"baked and gated logits differ by {error:.3g} where logits reach {largest:.3g} (limit {LIMIT:g} of that)",
                        where=str(baked), fix="do not ship this model; report the architecture (a transposed fold looks like this)")
    if change < CHANGED * largest:
        raise GateError(f"the baked model equals its base (largest change {change:.3g})", where=str(baked), fix="train longer; gates and LoRA are still at their start")
    return facts
