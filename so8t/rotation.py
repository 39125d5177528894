"""SO(8) rotations: the one module that says which way R acts.

Convention: vectors are columns, `rotate(x, R)` gives `R x` in every block of eight, and a projection that follows
a rotation folds as `W' = W R`, so `W (R x) == (W R) x`. A block rotation is `R = exp(S)` with S skew, stored as its
28 upper-triangular numbers; zero gives the identity, so step 0 is the base model. (Orthogonal fine-tuning with an
input-side block of 8: OFTv2, arXiv 2506.19847; peft's OFT with exact Cayley is the test oracle.)

Covered: exponential, apply, fold, monitors. Not covered: where gates sit (tuning.gate) and half-spinors (triality).
"""

import torch
from jaxtyping import Float
from torch import Tensor

BLOCK = 8
FREE = BLOCK * (BLOCK - 1) // 2  # 28 numbers per block
WIDE = 3.0  # norm of ad_S up to which the series of the backward pass is used
_ROWS, _COLUMNS = torch.triu_indices(BLOCK, BLOCK, 1)


def skew(theta: Float[Tensor, "blocks 28"]) -> Float[Tensor, "blocks 8 8"]:
    """The skew matrices whose upper triangles are `theta`."""
    upper = theta.new_zeros(theta.shape[0], BLOCK, BLOCK)
    upper[:, _ROWS, _COLUMNS] = theta
    return upper - upper.mT


class _Exponential(torch.autograd.Function):
    """exp of skew blocks; the backward pass is `sum_k ad_S^k(R^T G) / (k+1)!`, half the cost of the library's.

    d exp(S) = R phi(-ad_S)(dS) with phi(x) = (e^x - 1) / x, and ad_S is skew for skew S, so that the adjoint only changes
    its sign. Wide angles, where the series loses digits, take the library's way: exp of a 16 x 16 block matrix.
    """

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, generator: Tensor) -> Tensor:
        out: Tensor = torch.linalg.matrix_exp(generator)
        ctx.save_for_backward(generator, out)
        return out

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> Tensor:
        generator, out = ctx.saved_tensors  # type: ignore[attr-defined]
        reach = (
            float(generator.square().sum((1, 2)).max()) ** 0.5 * 2.0**0.5
        )  # bounds the norm of ad_S
        if not reach <= WIDE:
            return _library_backward(generator, grad)
        term: Tensor = out.mT @ grad
        total, share, k = term, 1.0, 1
        while share > torch.finfo(grad.dtype).eps / 8.0:
            k += 1
            term = (generator @ term - term @ generator) / k
            total, share = total + term, share * reach / k
        return total


def _library_backward(generator: Tensor, grad: Tensor) -> Tensor:
    corner = torch.zeros_like(generator)
    whole = torch.cat(
        [torch.cat([generator.mT, grad], dim=2), torch.cat([corner, generator.mT], dim=2)], dim=1
    )
    out: Tensor = torch.linalg.matrix_exp(whole)[:, :BLOCK, BLOCK:]
    return out


def exponential(generator: Float[Tensor, "blocks 8 8"]) -> Float[Tensor, "blocks 8 8"]:
    """exp of each skew block, in the generator's dtype, never under autocast (bf16 loses orthogonality at 5e-3)."""
    with torch.autocast(generator.device.type, enabled=False):
        out: Tensor = _Exponential.apply(generator)  # type: ignore[no-untyped-call]
    return out


def _pairs(rotation: Float[Tensor, "blocks 8 8"]) -> Float[Tensor, "pieces size size"]:
    """Two blocks as one of sixteen: matrix kernels of half the pieces are 1.3 to 1.6 times faster. Odd counts stay as they are."""
    blocks = rotation.shape[0]
    if blocks % 2:
        return rotation
    out = rotation.new_zeros(blocks // 2, 2, BLOCK, 2, BLOCK)
    out[:, 0, :, 0], out[:, 1, :, 1] = rotation[0::2], rotation[1::2]
    return out.reshape(blocks // 2, 2 * BLOCK, 2 * BLOCK)


def _unpaired(
    pieces: Float[Tensor, "pieces size size"], blocks: int
) -> Float[Tensor, "blocks 8 8"]:
    """The diagonal blocks of eight."""
    if pieces.shape[0] == blocks:
        return pieces
    split = pieces.reshape(blocks // 2, 2, BLOCK, 2, BLOCK)
    return torch.stack([split[:, 0, :, 0], split[:, 1, :, 1]], dim=1).reshape(blocks, BLOCK, BLOCK)


def _by_piece(x: Tensor, pieces: int) -> Tensor:
    """[pieces, tokens, size], contiguous: what batched products are quick on."""
    return x.reshape(-1, pieces, x.shape[-1] // pieces).transpose(0, 1).contiguous()


class _Rotate(torch.autograd.Function):
    """`R x` per block as one batched product; nothing but x and R is kept for backward."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor, rotation: Tensor) -> Tensor:
        ctx.save_for_backward(x, rotation)
        pieces = _pairs(rotation)
        return torch.bmm(_by_piece(x, len(pieces)), pieces.mT).transpose(0, 1).reshape(x.shape)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> tuple[Tensor, Tensor]:
        x, rotation = ctx.saved_tensors  # type: ignore[attr-defined]
        pieces = _pairs(rotation)
        grads, states = _by_piece(grad, len(pieces)), _by_piece(x, len(pieces))
        grad_x = torch.bmm(grads, pieces).transpose(0, 1).reshape(x.shape)
        return grad_x, _unpaired(torch.bmm(grads.mT, states), rotation.shape[0])


def rotate(
    x: Float[Tensor, "*batch width"], rotation: Float[Tensor, "blocks 8 8"]
) -> Float[Tensor, "*batch width"]:
    """`R x` in each block of eight; the rotation is cast to x's dtype last."""
    out: Tensor = _Rotate.apply(x, rotation.to(x.dtype))  # type: ignore[no-untyped-call]
    return out


def fold(
    weight: Float[Tensor, "out width"], rotation: Float[Tensor, "blocks 8 8"]
) -> Float[Tensor, "out width"]:
    """`W R` in float64, so that `fold(W, R) x == W rotate(x, R)`; the caller casts once, at the end."""
    rows, width = weight.shape
    blocks = weight.detach().double().reshape(rows, width // BLOCK, BLOCK)
    return torch.einsum("obj,bji->obi", blocks, rotation.detach().double()).reshape(rows, width)


def fold_grad(
    weight: Float[Tensor, "out width"], rotation: Float[Tensor, "blocks 8 8"]
) -> Float[Tensor, "out width"]:
    """`W R` with gradients, in the weight's dtype: for heads whose rows are trained through their rotation."""
    rows, width = weight.shape
    blocks = weight.reshape(rows, width // BLOCK, BLOCK)
    return torch.einsum("obj,bji->obi", blocks, rotation).reshape(rows, width)


def orthogonality_error(rotation: Float[Tensor, "blocks 8 8"]) -> float:
    """max |R^T R - I|: a monitor, not a loss (it is 0 for exp up to rounding)."""
    eye = torch.eye(BLOCK, dtype=rotation.dtype, device=rotation.device)
    return float((rotation.mT @ rotation - eye).abs().max())


def angles(theta: Float[Tensor, "blocks 28"]) -> Float[Tensor, "blocks 4"]:
    """The four rotation angles of each block, in radians: the imaginary eigenvalues of the skew matrix."""
    imaginary = torch.linalg.eigvals(skew(theta.detach().double().cpu())).imag.abs()
    out: Tensor = imaginary.sort(dim=1, descending=True).values[:, ::2]
    return out
