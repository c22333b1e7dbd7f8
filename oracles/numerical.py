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


def grads(problem: ConvProblem) -> ConvGrads:
    """dX, dW and db of sum(dy * y), one element at a time; y itself is not claimed."""
    params = problem.params
    x, w, dy = (array.astype(np.float64) for array in (problem.x, problem.w, problem.dy))

    def of_inputs(xs: Array) -> Array:  # all of them as one batch
        batch = xs.reshape(-1, *x.shape[1:])
        return conv_forward(batch, w, None, params).reshape(len(xs), *dy.shape)

    def of_kernels(ws: Array) -> Array:
        return np.array([conv_forward(x, one, None, params) for one in ws])

    def of_biases(bs: Array) -> Array:
        return np.array([conv_forward(0 * x, 0 * w, one, params) for one in bs])

    def gradient(outputs: Callable[[Array], Array], like: Array) -> Array:
        steps = np.eye(like.size).reshape(like.size, *like.shape)
        ends = (outputs(end).reshape(like.size, dy.size) for end in (steps, -steps))
        slope = np.subtract(*ends) / 2
        return (slope @ dy.ravel()).reshape(like.shape).astype(problem.dtype)

    return ConvGrads(
        dx=gradient(of_inputs, x),
        dw=gradient(of_kernels, w),
        db=None if problem.b is None else gradient(of_biases, problem.b),
    )
