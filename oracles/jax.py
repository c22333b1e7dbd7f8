"""JAX: the vector-Jacobian product of `lax.conv_general_dilated`, on the CPU.

XLA compiles each shape anew, which takes a fraction of a second, and JAX keeps what was compiled,
some 8 MB a problem: it is told to forget now and then. `cuda` computes on a GPU, where
float32 is cut to TF32 unless one asks for the highest precision, as `cuda_highest` does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import numpy as np

from oracles.protocol import MEMORY_LIMIT, Box, Domain
from reference.problem import ConvGrads, ConvProblem

distribution = "jax"
required = False
preload = ("jax",)
environment = {
    "JAX_ENABLE_X64": "1",
    "JAX_PLATFORMS": "cpu",
    # LLVM's -O3 takes minutes for some float64 (tests/findings/jax_float64_compile_time.py)
    "XLA_FLAGS": "--xla_backend_optimization_level=2",
}
domain = Domain(Box(ranks=(1, 2, 3), dtypes=("float32", "float64")))
_AXES = "XYZ"
_KEPT = 32  # problems of which what was compiled is kept
_asked = count(1)
_ON_A_GPU = {
    "JAX_ENABLE_X64": "1",
    "JAX_PLATFORMS": "cuda",
    "XLA_PYTHON_CLIENT_PREALLOCATE": "false",  # else the first process takes all memory
}


@dataclass(frozen=True)
class Variant:
    """JAX asked on one device, with one of its precisions; None is what it takes by itself."""

    precision: str | None = None
    domain: Domain = domain
    environment: Mapping[str, str] = field(default_factory=lambda: environment)
    memory_limit: int | None = MEMORY_LIMIT
    distribution: str = distribution
    preload: tuple[str, ...] = preload
    required: bool = False

    def grads(self, problem: ConvProblem) -> ConvGrads:
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
                precision=self.precision,
            )
            return y if b is None else y + b

        inputs = [array for array in (problem.x, problem.w, problem.b) if array is not None]
        y, pull_back = jax.vjp(forward, *map(jax.numpy.asarray, inputs))
        dx, dw, *db = map(np.asarray, pull_back(jax.numpy.asarray(problem.dy)))
        if next(_asked) % _KEPT == 0:
            jax.clear_caches()
        return ConvGrads(dx, dw, db[0] if db else None, np.asarray(y))


grads = Variant().grads
cuda = Variant(
    domain=Domain(*domain.boxes, factors={"float32": "tfloat32"}),
    environment=_ON_A_GPU,
    memory_limit=None,
)
cuda_highest = Variant("highest", environment=_ON_A_GPU, memory_limit=None)
