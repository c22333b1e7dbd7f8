"""PyTorch: autograd over conv1d, conv2d and conv3d."""

from __future__ import annotations

from typing import TYPE_CHECKING

from oracles.protocol import Box, Domain
from reference.problem import Array, ConvGrads, ConvProblem

if TYPE_CHECKING:
    from torch import Tensor

distribution = "torch"
preload = ("torch",)
domain = Domain(Box(ranks=(1, 2, 3), dtypes=("float32", "float64")))


def grads(problem: ConvProblem) -> ConvGrads:
    """dX, dW, db and y; asymmetric padding, which conv does not take, goes through F.pad."""
    import torch
    from torch.nn import functional as F

    params = problem.params
    convolve = (F.conv1d, F.conv2d, F.conv3d)[params.rank - 1]
    x = torch.from_numpy(problem.x).requires_grad_()
    w = torch.from_numpy(problem.w).requires_grad_()
    b = None if problem.b is None else torch.from_numpy(problem.b).requires_grad_()
    padded = x.movedim(-1, 1)
    padding = tuple(lo for lo, _ in params.padding)
    if any(lo != hi for lo, hi in params.padding):
        padded = F.pad(padded, [cells for pair in reversed(params.padding) for cells in pair])
        padding = (0,) * params.rank
    y = convolve(
        padded,
        w.movedim((-1, -2), (0, 1)).contiguous(),  # else: grad_weight must be contiguous
        b,
        stride=params.stride,
        padding=padding,
        dilation=params.dilation,
        groups=params.groups,
    ).movedim(1, -1)
    inputs = [tensor for tensor in (x, w, b) if tensor is not None]
    gradients = torch.autograd.grad(y, inputs, torch.from_numpy(problem.dy))
    dx, dw, *db = map(_to_numpy, gradients)
    return ConvGrads(dx, dw, db[0] if db else None, _to_numpy(y))


def _to_numpy(tensor: Tensor) -> Array:
    array: Array = tensor.detach().contiguous().numpy()
    return array
