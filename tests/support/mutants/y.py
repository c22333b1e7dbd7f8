"""Faults of y: a wrong forward leaves the gradients right."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from reference.problem import Array, ConvGrads, ConvParams, ConvProblem
from tests.support.mutants.fault import Fault
from tests.support.mutants.loops import NOWHERE, Axis, cells, y_of

Y = Fault(("y",))


@Y.reads()
def y_kernel_flipped(axis: Axis) -> Array:
    """A convolution as mathematics has it: the taps are taken in the reverse order."""
    return axis.place[:, ::-1]


@Y.reads()
def y_dilation_ignored(axis: Axis) -> Array:
    """The taps lie side by side."""
    return replace(axis, dilation=1).place


@Y.params()
def y_stride_of_axis_0(params: ConvParams) -> ConvParams:
    """The stride of the first axis is that of every axis."""
    return replace(params, stride=params.stride[:1] * params.rank)


@Y.reads()
def y_odd_cell_of_same_padding_first(axis: Axis) -> Array:
    """The odd cell of SAME's padding comes before the input, not behind it."""
    return replace(axis, lo=axis.hi if axis.hi == axis.lo + 1 else axis.lo).place


@Y.reads()
def y_padding_replicated(axis: Axis) -> Array:
    """Padding is read as the cell at the border."""
    return np.clip(axis.place, 0, axis.size - 1)


@Y.reads()
def y_padding_circular(axis: Axis) -> Array:
    """Padding is read as the other end of the input."""
    return axis.place % max(axis.size, 1)


@Y.values(where=lambda problem: problem.b is not None)
def y_bias_twice(problem: ConvProblem, right: ConvGrads) -> Array:
    """The bias is added twice."""
    return np.asarray(y_of(problem) + 2 * _bias(problem))


@Y.values(where=lambda problem: problem.params.groups > 1)
def y_bias_ignored_with_groups(problem: ConvProblem, right: ConvGrads) -> Array:
    """With groups no bias is added."""
    return y_of(problem)


@Y.values(where=lambda problem: problem.w.shape[-1] == 1)
def y_bias_ignored_with_one_filter(problem: ConvProblem, right: ConvGrads) -> Array:
    """With one filter no bias is added."""
    return y_of(problem)


@Y.values()
def y_no_bias_in_padding(problem: ConvProblem, right: ConvGrads) -> Array:
    """Outputs whose window lies wholly in the padding are zero."""
    is_inside = (cells(problem) != NOWHERE).any(axis=1).reshape(problem.dy.shape[1:-1])
    return np.where(is_inside[..., None], y_of(problem) + _bias(problem), 0)


@Y.values()
def y_rectified(problem: ConvProblem, right: ConvGrads) -> Array:
    """A ReLU is fused in."""
    return np.asarray(np.maximum(y_of(problem) + _bias(problem), 0))


@Y.values()
def y_groups_interleaved(problem: ConvProblem, right: ConvGrads) -> Array:
    """Filter f is taken to belong to group f mod groups."""
    filters = np.arange(problem.w.shape[-1])
    order = np.argsort(filters % problem.params.groups, kind="stable")
    y = y_of(replace(problem, w=problem.w[..., order]))
    return np.asarray(y[..., np.argsort(order)] + _bias(problem))


def _bias(problem: ConvProblem) -> Array:
    b = problem.b
    return np.zeros(problem.w.shape[-1]) if b is None else b.astype(np.float64)
