"""PET: a penalty on the second difference of hidden states along time, and its three-phase weight.

The name and the idea are those of the founding documents (the design notes that this project
started from): hidden states that move smoothly from token to token.

For each sample, with h_t the hidden state of token t:

    u_t     = h_t / rms(h_t)
    V       = mean_t |u_t - mean_t u|^2 / width
    penalty = mean over valid triples of |u_{t+1} - 2 u_t + u_{t-1}|^2 / (6 V width)

It is 1 for white noise, whose second difference has six times its variance. It does not see the
scale of h, and neither a constant offset nor a few giant tokens lower it; with simpler normalisers
the optimiser lowered the penalty in exactly these ways. A slow drift of all states still does:
nothing is claimed for it.

A triple of neighbouring tokens is valid when all three are real, belong to one sample, and none is
the sample's first token.

Not covered: which layers are penalised (so8t.training.objective).
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

EPSILON = 1e-6
# Numbers of hidden state that are worked on at once: 16 MB in float32, of which backward holds a
# few copies. Working row by row instead cost thousands of small operations a step.
CHUNK = 1 << 22


@dataclass(frozen=True, slots=True)
class Schedule:
    """Piecewise constant multipliers of `pet.lambda` by progress (step / total steps)."""

    boundaries: tuple[float, float]
    multipliers: tuple[float, float, float]

    def weight(self, base: float, progress: float) -> float:
        """The weight at `progress` in [0, 1]; the last phase includes its end."""
        phase = sum(progress >= boundary for boundary in self.boundaries)
        return base * self.multipliers[phase]


# The three runs of the founding documents, as multiples of the lambda in their middle phase:
# run B had 0.01/0.05/0.1, run L 0.05/0.2/0.5, and run P the weights of B at L's boundaries.
PRESETS = {
    "run_b": Schedule((0.2, 0.6), (0.2, 1.0, 2.0)),
    "run_l": Schedule((0.3, 0.7), (0.25, 1.0, 2.5)),
    "run_p": Schedule((0.3, 0.7), (0.2, 1.0, 2.0)),
    "constant": Schedule((0.0, 1.0), (1.0, 1.0, 1.0)),
}


def valid_triples(samples: Int[Tensor, "batch time"]) -> Bool[Tensor, "batch time-2"]:
    """Whether the triple around each token t = 1..time-2 counts.

    Args:
        samples: number of the sample that each token belongs to; -1 is padding.
    """
    before = samples[:, :-2]
    centre = samples[:, 1:-1]
    after = samples[:, 2:]
    of_one_sample = (before == centre) & (centre == after) & (centre >= 0)
    # The token before the centre is its sample's first one: always so in the first triple of a
    # row, elsewhere where the token before it has another sample's number.
    has_first = torch.ones_like(before, dtype=torch.bool)
    has_first[:, 1:] = before[:, 1:] != before[:, :-1]
    return of_one_sample & ~has_first


def _segments(samples: Tensor) -> tuple[Tensor, int]:
    """Number the samples of all rows apart.

    Returns:
        Ids [rows, time], and how many there may be. Padding shares the id of its row's first
        sample; the caller must give it weight 0.
    """
    rows = samples.shape[0]
    per_row = 1
    if samples.numel():
        per_row = max(int(samples.max()) + 1, 1)
    offsets = torch.arange(rows, device=samples.device) * per_row
    return samples.clamp(min=0) + offsets[:, None], rows * per_row


def _second_difference(x: Tensor) -> Tensor:
    """Along time: [rows, time, width] to [rows, time-2, width]."""
    after = x[:, 2:]
    centre = x[:, 1:-1]
    before = x[:, :-2]
    return after - 2.0 * centre + before


def _variances(u: Tensor, samples: Tensor, ids: Tensor, count: int) -> Tensor:
    """The variance V of each sample.

    Args:
        u: normalised states [rows, time, width].
        samples: as in `valid_triples`.
        ids, count: what `_segments(samples)` gives.

    Returns:
        One number for each of the `count` ids; 0 for an id that no token has.
    """
    width = u.shape[-1]
    flat = ids.reshape(-1)
    is_real = (samples >= 0).float()
    is_real = is_real.reshape(-1)

    zeros = torch.zeros(count, device=u.device)
    tokens = zeros.index_add(0, flat, is_real)
    # A row with fewer samples than another leaves ids without a token: do not divide by 0.
    tokens = tokens.clamp(min=1.0)

    vectors = u.reshape(-1, width) * is_real[:, None]
    no_sums = torch.zeros(count, width, device=u.device)
    sums = no_sums.index_add(0, flat, vectors)
    means = sums / tokens[:, None]

    centred = u - means[ids]
    squares = centred.pow(2).mean(-1)
    squares = squares.reshape(-1)
    totals = zeros.index_add(0, flat, squares * is_real)
    return totals / tokens


def _penalty(states: Tensor, samples: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Sums over valid triples of a few rows, (normalised, raw); states [rows, time, width]."""
    # In float32: squares of half-precision states overflow.
    h = states.float()
    mean_squares = h.pow(2).mean(-1, keepdim=True)
    u = h * torch.rsqrt(mean_squares + EPSILON)
    ids, count = _segments(samples)
    variances = _variances(u, samples, ids, count)
    second = _second_difference(u)
    second = second.pow(2).mean(-1)
    # Without a gradient: it is reported, not minimised.
    raw = _second_difference(h).detach()
    raw = raw.pow(2).mean(-1)
    centres = ids[:, 1:-1]
    normalised = second / (6.0 * variances[centres] + EPSILON)
    normalised_sum = (normalised * valid).sum()
    return normalised_sum, (raw * valid).sum()


def _chunks(states: Tensor) -> list[slice]:
    """Rows that are worked on together: at most CHUNK numbers, at least one row."""
    total = states.shape[0]
    per_row = max(1, states[0].numel())
    rows = max(1, CHUNK // per_row)
    return [slice(start, start + rows) for start in range(0, total, rows)]


class _Penalty(torch.autograd.Function):
    """The two sums, with a backward pass that recomputes them chunk by chunk.

    Only a reference to the states is kept, and those are alive anyway; autograd's own graph would
    hold several float32 copies of every layer's states until backward.
    """

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx, states: Tensor, samples: Tensor, valid: Tensor
    ) -> Tensor:
        ctx.save_for_backward(states, samples, valid)
        parts = []
        for rows in _chunks(states):
            sums = _penalty(states[rows], samples[rows], valid[rows])
            parts.append(torch.stack(sums))
        return torch.stack(parts).sum(0)

    @staticmethod
    def backward(
        ctx: torch.autograd.function.FunctionCtx, grad: Tensor
    ) -> tuple[Tensor, None, None]:
        states, samples, valid = ctx.saved_tensors  # type: ignore[attr-defined]
        out = torch.empty_like(states)
        for rows in _chunks(states):
            # Backward starts with gradients off; and autocast, if on, would narrow float32 again.
            with torch.enable_grad(), torch.autocast(states.device.type, enabled=False):
                piece = states[rows].detach().requires_grad_()
                penalty, _ = _penalty(piece, samples[rows], valid[rows])
                # grad[1] belongs to the raw sum, which is only monitored.
                gradients = torch.autograd.grad(penalty, piece, grad[0])
                out[rows] = gradients[0]
        return out, None, None


def penalty_sums(
    states: Float[Tensor, "batch time width"],
    samples: Int[Tensor, "batch time"],
    valid: Bool[Tensor, "batch time-2"],
) -> Float[Tensor, "2"]:
    """Sums over valid triples: the normalised penalty, and the raw one without u's normalisation.

    Args:
        states: hidden states of one layer, in any floating-point type.
        samples: number of the sample that each token belongs to; -1 is padding.
        valid: what `valid_triples(samples)` gives.

    Returns:
        Two float32 numbers; only the first has a gradient.
    """
    out: Tensor = _Penalty.apply(states, samples, valid)  # type: ignore[no-untyped-call]
    return out
