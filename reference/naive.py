"""The notebook's loops, for any rank and number type: the definition that all else is held against.

Slow on purpose. On object arrays of `int` or `fractions.Fraction` every result is exact.

A tap in the padding is absent: what it would multiply by zero is left out of every sum, so that an
Inf or NaN in w or dy makes no NaN there. Everything else is IEEE 754: inside the input 0 * Inf is
NaN, and a NaN or Inf reaches the elements that a product with it belongs to, and no others.
"""

from __future__ import annotations

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

# Of 0 * Inf, and of products in the padding, which may overflow and count nowhere.
_without_warnings = np.errstate(invalid="ignore", over="ignore")


@_without_warnings
def naive_conv_forward(x: Array, w: Array, b: Array | None, params: ConvParams) -> Array:
    """y (N, *O, F) for x (N, *S, C), w (*K, C/groups, F), b (F,) or None, in x's dtype.

    Raises TypeError or ValueError for arguments that do not fit, see `ConvProblem`.
    """
    shape = check_forward(x, w, params)
    if b is not None:
        check_bias(b, w)
    x_padded, inside = _pad(x, params), _pad(np.ones(x.shape, bool), params)
    y = np.zeros(shape, x.dtype)
    for n, *o in np.ndindex(y.shape[:-1]):
        cells = (n, *_window(o, w, params))
        for f in range(w.shape[-1]):
            window = (*cells, _channels(f, x, w, params))
            products = np.where(inside[window], x_padded[window] * w[..., f], 0)
            y[(n, *o, f)] = products.sum(dtype=x.dtype)
    return y if b is None else y + b


@_without_warnings
def naive_conv_backward(x: Array, w: Array, dy: Array, params: ConvParams) -> ConvGrads:
    """dX, dW, db of sum(dy * y) for x (N, *S, C), w (*K, C/groups, F), dy (N, *O, F), in x's dtype.

    Raises TypeError or ValueError for arguments that do not fit, see `ConvProblem`.
    """
    check_backward(x, w, dy, params)
    x_padded, inside = _pad(x, params), _pad(np.ones(x.shape, bool), params)
    dx_padded = np.zeros(x_padded.shape, x.dtype)
    dw = np.zeros(w.shape, w.dtype)
    db = np.zeros(w.shape[-1:], w.dtype)
    for n, *o in np.ndindex(dy.shape[:-1]):
        cells = (n, *_window(o, w, params))
        for f in range(w.shape[-1]):
            window = (*cells, _channels(f, x, w, params))
            current_dy = dy[(n, *o, f)]
            dx_padded[window] += current_dy * w[..., f]
            dw[..., f] += np.where(inside[window], current_dy * x_padded[window], 0)
            db[f] += current_dy
    return ConvGrads(_unpad(dx_padded, x.shape[1:-1], params), dw, db)


def _window(o: list[int], w: Array, params: ConvParams) -> tuple[slice, ...]:
    """The cells of the padded input that output position `o` sees, a slice per spatial axis."""
    return tuple(
        slice(start * s, start * s + (k - 1) * d + 1, d)
        for start, s, k, d in zip(o, params.stride, w.shape[:-2], params.dilation)
    )


def _channels(f: int, x: Array, w: Array, params: ConvParams) -> slice:
    """The input channels of the group that filter `f` belongs to."""
    group = f // (w.shape[-1] // params.groups)
    size = x.shape[-1] // params.groups
    return slice(group * size, (group + 1) * size)


def _pad(x: Array, params: ConvParams) -> Array:
    spatial = tuple(s + lo + hi for s, (lo, hi) in zip(x.shape[1:-1], params.padding))
    x_padded = np.zeros((x.shape[0], *spatial, x.shape[-1]), x.dtype)
    _unpad(x_padded, x.shape[1:-1], params)[...] = x
    return x_padded


def _unpad(x_padded: Array, spatial: Size, params: ConvParams) -> Array:
    inside = (slice(lo, lo + s) for s, (lo, _) in zip(spatial, params.padding))
    return x_padded[(slice(None), *inside)]
