"""Numerical gradients: central differences with step 1 over the reference forward.

y is linear in each of x, w and b, so a central difference has no truncation error, and on integers
in float64 no rounding error either. It knows nothing of how gradients are computed.
"""

from __future__ import annotations

import numpy as np

from oracles.protocol import Box, Domain
from reference.conv import conv_forward
from reference.problem import Array, ConvGrads, ConvProblem

distribution = None
domain = Domain(Box(ranks=(1, 2, 3), dtypes=("float32", "float64"), max_elements=1024))


def grads(problem: ConvProblem) -> ConvGrads:
    """dX, dW and db of sum(dy * y), one element at a time; y itself is not claimed."""
    inputs = {
        name: getattr(problem, name).astype(np.float64)
        for name in ("x", "w", "b")
        if getattr(problem, name) is not None
    }
    dy = problem.dy.astype(np.float64)

    def loss() -> float:
        y = conv_forward(inputs["x"], inputs["w"], inputs.get("b"), problem.params)
        return float(np.sum(dy * y))

    def gradient(array: Array) -> Array:
        result = np.zeros(array.shape, problem.dtype)
        for index in np.ndindex(array.shape):
            value = array[index]
            array[index] = value + 1
            above = loss()
            array[index] = value - 1
            below = loss()
            array[index] = value
            result[index] = (above - below) / 2
        return result

    return ConvGrads(
        dx=gradient(inputs["x"]),
        dw=gradient(inputs["w"]),
        db=gradient(inputs["b"]) if "b" in inputs else None,
    )
