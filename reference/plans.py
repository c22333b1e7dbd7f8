"""Plans: ways to lay out the products of one convolution. They make the same sums in other orders.

`choose` says in one place which is used; `python -m tests.benchmarks.speed` times all of them.
A plan computes y without bias, or dX and dW, from C-contiguous arrays shaped as in `problem`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache, reduce
from itertools import product
from operator import iadd
from types import MappingProxyType
from typing import NamedTuple, TypeAlias

import numpy as np

from reference.problem import Array, ConvParams, Padding, Size, output_size

Grads: TypeAlias = tuple[Array, Array]
Cells: TypeAlias = tuple[slice, ...]

_COLUMNS = 1 << 19  # elements of a block of columns: in float32 2 MB, what a core's cache holds
_PRODUCTS = 1 << 16  # elements of a block that is multiplied element by element
_NARROW = 128  # channels up to which adding up a product per tap costs more than columns
_FEW = 16  # channels, or filters of one, that a matrix product is too large a tool for
_LANES = 256  # channels up to which an axis of several outputs is faster than one of channels alone
_SPARSE = 4  # times as large as the input
_SMALL = 10**6  # multiply-adds up to which OpenBLAS has kernels that do without packing
_HEAVY = 2  # times as large as x
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
    if "depthwise" in fitting and filters < _FEW * channels:
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
    _multiply(_rows(x), _rows(w), _rows(y))
    return y


def _point_backward(x: Array, w: Array, dy: Array, params: ConvParams) -> Grads:
    """The same for dX and dW; in blocks where there are few channels, for the cache's sake."""
    del params
    x_rows, w_rows, dy_rows = _rows(x), _rows(w), _rows(dy)
    few = min(w_rows.shape) <= _FEW
    dx, dw = np.empty(x_rows.shape, x.dtype), _Sum()
    for block in _blocks((len(x_rows),), _COLUMNS // sum(w_rows.shape) if few else len(x_rows)):
        _multiply(dy_rows[block], w_rows.T, dx[block])
        dw.add(_contracted(x_rows[block], dy_rows[block]))
    return dx.reshape(x.shape), dw.value.reshape(w.shape)


def _taps_forward(x: Array, w: Array, params: ConvParams) -> Array:
    """One product per tap, of all groups: y += x_tap @ w_tap, x_tap being what the tap reads."""
    out = output_size(x.shape[1:-1], w.shape[:-2], params)
    y = np.zeros((len(x), *out, w.shape[-1]), x.dtype)
    if y.size == 0:
        return y
    for tap, x_cells, y_cells in _taps(x.shape[1:-1], w.shape[:-2], out, params):
        x_tap = _by_group(x[x_cells], params.groups)
        w_tap = _by_group(w[tap], params.groups)
        y[y_cells] += _from_groups(x_tap @ w_tap, y[y_cells].shape)
    return y


def _taps_backward(x: Array, w: Array, dy: Array, params: ConvParams) -> Grads:
    """With dy_tap the outputs that a tap feeds: dX += dy_tap @ w_tap^T, dW = x_tap^T @ dy_tap."""
    dx, dw = np.zeros(x.shape, x.dtype), np.zeros(w.shape, w.dtype)
    if dy.size == 0:
        return dx, dw
    for tap, x_cells, y_cells in _taps(x.shape[1:-1], w.shape[:-2], dy.shape[1:-1], params):
        x_tap = _by_group(x[x_cells], params.groups)
        w_tap = _by_group(w[tap], params.groups)
        dy_tap = _by_group(dy[y_cells], params.groups)
        dx[x_cells] += _from_groups(dy_tap @ w_tap.swapaxes(-1, -2), dx[x_cells].shape)
        dw[tap] = _from_groups(x_tap.swapaxes(-1, -2) @ dy_tap, dw[tap].shape)
    return dx, dw


def _taps(
    spatial: Size, kernel: Size, out: Size, params: ConvParams
) -> Iterator[tuple[Size, Cells, Cells]]:
    """Each tap that meets input: its index, the cells of x that it reads, those of y it feeds.

    Output o and tap k meet at input o * stride + k * dilation - lo; outputs for which that lies in
    the padding are left out.
    """
    for tap in np.ndindex(*kernel):
        x_cells, y_cells = [slice(None)], [slice(None)]
        for size, outputs, k, s, d, (lo, _) in zip(
            spatial, out, tap, params.stride, params.dilation, params.padding
        ):
            offset = k * d - lo
            first = max(0, -(offset // s))
            last = min(outputs - 1, (size - 1 - offset) // s)
            if first > last:
                break
            x_cells.append(slice(first * s + offset, last * s + offset + 1, s))
            y_cells.append(slice(first, last + 1))
        else:
            yield tap, tuple(x_cells), tuple(y_cells)


def _by_group(array: Array, groups: int) -> Array:
    """(*M, groups * A) as one (prod(M), A) matrix per group: (groups, prod(M), A)."""
    *rest, channels = array.shape  # no -1 in the reshape: it fails where there are no channels
    return array.reshape(math.prod(rest), groups, channels // groups).swapaxes(0, 1)


def _from_groups(product: Array, shape: tuple[int, ...]) -> Array:
    """(groups, prod(M), A) back to `shape` = (*M, groups * A)."""
    return product.swapaxes(0, 1).reshape(shape)


def _columns_forward(x: Array, w: Array, params: ConvParams) -> Array:
    """One product per block of outputs: their windows, a row each, with w."""
    windows = _windows(_padded(x, params.padding), w.shape[:-2], params)
    y = np.empty((*windows.shape[: x.ndim - 1], w.shape[-1]), x.dtype)
    w_rows = _rows(w)
    for block in _blocks(y.shape[:-1], _COLUMNS // len(w_rows)):
        columns = windows[block].reshape(-1, len(w_rows))
        _multiply(columns, w_rows, _rows(y[block]))
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
    dw_rows = _Sum()
    for block in _blocks(dy.shape[:-1], _COLUMNS // len(w_rows)):
        dy_rows = _rows(dy[block])
        dw_rows.add(_contracted(windows[block].reshape(-1, len(w_rows)), dy_rows))
        products = (w_rows @ dy_rows.T).reshape(*kernel, -1, *dy[block].shape[:-1])
        products = _channels_last(products, params.rank)
        for tap in product(*map(range, kernel)):
            dx_windows[block + tap] += products[tap]
    return _unpadded(dx_padded, x.shape, params.padding), dw_rows.value.reshape(w.shape)


def _dy_columns_backward(x: Array, w: Array, dy: Array, params: ConvParams) -> Grads:
    """Per block of inputs, with the outputs that each feeds as a row: dX = columns @ w^T.

    dX is itself a convolution, of dy with the reversed kernel, where the stride is 1; dW is
    x^T @ columns. Where w is much larger than x, it is made tap by tap: to put it in order
    afterwards would take longer.
    """
    kernel, rank = w.shape[:-2], params.rank
    by_tap = w.size > _HEAVY * x.size
    padding = _dy_padding(x.shape, kernel, dy.shape, params)
    windows = _windows(_padded(dy, padding), kernel, params)
    w_rows = _rows(np.ascontiguousarray(_reversed(w, rank).swapaxes(-1, -2)))
    dx, dw_rows = np.empty(x.shape, x.dtype), _Sum()
    for block in _blocks(x.shape[:-1], _COLUMNS // len(w_rows)):
        columns = windows[block].reshape(-1, len(w_rows))
        _multiply(columns, w_rows, _rows(dx[block]))
        if by_tap:
            taps = columns.reshape(len(columns), -1, w.shape[-1]).swapaxes(0, 1)
            dw_rows.add(_rows(x[block]).T @ taps[::-1])
        else:
            dw_rows.add(_contracted(_rows(x[block]), columns))
    if by_tap:
        return dx, dw_rows.value.reshape(w.shape)
    dw = dw_rows.value.reshape(-1, *kernel, w.shape[-1])
    dw = _reversed(dw.transpose(*range(1, rank + 1), 0, rank + 1), rank)
    return dx, np.ascontiguousarray(dw)


def _depthwise_forward(x: Array, w: Array, params: ConvParams) -> Array:
    """No matrix product, but y = sum over taps of the windows * w, channel by channel."""
    windows, side = _lanes(_padded(x, params.padding), w.shape[:-2], params)
    places, taps, lane = _axes(windows, params.rank)
    out = output_size(x.shape[1:-1], w.shape[:-2], params)
    w = _by_channel(w[..., 0, :], x.shape[-1])
    y = np.empty((*windows.shape[: len(places)], windows.shape[-1], w.shape[-1]), x.dtype)
    for m in range(w.shape[-1]):
        w_m = _repeated(w[..., m], side)
        np.einsum(windows, places + taps + lane, w_m, taps + lane, places + lane, out=y[..., m])
    return y.reshape(len(x), *out, -1)


def _depthwise_backward(x: Array, w: Array, dy: Array, params: ConvParams) -> Grads:
    """For each filter of a channel: dW = sum over outputs of the windows * dy."""
    windows, side = _lanes(_padded(x, params.padding), w.shape[:-2], params)
    places, taps, lane = _axes(windows, params.rank)
    by_m = [np.moveaxis(_by_channel(array, x.shape[-1]), -1, 0) for array in (w[..., 0, :], dy)]
    dw = np.empty(by_m[0].shape, w.dtype)
    for dw_m, dy_m in zip(dw, by_m[1]):
        dy_m = np.ascontiguousarray(dy_m).reshape(*windows.shape[: len(places)], -1)
        sums = np.einsum(windows, places + taps + lane, dy_m, places + lane, taps + lane)
        dw_m[...] = sums.reshape(*dw_m.shape[:-1], side, -1).sum(axis=-2)
    del windows
    dx_of = _depthwise_dx_gathered if max(params.stride) == 1 else _depthwise_dx_spread
    parts = (
        dx_of(x.shape, np.ascontiguousarray(w_m), np.ascontiguousarray(dy_m), params)
        for w_m, dy_m in zip(*by_m)
    )
    dx: Array = reduce(iadd, parts)
    return dx, np.moveaxis(dw, 0, -1).reshape(w.shape)


def _depthwise_dx_gathered(x_shape: Size, w: Array, dy: Array, params: ConvParams) -> Array:
    """With a stride of 1: dX (N, *S, C) = sum over taps of the windows of dy * the reversed w."""
    padding = _dy_padding(x_shape, w.shape[:-1], dy.shape, params)
    windows, side = _lanes(_padded(dy, padding), w.shape[:-1], params)
    places, taps, lane = _axes(windows, params.rank)
    w = _repeated(_reversed(w, params.rank), side)
    dx = np.einsum(windows, places + taps + lane, w, taps + lane, places + lane)
    return np.asarray(dx.reshape(x_shape))


def _depthwise_dx_spread(x_shape: Size, w: Array, dy: Array, params: ConvParams) -> Array:
    """Per tap: dX += dy * w at the inputs that the tap reads."""
    sizes = (size + lo + hi for size, (lo, hi) in zip(x_shape[1:], params.padding))
    dx_padded = np.zeros((x_shape[0], *sizes, x_shape[-1]), dy.dtype)
    windows = _windows(dx_padded, w.shape[:-1], params)
    for block in _blocks(dy.shape[:-1], _PRODUCTS // x_shape[-1]):
        for tap in product(*map(range, w.shape[:-1])):
            windows[block + tap] += dy[block] * w[tap]
    return _unpadded(dx_padded, x_shape, params.padding)


def _lanes(padded: Array, kernel: Size, params: ConvParams) -> tuple[Array, int]:
    """`_windows`, (N, *O, *K, C), for sums in which each channel is by itself.

    Where channels are few, and the outputs along the last axis lie side by side, those are one axis
    with the channels: (N, *O[:-1], *K, O[-1] * C). Returns how many outputs are in it, too.
    """
    windows = _windows(padded, kernel, params)
    axis = params.rank
    if params.stride[-1] > 1 or padded.shape[-1] > _LANES:
        return windows, 1
    side = windows.shape[axis]
    shape = (*windows.shape[:axis], *windows.shape[axis + 1 : -1], side * padded.shape[-1])
    strides = (*windows.strides[:axis], *windows.strides[axis + 1 :])
    return np.lib.stride_tricks.as_strided(padded, shape, strides), side


def _repeated(w: Array, side: int) -> Array:
    """W (*K, C) for as many outputs side by side."""
    return np.tile(w, side) if side > 1 else np.ascontiguousarray(w)


def _axes(windows: Array, rank: int) -> tuple[list[int], list[int], list[int]]:
    """Numbers, for np.einsum, of the axes of outputs, of *K, and of channels."""
    last = windows.ndim - 1
    return [*range(last - rank)], [*range(last - rank, last)], [last]


def _by_channel(array: Array, channels: int) -> Array:
    """(*M, F) as (*M, C, F / C), a view."""
    return array.reshape(*array.shape[:-1], channels, array.shape[-1] // channels)


def _reversed(w: Array, rank: int) -> Array:
    """W (*K, ...) with its taps from last to first."""
    return w[(slice(None, None, -1),) * rank]


@lru_cache(maxsize=4096)
def _dy_padding(x_shape: Size, kernel: Size, dy_shape: Size, params: ConvParams) -> Padding:
    """What dy needs around it, if the stride is 1, to have a window of as many taps per input."""
    return tuple(
        ((taps - 1) * d - lo, size - 1 + lo - (out - 1))
        for taps, d, (lo, _), size, out in zip(
            kernel, params.dilation, params.padding, x_shape[1:], dy_shape[1:]
        )
    )


class _Sum:
    """Of arrays of one shape, one at least; into the first, which must be nobody else's."""

    value: Array

    def add(self, part: Array) -> None:
        """Add one more."""
        if hasattr(self, "value"):
            self.value += part
        else:
            self.value = part


def _multiply(a: Array, b: Array, out: Array) -> None:
    """`out` (M, B) = a (M, A) @ b (A, B), by pieces of M; all three are C-contiguous but for b."""
    done = 0
    if pieces := _pieces(len(a), b.size):
        done = math.prod(pieces)
        np.matmul(a[:done].reshape(*pieces, -1), b, out=out[:done].reshape(*pieces, -1))
    if done < len(a):
        np.matmul(a[done:], b, out=out[done:])


def _contracted(a: Array, b: Array) -> Array:
    """a^T @ b, (A, B), of C-contiguous a (M, A) and b (M, B), by pieces of M."""
    pieces = _pieces(len(a), a.shape[1] * b.shape[1])
    if not pieces:
        return a.T @ b
    done = math.prod(pieces)
    a_pieces, b_pieces = (array[:done].reshape(*pieces, -1) for array in (a, b))
    product: Array = np.add.reduce(a_pieces.swapaxes(1, 2) @ b_pieces, axis=0)
    return product + a[done:].T @ b[done:] if done < len(a) else product


def _pieces(rows: int, each: int) -> tuple[int, int] | None:
    """How many products of how many rows, of `each` multiply-adds, are small; None if no good."""
    most = _SMALL // each if each else rows
    if not _LEAST <= most < rows:
        return None
    count = -(-rows // most)
    return count, rows // count


def _rows(array: Array) -> Array:
    """(*M, A) as a matrix (prod(M), A), without a copy where that is possible."""
    return array.reshape(-1, array.shape[-1])


def _padded(array: Array, padding: Padding) -> Array:
    """(N, *S, A) with zeros around it, or without some cells where `padding` is negative."""
    if not any(map(any, padding)):
        return array
    shape, target, source = _placed(array.shape, padding)
    padded = np.zeros(shape, array.dtype)
    padded[target] = array[source]
    return padded


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
