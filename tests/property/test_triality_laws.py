"""Spin(8) laws: two spinor maps that are real representations, inequivalent to V and to each other, tied by one invariant."""

from itertools import combinations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from so8t import rotation, triality

SEEDS = st.integers(0, 2**32 - 1)
LAW = settings(max_examples=25, deadline=None)
FEW = settings(max_examples=2, deadline=None)
REPRESENTATIONS: tuple[triality.Representation, ...] = ("V", "S+", "S-")
UNITS = torch.eye(rotation.FREE, dtype=torch.float64)


def drawn(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def upper(matrix: torch.Tensor) -> torch.Tensor:
    rows, columns = torch.triu_indices(8, 8, 1)
    return matrix[..., rows, columns]


def test_octonion_units_obey_the_clifford_relation() -> None:
    units = triality.left_multiplications()
    for i in range(8):
        for j in range(8):
            want = 2.0 * torch.eye(8, dtype=torch.float64) * (i == j)
            assert torch.equal(units[i].T @ units[j] + units[j].T @ units[i], want)


@pytest.mark.parametrize("representation", ["S+", "S-"])
def test_both_spinor_maps_keep_all_784_brackets(representation: triality.Representation) -> None:
    vectors = triality.generator(UNITS, "V")
    spinors = triality.generator(UNITS, representation)
    for a in range(rotation.FREE):
        bracket = vectors[a] @ vectors - vectors @ vectors[a]
        image = triality.generator(upper(bracket), representation)
        assert torch.equal(image, spinors[a] @ spinors - spinors @ spinors[a])


@LAW
@given(SEEDS)
def test_every_generator_is_skew_in_every_representation(seed: int) -> None:
    for representation in REPRESENTATIONS:
        made = triality.generator(drawn(seed, 3, rotation.FREE), representation)
        assert torch.allclose(made, -made.mT, rtol=0, atol=1e-15)
        assert made.abs().max() > 0.1


@LAW
@given(SEEDS)
def test_the_three_representations_have_different_spectra(seed: int) -> None:
    theta = drawn(seed, 1, rotation.FREE)
    spectra = [
        torch.linalg.eigvals(triality.generator(theta, r)[0]).imag.sort().values
        for r in REPRESENTATIONS
    ]
    for one, other in combinations(spectra, 2):
        assert (one - other).abs().max() > 1e-6


def test_no_matrix_intertwines_two_of_them() -> None:
    """dim Hom is 1 on the diagonal and 0 beside it: the null space of X rho(E) - sigma(E) X over all 28 generators."""
    eye = torch.eye(8, dtype=torch.float64)
    for one in REPRESENTATIONS:
        for other in REPRESENTATIONS:
            pairs = zip(
                triality.generator(UNITS, one), triality.generator(UNITS, other), strict=True
            )
            system = torch.cat(
                [
                    torch.kron(eye, rho.T.contiguous()) - torch.kron(sigma.contiguous(), eye)
                    for rho, sigma in pairs
                ]
            )
            null = 64 - int(torch.linalg.matrix_rank(system))
            assert null == (1 if one == other else 0)


def test_a_full_turn_is_plus_one_on_vectors_and_minus_one_on_spinors() -> None:
    for plane in range(rotation.FREE):
        theta = (2.0 * torch.pi * UNITS[plane])[None]
        eye = torch.eye(8, dtype=torch.float64)
        assert torch.allclose(triality.rotation(theta, "V")[0], eye, rtol=0, atol=1e-12)
        for spinor in ("S+", "S-"):
            assert torch.allclose(triality.rotation(theta, spinor)[0], -eye, rtol=0, atol=1e-12)


@settings(max_examples=50, deadline=None)
@given(SEEDS)
def test_the_trilinear_form_is_invariant_and_not_under_a_wrong_frame(seed: int) -> None:
    theta = drawn(seed, 1, rotation.FREE)
    v, s, c = (drawn(seed + k, 8) / 8**0.5 for k in (1, 2, 3))
    turned = {r: triality.rotation(theta, r)[0] for r in REPRESENTATIONS}
    want = triality.trilinear(v, s, c)
    assert (
        abs(triality.trilinear(turned["V"] @ v, turned["S+"] @ s, turned["S-"] @ c) - want) < 1e-12
    )
    wrong = [
        triality.trilinear(turned["V"] @ v, turned["S-"] @ s, turned["S+"] @ c),
        triality.trilinear(turned["V"] @ v, turned["V"] @ s, turned["V"] @ c),
    ]
    assert max(abs(w - want) for w in wrong) > 1e-4


@settings(max_examples=5, deadline=None)
@given(SEEDS)
def test_gradients_through_the_spinor_rotations_are_right(seed: int) -> None:
    theta = drawn(seed, 1, rotation.FREE).requires_grad_()
    for representation in ("S+", "S-"):
        assert torch.autograd.gradcheck(
            lambda t, r=representation: triality.rotation(t, r), (theta,)
        )
