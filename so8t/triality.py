"""Triality: the vector and the two half-spin representations of so(8), from one generator.

so(8) has three inequivalent 8-dimensional representations: V, S+ and S-. With L_i the left multiplications by the
octonion units (L_i^T L_j + L_j^T L_i = 2 delta_ij), the plane rotation E_ij acts as E_ij on V, as L_i^T L_j / 2 on
S+ and as L_i L_j^T / 2 on S- (Baez, "The Octonions", section 2.4). The three exponentials of one generator leave
the trilinear form t(v, s, c) = c^T (sum_i v_i L_i) s unchanged, and a turn by 2 pi is -1 on the spinors.

Covered: the tables, generators, trilinear form. Not covered: heads (tuning.heads).
"""

from functools import cache
from itertools import combinations
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from so8t.rotation import BLOCK, exponential, skew

Representation = Literal["V", "S+", "S-"]
_LINES = (
    (1, 2, 3),
    (1, 4, 5),
    (1, 7, 6),
    (2, 4, 6),
    (2, 5, 7),
    (3, 4, 7),
    (3, 6, 5),
)  # the Fano plane


@cache
def left_multiplications() -> Float[Tensor, "8 8 8"]:
    """L[i] is the matrix of x -> e_i x on the octonions, float64."""
    table = torch.zeros(BLOCK, BLOCK, BLOCK, dtype=torch.float64)  # table[i, k, j] = (e_i e_j)_k
    for i in range(BLOCK):
        table[0, i, i] = table[i, i, 0] = 1.0
    for i in range(1, BLOCK):
        table[i, 0, i] = -1.0
    for line in _LINES:
        for a, b, c in (line, line[1:] + line[:1], line[2:] + line[:2]):
            table[a, c, b], table[b, c, a] = 1.0, -1.0
    return table


@cache
def _basis(representation: Representation) -> Float[Tensor, "28 8 8"]:
    units = left_multiplications()
    pairs = list(combinations(range(BLOCK), 2))
    if representation == "S+":
        return torch.stack([0.5 * units[i].T @ units[j] for i, j in pairs])
    return torch.stack([0.5 * units[i] @ units[j].T for i, j in pairs])


def generator(
    theta: Float[Tensor, "blocks 28"], representation: Representation
) -> Float[Tensor, "blocks 8 8"]:
    """The skew matrices by which the generator with upper triangle `theta` acts on V, S+ or S-."""
    if representation == "V":
        return skew(theta)
    return torch.einsum("bp,pij->bij", theta, _basis(representation).to(theta))


def rotation(
    theta: Float[Tensor, "blocks 28"], representation: Representation
) -> Float[Tensor, "blocks 8 8"]:
    """exp of `generator`."""
    return exponential(generator(theta, representation))


def trilinear(
    v: Float[Tensor, " 8"], s: Float[Tensor, " 8"], c: Float[Tensor, " 8"]
) -> Float[Tensor, ""]:
    """t(v, s, c) = c^T (sum_i v_i L_i) s, invariant under (R_V, R_S+, R_S-)."""
    return torch.einsum("i,ikj,k,j->", v, left_multiplications().to(v), c, s)
