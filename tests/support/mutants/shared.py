"""Faults of what dX and dW, or the forward too, have in common."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from reference.problem import Array, ConvParams
from tests.support.mutants.fault import Fault
from tests.support.mutants.loops import NOWHERE, Axis

BOTH = Fault(("dx", "dw"))
ALL = Fault(("dx", "dw", "y"))


@BOTH.params()
def padding_lo_and_hi_exchanged(params: ConvParams) -> ConvParams:
    """The high padding is taken for the low one and the other way round."""
    return replace(params, padding=tuple((hi, lo) for lo, hi in params.padding))


@ALL.reads(where=lambda problem: problem.params.rank == 1)
def rank_1_stride_on_the_wrong_axis(axis: Axis) -> Array:
    """1-D is run as 2-D with a stride of (stride, 1) where (1, stride) is meant."""
    return replace(axis, stride=1).place


@ALL.params()
def stride_of_axis_0_everywhere(params: ConvParams) -> ConvParams:
    """Forward and backward agree on the stride of the first axis for all."""
    return replace(params, stride=params.stride[:1] * params.rank)


@ALL.reads()
def lo_padding_above_extent_cropped(axis: Axis) -> Array:
    """Low padding is at most what the kernel spans."""
    return replace(axis, lo=min(axis.lo, axis.extent)).place


@BOTH.reads()
def one_cell_axes_read_once(axis: Axis) -> Array:
    """On an axis with one cell of input, only the tap in the middle is used."""
    is_used = (axis.tap == axis.taps // 2) | (axis.size != 1)
    return np.where(is_used, axis.place, NOWHERE)
