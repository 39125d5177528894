"""SO(8) laws: what exp, apply and fold must obey, whatever the numbers."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from so8t import rotation

SEEDS = st.integers(0, 2**32 - 1)
LAW = settings(max_examples=25, deadline=None)
FEW = settings(max_examples=2, deadline=None)
SCALES = st.sampled_from([1e-3, 0.1, 1.0, 3.0])


def drawn(
    seed: int, *shape: int, scale: float = 1.0, dtype: torch.dtype = torch.float64
) -> torch.Tensor:
    return (
        torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        .mul(scale)
        .to(dtype)
    )


@LAW
@given(SEEDS, SCALES, st.integers(1, 6))
def test_every_block_is_a_rotation(seed: int, scale: float, blocks: int) -> None:
    turned = rotation.exponential(rotation.skew(drawn(seed, blocks, rotation.FREE, scale=scale)))
    eye = torch.eye(8, dtype=torch.float64).expand(blocks, 8, 8)
    assert torch.allclose(turned.mT @ turned, eye, rtol=0, atol=1e-12)
    assert torch.allclose(
        torch.linalg.det(turned), torch.ones(blocks, dtype=torch.float64), rtol=0, atol=1e-12
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_zero_is_exactly_the_identity_in_every_dtype(dtype: torch.dtype) -> None:
    at_rest = rotation.exponential(rotation.skew(torch.zeros(5, rotation.FREE)))
    assert torch.equal(at_rest, torch.eye(8).expand(5, 8, 8))
    x = drawn(0, 3, 7, 40, scale=100.0, dtype=dtype)
    assert torch.equal(rotation.rotate(x, at_rest), x)


@LAW
@given(SEEDS, SCALES)
def test_fold_is_rotate_then_project_and_the_transposed_fold_is_not(
    seed: int, scale: float
) -> None:
    turned = rotation.exponential(
        rotation.skew(drawn(seed, 4, rotation.FREE, scale=max(scale, 0.1)))
    )
    weight, x = drawn(seed + 1, 10, 32), drawn(seed + 2, 6, 32)
    want = rotation.rotate(x, turned) @ weight.T
    assert torch.allclose(x @ rotation.fold(weight, turned).T, want, rtol=0, atol=1e-10)
    assert (x @ rotation.fold(weight, turned.mT).T - want).abs().max() > 0.1


@LAW
@given(SEEDS)
def test_the_fold_with_gradients_is_the_fold(seed: int) -> None:
    turned, weight = (
        rotation.exponential(rotation.skew(drawn(seed, 4, rotation.FREE))),
        drawn(seed + 1, 5, 32),
    )
    assert torch.allclose(
        rotation.fold_grad(weight, turned), rotation.fold(weight, turned), rtol=0, atol=1e-12
    )


@LAW
@given(SEEDS)
def test_rotate_acts_on_columns_block_by_block(seed: int) -> None:
    turned, x = (
        rotation.exponential(rotation.skew(drawn(seed, 3, rotation.FREE))),
        drawn(seed + 1, 24),
    )
    by_hand = torch.cat([turned[b] @ x[8 * b : 8 * b + 8] for b in range(3)])
    assert torch.allclose(rotation.rotate(x, turned), by_hand, rtol=0, atol=1e-12)


@settings(max_examples=5, deadline=None)
@given(SEEDS)
def test_gradients_of_rotate_and_of_the_whole_gate_are_right(seed: int) -> None:
    theta = drawn(seed, 2, rotation.FREE).requires_grad_()
    x = drawn(seed + 1, 3, 16).requires_grad_()
    turned = rotation.exponential(rotation.skew(theta)).detach().requires_grad_()
    assert torch.autograd.gradcheck(rotation.rotate, (x, turned))
    assert torch.autograd.gradcheck(
        lambda a, t: rotation.rotate(a, rotation.exponential(rotation.skew(t))), (x, theta)
    )


@LAW
@given(
    SEEDS,
    st.sampled_from([1e-4, 0.03, 0.1, 0.3, 1.0]),
    st.sampled_from([torch.float64, torch.float32]),
)
def test_the_gradient_of_the_exponential_is_the_librarys(
    seed: int, scale: float, dtype: torch.dtype
) -> None:
    """Both sides of SERIES_LIMIT: the series and the block matrix."""
    theta = drawn(seed, 5, rotation.FREE, scale=scale, dtype=dtype).requires_grad_()
    weight = drawn(seed + 1, 5, 8, 8, dtype=dtype)
    got = torch.autograd.grad((rotation.exponential(rotation.skew(theta)) * weight).sum(), theta)[0]
    want = torch.autograd.grad(
        (torch.linalg.matrix_exp(rotation.skew(theta)) * weight).sum(), theta
    )[0]
    assert torch.allclose(
        got, want, rtol=0, atol=100 * torch.finfo(dtype).eps * float(want.abs().max())
    )  # seen: 29 in 151 draws


@pytest.mark.parametrize("blocks", [1, 2, 3, 4, 7])
def test_odd_and_even_counts_of_blocks_rotate_alike(blocks: int) -> None:
    turned = rotation.exponential(rotation.skew(drawn(5, blocks, rotation.FREE))).requires_grad_()
    x = drawn(6, 4, 8 * blocks).requires_grad_()
    want = torch.einsum("tbj,bij->tbi", x.reshape(4, blocks, 8), turned).reshape(4, -1)
    grad = drawn(7, 4, 8 * blocks)
    assert torch.allclose(rotation.rotate(x, turned), want, rtol=0, atol=1e-13)
    for got, expected in zip(
        torch.autograd.grad(rotation.rotate(x, turned), (x, turned), grad),
        torch.autograd.grad(want, (x, turned), grad),
        strict=True,
    ):
        assert torch.allclose(got, expected, rtol=0, atol=1e-12)


def test_angles_are_those_of_the_planes_and_the_monitor_sees_a_scaled_block() -> None:
    theta = torch.zeros(1, rotation.FREE, dtype=torch.float64)
    planes = {(0, 1): 0.3, (2, 3): 0.2, (4, 5): 0.1, (6, 7): 0.05}
    rows, columns = torch.triu_indices(8, 8, 1).tolist()
    for k, pair in enumerate(zip(rows, columns, strict=True)):
        theta[0, k] = planes.get(pair, 0.0)
    assert torch.allclose(
        rotation.angles(theta), torch.tensor([[0.3, 0.2, 0.1, 0.05]], dtype=torch.float64)
    )
    turned = rotation.exponential(rotation.skew(theta))
    assert rotation.orthogonality_error(turned) < 1e-14
    assert rotation.orthogonality_error(turned * 1.01) == pytest.approx(0.0201, rel=1e-6)
