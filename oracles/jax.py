"""JAX: the vector-Jacobian product of `lax.conv_general_dilated`, on the CPU.

XLA compiles each shape anew, which takes a fraction of a second.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from oracles.protocol import Box, Domain
from reference.problem import ConvGrads, ConvProblem

distribution = "jax"
required = False
preload = ("jax",)
environment = {"JAX_ENABLE_X64": "1", "JAX_PLATFORMS": "cpu"}
domain = Domain(Box(ranks=(1, 2, 3), dtypes=("float32", "float64")))
_AXES = "XYZ"


def grads(problem: ConvProblem) -> ConvGrads:
    """dX, dW, db and y."""
    import jax

    params = problem.params
    axes = _AXES[: params.rank]
    layout = (f"N{axes}C", f"{axes}IO", f"N{axes}C")

    def forward(x: Any, w: Any, b: Any = None) -> Any:
        y = jax.lax.conv_general_dilated(
            x,
            w,
            params.stride,
            params.padding,
            rhs_dilation=params.dilation,
            dimension_numbers=layout,
            feature_group_count=params.groups,
        )
        return y if b is None else y + b

    inputs = [array for array in (problem.x, problem.w, problem.b) if array is not None]
    y, pull_back = jax.vjp(forward, *map(jax.numpy.asarray, inputs))
    dx, dw, *db = map(np.asarray, pull_back(jax.numpy.asarray(problem.dy)))
    return ConvGrads(dx, dw, db[0] if db else None, np.asarray(y))
