"""Numerical gradients: central differences with step 1 over the reference forward.

y is linear in each of x and w, and in b but for a constant, so a central difference has no
truncation error wherever and however far apart it is taken: at 0 with step 1 it has no cancellation
either, the steps are representable, and the only rounding is that of the sum over dy, in float64.
It knows nothing of how gradients are computed.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from oracles.protocol import DTYPES, Box, Domain
from reference.conv import conv_forward
from reference.problem import Array, ConvGrads, ConvProblem

distribution = None
domain = Domain(Box(ranks=(1, 2, 3), dtypes=DTYPES, max_elements=448))

_BLOCK = 1 << 18  # elements of y that are worked out at a time


@np.errstate(over="ignore", invalid="ignore")  # a sum that is too large is Inf, as elsewhere
def grads(problem: ConvProblem) -> ConvGrads:
    """dX, dW and db of sum(dy * y), one element at a time; y itself is not claimed."""
    params = problem.params
    x, w, dy = (array.astype(np.float64) for array in (problem.x, problem.w, problem.dy))
    filters = w.shape[-1]

    def of_inputs(xs: Array) -> Array:
        """The outputs for each of `xs`, all of them samples of one batch."""
        return conv_forward(xs.reshape(-1, *x.shape[1:]), w, None, params)

    def of_kernels(ws: Array) -> Array:
        return of_filters(x, ws, np.zeros((len(ws), filters)))

    def of_biases(bs: Array) -> Array:
        return of_filters(0 * x, np.zeros((len(bs), *w.shape)), bs)

    def of_filters(x: Array, ws: Array, bs: Array) -> Array:
        """The outputs for each of `ws` and `bs`, all of them filters of one kernel."""
        count, groups = len(ws), params.groups
        by_group = np.moveaxis(ws.reshape(*ws.shape[:-1], groups, filters // groups), 0, -2)
        bias = bs.reshape(count, groups, filters // groups).swapaxes(0, 1)
        y = conv_forward(x, by_group.reshape(*w.shape[:-1], count * filters), bias.ravel(), params)
        return np.moveaxis(y.reshape(*y.shape[:-1], groups, count, filters // groups), -2, 0)

    def gradient(outputs: Callable[[Array], Array], like: Array) -> Array:
        slopes = np.zeros(like.size)
        block = max(1, _BLOCK // max(1, dy.size))
        for start in range(0, like.size, block):
            count = min(block, like.size - start)
            steps = np.eye(count, like.size, start).reshape(count, *like.shape)
            ends = (outputs(end).reshape(count, dy.size) for end in (steps, -steps))
            slopes[start : start + count] = np.subtract(*ends) / 2 @ dy.ravel()
        return slopes.reshape(like.shape).astype(problem.dtype)

    return ConvGrads(
        dx=gradient(of_inputs, x),
        dw=gradient(of_kernels, w),
        db=None if problem.b is None else gradient(of_biases, problem.b),
    )
