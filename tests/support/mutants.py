"""Wrong convolution gradients, planted on purpose: each is the reference but for one mistake.

Each is named like "tests.support.mutants:stride_ignored" and can be verified like any oracle.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from oracles.compare import reference_grads
from oracles.protocol import Box, Domain
from reference import ConvGrads, ConvParams, ConvProblem, conv_backward


@dataclass(frozen=True)
class Mutant:
    """An oracle that is wrong; `spoil` gets the right gradients and returns wrong ones."""

    spoil: Callable[[ConvProblem, ConvGrads], ConvGrads]

    distribution = None
    domain = Domain(Box(ranks=(1, 2, 3), dtypes=("float32", "float64")))

    def grads(self, problem: ConvProblem) -> ConvGrads:
        """Wrong gradients."""
        return self.spoil(problem, reference_grads(problem))


@Mutant
def kernel_not_flipped(problem: ConvProblem, right: ConvGrads) -> ConvGrads:
    """DX takes the taps in the reverse order."""
    flipped = np.flip(problem.w, axis=tuple(range(problem.params.rank)))
    return replace(right, dx=conv_backward(problem.x, flipped, problem.dy, problem.params).dx)


@Mutant
def stride_ignored(problem: ConvProblem, right: ConvGrads) -> ConvGrads:
    """DW reads the input at o + k * dilation."""
    params = problem.params
    padded = np.pad(problem.x, ((0, 0), *params.padding, (0, 0)))
    read = (slice(o - 1 + e) for o, e in zip(problem.dy.shape[1:-1], problem.extent))
    stride, padding = (1,) * params.rank, ((0, 0),) * params.rank
    unstrided = ConvParams(stride, padding, params.dilation, params.groups)
    x = padded[(slice(None), *read)]
    return replace(right, dw=conv_backward(x, problem.w, problem.dy, unstrided).dw)


@Mutant
def asymmetric_padding_swapped(problem: ConvProblem, right: ConvGrads) -> ConvGrads:
    """DX and dW take the high padding for the low one."""
    swapped = replace(problem.params, padding=tuple((hi, lo) for lo, hi in problem.params.padding))
    wrong = conv_backward(problem.x, problem.w, problem.dy, swapped)
    return replace(right, dx=wrong.dx, dw=wrong.dw)


@Mutant
def group_offset(problem: ConvProblem, right: ConvGrads) -> ConvGrads:
    """DX of each group lands in the next one."""
    return replace(right, dx=np.roll(right.dx, problem.w.shape[-2], axis=-1))


@Mutant
def db_without_the_batch(problem: ConvProblem, right: ConvGrads) -> ConvGrads:
    """Db sums over the positions of the first sample only."""
    spatial = tuple(range(1, problem.params.rank + 1))
    first = problem.dy[:1].sum(axis=(0, *spatial))
    return replace(right, db=None if right.db is None else first)
