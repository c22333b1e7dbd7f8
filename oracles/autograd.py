"""Autograd (HIPS): the vector-Jacobian product of its `scipy.signal.convolve`.

It has neither strides nor dilation: outputs are sliced, and w is spread with zeros.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from oracles.protocol import Box, Domain
from reference.problem import ConvGrads, ConvProblem

distribution = "autograd"
installs = "autograd scipy"
required = False
preload = ("autograd", "autograd.scipy.signal")
domain = Domain(Box(ranks=(1, 2, 3), dtypes=("float64",), groups=("one",), empty_batch=False))


def grads(problem: ConvProblem) -> ConvGrads:
    """dX, dW, db and y."""
    from autograd import make_vjp
    from autograd import numpy as anp
    from autograd.scipy.signal import convolve

    params, rank = problem.params, problem.params.rank
    axes = range(1, rank + 1)

    def spread(w: Any) -> Any:
        for axis, (taps, gap) in enumerate(zip(problem.kernel, params.dilation)):
            zeros = anp.zeros((*w.shape[: axis + 1], gap - 1, *w.shape[axis + 1 :]))
            w = anp.concatenate([anp.expand_dims(w, axis + 1), zeros], axis + 1)
            w = anp.reshape(w, (*w.shape[:axis], taps * gap, *w.shape[axis + 2 :]))
            w = w[(slice(None),) * axis + (slice((taps - 1) * gap + 1),)]
        return w

    def forward(inputs: Any) -> Any:
        x, w, *b = inputs
        sides = [(0, 0), *params.padding, (0, 0)]
        flipped = spread(w)[(slice(None, None, -1),) * rank]
        y = convolve(
            anp.pad(x, sides, "constant"),
            flipped,
            axes=[[*axes], [*range(rank)]],
            dot_axes=[[rank + 1], [rank]],
            mode="valid",
        )
        y = anp.moveaxis(y, 1, -1)[(slice(None), *(slice(None, None, s) for s in params.stride))]
        return y + b[0] if b else y

    inputs = tuple(a for a in (problem.x, problem.w, problem.b) if a is not None)
    pull_back, y = make_vjp(forward, 0)(inputs)
    dx, dw, *db = pull_back(problem.dy)
    return ConvGrads(dx, dw, db[0] if db else None, np.asarray(y))
