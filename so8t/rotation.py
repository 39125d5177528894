"""SO(8) rotations in blocks of eight: the one module that says which way R acts.

A vector of `width` numbers is cut into width / 8 blocks, and each block is turned by a matrix of
its own. Vectors are columns: `rotate(x, R)` gives `R x` in every block. A projection W that follows
a rotation absorbs it as `W' = W R` (`fold`), because `W (R x) == (W R) x`.

A block rotation is `R = exp(S)` with S skew-symmetric (S^T = -S), stored as the 28 numbers `theta`
of S's upper triangle. Zero gives the identity, so that a model with untrained rotations is the base
model.

Orthogonal fine-tuning with a block of eight on a layer's input does the same (OFTv2,
arXiv 2506.19847); peft's OFT, with the exact Cayley transform, is what the tests compare with.

Not covered: where rotations sit in a model (so8t.training.gate), and the two spinor
representations of the same generators (so8t.triality).
"""

import torch
from jaxtyping import Float
from torch import Tensor

BLOCK = 8
# Numbers above the diagonal of a block: the dimension of SO(8).
FREE = BLOCK * (BLOCK - 1) // 2
# Norm of ad_S (see `_Exponential`) up to which the series of the backward pass is used; beyond it
# the terms grow before they shrink, and their sum loses digits.
SERIES_LIMIT = 3.0
_ROWS, _COLUMNS = torch.triu_indices(BLOCK, BLOCK, 1)


def skew(theta: Float[Tensor, "blocks 28"]) -> Float[Tensor, "blocks 8 8"]:
    """The skew-symmetric matrices whose upper triangles, row by row, are `theta`."""
    upper = theta.new_zeros(theta.shape[0], BLOCK, BLOCK)
    upper[:, _ROWS, _COLUMNS] = theta
    return upper - upper.mT


# --- the exponential ---


class _Exponential(torch.autograd.Function):
    """exp of skew blocks, with a backward pass at half the cost of the library's.

    With ad_S(X) = S X - X S and phi(x) = (e^x - 1) / x, the derivative of the exponential is
    d exp(S) = R phi(-ad_S)(dS). For skew S the adjoint of ad_S is -ad_S, so that the gradient is

        phi(ad_S)(R^T G) = sum_k ad_S^k(R^T G) / (k+1)!

    where G is the gradient with respect to R.
    """

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, generator: Tensor) -> Tensor:
        out: Tensor = torch.linalg.matrix_exp(generator)
        ctx.save_for_backward(generator, out)
        return out

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> Tensor:
        generator, out = ctx.saved_tensors  # type: ignore[attr-defined]
        # Bounds the norm of ad_S for every block: it is at most sqrt(2) times S's Frobenius norm.
        squared_norms = generator.square().sum((1, 2))
        largest = float(squared_norms.max())
        reach = largest**0.5 * 2.0**0.5
        # `not <=` rather than `>`: a NaN is then left to the library, too.
        if not reach <= SERIES_LIMIT:
            return _library_backward(generator, grad)
        return _series_backward(generator, out, grad, reach)


def _series_backward(generator: Tensor, out: Tensor, grad: Tensor, reach: float) -> Tensor:
    """The sum over k, until the next term cannot change the result's last bits."""
    term: Tensor = out.mT @ grad
    total = term
    # Bound of the last term, relative to the first one.
    share = 1.0
    k = 1
    while share > torch.finfo(grad.dtype).eps / 8.0:
        k += 1
        term = (generator @ term - term @ generator) / k
        total = total + term
        share = share * reach / k
    return total


def _library_backward(generator: Tensor, grad: Tensor) -> Tensor:
    """The gradient for wide angles: the upper right block of exp [[S^T, G], [0, S^T]].

    This is the formula that torch.linalg.matrix_exp uses itself (Mathias, "A chain rule for matrix
    functions and applications", 1996).
    """
    corner = torch.zeros_like(generator)
    upper = torch.cat([generator.mT, grad], dim=2)
    lower = torch.cat([corner, generator.mT], dim=2)
    whole = torch.cat([upper, lower], dim=1)
    out: Tensor = torch.linalg.matrix_exp(whole)
    return out[:, :BLOCK, BLOCK:]


def exponential(generator: Float[Tensor, "blocks 8 8"]) -> Float[Tensor, "blocks 8 8"]:
    """exp of each skew block: a rotation, in the generator's dtype."""
    # Never under autocast: in bfloat16 the result is orthogonal to 5e-3 only.
    with torch.autocast(generator.device.type, enabled=False):
        out: Tensor = _Exponential.apply(generator)  # type: ignore[no-untyped-call]
    return out


# --- applying a rotation ---


def _pairs(rotation: Float[Tensor, "blocks 8 8"]) -> Float[Tensor, "pieces size size"]:
    """Two blocks of eight on the diagonal of one of sixteen; an odd number stays as it is.

    Batched products of half as many matrices are 1.3 to 1.6 times faster, zeros included.
    """
    blocks = rotation.shape[0]
    if blocks % 2:
        return rotation
    pairs = blocks // 2
    out = rotation.new_zeros(pairs, 2, BLOCK, 2, BLOCK)
    out[:, 0, :, 0] = rotation[0::2]
    out[:, 1, :, 1] = rotation[1::2]
    return out.reshape(pairs, 2 * BLOCK, 2 * BLOCK)


def _unpaired(
    pieces: Float[Tensor, "pieces size size"], blocks: int
) -> Float[Tensor, "blocks 8 8"]:
    """The diagonal blocks of eight: what `_pairs` put together."""
    if pieces.shape[0] == blocks:
        return pieces
    split = pieces.reshape(blocks // 2, 2, BLOCK, 2, BLOCK)
    first = split[:, 0, :, 0]
    second = split[:, 1, :, 1]
    pairs = torch.stack([first, second], dim=1)
    return pairs.reshape(blocks, BLOCK, BLOCK)


def _by_piece(x: Tensor, pieces: int) -> Tensor:
    """[..., width] as [pieces, tokens, size], contiguous, which batched products are quick on."""
    size = x.shape[-1] // pieces
    return x.reshape(-1, pieces, size).transpose(0, 1).contiguous()


def _by_token(pieces: Tensor, shape: torch.Size) -> Tensor:
    """[pieces, tokens, size] back in the `shape` that `_by_piece` was given."""
    return pieces.transpose(0, 1).reshape(shape)


class _Rotate(torch.autograd.Function):
    """`R x` per block as one batched product; nothing but x and R is kept for backward."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor, rotation: Tensor) -> Tensor:
        ctx.save_for_backward(x, rotation)
        pieces = _pairs(rotation)
        states = _by_piece(x, len(pieces))
        # States are rows here, and `R x` of a row is `x^T R^T`.
        return _by_token(torch.bmm(states, pieces.mT), x.shape)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> tuple[Tensor, Tensor]:
        x, rotation = ctx.saved_tensors  # type: ignore[attr-defined]
        pieces = _pairs(rotation)
        grads = _by_piece(grad, len(pieces))
        states = _by_piece(x, len(pieces))
        grad_states = torch.bmm(grads, pieces)
        grad_pieces = torch.bmm(grads.mT, states)
        grad_x = _by_token(grad_states, x.shape)
        return grad_x, _unpaired(grad_pieces, rotation.shape[0])


def rotate(
    x: Float[Tensor, "*batch width"], rotation: Float[Tensor, "blocks 8 8"]
) -> Float[Tensor, "*batch width"]:
    """`R x` in each block of eight, in x's dtype.

    Args:
        x: vectors of 8 * blocks numbers.
        rotation: R, in float32; it is cast to x's dtype last, after the exponential.
    """
    out: Tensor = _Rotate.apply(x, rotation.to(x.dtype))  # type: ignore[no-untyped-call]
    return out


# --- folding a rotation into a weight ---


def fold(
    weight: Float[Tensor, "out width"], rotation: Float[Tensor, "blocks 8 8"]
) -> Float[Tensor, "out width"]:
    """`W R`, so that `fold(W, R) x == W rotate(x, R)`; without gradients.

    Returns:
        float64: whatever else is merged into the weight is added before the one cast at the end.
    """
    return fold_grad(weight.detach().double(), rotation.detach().double())


def fold_grad(
    weight: Float[Tensor, "out width"], rotation: Float[Tensor, "blocks 8 8"]
) -> Float[Tensor, "out width"]:
    """`W R` with gradients, in the weight's dtype: for rows that are trained through a rotation."""
    rows, width = weight.shape
    blocks = weight.reshape(rows, width // BLOCK, BLOCK)
    return torch.einsum("obj,bji->obi", blocks, rotation).reshape(rows, width)


# --- monitors ---


def orthogonality_error(rotation: Float[Tensor, "blocks 8 8"]) -> float:
    """max |R^T R - I|. A monitor, not a loss: for an exponential it is 0 up to rounding."""
    eye = torch.eye(BLOCK, dtype=rotation.dtype, device=rotation.device)
    error = rotation.mT @ rotation - eye
    return float(error.abs().max())


def angles(theta: Float[Tensor, "blocks 28"]) -> Float[Tensor, "blocks 4"]:
    """The four rotation angles of each block, in radians, largest first; float64, on the CPU."""
    # A skew matrix has purely imaginary eigenvalues, in pairs of one angle: ±i angle.
    generator = skew(theta.detach().double().cpu())
    imaginary = torch.linalg.eigvals(generator).imag.abs()
    ordered: Tensor = imaginary.sort(dim=1, descending=True).values
    return ordered[:, ::2]
