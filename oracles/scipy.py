"""SciPy: `signal.correlate` and `convolve`, directly summed, a channel at a time.

y correlates x with the kernel, dW correlates x with dy, dX convolves dy with the kernel; dy is
stretched by the stride and the kernel by the dilation, with zeros between their elements.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from oracles.protocol import Box, Domain
from reference.problem import Array, ConvGrads, ConvProblem, Size

distribution = "scipy"
required = False
preload = ("scipy.signal",)
domain = Domain(Box(ranks=(1, 2, 3), dtypes=("float32", "float64"), max_elements=512))


def grads(problem: ConvProblem) -> ConvGrads:
    """dX, dW, db and y."""
    from scipy.signal import convolve, correlate

    params, dy = problem.params, problem.dy
    x = np.pad(problem.x, ((0, 0), *params.padding, (0, 0)))
    outs, every = dy.shape[1:-1], (slice(None),)
    reach = tuple((o - 1) * s + e for o, s, e in zip(outs, params.stride, problem.extent))
    read = tuple(map(slice, reach))
    steps = tuple(slice(None, None, s) for s in params.stride)
    taps = tuple(slice(None, None, d) for d in params.dilation)
    w = _stretched(problem.w, problem.extent, taps)
    spread = tuple((o - 1) * s + 1 for o, s in zip(outs, params.stride))
    dx, dw, y = np.zeros_like(x), np.zeros_like(problem.w), np.zeros_like(dy)
    group_in, group_out = problem.w.shape[-2], dy.shape[-1] // params.groups
    for n, f, c in itertools.product(range(len(x)), range(dy.shape[-1]), range(group_in)):
        channel = f // group_out * group_in + c
        cells, kernel = x[(n, *read, channel)], w[..., c, f]
        slopes = _stretched(dy[n, ..., f, None], spread, steps)[..., 0]
        y[n, ..., f] += correlate(cells, kernel, "valid", "direct")[steps]
        dw[..., c, f] += correlate(cells, slopes, "valid", "direct")[taps]
        dx[(n, *read, channel)] += convolve(slopes, kernel, "full", "direct")
    inside = tuple(slice(lo, lo + size) for size, (lo, _) in zip(problem.spatial, params.padding))
    db = None
    if problem.b is not None:
        y, db = y + problem.b, dy.sum(axis=tuple(range(dy.ndim - 1)))
    return ConvGrads(dx[(*every, *inside)], dw, db, y)


def _stretched(array: Array, sizes: Size, steps: tuple[Any, ...]) -> Array:
    """`array` with zeros between its elements, of these sizes on the first axes."""
    stretched = np.zeros((*sizes, *array.shape[len(sizes) :]), array.dtype)
    stretched[steps] = array
    return stretched
