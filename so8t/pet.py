"""PET: a penalty on the second difference of hidden states along time, and its three-phase weight.

For each sample, u_t = h_t / rms(h_t), V = mean_t |u_t - mean_t u|^2, and the penalty is the mean over valid triples of
|u_{t+1} - 2 u_t + u_{t-1}|^2 / (6 V): 1 for white noise, blind to the scale of h, and neither a constant offset nor a
few giant tokens lower it (simpler normalisers were gamed by the optimiser). A slow drift of all states still does:
nothing is claimed for it. A triple is valid when its three tokens are real, of one sample, and none is the first.

Covered: penalty, gradient without saved activations, schedule. Not covered: which layers (tuning.train).
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

EPSILON = 1e-6


@dataclass(frozen=True, slots=True)
class Schedule:
    """Piecewise constant multipliers of `pet.lambda` by progress (step / total steps)."""

    boundaries: tuple[float, float]
    multipliers: tuple[float, float, float]

    def weight(self, base: float, progress: float) -> float:
        """The weight at `progress` in [0, 1]; the last phase includes its end."""
        phase = sum(progress >= boundary for boundary in self.boundaries)
        return base * self.multipliers[phase]


# The founding documents' runs: B 0.01/0.05/0.1, L 0.05/0.2/0.5, P 0.01/0.05/0.1 with later boundaries.
PRESETS = {
    "run_b": Schedule((0.2, 0.6), (0.2, 1.0, 2.0)),
    "run_l": Schedule((0.3, 0.7), (0.25, 1.0, 2.5)),
    "run_p": Schedule((0.3, 0.7), (0.2, 1.0, 2.0)),
    "constant": Schedule((0.0, 1.0), (1.0, 1.0, 1.0)),
}


def valid_triples(samples: Int[Tensor, "batch time"]) -> Bool[Tensor, "batch time-2"]:
    """Centres t = 1..T-2 whose triple lies in one sample (`samples` >= 0; -1 is padding) after its first token."""
    same = (samples[:, :-2] == samples[:, 1:-1]) & (samples[:, 1:-1] == samples[:, 2:]) & (samples[:, 1:-1] >= 0)
    starts = torch.ones_like(samples[:, :-2], dtype=torch.bool)
    starts[:, 1:] = samples[:, 1:-2] != samples[:, :-3]  # position t-1 begins a sample
    return same & ~starts


def _row_penalty(states: Tensor, samples: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Sums over valid triples of one row, (normalised, raw); states [time, width]."""
    h = states.float()
    u = h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + EPSILON)
    ids = samples.clamp(min=0)
    real = (samples >= 0).float()
    segments = int(ids.max()) + 1
    count = torch.zeros(segments, device=u.device).index_add(0, ids, real).clamp(min=1.0)
    mean = torch.zeros(segments, u.shape[-1], device=u.device).index_add(0, ids, u * real[:, None]) / count[:, None]
    spread = ((u - mean[ids]).pow(2).mean(-1) * real)
    variance = torch.zeros(segments, device=u.device).index_add(0, ids, spread) / count
    second = (u[2:] - 2.0 * u[1:-1] + u[:-2]).pow(2).mean(-1)
    raw = (h[2:] - 2.0 * h[1:-1] + h[:-2]).pow(2).mean(-1)
    normalised = second / (6.0 * variance[ids[1:-1]] + EPSILON)
    return (normalised * valid).sum(), (raw.detach() * valid).sum()


class _Penalty(torch.autograd.Function):
    """Keeps only a reference to the states (alive anyway) and recomputes row by row in backward."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, states: Tensor, samples: Tensor, valid: Tensor) -> Tensor:
        ctx.save_for_backward(states, samples, valid)
        rows = [_row_penalty(states[b], samples[b], valid[b]) for b in range(states.shape[0])]
        return torch.stack([torch.stack(row) for row in rows]).sum(0)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        states, samples, valid = ctx.saved_tensors  # type: ignore[attr-defined]
        out = torch.empty_like(states)
        for b in range(states.shape[0]):
            with torch.enable_grad(), torch.autocast(states.device.type, enabled=False):
                row = states[b].detach().requires_grad_()
                penalty, _ = _row_penalty(row, samples[b], valid[b])
                out[b] = torch.autograd.grad(penalty, row, grad[0])[0]
        return out, None, None


def penalty_sums(states: Float[Tensor, "batch time width"], samples: Int[Tensor, "batch time"],
                 valid: Bool[Tensor, "batch time-2"]) -> Float[Tensor, "2"]:
    """(normalised, raw) sums over valid triples; only the first has a gradient."""
    out: Tensor = _Penalty.apply(states, samples, valid)  # type: ignore[no-untyped-call]
    return out
