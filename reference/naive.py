"""The notebook's loops, for any rank and number type: the definition that all else is held against.

Slow on purpose. On object arrays of `int` or `fractions.Fraction` every result is exact.
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


def naive_conv_forward(x: Array, w: Array, b: Array | None, params: ConvParams) -> Array:
    """y (N, *O, F) for x (N, *S, C), w (*K, C/groups, F), b (F,) or None, in x's dtype.

    Raises TypeError or ValueError for arguments that do not fit, see `ConvProblem`.
    """
    out = check_forward(x, w, params)
    if b is not None:
        check_bias(b, w)
    x_padded = _pad(x, params)
    y = np.zeros((x.shape[0], *out, w.shape[-1]), x.dtype)
    for n, *o, f in np.ndindex(y.shape):
        window = (n, *_window(o, w, params), _channels(f, x, w, params))
        y[(n, *o, f)] = np.sum(x_padded[window] * w[..., f], dtype=x.dtype)
        if b is not None:
            y[(n, *o, f)] += b[f]
    return y


def naive_conv_backward(x: Array, w: Array, dy: Array, params: ConvParams) -> ConvGrads:
    """dX, dW, db of sum(dy * y) for x (N, *S, C), w (*K, C/groups, F), dy (N, *O, F), in x's dtype.

    Raises TypeError or ValueError for arguments that do not fit, see `ConvProblem`.
    """
    check_backward(x, w, dy, params)
    x_padded = _pad(x, params)
    dx_padded = np.zeros(x_padded.shape, x.dtype)
    dw = np.zeros(w.shape, w.dtype)
    db = np.zeros(w.shape[-1:], w.dtype)
    for n, *o, f in np.ndindex(dy.shape):
        window = (n, *_window(o, w, params), _channels(f, x, w, params))
        current_dy = dy[(n, *o, f)]
        dx_padded[window] += current_dy * w[..., f]
        dw[..., f] += current_dy * x_padded[window]
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
