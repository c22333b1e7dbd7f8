"""Plans: ways to lay out the products of one convolution. They make the same sums in other orders.

`choose` says in one place which is used; `python -m tests.benchmarks.speed` times all of them.
A plan computes y without bias, or dX and dW, from C-contiguous arrays shaped as in `problem`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from itertools import product
from types import MappingProxyType
from typing import NamedTuple, TypeAlias

import numpy as np

from reference.problem import Array, ConvParams, Padding, Size, output_size

Grads: TypeAlias = tuple[Array, Array]
Cells: TypeAlias = tuple[slice, ...]

_COLUMNS = 1 << 19  # elements of a block of columns: in float32 2 MB, what a core's cache holds
_PRODUCTS = 1 << 14  # elements of a block that is multiplied element by element
_NARROW = 128  # channels up to which adding up a product per tap costs more than columns
_FEW = 8  # channels that are not worth a matrix product
_SPARSE = 4  # times the input: where it is padded to so much, most taps lie in the padding


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
    if "point" in fitting:
        return "point"
    sizes = zip(x_shape[1:-1], params.padding)
    padded = math.prod(size + lo + hi for size, (lo, hi) in sizes)
    if padded > _SPARSE * math.prod(x_shape[1:-1]):
        return "taps"
    if "depthwise" in fitting:
        return "depthwise"
    channels, filters = x_shape[-1], w_shape[-1]
    if (
        "x columns" in fitting
        and channels <= _FEW
        and (channels < filters or "dy columns" not in fitting)
    ):
        return "x columns"
    if "dy columns" in fitting and min(channels, filters) <= _NARROW:
        return "dy columns"
    return "taps"


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
    return (_rows(x) @ _rows(w)).reshape(*x.shape[:-1], w.shape[-1])


def _point_backward(x: Array, w: Array, dy: Array, params: ConvParams) -> Grads:
    del params
    dx, dw = _rows(dy) @ _rows(w).T, _rows(x).T @ _rows(dy)
    return dx.reshape(x.shape), dw.reshape(w.shape)


def _taps_forward(x: Array, w: Array, params: ConvParams) -> Array:
    """One product per tap, of all groups: y += x_tap @ w_tap, x_tap being what the tap reads."""
    out = output_size(x.shape[1:-1], w.shape[:-2], params)
    y = np.zeros((len(x), *out, w.shape[-1]), x.dtype)
    for tap, x_cells, y_cells in _taps(x.shape[1:-1], w.shape[:-2], out, params):
        x_tap = _by_group(x[x_cells], params.groups)
        w_tap = _by_group(w[tap], params.groups)
        y[y_cells] += _from_groups(x_tap @ w_tap, y[y_cells].shape)
    return y


def _taps_backward(x: Array, w: Array, dy: Array, params: ConvParams) -> Grads:
    """With dy_tap the outputs that a tap feeds: dX += dy_tap @ w_tap^T, dW = x_tap^T @ dy_tap."""
    dx, dw = np.zeros(x.shape, x.dtype), np.zeros(w.shape, w.dtype)
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
        np.matmul(columns, w_rows, out=_rows(y[block]))
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
    dw_rows = np.zeros(w_rows.shape, w.dtype)
    for block in _blocks(dy.shape[:-1], _COLUMNS // len(w_rows)):
        dy_rows = _rows(dy[block])
        dw_rows += windows[block].reshape(-1, len(w_rows)).T @ dy_rows
        products = (w_rows @ dy_rows.T).reshape(*kernel, -1, *dy[block].shape[:-1])
        products = _channels_last(products, params.rank)
        for tap in product(*map(range, kernel)):
            dx_windows[block + tap] += products[tap]
    return _unpadded(dx_padded, x.shape, params.padding), dw_rows.reshape(w.shape)


def _dy_columns_backward(x: Array, w: Array, dy: Array, params: ConvParams) -> Grads:
    """Per block of inputs, with the outputs that each feeds as a row: dX = columns @ w^T.

    dX is itself a convolution, of dy with the reversed kernel, where the stride is 1; dW is
    x^T @ columns.
    """
    rank, filters = params.rank, w.shape[-1]
    reverse = (slice(None, None, -1),) * rank
    padding = tuple(
        ((taps - 1) * d - lo, size - 1 + lo - (out - 1))
        for taps, d, (lo, _), size, out in zip(
            w.shape, params.dilation, params.padding, x.shape[1:], dy.shape[1:]
        )
    )
    windows = _windows(_padded(dy, padding), w.shape[:-2], params)
    w_rows = _rows(np.ascontiguousarray(w[reverse].swapaxes(-1, -2)))
    dx, dw_rows = np.empty(x.shape, x.dtype), np.zeros(w_rows.shape, w.dtype)
    for block in _blocks(x.shape[:-1], _COLUMNS // len(w_rows)):
        columns = windows[block].reshape(-1, len(w_rows))
        dw_rows += columns.T @ _rows(x[block])
        np.matmul(columns, w_rows, out=_rows(dx[block]))
    dw = dw_rows.reshape(*w.shape[:-2], filters, -1)[reverse].swapaxes(-1, -2)
    return dx, np.ascontiguousarray(dw)


def _depthwise_forward(x: Array, w: Array, params: ConvParams) -> Array:
    """No matrix product: a channel's filters see that channel alone."""
    kernel, channels = w.shape[:-2], x.shape[-1]
    windows = _windows(_padded(x, params.padding), kernel, params)
    y = np.zeros((*windows.shape[: x.ndim - 1], channels, w.shape[-1] // channels), x.dtype)
    for m in range(y.shape[-1]):
        rows = _repeated(w[..., m :: y.shape[-1]], y.shape[-3])
        for block in _blocks(y.shape[:-2], _PRODUCTS // channels):
            row = slice(y[block].shape[-3])
            for tap in product(*map(range, kernel)):
                y[(*block, ..., m)] += windows[block + tap] * rows[tap][row]
    return y.reshape(*y.shape[:-2], -1)


def _depthwise_backward(x: Array, w: Array, dy: Array, params: ConvParams) -> Grads:
    """Per tap, with x_tap the inputs that it reads: dX at x_tap += dy * w, dW = sum(x_tap * dy)."""
    kernel, channels = w.shape[:-2], x.shape[-1]
    padded = _padded(x, params.padding)
    dx_padded = np.zeros(padded.shape, x.dtype)
    windows, dx_windows = (_windows(array, kernel, params) for array in (padded, dx_padded))
    dw = np.empty(w.shape, w.dtype)
    axes = range(x.ndim)
    multiplier = w.shape[-1] // channels
    for m in range(multiplier):
        dy_m = np.ascontiguousarray(dy[..., m::multiplier])
        rows = _repeated(w[..., m::multiplier], dy.shape[-2])
        dw_rows = np.zeros(rows.shape, w.dtype)
        for block in _blocks(dy_m.shape[:-1], _PRODUCTS // channels):
            dy_block = dy_m[block]
            row = slice(dy_block.shape[-2])
            for tap in product(*map(range, kernel)):
                dx_windows[block + tap] += dy_block * rows[tap][row]
                dw_rows[tap][row] += np.einsum(
                    windows[block + tap], axes, dy_block, axes, axes[-2:]
                )
        dw[..., 0, m::multiplier] = dw_rows.sum(axis=-2)
    return _unpadded(dx_padded, x.shape, params.padding), dw


def _repeated(w: Array, outputs: int) -> Array:
    """(*K, 1, C) for a row of outputs, or of as many as a block has: (*K, O, C)."""
    outputs = min(outputs, max(1, _PRODUCTS // w.shape[-1]))
    return np.ascontiguousarray(np.broadcast_to(w, (*w.shape[:-2], outputs, w.shape[-1])))


def _rows(array: Array) -> Array:
    """(*M, A) as a matrix (prod(M), A), without a copy where that is possible."""
    return array.reshape(-1, array.shape[-1])


def _padded(array: Array, padding: Padding) -> Array:
    """(N, *S, A) with zeros around it, or without some cells where `padding` is negative."""
    if not any(map(any, padding)):
        return array
    sizes = (size + lo + hi for size, (lo, hi) in zip(array.shape[1:], padding))
    padded = np.zeros((len(array), *sizes, array.shape[-1]), array.dtype)
    source, target = [slice(None)], [slice(None)]
    for size, (lo, hi) in zip(array.shape[1:], padding):
        first, last = max(0, -lo), max(0, -lo, size + min(0, hi))
        source.append(slice(first, last))
        target.append(slice(first + lo, last + lo))
    padded[tuple(target)] = array[tuple(source)]
    return padded


def _unpadded(padded: Array, shape: Size, padding: Padding) -> Array:
    inside = (slice(lo, lo + size) for size, (lo, _) in zip(shape[1:], padding))
    return np.ascontiguousarray(padded[(slice(None), *inside)])


def _windows(padded: Array, kernel: Size, params: ConvParams) -> Array:
    """A view (N, *O, *K, A) of (N, *S, A): what each output sees of it."""
    shape, strides = _window_strides(padded.shape, padded.strides, kernel, params)
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


def _blocks(sizes: Size, most: int) -> Iterator[Cells]:
    """Slices of `sizes` that are contiguous in memory, of at most `most` cells, one at least."""
    axis, inner = len(sizes) - 1, 1
    while axis and inner * sizes[axis] <= most:
        inner *= sizes[axis]
        axis -= 1
    count = -(-sizes[axis] // max(1, most // inner))
    step = -(-sizes[axis] // count)
    rest = tuple(slice(0, size) for size in sizes[axis + 1 :])
    for outer in product(*map(range, sizes[:axis])):
        ones = tuple(slice(place, place + 1) for place in outer)
        for start in range(0, sizes[axis], step):
            yield (*ones, slice(start, start + step), *rest)


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
