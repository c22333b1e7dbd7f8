"""Plans: ways to lay out the products of one convolution. They make the same sums in other orders.

`choose` says in one place which is used; `python -m tests.benchmarks.speed` times all of them.
A plan computes y without bias, or dX and dW, from C-contiguous arrays shaped as in `problem`.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache, reduce
from itertools import product
from operator import iadd
from types import MappingProxyType
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from reference import threads
from reference.problem import Array, ConvParams, Padding, Size, output_size

Grads: TypeAlias = tuple[Array, Array]
Cells: TypeAlias = tuple[slice, ...]

_COLUMNS = 1 << 19  # elements of a block of columns: in float32 2 MB, what a core's cache holds
_NARROW = 128  # channels up to which adding up a product per tap costs more than columns
_EINSUM = 1 << 11  # multiply-adds of a filter that are worth np.einsum, if it is asked once
_FEW = 16  # channels that a matrix product is too large a tool for
_LANES = 4096  # that are summed together, if channels are few: three rows of them fit in a cache
_SPARSE = 4  # times as large as the input
_PART = 1 << 21  # multiply-adds of a part of a depthwise layer
_SHARED = 1 << 25  # multiply-adds of a layer from which its parts are computed side by side
_SMALL = 10**6  # multiply-adds up to which OpenBLAS has kernels that do without packing
_SLIGHT = 2048  # multiply-adds a row up to which that is faster than two threads
_HEAVY = 2  # times as large as x
_LONG = 112  # terms that a product adds up fast, if that is not too little work
_LEAST = 64  # rows that such a product is worth it for


class Plan(NamedTuple):
    """One way to compute.

    `fits` says for which shapes of x and w and which params. Where a plan `stores_padding`, an Inf
    or NaN in w or in its dW may have met a zero of the padding, and the result is not to be used.
    """

    fits: Callable[[Size, Size, ConvParams], bool]
    forward: Callable[[Array, Array, ConvParams], Array]
    backward: Callable[[Array, Array, Array, ConvParams], Grads]
    stores_padding: bool


@lru_cache(maxsize=4096)
def choose(x_shape: Size, w_shape: Size, params: ConvParams) -> str:
    """The name of the plan that is fastest, for x (N, *S, C), w (*K, C/groups, F)."""
    fitting = [name for name, plan in PLANS.items() if plan.fits(x_shape, w_shape, params)]
    channels, filters = x_shape[-1], w_shape[-1]
    if "point" in fitting:
        return "point"
    if _is_sparse(x_shape, params):
        return "taps"
    if "depthwise" in fitting and _is_worth_lanes(x_shape, w_shape, params):
        return "depthwise"
    if "x columns" in fitting and channels <= _NARROW:
        is_strided = "dy columns" not in fitting
        if 4 * channels <= filters or (is_strided and channels <= _FEW):
            return "x columns"
    if "dy columns" in fitting and min(channels, filters) <= _NARROW:
        return "dy columns"
    return "taps"


def _is_sparse(x_shape: Size, params: ConvParams) -> bool:
    """Whether the padded input is so large that most taps lie in the padding."""
    sizes = zip(x_shape[1:-1], params.padding)
    padded = math.prod(size + lo + hi for size, (lo, hi) in sizes)
    return padded > _SPARSE * math.prod(x_shape[1:-1])


def _is_worth_lanes(x_shape: Size, w_shape: Size, params: ConvParams) -> bool:
    """Whether np.einsum, once for each phase and filter of a channel, beats a product per tap."""
    kernel, filters = w_shape[:-2], w_shape[-1] // x_shape[-1]
    phases = math.prod(map(min, params.stride, kernel))
    return math.prod(x_shape) * math.prod(kernel) >= _EINSUM * (phases * filters) ** 2


def _is_point(x_shape: Size, w_shape: Size, params: ConvParams) -> bool:
    is_one = math.prod(w_shape[:-2]) == params.groups == max(params.stride) == 1
    return is_one and not any(map(any, params.padding)) and _has_elements(x_shape, w_shape)


def _is_dense(x_shape: Size, w_shape: Size, params: ConvParams) -> bool:
    return params.groups == 1 and _has_elements(x_shape, w_shape)


def _is_dense_of_stride_1(x_shape: Size, w_shape: Size, params: ConvParams) -> bool:
    return max(params.stride) == 1 and _is_dense(x_shape, w_shape, params)


def _is_depthwise(x_shape: Size, w_shape: Size, params: ConvParams) -> bool:
    return w_shape[-2] == 1 and params.groups > 1 and _has_elements(x_shape, w_shape)


def _has_elements(x_shape: Size, w_shape: Size) -> bool:
    return 0 not in x_shape and 0 not in w_shape


def _point_forward(x: Array, w: Array, params: ConvParams) -> Array:
    """One product for a kernel of one tap."""
    del params
    y = np.empty((*x.shape[:-1], w.shape[-1]), x.dtype)
    _multiply(_rows(x), _rows(w), _rows(y), cut=_is_cut(w))
    return y


def _point_backward(x: Array, w: Array, dy: Array, params: ConvParams) -> Grads:
    """The same for dX and dW; in blocks where there are few channels, for the cache's sake."""
    del params
    x_rows, w_rows, dy_rows = _rows(x), _rows(w), _rows(dy)
    few, cut = min(w_rows.shape) <= _FEW, _is_cut(w)
    dx = np.empty(x_rows.shape, x.dtype)

    def part(block: Cells) -> Array:
        _multiply(dy_rows[block], w_rows.T, dx[block], cut=cut)
        return _contracted(x_rows[block], dy_rows[block], cut=cut)

    rows = len(x_rows)
    dw = _total(map(part, _blocks((rows,), _COLUMNS // sum(w_rows.shape) if few else rows)))
    return dx.reshape(x.shape), dw.reshape(w.shape)


def _is_cut(w: Array) -> bool:
    """Whether small products are faster than large ones, which BLAS has all its threads for."""
    return threads.THREADS == 1 or w.size <= _SLIGHT


def _taps_forward(x: Array, w: Array, params: ConvParams) -> Array:
    """One product per tap, of all groups: y += x_tap @ w_tap, x_tap being what the tap reads."""
    out = output_size(x.shape[1:-1], w.shape[:-2], params)
    y = np.zeros((len(x), *out, w.shape[-1]), x.dtype)
    if 0 in (x.size, w.size, y.size):
        return y
    taps = _taps(x.shape[1:-1], w.shape[:-2], out, params)
    x, y_grouped = _grouped(x, params), _grouped(y, params)
    w = _of_taps(w, params)
    for tap, x_cells, y_cells in taps:
        fed = y_grouped[y_cells]
        fed += _from_groups(_by_group(x[x_cells]) @ w[tap], fed.shape)
    return y


def _taps_backward(x: Array, w: Array, dy: Array, params: ConvParams) -> Grads:
    """With dy_tap the outputs that a tap feeds: dX += dy_tap @ w_tap^T, dW = x_tap^T @ dy_tap."""
    dx, dw = np.zeros(x.shape, x.dtype), np.zeros(w.shape, w.dtype)
    if 0 in (x.size, w.size, dy.size):
        return dx, dw
    taps = _taps(x.shape[1:-1], w.shape[:-2], dy.shape[1:-1], params)
    x, dx_grouped, dy = (_grouped(array, params) for array in (x, dx, dy))
    w_transposed = _of_taps(w, params).swapaxes(-1, -2)
    dw_of_taps = _of_taps(dw, params)
    for tap, x_cells, y_cells in taps:
        dy_tap, read = _by_group(dy[y_cells]), dx_grouped[x_cells]
        read += _from_groups(dy_tap @ w_transposed[tap], read.shape)
        dw_of_taps[tap] = _by_group(x[x_cells]).swapaxes(-1, -2) @ dy_tap
    return dx, dw


def _grouped(array: Array, params: ConvParams) -> Array:
    """(*M, groups * A) as (*M, groups, A), a view."""
    *rest, channels = array.shape
    return array.reshape(*rest, params.groups, channels // params.groups)


def _of_taps(w: Array, params: ConvParams) -> Array:
    """(*K, C/groups, F) as matrices, (*K, groups, C/groups, F/groups), a view."""
    return _grouped(w, params).swapaxes(-2, -3)


def _by_group(cells: Array) -> Array:
    """(*M, groups, A) as one matrix per group, (groups, prod(M), A)."""
    return cells.reshape(-1, *cells.shape[-2:]).swapaxes(0, 1)


def _from_groups(products: Array, shape: Size) -> Array:
    """(groups, prod(M), A) back to `shape` = (*M, groups, A)."""
    return products.swapaxes(0, 1).reshape(shape)


@lru_cache(maxsize=64)
def _taps(
    spatial: Size, kernel: Size, out: Size, params: ConvParams
) -> tuple[tuple[Size, Cells, Cells], ...]:
    """Each tap that meets input: its index, the cells of x that it reads, those of y it feeds.

    Output o and tap k meet at input o * stride + k * dilation - lo; outputs for which that lies in
    the padding are left out.
    """
    lows = (lo for lo, _ in params.padding)
    axes = map(_taps_along, spatial, kernel, out, params.stride, params.dilation, lows)
    every = slice(None)
    return tuple(
        (taps, (every, *x_cells), (every, *y_cells))
        for taps, x_cells, y_cells in (zip(*met) for met in product(*axes))
    )


def _taps_along(
    size: int, taps: int, outputs: int, stride: int, dilation: int, lo: int
) -> Iterator[tuple[int, slice, slice]]:
    """The same along one axis."""
    for tap in range(taps):
        offset = tap * dilation - lo
        first = max(0, -(offset // stride))
        last = min(outputs - 1, (size - 1 - offset) // stride)
        if first <= last:
            x_cells = slice(first * stride + offset, last * stride + offset + 1, stride)
            yield tap, x_cells, slice(first, last + 1)


def _columns_forward(x: Array, w: Array, params: ConvParams) -> Array:
    """One product per block of outputs: their windows, a row each, with w."""
    windows = _windows(_padded(x, params.padding), w.shape[:-2], params)
    y = np.empty((*windows.shape[: x.ndim - 1], w.shape[-1]), x.dtype)
    w_rows = _rows(w)

    def part(block: Cells) -> None:
        columns = windows[block].reshape(-1, len(w_rows))
        _multiply(columns, w_rows, _rows(y[block]))

    share = _is_narrow(w.size) and _is_long(y, w)
    _do(threads.in_order(part, _blocks(y.shape[:-1], _COLUMNS // len(w_rows)), share))
    return y


def _x_columns_backward(x: Array, w: Array, dy: Array, params: ConvParams) -> Grads:
    """Per block of outputs: dW += columns^T @ dy; w @ dy^T holds what each tap adds to dX.

    dX lies channels first meanwhile, so that what is added lies in long rows.
    """
    kernel = w.shape[:-2]
    padded = _padded(x, params.padding)
    dx_padded = _channels_last(np.zeros((x.shape[-1], *padded.shape[:-1]), x.dtype), 0)
    windows, dx_windows = (_windows(array, kernel, params) for array in (padded, dx_padded))
    w_rows = _rows(w)

    def part(block: Cells) -> Array:
        dy_rows = _rows(dy[block])
        products = (w_rows @ dy_rows.T).reshape(*kernel, -1, *dy[block].shape[:-1])
        products = _channels_last(products, params.rank)
        for tap in product(*map(range, kernel)):
            dx_windows[block + tap] += products[tap]
        return _contracted(windows[block].reshape(-1, len(w_rows)), dy_rows)

    dw = _total(map(part, _blocks(dy.shape[:-1], _COLUMNS // len(w_rows))))
    return _unpadded(dx_padded, x.shape, params.padding), dw.reshape(w.shape)


def _dy_columns_backward(x: Array, w: Array, dy: Array, params: ConvParams) -> Grads:
    """Per block of inputs, with the outputs that each feeds as a row: dX = columns @ w^T.

    dX is itself a convolution, of dy with the reversed kernel, where the stride is 1; dW is
    x^T @ columns. Where w is much larger than x, it is made tap by tap: to put it in order
    afterwards would take longer.
    """
    kernel, rank = w.shape[:-2], params.rank
    by_tap = w.size > _HEAVY * x.size
    [phase] = _phases(x.shape[1:-1], kernel, dy.shape[1:-1], params)
    windows = _windows(_padded(dy, phase.padding), kernel, params)
    w_rows = _rows(np.ascontiguousarray(_reversed(w, rank).swapaxes(-1, -2)))
    dx = np.empty(x.shape, x.dtype)

    def part(block: Cells) -> Array:
        columns = windows[block].reshape(-1, len(w_rows))
        _multiply(columns, w_rows, _rows(dx[block]))
        if not by_tap:
            return _contracted(_rows(x[block]), columns)
        taps = columns.reshape(len(columns), -1, w.shape[-1]).swapaxes(0, 1)
        return _rows(x[block]).T @ taps[::-1]

    blocks = _blocks(x.shape[:-1], _COLUMNS // len(w_rows))
    dw = _total(threads.in_order(part, blocks, _is_narrow(w.size) and _is_long(dy, w)))
    if by_tap:
        return dx, dw.reshape(w.shape)
    dw = dw.reshape(-1, *kernel, w.shape[-1])
    dw = _reversed(dw.transpose(*range(1, rank + 1), 0, rank + 1), rank)
    return dx, np.ascontiguousarray(dw)


def _depthwise_forward(x: Array, w: Array, params: ConvParams) -> Array:
    """No matrix product, but y = sum over taps of the windows * w, channel by channel."""
    channels = x.shape[-1]
    filters = _by_filter(w[..., 0, :], channels)
    out = output_size(x.shape[1:-1], w.shape[:-2], params)
    y = np.empty((len(x), *out, channels, len(filters)), x.dtype)
    kept = _Kept()

    def part(images: Cells) -> None:
        padded = _padded(x[images], params.padding, kept.x)
        for m, w_m in enumerate(filters):
            _sum_windows(padded, w_m, y[images][..., m], params)

    _do(threads.in_order(part, _images(y, w), _is_long(y, w)))
    return y.reshape(*y.shape[:-2], -1)


def _depthwise_backward(x: Array, w: Array, dy: Array, params: ConvParams) -> Grads:
    """For each filter of a channel: dW = sum over outputs of the windows * dy."""
    channels = x.shape[-1]
    filters = _by_filter(w[..., 0, :], channels)
    dx, kept = np.empty(x.shape, x.dtype), _Kept()

    def part(images: Cells) -> Array:
        padded, dx_part = _padded(x[images], params.padding, kept.x), dx[images]
        dw = np.empty(filters.shape, w.dtype)
        for m, dy_m in enumerate(_by_filter(dy[images], channels)):
            dw[m] = _depthwise_dw(padded, w.shape[:-2], dy_m, params)
            dx_m = np.empty(dx_part.shape, dx.dtype) if m else dx_part
            _depthwise_dx(filters[m], dy_m, dx_m, params, kept.dy)
            if m:
                dx_part += dx_m
        return dw

    dw = _total(threads.in_order(part, _images(dy, w), _is_long(dy, w)))
    return dx, np.moveaxis(dw, 0, -1).reshape(w.shape)


def _images(y: Array, w: Array) -> tuple[Cells, ...]:
    """So many images at a time that there is something to do."""
    return _blocks((len(y),), _PART // (y[0].size * math.prod(w.shape[:-2])))


def _is_long(y: Array, w: Array) -> bool:
    """Whether threads are worth it: they begin on one core, and take a while to find another."""
    return y.size * math.prod(w.shape[:-1]) >= _SHARED


def _by_filter(array: Array, channels: int) -> Array:
    """(*M, F) as (F / C, *M, C), C-contiguous: filter by filter of every channel."""
    array = array.reshape(*array.shape[:-1], channels, array.shape[-1] // channels)
    return np.ascontiguousarray(np.moveaxis(array, -1, 0))


def _sum_windows(padded: Array, w: Array, out: Array, params: ConvParams) -> None:
    """`out` (N, *O, C) = sum over taps of the windows of `padded` * w (*K, C)."""
    windows, side = _lanes(padded, w.shape[:-1], params)
    places, taps, lane = _axes(params.rank)
    arguments = (windows, places + taps + lane, _repeated(w, side), taps + lane, places + lane)
    if out.flags.c_contiguous:
        np.einsum(*arguments, out=out.reshape(*windows.shape[: len(places)], -1))
    else:
        out[...] = np.einsum(*arguments).reshape(out.shape)


def _depthwise_dw(padded: Array, kernel: Size, dy: Array, params: ConvParams) -> Array:
    """dW (*K, C) = sum over outputs of the windows of `padded` * dy (N, *O, C)."""
    windows, side = _lanes(padded, kernel, params)
    places, taps, lane = _axes(params.rank)
    dy_lanes = dy.reshape(*windows.shape[: len(places)], -1)
    sums = np.einsum(windows, places + taps + lane, dy_lanes, places + lane, taps + lane)
    return np.asarray(sums.reshape(*kernel, side, -1).sum(axis=-2) if side > 1 else sums)


def _depthwise_dx(
    w: Array, dy: Array, dx: Array, params: ConvParams, kept: dict[Any, Array]
) -> None:
    """`dx` (N, *S, C) = sum over taps of the windows of dy * the reversed w (*K, C), by phases."""
    if max(params.stride) > 1:
        dx[...] = 0  # where no tap reads it
    for phase in _phases(dx.shape[1:-1], w.shape[:-1], dy.shape[1:-1], params):
        w_phase = _reversed(w[phase.taps], params.rank)
        padded = _padded(dy, phase.padding, kept)
        _sum_windows(padded, w_phase, dx[phase.inputs], phase.params)


class _Phase(NamedTuple):
    """Every so many inputs along each axis, and all the taps that read these.

    dX there is a convolution of stride 1, of padded dy with these taps from last to first.
    """

    inputs: Cells
    taps: Cells
    padding: Padding
    params: ConvParams


@lru_cache(maxsize=4096)
def _phases(spatial: Size, kernel: Size, out: Size, params: ConvParams) -> tuple[_Phase, ...]:
    lows = (lo for lo, _ in params.padding)
    axes = map(_phases_along, spatial, kernel, out, params.stride, params.dilation, lows)
    ones, none = (1,) * params.rank, ((0, 0),) * params.rank
    return tuple(
        _Phase((slice(None), *inputs), taps, padding, ConvParams(ones, none, dilation))
        for inputs, taps, padding, dilation in (zip(*phase) for phase in product(*axes))
    )


def _phases_along(
    size: int, taps: int, outputs: int, stride: int, dilation: int, lo: int
) -> Iterator[tuple[slice, slice, tuple[int, int], int]]:
    """Of one axis: inputs, taps, padding, dilation.

    Input i and tap k meet at output (i + lo - k * dilation) / stride, where that is whole.
    """
    step = stride // math.gcd(stride, dilation)
    apart = dilation * step // stride  # outputs between two taps of a phase
    for tap in range(min(step, taps)):
        inputs = range((tap * dilation - lo) % stride, size, stride)
        if inputs:
            last = (len(range(tap, taps, step)) - 1) * apart
            output = (inputs[0] + lo - tap * dilation) // stride  # that the first of both meet at
            padding = (last - output, output + len(inputs) - outputs)
            yield slice(inputs[0], None, stride), slice(tap, None, step), padding, apart


def _lanes(padded: Array, kernel: Size, params: ConvParams) -> tuple[Array, int]:
    """`_windows`, (N, *O, *K, C), for sums in which each channel is by itself.

    Where outputs along the last axis lie side by side in memory, some of them, a number that
    divides O[-1], are one axis with the channels: (N, *O[:-1], O[-1] / side, *K, side * C).
    """
    windows = _windows(padded, kernel, params)
    axis, channels = params.rank, padded.shape[-1]
    side = _side(windows.shape[axis], channels) if params.stride[-1] == 1 else 1
    shape, strides = [*windows.shape], [*windows.strides]
    shape[axis] //= side
    strides[axis] *= side
    shape[-1] *= side
    return np.ndarray(shape, padded.dtype, padded, 0, strides), side


@lru_cache(maxsize=4096)
def _side(outputs: int, channels: int) -> int:
    """How many of `outputs` are summed together, so that loops are long, but fit in a cache."""
    most = _LANES // channels if 4 * channels < _LANES else 1
    return max(side for side in range(1, min(outputs, most) + 1) if outputs % side == 0)


def _repeated(w: Array, side: int) -> Array:
    """W (*K, C) for as many outputs side by side."""
    return np.tile(w, side) if side > 1 else np.ascontiguousarray(w)


def _axes(rank: int) -> tuple[list[int], list[int], list[int]]:
    """Numbers, for np.einsum, of the axes of outputs, of *K, and of lanes."""
    return [*range(rank + 1)], [*range(rank + 1, 2 * rank + 1)], [2 * rank + 1]


def _reversed(w: Array, rank: int) -> Array:
    """W (*K, ...) with its taps from last to first."""
    return w[(slice(None, None, -1),) * rank]


def _total(parts: Iterator[Array]) -> Array:
    """Of one part at least; into the first, which must be nobody else's."""
    return reduce(iadd, parts)


def _do(parts: Iterator[None]) -> None:
    for _ in parts:
        pass


def _multiply(a: Array, b: Array, out: Array, *, cut: bool = True) -> None:
    """`out` (M, B) = a (M, A) @ b (A, B), by pieces of M; all three are C-contiguous but for b."""
    done = 0
    if cut and (pieces := _pieces(len(a), b.size)):
        done = math.prod(pieces)
        np.matmul(a[:done].reshape(*pieces, -1), b, out=out[:done].reshape(*pieces, -1))
    if done < len(a):
        np.matmul(a[done:], b, out=out[done:])


def _contracted(a: Array, b: Array, *, cut: bool = True) -> Array:
    """a^T @ b, (A, B), of C-contiguous a (M, A) and b (M, B), by pieces of M."""
    pieces = _pieces(len(a), a.shape[1] * b.shape[1], is_sum=True) if cut else None
    if not pieces:
        return a.T @ b
    done = math.prod(pieces)
    a_pieces, b_pieces = (array[:done].reshape(*pieces, -1) for array in (a, b))
    product: Array = np.add.reduce(a_pieces.swapaxes(1, 2) @ b_pieces, axis=0)
    return product + a[done:].T @ b[done:] if done < len(a) else product


def _is_narrow(each: int) -> bool:
    """Whether a product of so many multiply-adds a row is small with enough of them."""
    return each * _LEAST <= _SMALL


def _pieces(rows: int, each: int, *, is_sum: bool = False) -> tuple[int, int] | None:
    """How many products of how many rows, of `each` multiply-adds, are small; None if no good."""
    most = _SMALL // each if each else rows
    if is_sum:
        most = min(most, max(_LONG, most // 10))
    if most >= rows or not _is_narrow(each):
        return None
    count = -(-rows // most)
    return count, rows // count


def _rows(array: Array) -> Array:
    """(*M, A) as a matrix (prod(M), A), without a copy where that is possible."""
    return array.reshape(-1, array.shape[-1])


def _padded(array: Array, padding: Padding, kept: dict[Any, Array] | None = None) -> Array:
    """(N, *S, A) with zeros around it, or without some cells where `padding` is negative.

    Where such an array has been `kept`, it is used again.
    """
    if not any(map(any, padding)):
        return array
    shape, target, source = _placed(array.shape, padding)
    key = array.shape, padding
    padded = kept.get(key) if kept else None
    if padded is None:
        padded = np.zeros(shape, array.dtype)
        if kept is not None:
            kept[key] = padded
    padded[target] = array[source]
    return padded


class _Kept(threading.local):
    """What each thread pads with zeros, for part after part."""

    def __init__(self) -> None:
        self.x: dict[Any, Array] = {}
        self.dy: dict[Any, Array] = {}


@lru_cache(maxsize=4096)
def _placed(shape: Size, padding: Padding) -> tuple[Size, Cells, Cells]:
    """The shape of (N, *S, A) with `padding`, and which of its cells are which of those inside."""
    sizes = tuple(size + lo + hi for size, (lo, hi) in zip(shape[1:], padding))
    source, target = [slice(None)], [slice(None)]
    for size, (lo, hi) in zip(shape[1:], padding):
        first, last = max(0, -lo), max(0, -lo, size + min(0, hi))
        source.append(slice(first, last))
        target.append(slice(first + lo, last + lo))
    return (shape[0], *sizes, shape[-1]), tuple(target), tuple(source)


def _unpadded(padded: Array, shape: Size, padding: Padding) -> Array:
    inside = (slice(lo, lo + size) for size, (lo, _) in zip(shape[1:], padding))
    return np.ascontiguousarray(padded[(slice(None), *inside)])


def _windows(padded: Array, kernel: Size, params: ConvParams) -> Array:
    """A view (N, *O, *K, A) of (N, *S, A): what each output sees of it."""
    shape, strides = _window_strides(padded.shape, padded.strides, kernel, params)
    if padded.flags.c_contiguous:  # then without as_strided, which takes five times as long
        return np.ndarray(shape, padded.dtype, padded, 0, strides)
    return np.lib.stride_tricks.as_strided(padded, shape, strides)


@lru_cache(maxsize=4096)
def _window_strides(
    shape: Size, strides: Size, kernel: Size, params: ConvParams
) -> tuple[Size, Size]:
    extents = ((k - 1) * d + 1 for k, d in zip(kernel, params.dilation))
    out = ((size - e) // s + 1 for size, e, s in zip(shape[1:], extents, params.stride))
    across = (step * s for step, s in zip(strides[1:], params.stride))
    within = (step * d for step, d in zip(strides[1:], params.dilation))
    return (shape[0], *out, *kernel, shape[-1]), (strides[0], *across, *within, strides[-1])


def _channels_last(array: Array, axis: int) -> Array:
    """A view of `array` with `axis` at the end; np.moveaxis takes ten times as long."""
    return array.transpose(*range(axis), *range(axis + 1, array.ndim), axis)


@lru_cache(maxsize=256)
def _blocks(sizes: Size, most: int) -> tuple[Cells, ...]:
    """Slices of `sizes` that are contiguous in memory, of at most `most` cells, one at least."""
    axis, inner = len(sizes) - 1, 1
    while axis and inner * sizes[axis] <= most:
        inner *= sizes[axis]
        axis -= 1
    count = -(-sizes[axis] // max(1, most // inner))
    step = -(-sizes[axis] // count)
    rest = tuple(slice(0, size) for size in sizes[axis + 1 :])
    return tuple(
        (*(slice(place, place + 1) for place in outer), slice(start, start + step), *rest)
        for outer in product(*map(range, sizes[:axis]))
        for start in range(0, sizes[axis], step)
    )


PLANS: Mapping[str, Plan] = MappingProxyType(
    {
        "point": Plan(_is_point, _point_forward, _point_backward, stores_padding=False),
        "depthwise": Plan(
            _is_depthwise, _depthwise_forward, _depthwise_backward, stores_padding=True
        ),
        "x columns": Plan(_is_dense, _columns_forward, _x_columns_backward, stores_padding=True),
        "dy columns": Plan(
            _is_dense_of_stride_1, _columns_forward, _dy_columns_backward, stores_padding=True
        ),
        "taps": Plan(lambda *_: True, _taps_forward, _taps_backward, stores_padding=False),
    }
)
