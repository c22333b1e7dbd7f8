"""Chainer: `grad` of convolution_nd over channels-first arrays.

Its last release, 7.8.1, needs a NumPy below 1.24, and so another interpreter than this project's:
`docs/chainer_oracle.py@path/to/python`, where `pip install chainer==7.8.1 numpy==1.23.5
'setuptools<70'` was run.
"""

from __future__ import annotations

import numpy as np

from oracles.protocol import Box, Domain
from reference.problem import ConvGrads, ConvProblem

distribution = "chainer"
preload = ("chainer",)
domain = Domain(Box(ranks=(1, 2, 3), dtypes=("float32", "float64"), empty_batch=False))


def grads(problem: ConvProblem) -> ConvGrads:
    """dX, dW, db and y."""
    import chainer
    from chainer import functions as F

    params = problem.params
    x = np.pad(problem.x, ((0, 0), *params.padding, (0, 0)))
    arrays = [np.moveaxis(x, -1, 1), np.moveaxis(problem.w, (-1, -2), (0, 1))]
    inputs = [chainer.Variable(np.ascontiguousarray(array)) for array in arrays]
    if problem.b is not None:
        inputs.append(chainer.Variable(problem.b))
    y = F.convolution_nd(
        *inputs, stride=params.stride, pad=0, dilate=params.dilation, groups=params.groups
    )
    dy = chainer.Variable(np.ascontiguousarray(np.moveaxis(problem.dy, -1, 1)))
    dx, dw, *db = (of.array for of in chainer.grad([y], inputs, [dy]))
    inside = (slice(lo, lo + size) for size, (lo, _) in zip(problem.spatial, params.padding))
    return ConvGrads(
        np.moveaxis(dx, 1, -1)[(slice(None), *inside)],
        np.moveaxis(dw, (0, 1), (-1, -2)),
        db[0] if db else None,
        np.moveaxis(y.array, 1, -1),
    )
