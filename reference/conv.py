"""The vectorised convolution and its gradients: one matrix product per kernel tap.

A tap is one position in the kernel. Over all outputs it reads a strided slice of the input, so its
share of y, dX and dW is one matrix product over channels. Slices are clipped to the input: padding
is never stored, and no im2col copy is made. float16 and bfloat16 are summed in float32 and rounded
once, at the end.

A tap in the padding is therefore absent, not a product with zero: an Inf or NaN in w or dy makes no
NaN there. Everything else is IEEE 754: inside the input 0 * Inf is NaN, and a NaN or Inf reaches
the elements that a product with it belongs to, and no others.

NumPy's floating-point warnings are off: BLAS kernels compute on registers that hold more than the
arrays, and whatever lies there can raise one for finite data (numpy/numpy#24067).
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from reference.problem import (
    Array,
    ConvGrads,
    ConvParams,
    Size,
    check_backward,
    check_bias,
    check_forward,
)


@np.errstate(all="ignore")
def conv_forward(x: Array, w: Array, b: Array | None, params: ConvParams) -> Array:
    """y (N, *O, F) for x (N, *S, C), w (*K, C/groups, F), b (F,) or None, in x's dtype.

    Raises TypeError or ValueError for arguments that do not fit, see `ConvProblem`.
    """
    out = check_forward(x, w, params)
    if b is not None:
        check_bias(b, w)
    dtype = x.dtype
    x, w = _summable(x), _summable(w)
    y = np.zeros((x.shape[0], *out, w.shape[-1]), x.dtype)
    if b is not None:
        y += b
    for tap, x_cells, y_cells in _taps(x.shape[1:-1], w.shape[:-2], out, params):
        x_tap = _by_group(x[x_cells], params.groups)
        w_tap = _by_group(w[tap], params.groups)
        y[y_cells] += _from_groups(x_tap @ w_tap, y[y_cells].shape)
    return y.astype(dtype, copy=False)


@np.errstate(all="ignore")
def conv_backward(x: Array, w: Array, dy: Array, params: ConvParams) -> ConvGrads:
    """dX, dW, db of sum(dy * y) for x (N, *S, C), w (*K, C/groups, F), dy (N, *O, F), in x's dtype.

    Per tap, with x_tap the inputs that it reads and dy_tap the outputs that it feeds:
    dX at x_tap += dy_tap @ w_tap^T, dW at the tap = x_tap^T @ dy_tap; db = sum of dy over N and O.
    Raises TypeError or ValueError for arguments that do not fit, see `ConvProblem`.
    """
    out = check_backward(x, w, dy, params)
    dtype = x.dtype
    x, w, dy = _summable(x), _summable(w), _summable(dy)
    dx = np.zeros(x.shape, x.dtype)
    dw = np.zeros(w.shape, w.dtype)
    for tap, x_cells, y_cells in _taps(x.shape[1:-1], w.shape[:-2], out, params):
        x_tap = _by_group(x[x_cells], params.groups)
        w_tap = _by_group(w[tap], params.groups)
        dy_tap = _by_group(dy[y_cells], params.groups)
        dx[x_cells] += _from_groups(dy_tap @ w_tap.swapaxes(-1, -2), dx[x_cells].shape)
        dw[tap] = _from_groups(x_tap.swapaxes(-1, -2) @ dy_tap, dw[tap].shape)
    db = dy.sum(axis=tuple(range(dy.ndim - 1)), dtype=dy.dtype)
    return ConvGrads(*(array.astype(dtype, copy=False) for array in (dx, dw, db)))


def _summable(array: Array) -> Array:
    """`array`, in float32 if it is of a 16-bit format."""
    narrow = array.dtype.name in ("float16", "bfloat16")
    return array.astype(np.float32) if narrow else array


def _taps(
    spatial: Size, kernel: Size, out: Size, params: ConvParams
) -> Iterator[tuple[Size, tuple[slice, ...], tuple[slice, ...]]]:
    """Each tap that meets input: its index, the cells of x that it reads, those of y it feeds.

    Output o and tap k meet at input o * stride + k * dilation - lo; outputs for which that lies in
    the padding are left out.
    """
    for tap in np.ndindex(*kernel):
        x_cells, y_cells = [slice(None)], [slice(None)]
        for size, outputs, k, s, d, (lo, _) in zip(
            spatial, out, tap, params.stride, params.dilation, params.padding
        ):
            offset = k * d - lo
            first = max(0, -(offset // s))
            last = min(outputs - 1, (size - 1 - offset) // s)
            if first > last:
                break
            x_cells.append(slice(first * s + offset, last * s + offset + 1, s))
            y_cells.append(slice(first, last + 1))
        else:
            yield tap, tuple(x_cells), tuple(y_cells)


def _by_group(array: Array, groups: int) -> Array:
    """(*M, groups * A) as one (prod(M), A) matrix per group: (groups, prod(M), A)."""
    *rest, channels = array.shape  # no -1 in the reshape: it fails where there are no channels
    return array.reshape(math.prod(rest), groups, channels // groups).swapaxes(0, 1)


def _from_groups(product: Array, shape: tuple[int, ...]) -> Array:
    """(groups, prod(M), A) back to `shape` = (*M, groups * A)."""
    return product.swapaxes(0, 1).reshape(shape)
