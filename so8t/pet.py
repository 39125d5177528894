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
CHUNK = 1 << 22  # numbers of hidden state that backward holds in float32 at once, a few times over


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
    same = (
        (samples[:, :-2] == samples[:, 1:-1])
        & (samples[:, 1:-1] == samples[:, 2:])
        & (samples[:, 1:-1] >= 0)
    )
    starts = torch.ones_like(samples[:, :-2], dtype=torch.bool)
    starts[:, 1:] = samples[:, 1:-2] != samples[:, :-3]  # position t-1 begins a sample
    return same & ~starts


def _segments(samples: Tensor) -> tuple[Tensor, int]:
    """Number the samples of all rows apart: (ids [rows, time], how many); padding shares an id and has weight 0."""
    per_row = int(samples.max()) + 1 if samples.numel() else 1
    offsets = torch.arange(samples.shape[0], device=samples.device)[:, None] * max(per_row, 1)
    return samples.clamp(min=0) + offsets, samples.shape[0] * max(per_row, 1)


def _penalty(states: Tensor, samples: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Sums over valid triples of a few rows, (normalised, raw); states [rows, time, width]."""
    h = states.float()
    u = h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + EPSILON)
    ids, count = _segments(samples)
    flat, real = ids.reshape(-1), (samples >= 0).float().reshape(-1)
    tokens = torch.zeros(count, device=u.device).index_add(0, flat, real).clamp(min=1.0)
    sums = torch.zeros(count, u.shape[-1], device=u.device).index_add(
        0, flat, u.reshape(-1, u.shape[-1]) * real[:, None]
    )
    centred = u - (sums / tokens[:, None])[ids]
    variance = (
        torch.zeros(count, device=u.device).index_add(
            0, flat, centred.pow(2).mean(-1).reshape(-1) * real
        )
        / tokens
    )
    second = (u[:, 2:] - 2.0 * u[:, 1:-1] + u[:, :-2]).pow(2).mean(-1)
    raw = (h[:, 2:] - 2.0 * h[:, 1:-1] + h[:, :-2]).detach().pow(2).mean(-1)
    normalised = second / (6.0 * variance[ids[:, 1:-1]] + EPSILON)
    return (normalised * valid).sum(), (raw * valid).sum()


def _chunks(states: Tensor) -> list[slice]:
    """Rows that are worked on together: at most CHUNK numbers, at least one row."""
    rows = max(1, CHUNK // max(1, states[0].numel()))
    return [slice(start, start + rows) for start in range(0, states.shape[0], rows)]


class _Penalty(torch.autograd.Function):
    """Keeps only a reference to the states (alive anyway) and recomputes piece by piece in backward."""

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx, states: Tensor, samples: Tensor, valid: Tensor
    ) -> Tensor:
        ctx.save_for_backward(states, samples, valid)
        parts = [
            torch.stack(_penalty(states[rows], samples[rows], valid[rows]))
            for rows in _chunks(states)
        ]
        return torch.stack(parts).sum(0)

    @staticmethod
    def backward(
        ctx: torch.autograd.function.FunctionCtx, grad: Tensor
    ) -> tuple[Tensor, None, None]:
        states, samples, valid = ctx.saved_tensors  # type: ignore[attr-defined]
        out = torch.empty_like(states)
        for rows in _chunks(states):
            with torch.enable_grad(), torch.autocast(states.device.type, enabled=False):
                piece = states[rows].detach().requires_grad_()
                penalty, _ = _penalty(piece, samples[rows], valid[rows])
                out[rows] = torch.autograd.grad(penalty, piece, grad[0])[0]
        return out, None, None


def penalty_sums(
    states: Float[Tensor, "batch time width"],
    samples: Int[Tensor, "batch time"],
    valid: Bool[Tensor, "batch time-2"],
) -> Float[Tensor, "2"]:
    """(normalised, raw) sums over valid triples; only the first has a gradient."""
    out: Tensor = _Penalty.apply(states, samples, valid)  # type: ignore[no-untyped-call]
    return out
