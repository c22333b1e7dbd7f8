"""Faults of dX."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from oracles.protocol import Box, Domain, group_kind
from reference.problem import Array, ConvGrads, ConvParams, ConvProblem
from tests.support.mutants.fault import (
    Fault,
    garbage,
    group_in,
    group_out,
    in_bits,
    is_pointwise,
    read_as_dense,
)
from tests.support.mutants.loops import NOWHERE, Axis, axes, dx_of

DX = Fault(("dx",))
WIDE = Domain(Box(ranks=(1, 2, 3), dtypes=("float32", "float64")))


@DX.reads("jax#567", "pytorch#13008", "tensorflow#18454")
def dx_dilation_ignored(axis: Axis) -> Array:
    """The taps lie side by side."""
    return replace(axis, dilation=1).place


@DX.reads("pytorch#61100", "nntrainer#705")
def dx_kernel_not_flipped(axis: Axis) -> Array:
    """The taps are taken in the reverse order."""
    return axis.place[:, ::-1]


@DX.reads("candle#2337")
def dx_stride_dilation_swapped(axis: Axis) -> Array:
    """Stride and dilation are exchanged."""
    return replace(axis, stride=axis.dilation, dilation=axis.stride).place


@DX.reads("classic")
def dx_first_row_excluded(axis: Axis) -> Array:
    """On the first axis the bound test is > 0 instead of >= 0."""
    return np.where((axis.place > 0) | (not axis.is_first), axis.place, NOWHERE)


@DX.reads("rten#1398")
def dx_negative_index_wraps(axis: Axis) -> Array:
    """What lies in the low padding goes to the far end, as Python's negative indices do."""
    return np.where(axis.place < 0, axis.place + axis.size, axis.place)


@DX.params("pytorch#36820", "tfjs#1587")
def dx_params_reversed_axes(params: ConvParams) -> ConvParams:
    """Stride, dilation and padding are read with the last axis first."""
    stride, padding, dilation = params.stride, params.padding, params.dilation
    return ConvParams(stride[::-1], padding[::-1], dilation[::-1], params.groups)


@DX.params()
def dx_padding_of_axis_0(params: ConvParams) -> ConvParams:
    """The padding of the first axis is that of every axis."""
    return replace(params, padding=params.padding[:1] * params.rank)


@DX.params()
def dx_least_padding_for_all_axes(params: ConvParams) -> ConvParams:
    """The least padding of all is that of every axis."""
    return replace(params, padding=(min(params.padding),) * params.rank)


@DX.params()
def dx_dilation_of_axis_0(params: ConvParams) -> ConvParams:
    """The dilation of the first axis is that of every axis."""
    return replace(params, dilation=params.dilation[:1] * params.rank)


@DX.params()
def dx_stride_of_last_axis(params: ConvParams) -> ConvParams:
    """The stride of the last axis is that of every axis."""
    return replace(params, stride=params.stride[-1:] * params.rank)


@DX.params(where=lambda problem: problem.params.rank == 3)
def dx_depth_and_height_exchanged(params: ConvParams) -> ConvParams:
    """In 3-D the params of the first two axes are exchanged."""
    (d, h, w), (of_d, of_h, of_w) = params.stride, params.padding
    gap_d, gap_h, gap_w = params.dilation
    return ConvParams((h, d, w), (of_h, of_d, of_w), (gap_h, gap_d, gap_w), params.groups)


@DX.reads(where=lambda problem: problem.params.rank == 1)
def dx_rank_1_dilation_on_the_wrong_axis(axis: Axis) -> Array:
    """1-D is run as 2-D with (dilation, 1) where (1, dilation) is meant."""
    return replace(axis, dilation=1).place


@DX.reads("burn#4799", "tinygrad#840")
def dx_pad_hi_used_as_lo(axis: Axis) -> Array:
    """The high padding is taken for the low one."""
    return replace(axis, lo=axis.hi).place


@DX.reads("tensorflow#45999", "opacus#451")
def dx_pad_symmetrised(axis: Axis) -> Array:
    """The low padding is half of both together."""
    return replace(axis, lo=(axis.lo + axis.hi) // 2).place


@DX.reads()
def dx_pad_larger_half_first(axis: Axis) -> Array:
    """The low padding is half of both together, the odd cell included."""
    return replace(axis, lo=(axis.lo + axis.hi + 1) // 2).place


@DX.reads()
def dx_pad_larger_of_both(axis: Axis) -> Array:
    """The low padding is the larger of both."""
    return replace(axis, lo=max(axis.lo, axis.hi)).place


@DX.reads("mlx#833", "pytorch#136348")
def dx_pad_clamped_to_kernel(axis: Axis) -> Array:
    """The padding of the transposed convolution, extent - 1 - lo, is taken for 0 if it is less."""
    return replace(axis, lo=min(axis.lo, axis.extent - 1)).place


@DX.reads()
def dx_extent_counts_the_last_gap(axis: Axis) -> Array:
    """The extent is K * dilation, so everything is off by dilation - 1."""
    return axis.place - (axis.dilation - 1)


@DX.reads()
def dx_dilation_clamped_to_input(axis: Axis) -> Array:
    """No dilation is more than the input has cells."""
    return replace(axis, dilation=min(axis.dilation, axis.size)).place


@DX.reads("classic")
def dx_border_clamped(axis: Axis) -> Array:
    """What lies in the padding is added to the cell at the border."""
    return np.clip(axis.place, 0, axis.size - 1)


@DX.reads()
def dx_windows_before_the_input_counted(axis: Axis) -> Array:
    """Of a window wholly in the low padding, every tap is added to the first cell."""
    return np.where(axis.place[:, -1:] < 0, 0, axis.place)


@DX.reads()
def dx_windows_behind_the_input_counted(axis: Axis) -> Array:
    """Of a window wholly in the high padding, every tap is added to the last cell."""
    return np.where(axis.place[:, :1] >= axis.size, axis.size - 1, axis.place)


@DX.reads("rocm-libraries#7732")
def dx_only_first_subgemm(axis: Axis) -> Array:
    """Of the products that a stride is split into, only that of the first residue class is run."""
    return np.where(axis.tap * axis.dilation % axis.stride == 0, axis.place, NOWHERE)


@DX.reads("tvm#5758", "myia#338")
def dx_output_padding_zero_filled(axis: Axis) -> Array:
    """As many last cells as no window would read without high padding are zero."""
    return np.where(axis.place < axis.size - axis.rest, axis.place, NOWHERE)


@DX.reads("MIOpen#1672", needs="more than 4 outputs in a row")
def dx_vector_tail_dropped(axis: Axis) -> Array:
    """Of more than 4 outputs in a row, those beyond the last multiple of 4 are not processed."""
    tail = axis.outputs // 4 * 4 if axis.number == -1 and axis.outputs > 4 else axis.outputs
    return np.where(axis.out < tail, axis.place, NOWHERE)


@DX.reads(
    "fujitsu/oneDNN#43", where=lambda p: p.x.shape[-1] > 16, needs="more than 16 input channels"
)
def dx_iw_small_and_strided(axis: Axis) -> Array:
    """With C > 16 and less than 17 columns, a strided kernel drops every second output column."""
    is_hit = axis.number == -1 and axis.size < 17 and axis.stride > 1
    return np.where((axis.out % 2 == 0) | (not is_hit), axis.place, NOWHERE)


@DX.reads()
def dx_last_window_lost_with_remainder(axis: Axis) -> Array:
    """Where windows do not come out even with the padded input, the last one is left out."""
    return np.where((axis.out < axis.outputs - 1) | (axis.rest == 0), axis.place, NOWHERE)


@DX.reads()
def dx_last_tap_lost_in_wide_padding(axis: Axis) -> Array:
    """With 1 < stride < low padding < kernel the last tap is left out."""
    is_hit = 1 < axis.stride < axis.lo < axis.taps
    return np.where((axis.tap < axis.taps - 1) | (not is_hit), axis.place, NOWHERE)


@DX.reads(where=is_pointwise)
def dx_pointwise_stride_ignored(axis: Axis) -> Array:
    """The fast path for kernels of one tap has no stride."""
    return replace(axis, stride=1).place


@DX.reads(where=is_pointwise)
def dx_pointwise_padding_ignored(axis: Axis) -> Array:
    """The fast path for kernels of one tap has no padding."""
    return replace(axis, lo=0).place


@DX.reads(where=lambda problem: set(problem.dy.shape[1:-1]) == {1})
def dx_one_output_padding_ignored(axis: Axis) -> Array:
    """The fast path for a single output takes the kernel to lie on the input."""
    return replace(axis, lo=0).place


@DX.reads(needs="an axis of more than 128 cells")
def dx_cell_index_8bit(axis: Axis) -> Array:
    """Cells are counted in 8 bits: those from 128 on are lost."""
    return np.where(axis.place < 128, axis.place, NOWHERE)


@DX.values()
def dx_taps_transposed_hw(problem: ConvProblem, right: ConvGrads) -> Array:
    """The kernel is read with its last two axes exchanged, where they are equal."""
    if problem.params.rank < 2 or problem.kernel[-1] != problem.kernel[-2]:
        return right.dx
    return dx_of(replace(problem, w=problem.w.swapaxes(-3, -4)))


@DX.values("classic", "tvm#8087")
def dx_assign_instead_of_accumulate(problem: ConvProblem, right: ConvGrads) -> Array:
    """Where several taps reach a cell, the last one overwrites the others."""
    return dx_of(problem, accumulates=False)


@DX.values()
def dx_holes_of_stride_filled(problem: ConvProblem, right: ConvGrads) -> Array:
    """Cells between windows that do not touch hold what the cell before them holds."""
    dx = right.dx.copy()
    for number, axis in enumerate(axes(problem), start=1):
        for start in range(axis.extent - axis.lo, axis.size - axis.rest, axis.stride):
            for cell in range(max(start, 1), min(start + axis.stride - axis.extent, axis.size)):
                along = np.moveaxis(dx, number, 0)
                along[cell] = along[cell - 1]
    return dx


@DX.values()
def dx_unread_cells_not_cleared(problem: ConvProblem, right: ConvGrads) -> Array:
    """Cells behind the last window keep what was in memory."""
    dx = right.dx.copy()
    for number, axis in enumerate(axes(problem), start=1):
        end = max(axis.size + axis.hi - axis.rest, 0) if axis.rest else axis.size
        unread = (*(slice(None),) * number, slice(end, None))
        dx[unread] = garbage(dx[unread])
    return dx


@DX.values("mmcv#565")
def dx_last_odd_sample_missing(problem: ConvProblem, right: ConvGrads) -> Array:
    """A batch is split in two halves, which leaves out the last sample of an odd one."""
    dx = right.dx.copy()
    if len(dx) > 1 and len(dx) % 2:
        dx[-1] = 0
    return dx


@DX.values(where=lambda problem: len(problem.x) > 256, needs="a batch above 256")
def dx_batch_index_8bit(problem: ConvProblem, right: ConvGrads) -> Array:
    """Samples are counted in 8 bits: sample 256 gets the gradient of sample 0."""
    return right.dx[np.arange(len(right.dx)) % 256]


@DX.values("functorch#345", "pytorch/xla#973")
def dx_groups_interleaved(problem: ConvProblem, right: ConvGrads) -> Array:
    """Filter f is taken to belong to group f mod groups."""
    filters = np.arange(problem.w.shape[-1])
    order = np.argsort(filters % problem.params.groups, kind="stable")
    return dx_of(replace(problem, w=problem.w[..., order], dy=problem.dy[..., order]))


@DX.values()
def dx_group_offset(problem: ConvProblem, right: ConvGrads) -> Array:
    """What belongs to a group lands in the next one."""
    return np.roll(right.dx, group_in(problem), axis=-1)


@DX.values()
def dx_group_sizes_exchanged(problem: ConvProblem, right: ConvGrads) -> Array:
    """The channels of a group are looked for at multiples of F / groups."""
    groups, channels = problem.params.groups, np.arange(group_in(problem))
    starts = np.arange(groups) * group_out(problem) % problem.x.shape[-1]
    wrong = np.zeros(right.dx.shape)
    for group, start in enumerate(starts):
        places = (start + channels) % problem.x.shape[-1]
        wrong[..., places] += right.dx[..., group * len(channels) + channels]
    return wrong


@DX.values()
def dx_first_groups_kernel_for_all(problem: ConvProblem, right: ConvGrads) -> Array:
    """Every group is given the kernel of the first."""
    first = problem.w[..., : group_out(problem)]
    return dx_of(replace(problem, w=np.tile(first, problem.params.groups)))


@DX.values(where=lambda problem: group_kind(problem) == "some")
def dx_grouped_last_group_lost(problem: ConvProblem, right: ConvGrads) -> Array:
    """Where groups have several channels, the last group is not computed."""
    last = np.arange(problem.x.shape[-1]) >= problem.x.shape[-1] - group_in(problem)
    return np.where(last, 0, right.dx)


@DX.values("tfjs-core#1069", where=lambda problem: group_kind(problem) == "depthwise")
def dx_multiplier_only_first(problem: ConvProblem, right: ConvGrads) -> Array:
    """Depthwise, only the first filter of each channel contributes."""
    is_first = np.arange(problem.w.shape[-1]) % group_out(problem) == 0
    return dx_of(replace(problem, w=np.where(is_first, problem.w, 0)))


@DX.values("neon#111", "jax#384", where=lambda problem: group_in(problem) == group_out(problem))
def dx_weight_oi_transposed(problem: ConvProblem, right: ConvGrads) -> Array:
    """The kernel is read with channels and filters exchanged, where they are as many."""
    w = problem.w.reshape(*problem.w.shape[:-1], problem.params.groups, group_out(problem))
    return dx_of(replace(problem, w=w.swapaxes(-3, -1).reshape(problem.w.shape)))


@DX.values(where=lambda problem: problem.x.shape[-1] == 1)
def dx_one_channel_first_filter_only(problem: ConvProblem, right: ConvGrads) -> Array:
    """The fast path for one input channel takes one filter."""
    is_first = np.arange(problem.w.shape[-1]) == 0
    return dx_of(replace(problem, w=np.where(is_first, problem.w, 0)))


@DX.values(where=lambda problem: problem.w.shape[-1] == 1)
def dx_one_filter_first_channel_for_all(problem: ConvProblem, right: ConvGrads) -> Array:
    """The fast path for one filter gives every channel the gradient of the first."""
    return np.broadcast_to(right.dx[..., :1], right.dx.shape)


@DX.values(needs="more than 8 input channels")
def dx_channel_tail_dropped(problem: ConvProblem, right: ConvGrads) -> Array:
    """Of more than 8 channels, those beyond the last multiple of 8 are not written."""
    count = problem.x.shape[-1]
    return np.where(np.arange(count) < (count // 8 * 8 or count), right.dx, 0)


@DX.values(needs="more than 16 filters")
def dx_filter_tail_dropped(problem: ConvProblem, right: ConvGrads) -> Array:
    """Of more than 16 filters, those beyond the last multiple of 16 are not summed."""
    count = problem.w.shape[-1]
    is_summed = np.arange(count) < (count // 16 * 16 or count)
    return dx_of(replace(problem, w=np.where(is_summed, problem.w, 0)))


@DX.values(domain=WIDE)
def dx_kernel_in_bfloat16(problem: ConvProblem, right: ConvGrads) -> Array:
    """The kernel is rounded to bfloat16, dy is not."""
    return dx_of(replace(problem, w=in_bits(problem.w, 8).astype(problem.dtype)))


@DX.values(domain=WIDE)
def dx_dy_in_tf32(problem: ConvProblem, right: ConvGrads) -> Array:
    """dy is rounded to TF32, the kernel is not."""
    return dx_of(replace(problem, dy=in_bits(problem.dy, 11).astype(problem.dtype)))


@DX.values("classic")
def dx_fft_leak_into_zeros(problem: ConvProblem, right: ConvGrads) -> Array:
    """Elements that are 0 hold 1e-6 of the largest one, as a transform leaves it."""
    largest = np.max(np.abs(right.dx.astype(np.float64)), initial=0)
    return np.where(right.dx == 0, 1e-6 * largest, right.dx.astype(np.float64))


@DX.values()
def dx_dy_read_as_dense(problem: ConvProblem, right: ConvGrads) -> Array:
    """dy is read in the order in which it lies in memory."""
    return dx_of(replace(problem, dy=read_as_dense(problem.dy)))


@DX.values()
def dx_kernel_read_as_dense(problem: ConvProblem, right: ConvGrads) -> Array:
    """w is read in the order in which it lies in memory."""
    return dx_of(replace(problem, w=read_as_dense(problem.w)))


@DX.forms("torch7-distro#20", "mlpack#2986", "pytorch/xla#2333")
def dx_shape_of_covered_input(problem: ConvProblem, right: ConvGrads) -> Array:
    """The cells beyond what windows cover are cut off."""
    ends = (max(axis.size - axis.rest, 0) for axis in axes(problem))
    return right.dx[(slice(None), *(slice(end) for end in ends))]


@DX.forms("NNlib#763", "pytorch#24341", where=lambda problem: len(problem.x) == 0)
def dx_empty_batch_shape(problem: ConvProblem, right: ConvGrads) -> Array:
    """An empty batch is answered with one sample of zeros."""
    return np.zeros_like(right.dx, shape=(1, *right.dx.shape[1:]))
