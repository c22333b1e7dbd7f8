"""Faults of dW."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from oracles.protocol import Box, Domain, group_kind
from reference.problem import Array, ConvGrads, ConvParams, ConvProblem
from reference.rounding import FORMATS
from tests.support.mutants.fault import (
    Fault,
    garbage,
    group_in,
    group_out,
    in_bits,
    is_pointwise,
    is_strided,
    read_as_dense,
)
from tests.support.mutants.loops import NOWHERE, Axis, axes, cells, dw_of

DW = Fault(("dw",))
WIDE = Domain(Box(ranks=(1, 2, 3), dtypes=("float32", "float64")))
HALF = Domain(Box(ranks=(1, 2, 3), dtypes=("float16",)))
NARROW = Domain(Box(ranks=(1, 2, 3), dtypes=("float16", "bfloat16")))


@DW.reads("cTensor#3", "opacus#1")
def dw_stride_ignored(axis: Axis) -> Array:
    """The input is read at o + k * dilation - lo."""
    return replace(axis, stride=1).place


@DW.params("mxnet#2365")
def dw_stride0_for_all_axes(params: ConvParams) -> ConvParams:
    """The stride of the first axis is that of every axis."""
    return replace(params, stride=params.stride[:1] * params.rank)


@DW.params()
def dw_padding_of_last_axis(params: ConvParams) -> ConvParams:
    """The padding of the last axis is that of every axis."""
    return replace(params, padding=params.padding[-1:] * params.rank)


@DW.reads("candle#2337", "cTensor#4")
def dw_stride_dilation_not_exchanged(axis: Axis) -> Array:
    """The convolution that gives dW is run with the stride and dilation of the forward one."""
    return replace(axis, stride=axis.dilation, dilation=axis.stride).place


@DW.reads()
def dw_taps_reversed(axis: Axis) -> Array:
    """The taps are stored in the reverse order."""
    return axis.place[:, ::-1]


@DW.reads("classic")
def dw_border_clamped(axis: Axis) -> Array:
    """Padding is read as the cell at the border."""
    return np.clip(axis.place, 0, axis.size - 1)


@DW.reads()
def dw_padding_reflected(axis: Axis) -> Array:
    """Padding is read as a reflection of the input."""
    last = axis.size - 1
    return np.where(axis.place > last, 2 * last - axis.place, np.abs(axis.place))


@DW.reads()
def dw_only_whole_windows(axis: Axis) -> Array:
    """Windows that reach into the padding are left out."""
    is_whole = (axis.place[:, :1] >= 0) & (axis.place[:, -1:] < axis.size)
    return np.where(is_whole, axis.place, NOWHERE)


@DW.reads("found: torch 2.13 and TensorFlow 2.21, bfloat16 conv3d")
def dw_double_overhang_windows_skipped(axis: Axis) -> Array:
    """Windows that hang over the input on both sides are left out."""
    hangs_over = (axis.place[:, :1] < 0) & (axis.place[:, -1:] >= axis.size)
    return np.where(hangs_over, NOWHERE, axis.place)


@DW.reads()
def dw_hi_padding_beyond_lo_unread(axis: Axis) -> Array:
    """Of high padding larger than the low one, only as much is used: the last outputs are lost."""
    end = axis.size + min(axis.lo, axis.hi)
    return np.where(axis.place[:, -1:] < end, axis.place, NOWHERE)


@DW.reads("MIOpen#449", needs="more than 8 outputs in a row")
def dw_vector_tail_dropped(axis: Axis) -> Array:
    """Of more than 8 outputs in a row, those beyond the last multiple of 8 are not summed."""
    tail = axis.outputs // 8 * 8 if axis.number == -1 and axis.outputs > 8 else axis.outputs
    return np.where(axis.out < tail, axis.place, NOWHERE)


@DW.reads()
def dw_dilation_of_one_tap_shifts(axis: Axis) -> Array:
    """On an axis of one tap, dilation moves that tap."""
    return axis.place + (axis.dilation - 1 if axis.taps == 1 else 0)


@DW.reads(where=is_pointwise)
def dw_pointwise_stride_ignored(axis: Axis) -> Array:
    """The fast path for kernels of one tap has no stride."""
    return replace(axis, stride=1).place


@DW.reads(where=is_pointwise)
def dw_pointwise_padding_ignored(axis: Axis) -> Array:
    """The fast path for kernels of one tap has no padding."""
    return replace(axis, lo=0).place


@DW.reads(where=lambda problem: set(problem.dy.shape[1:-1]) == {1})
def dw_one_output_dilation_ignored(axis: Axis) -> Array:
    """The fast path for a single output takes the taps to lie side by side."""
    return replace(axis, dilation=1).place


@DW.tables("pytorch#45746", "oneDNN#4124", where=lambda problem: problem.params.rank > 1)
def dw_padding_reads_previous_row(problem: ConvProblem) -> Array:
    """The cell before a row is the last one of the row before."""

    def previous_row(axis: Axis) -> Array:
        if axis.number == -1:
            return np.where(axis.place == -1, axis.size - 1, NOWHERE)
        return axis.place - (axis.number == -2)

    table = cells(problem)
    return np.where(table == NOWHERE, cells(problem, previous_row), table)


@DW.values("cTensor#3", "oneflow#255")
def dw_divided_by_positions(problem: ConvProblem, right: ConvGrads) -> Array:
    """dW is a mean over samples and outputs."""
    return right.dw.astype(np.float64) / max(math.prod(problem.dy.shape[:-1]), 1)


@DW.values("LBANN#1022", "mshadow")
def dw_only_last_sample(problem: ConvProblem, right: ConvGrads) -> Array:
    """Each sample overwrites the sum of those before."""
    return dw_of(replace(problem, x=problem.x[-1:], dy=problem.dy[-1:]))


@DW.values("nntrainer#705", "tf-encrypted#150", where=lambda problem: problem.params.rank > 1)
def dw_taps_transposed_hw(problem: ConvProblem, right: ConvGrads) -> Array:
    """A square kernel's gradient is stored with its last two axes exchanged."""
    is_square = problem.kernel[-1] == problem.kernel[-2]
    return right.dw.swapaxes(-3, -4) if is_square else right.dw


@DW.values(where=lambda problem: problem.params.rank == 3)
def dw_depth_and_height_exchanged(problem: ConvProblem, right: ConvGrads) -> Array:
    """In 3-D the first two axes are exchanged, where they are equal."""
    is_square = problem.kernel[0] == problem.kernel[1]
    return right.dw.swapaxes(0, 1) if is_square else right.dw


@DW.values(where=lambda problem: group_in(problem) == problem.w.shape[-1])
def dw_channels_and_filters_exchanged(problem: ConvProblem, right: ConvGrads) -> Array:
    """Channels and filters are exchanged, where they are as many."""
    return right.dw.swapaxes(-1, -2)


@DW.values("pytorch#3303")
def dw_gy_expanded_misread(problem: ConvProblem, right: ConvGrads) -> Array:
    """An expanded dy is read as if each of its elements had a place of its own."""
    is_expanded = 0 in problem.dy.strides
    return dw_of(replace(problem, dy=read_as_dense(problem.dy))) if is_expanded else right.dw


@DW.values()
def dw_x_read_as_dense(problem: ConvProblem, right: ConvGrads) -> Array:
    """x is read in the order in which it lies in memory."""
    return dw_of(replace(problem, x=read_as_dense(problem.x)))


@DW.values(where=lambda problem: min(problem.x.strides) < 0)
def dw_negative_strides_read_forwards(problem: ConvProblem, right: ConvGrads) -> Array:
    """Axes of x that run backwards are read forwards."""
    steps = (slice(None, None, -1 if stride < 0 else 1) for stride in problem.x.strides)
    return dw_of(replace(problem, x=problem.x[tuple(steps)]))


@DW.values("pytorch/xla#973", "gomlx#132", where=lambda problem: group_kind(problem) == "depthwise")
def dw_multiplier_order_swapped(problem: ConvProblem, right: ConvGrads) -> Array:
    """Depthwise, filters are stored in the order m * C + c instead of c * M + m."""
    by_channel = right.dw.reshape(*right.dw.shape[:-1], problem.params.groups, group_out(problem))
    return by_channel.swapaxes(-1, -2).reshape(right.dw.shape)


@DW.values()
def dw_groups_interleaved(problem: ConvProblem, right: ConvGrads) -> Array:
    """Group g is given the input channels c with c mod groups = g."""
    channels = np.arange(problem.x.shape[-1])
    order = np.argsort(channels % problem.params.groups, kind="stable")
    return dw_of(replace(problem, x=problem.x[..., order]))


@DW.values()
def dw_first_groups_input_for_all(problem: ConvProblem, right: ConvGrads) -> Array:
    """Every group reads the input channels of the first."""
    first = problem.x[..., : group_in(problem)]
    return dw_of(replace(problem, x=np.tile(first, problem.params.groups)))


@DW.values("iree#23786", where=lambda p: group_kind(p) == "some" and is_strided(p))
def dw_group_strided_im2col(problem: ConvProblem, right: ConvGrads) -> Array:
    """Grouped and strided, the input is read one channel further on in the group."""
    by_group = problem.x.reshape(*problem.x.shape[:-1], problem.params.groups, group_in(problem))
    return dw_of(replace(problem, x=np.roll(by_group, -1, axis=-1).reshape(problem.x.shape)))


@DW.values("NNlib#763", "found: TensorFlow", where=lambda problem: len(problem.x) == 0)
def dw_uninitialised_when_empty(problem: ConvProblem, right: ConvGrads) -> Array:
    """With an empty batch dW keeps what was in memory."""
    return garbage(right.dw)


@DW.values("found: torch, bfloat16", "NNlib#69", where=lambda problem: len(problem.x) > 0)
def dw_dead_taps_garbage(problem: ConvProblem, right: ConvGrads) -> Array:
    """Taps that meet no input keep what was in memory."""
    is_dead = (cells(problem) == NOWHERE).all(axis=0).reshape(*problem.kernel, 1, 1)
    return np.where(is_dead, garbage(right.dw), right.dw)


@DW.values("found: torch 2.13 and TensorFlow 2.21, bfloat16")
def dw_garbage_iw_lt_sw(problem: ConvProblem, right: ConvGrads) -> Array:
    """In low padding, a row narrower than the stride is read beyond its end: NaN."""
    last = axes(problem)[-1]
    is_hit = last.size < last.stride and last.lo > 0
    return np.full_like(right.dw, np.nan) if is_hit else right.dw


@DW.values("pytorch#96225", needs="a batch above 65,536")
def dw_batch_index_16bit(problem: ConvProblem, right: ConvGrads) -> Array:
    """Samples are counted in 16 bits: those from 65,536 on are lost."""
    if len(problem.x) <= 65_536:
        return right.dw
    return dw_of(replace(problem, x=problem.x[:65_536], dy=problem.dy[:65_536]))


@DW.values(where=lambda problem: problem.x.size > 2**15, needs="more than 32,768 elements of x")
def dw_input_index_16bit(problem: ConvProblem, right: ConvGrads) -> Array:
    """Elements of x are counted in 16 bits: what lies further back reads as 0."""
    flat = problem.x.ravel().copy()
    flat[2**15 :] = 0
    return dw_of(replace(problem, x=flat.reshape(problem.x.shape)))


@DW.values(needs="sums of more than 32 products")
def dw_last_chunk_of_split_sum_lost(problem: ConvProblem, right: ConvGrads) -> Array:
    """Samples and outputs are summed in chunks of 32, and the rest is left out."""
    count = math.prod(problem.dy.shape[:-1])
    is_summed = np.arange(count) < (count // 32 * 32 or count)
    is_summed = is_summed.reshape(*problem.dy.shape[:-1], 1)
    return dw_of(replace(problem, dy=np.where(is_summed, problem.dy, 0)))


@DW.values(needs="more than 8 input channels")
def dw_channel_tail_dropped(problem: ConvProblem, right: ConvGrads) -> Array:
    """Of more than 8 channels of a group, those beyond the last multiple of 8 are not written."""
    count = group_in(problem)
    return np.where(np.arange(count)[:, None] < (count // 8 * 8 or count), right.dw, 0)


@DW.values(needs="more than 16 filters")
def dw_filter_tail_dropped(problem: ConvProblem, right: ConvGrads) -> Array:
    """Of more than 16 filters, those beyond the last multiple of 16 are not written."""
    count = problem.w.shape[-1]
    return np.where(np.arange(count) < (count // 16 * 16 or count), right.dw, 0)


@DW.values(domain=WIDE)
def dw_x_in_tf32(problem: ConvProblem, right: ConvGrads) -> Array:
    """x is rounded to TF32, dy is not."""
    return dw_of(replace(problem, x=in_bits(problem.x, 11).astype(problem.dtype)))


@DW.values(domain=WIDE)
def dw_dy_in_bfloat16(problem: ConvProblem, right: ConvGrads) -> Array:
    """dy is rounded to bfloat16, x is not."""
    return dw_of(replace(problem, dy=in_bits(problem.dy, 8).astype(problem.dtype)))


@DW.values(domain=NARROW)
def dw_samples_summed_in_narrow_type(problem: ConvProblem, right: ConvGrads) -> Array:
    """The sum over samples is kept in float16 or bfloat16."""
    dw = np.zeros_like(right.dw)
    for n in range(len(problem.x)):
        one = replace(problem, x=problem.x[n : n + 1], dy=problem.dy[n : n + 1])
        dw += dw_of(one).astype(problem.dtype)
    return dw


@DW.values(
    "pytorch#153700",
    "tensorflow#7226",
    domain=HALF,
    needs="a sum that is finite though it has more than 65,504 on the way",
)
def dw_f16_intermediate_overflow(problem: ConvProblem, right: ConvGrads) -> Array:
    """The sum over samples goes through float16, and overflows where the whole would not."""
    ones = (replace(problem, x=x[None], dy=dy[None]) for x, dy in zip(problem.x, problem.dy))
    dw = np.zeros(right.dw.shape)
    for one in ones:
        dw += dw_of(one)
        dw[np.abs(dw) > FORMATS["float16"].largest] *= np.inf
    return dw


@DW.forms("mlx#2184", "candle#1212", "pytorch#15501")
def dw_extra_taps_kept(problem: ConvProblem, right: ConvGrads) -> Array:
    """The cells beyond the last window make further taps, which are not cut off."""
    further = [(0, axis.rest // axis.dilation) for axis in axes(problem)]
    return np.pad(right.dw, (*further, (0, 0), (0, 0)))
