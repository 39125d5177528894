"""PET against a NumPy oracle that walks over triples one by one, its invariances, and the attacks on it."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from so8t import pet

SEEDS = st.integers(0, 2**32 - 1)


def oracle(states: np.ndarray, samples: np.ndarray) -> tuple[float, float, int]:
    """(normalised, raw, triples), from the definition in pet's docstring, in float64 and loops."""
    normalised = raw = 0.0
    count = 0
    for h, ids in zip(states.astype(np.float64), samples, strict=True):
        u = h / np.sqrt((h**2).mean(-1, keepdims=True) + pet.EPSILON)
        for t in range(1, len(ids) - 1):
            if ids[t] < 0 or ids[t - 1] != ids[t] or ids[t + 1] != ids[t]:
                continue
            if t == 1 or ids[t - 2] != ids[t]:
                continue  # the triple begins with the sample's first token
            mine = u[ids == ids[t]]
            variance = ((mine - mine.mean(0)) ** 2).mean()
            normalised += ((u[t + 1] - 2 * u[t] + u[t - 1]) ** 2).mean() / (
                6 * variance + pet.EPSILON
            )
            raw += ((h[t + 1] - 2 * h[t] + h[t - 1]) ** 2).mean()
            count += 1
    return normalised, raw, count


def differentiable_oracle(states: torch.Tensor, samples: torch.Tensor) -> torch.Tensor:
    """The normalised sum with autograd's own gradient, in loops."""
    total = torch.zeros((), dtype=torch.float64)
    for h, ids in zip(states.double(), samples.tolist(), strict=True):
        u = h / (h.pow(2).mean(-1, keepdim=True) + pet.EPSILON).sqrt()
        for t in range(2, len(ids) - 1):
            if ids[t] >= 0 and len({ids[t - 2], ids[t - 1], ids[t], ids[t + 1]}) == 1:
                mine = u[torch.tensor(ids) == ids[t]]
                variance = (mine - mine.mean(0)).pow(2).mean()
                total = total + (u[t + 1] - 2 * u[t] + u[t - 1]).pow(2).mean() / (
                    6 * variance + pet.EPSILON
                )
    return total


def penalty(states: torch.Tensor, samples: torch.Tensor) -> float:
    valid = pet.valid_triples(samples)
    return float(pet.penalty_sums(states, samples, valid)[0]) / max(int(valid.sum()), 1)


def one_sample(time: int) -> torch.Tensor:
    return torch.zeros(1, time, dtype=torch.long)


@st.composite
def packings(draw: st.DrawFn) -> np.ndarray:
    """Sample ids of a batch: segments of random lengths, then padding; lengths below three included."""
    time = draw(st.integers(3, 24))
    batch = []
    for _ in range(draw(st.integers(1, 3))):
        lengths = draw(st.lists(st.integers(1, 9), min_size=1, max_size=6))
        ids = np.repeat(np.arange(len(lengths)), lengths)[:time]
        batch.append(np.pad(ids, (0, time - len(ids)), constant_values=-1))
    return np.stack(batch)


@settings(max_examples=40, deadline=None)
@given(packings(), SEEDS)
def test_penalty_equals_the_oracle_under_random_masks_and_packings(
    samples: np.ndarray, seed: int
) -> None:
    states = np.random.default_rng(seed).normal(size=(*samples.shape, 8)).astype(np.float32)
    ids = torch.from_numpy(samples)
    valid = pet.valid_triples(ids)
    normalised, raw = pet.penalty_sums(torch.from_numpy(states), ids, valid)
    want = oracle(states, samples)
    assert int(valid.sum()) == want[2]
    assert float(normalised) == pytest.approx(want[0], rel=1e-4, abs=1e-5)
    assert float(raw) == pytest.approx(want[1], rel=1e-4, abs=1e-5)


def test_padding_and_neighbouring_samples_change_nothing() -> None:
    states = torch.randn(1, 9, 16, generator=torch.Generator().manual_seed(0))
    alone = pet.penalty_sums(states, one_sample(9), pet.valid_triples(one_sample(9)))
    padded = torch.cat([states, torch.full((1, 4, 16), 1e6)], dim=1)
    ids = torch.tensor([[0] * 9 + [-1] * 4])
    assert torch.allclose(pet.penalty_sums(padded, ids, pet.valid_triples(ids)), alone)
    other = torch.randn(1, 7, 16, generator=torch.Generator().manual_seed(1)) * 50
    packed, ids = torch.cat([states, other], dim=1), torch.tensor([[0] * 9 + [1] * 7])
    apart = alone + pet.penalty_sums(other, one_sample(7), pet.valid_triples(one_sample(7)))
    assert torch.allclose(pet.penalty_sums(packed, ids, pet.valid_triples(ids)), apart)


def test_a_triple_needs_three_tokens_of_one_sample_and_not_its_first() -> None:
    ids = torch.tensor([[0, 0, 0, 0, 1, 1, 1, -1, -1, -1]])
    centres = (pet.valid_triples(ids)[0].nonzero()[:, 0] + 1).tolist()
    assert centres == [2]


def test_white_noise_scores_one_whatever_its_scale() -> None:
    noise = torch.randn(4, 512, 32, generator=torch.Generator().manual_seed(2))
    ids = torch.zeros(4, 512, dtype=torch.long)
    assert penalty(noise, ids) == pytest.approx(1.0, abs=0.02)
    assert penalty(noise * 1000.0, ids) == pytest.approx(penalty(noise, ids), rel=1e-4)


def test_offset_and_giant_tokens_do_not_lower_it_and_slow_drift_does() -> None:
    noise = torch.randn(1, 256, 32, generator=torch.Generator().manual_seed(3))
    before = penalty(noise, one_sample(256))
    offset = noise + 3.0 * torch.randn(32, generator=torch.Generator().manual_seed(4)).sign()
    assert penalty(offset, one_sample(256)) > 0.9 * before
    giant = noise.clone()
    giant[:, [20, 120, 220]] *= 300.0
    assert penalty(giant, one_sample(256)) > 0.9 * before
    ramp = torch.linspace(-6.0, 6.0, 256)[None, :, None] * torch.randn(
        32, generator=torch.Generator().manual_seed(5)
    )
    assert (
        penalty(noise + ramp, one_sample(256)) < 0.5 * before
    )  # the known limit: nothing is claimed for PET


def test_gradient_is_that_of_the_plain_formula_and_scales_with_the_loss() -> None:
    states = torch.randn(2, 12, 8, generator=torch.Generator().manual_seed(6)).requires_grad_()
    ids = torch.tensor([[0] * 7 + [1] * 5, [0] * 9 + [-1] * 3])
    valid = pet.valid_triples(ids)
    want = torch.autograd.grad(differentiable_oracle(states, ids), states)[0]
    got = torch.autograd.grad(pet.penalty_sums(states, ids, valid)[0], states)[0]
    assert torch.allclose(got, want, rtol=1e-5, atol=1e-7)
    scaled = torch.autograd.grad(pet.penalty_sums(states, ids, valid)[0] * 65536.0, states)[0]
    assert torch.equal(
        scaled, got * 65536.0
    )  # not clamped, whatever the loss scale (the origin's hook was)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_states_get_a_gradient_of_their_dtype(dtype: torch.dtype) -> None:
    states = (
        torch.randn(1, 12, 8, generator=torch.Generator().manual_seed(7)).to(dtype).requires_grad_()
    )
    pet.penalty_sums(states, one_sample(12), pet.valid_triples(one_sample(12)))[0].backward()
    assert states.grad is not None
    assert states.grad.dtype == dtype
    assert torch.isfinite(states.grad).all()


@pytest.mark.parametrize("name", sorted(pet.PRESETS))
def test_presets_cover_all_progress_and_include_the_end(name: str) -> None:
    schedule = pet.PRESETS[name]
    assert schedule.weight(0.05, 0.0) == 0.05 * (
        1.0 if name == "constant" else schedule.multipliers[0]
    )
    assert schedule.weight(0.05, 1.0) == 0.05 * schedule.multipliers[2]
    assert schedule.weight(0.0, 0.5) == 0.0


def test_the_founders_weights_come_out_of_the_presets() -> None:
    at = (0.0, 0.4, 0.9)
    assert [round(pet.PRESETS["run_b"].weight(0.05, p), 6) for p in at] == [0.01, 0.05, 0.1]
    assert [round(pet.PRESETS["run_p"].weight(0.05, p), 6) for p in at] == [0.01, 0.05, 0.1]
    assert [round(pet.PRESETS["run_l"].weight(0.2, p), 6) for p in at] == [0.05, 0.2, 0.5]
