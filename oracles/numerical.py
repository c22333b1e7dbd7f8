"""Numerical gradients: central differences with step 1 over the reference forward.

y is linear in each of x, w and b, so a central difference has no truncation error, and on integers
in float64 no rounding error either. It knows nothing of how gradients are computed.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from oracles.protocol import Box, Domain
from reference.conv import conv_forward
from reference.problem import Array, ConvGrads, ConvProblem

distribution = None
domain = Domain(Box(ranks=(1, 2, 3), dtypes=("float32", "float64"), max_elements=448))


def grads(problem: ConvProblem) -> ConvGrads:
    """dX, dW and db of sum(dy * y), one element at a time; y itself is not claimed."""
    params = problem.params
    x, w, dy = (array.astype(np.float64) for array in (problem.x, problem.w, problem.dy))
    b = None if problem.b is None else problem.b.astype(np.float64)

    def of_inputs(xs: Array) -> Array:  # all of them as one batch
        batch = xs.reshape(-1, *x.shape[1:])
        return conv_forward(batch, w, b, params).reshape(len(xs), *dy.shape)

    def of_kernels(ws: Array) -> Array:
        return np.array([conv_forward(x, one, b, params) for one in ws])

    def of_biases(bs: Array) -> Array:
        return np.array([conv_forward(x, w, one, params) for one in bs])

    def gradient(outputs: Callable[[Array], Array], at: Array) -> Array:
        steps = np.eye(at.size).reshape(at.size, *at.shape)
        difference = outputs(at + steps).reshape(at.size, dy.size) - outputs(at - steps).reshape(
            at.size, dy.size
        )
        return (difference @ dy.ravel() / 2).reshape(at.shape).astype(problem.dtype)

    return ConvGrads(
        dx=gradient(of_inputs, x),
        dw=gradient(of_kernels, w),
        db=None if b is None else gradient(of_biases, b),
    )
