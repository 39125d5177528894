"""Triality: the vector and the two half-spin representations of so(8), from one generator.

so(8) has three inequivalent 8-dimensional representations: the vectors V and the half-spinors S+
and S-. That there are three of one size, which the symmetry of so(8) exchanges, is its triality.

With L_i the left multiplications by the octonion units (L_i^T L_j + L_j^T L_i = 2 delta_ij), the
plane rotation E_ij acts

    on V  as E_ij itself,
    on S+ as L_i^T L_j / 2,
    on S- as L_i L_j^T / 2

(Baez, "The Octonions", section 2.4). The three exponentials of one generator leave the trilinear
form t(v, s, c) = c^T (sum_i v_i L_i) s unchanged, and a turn by 2 pi is -1 on the spinors.

Not covered: the heads that read two of the representations (so8t.training.heads).
"""

from functools import cache
from itertools import combinations
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from so8t.rotation import BLOCK, exponential, skew

Representation = Literal["V", "S+", "S-"]
# The lines of the Fano plane: e_a e_b = e_c for each (a, b, c) and its cyclic shifts, and
# e_b e_a = -e_c. These seven triples are the multiplication table of the octonions.
_LINES = (
    (1, 2, 3),
    (1, 4, 5),
    (1, 7, 6),
    (2, 4, 6),
    (2, 5, 7),
    (3, 4, 7),
    (3, 6, 5),
)


@cache
def left_multiplications() -> Float[Tensor, "8 8 8"]:
    """L[i] is the matrix of x -> e_i x on the octonions: L[i, k, j] = (e_i e_j)_k; float64."""
    table = torch.zeros(BLOCK, BLOCK, BLOCK, dtype=torch.float64)
    # e_0 is the unit: e_0 e_i = e_i e_0 = e_i.
    for i in range(BLOCK):
        table[0, i, i] = 1.0
        table[i, i, 0] = 1.0
    # The others square to -1.
    for i in range(1, BLOCK):
        table[i, 0, i] = -1.0
    for x, y, z in _LINES:
        for a, b, c in ((x, y, z), (y, z, x), (z, x, y)):
            table[a, c, b] = 1.0
            table[b, c, a] = -1.0
    return table


@cache
def _basis(representation: Literal["S+", "S-"]) -> Float[Tensor, "28 8 8"]:
    """How the 28 plane rotations E_ij, i < j, act on a half-spin representation; float64."""
    units = left_multiplications()
    generators = []
    # The order of `combinations` is that of the upper triangle in `skew`, row by row.
    for i, j in combinations(range(BLOCK), 2):
        if representation == "S+":
            generators.append(0.5 * units[i].T @ units[j])
        else:
            generators.append(0.5 * units[i] @ units[j].T)
    return torch.stack(generators)


def generator(
    theta: Float[Tensor, "blocks 28"], representation: Representation
) -> Float[Tensor, "blocks 8 8"]:
    """The skew matrices by which the generator with upper triangle `theta` acts on V, S+ or S-."""
    if representation == "V":
        return skew(theta)
    basis = _basis(representation).to(theta)
    return torch.einsum("bp,pij->bij", theta, basis)


def rotation(
    theta: Float[Tensor, "blocks 28"], representation: Representation
) -> Float[Tensor, "blocks 8 8"]:
    """exp of `generator`: how the rotation with these 28 numbers acts on V, S+ or S-."""
    return exponential(generator(theta, representation))


def trilinear(
    v: Float[Tensor, " 8"], s: Float[Tensor, " 8"], c: Float[Tensor, " 8"]
) -> Float[Tensor, ""]:
    """t(v, s, c) = c^T (sum_i v_i L_i) s, invariant under (R_V, R_S+, R_S-)."""
    multiplications = left_multiplications().to(v)
    return torch.einsum("i,ikj,k,j->", v, multiplications, c, s)
