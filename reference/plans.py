"""Plans: ways to lay out the products of one convolution. They make the same sums in other orders.

`choose` says in one place which is used; `python -m tests.benchmarks.speed` times all of them.
A plan computes y without bias, or dX and dW, from C-contiguous arrays shaped as in `problem`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from itertools import product
from types import MappingProxyType
from typing import NamedTuple, TypeAlias

import numpy as np

from reference import depthwise, groups, threads
from reference.problem import Array, ConvParams, Size, output_size
from reference.products import as_rows, contract, is_narrow, multiply, multiply_adds, total
from reference.threads import are_worth_it, for_each, in_order
from reference.windows import (
    Cells,
    Phase,
    blocks_of,
    channels_last,
    columns_of,
    pad,
    phase_count,
    phases_of,
    runs_of,
    taps_of,
    taps_reversed,
    unpad,
    windows_of,
)

Grads: TypeAlias = tuple[Array, Array]

_COLUMNS = 1 << 19  # elements of a block of columns: in float32 2 MB, what a core's cache holds
_NARROW = 128  # channels up to which adding up a product per tap costs more than columns
_FEW = 16  # channels that a matrix product is too large a tool for
_SPARSE = 4  # times as large as the input
_SLIGHT = 2048  # multiply-adds a row up to which that is faster than two threads
_HEAVY = 2  # times as large as x
_PADDED = ("w", "dw")  # that meet the padding


class Plan(NamedTuple):
    """One way to compute.

    `fits` says for which shapes of x and w and which params. An Inf or NaN in one of its `suspects`
    (of "w", "y", "dx", "dw") may have met a zero of the padding, or of another group's filters, and
    the result is not to be used.
    """

    fits: Callable[[Size, Size, ConvParams], bool]
    forward: Callable[[Array, Array, ConvParams], Array]
    backward: Callable[[Array, Array, Array, ConvParams], Grads]
    suspects: tuple[str, ...]


@lru_cache(maxsize=4096)
def choose(x_shape: Size, w_shape: Size, params: ConvParams) -> str:
    """The name of the plan that is fastest, for x (N, *S, C), w (*K, C/groups, F)."""
    fitting = [name for name, plan in PLANS.items() if plan.fits(x_shape, w_shape, params)]
    channels, filters, kernel = x_shape[-1], w_shape[-1], w_shape[:-2]
    if "point" in fitting:
        return "point"
    if _is_sparse(x_shape, params):
        return "taps"
    if "depthwise" in fitting and depthwise.is_fast(x_shape, w_shape, params):
        return "depthwise"
    if "groups" in fitting:
        return "groups" if groups.is_fast(x_shape, w_shape, params) else "taps"
    if "x columns" not in fitting:  # nothing to compute
        return "taps"
    is_strided = max(params.stride) > 1
    # an input, by two taps of its phase on average
    is_shared = math.prod(kernel) >= 2 * phase_count(kernel, params.stride)
    few = (_FEW // 2 if is_shared else _FEW) if is_strided else 0
    if channels <= min(_NARROW, max(few, filters // 4)):
        return "x columns"
    narrow = _NARROW // 2 if is_strided else _NARROW
    return "dy columns" if is_shared and min(channels, filters) <= narrow else "taps"


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


def _is_depthwise(x_shape: Size, w_shape: Size, params: ConvParams) -> bool:
    return w_shape[-2] == 1 and params.groups > 1 and _has_elements(x_shape, w_shape)


def _is_grouped(x_shape: Size, w_shape: Size, params: ConvParams) -> bool:
    return params.groups > 1 and _has_elements(x_shape, w_shape)


def _has_elements(x_shape: Size, w_shape: Size) -> bool:
    return 0 not in x_shape and 0 not in w_shape


def _point_forward(x: Array, w: Array, params: ConvParams) -> Array:
    """One product for a kernel of one tap."""
    del params
    y = np.empty((*x.shape[:-1], w.shape[-1]), x.dtype)
    multiply(as_rows(x), as_rows(w), as_rows(y), cut=_is_cut(w))
    return y


def _point_backward(x: Array, w: Array, dy: Array, params: ConvParams) -> Grads:
    """The same for dX and dW; in blocks where there are few channels, for the cache's sake."""
    del params
    x_rows, w_rows, dy_rows = as_rows(x), as_rows(w), as_rows(dy)
    few, cut = min(w_rows.shape) <= _FEW, _is_cut(w)
    dx = np.empty(x_rows.shape, x.dtype)

    def part(block: Cells) -> Array:
        multiply(dy_rows[block], w_rows.T, dx[block], cut=cut)
        return contract(x_rows[block], dy_rows[block], cut=cut)

    rows = len(x_rows)
    dw = total(map(part, blocks_of((rows,), _COLUMNS // sum(w_rows.shape) if few else rows)))
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
    taps = taps_of(x.shape[1:-1], w.shape[:-2], out, params)
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
    taps = taps_of(x.shape[1:-1], w.shape[:-2], dy.shape[1:-1], params)
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


def _columns_forward(x: Array, w: Array, params: ConvParams) -> Array:
    """One product per block of outputs: their windows, a row each, with w."""
    runs = runs_of(pad(x, params.padding), w.shape[:-2], params)
    y = np.empty((*runs.shape[: x.ndim - 1], w.shape[-1]), x.dtype)
    w_rows = as_rows(w)

    def part(block: Cells) -> None:
        multiply(columns_of(runs, block, w_rows), w_rows, as_rows(y[block]))

    share = is_narrow(w.size) and are_worth_it(multiply_adds(y, w))
    for_each(part, blocks_of(y.shape[:-1], _COLUMNS // len(w_rows)), share)
    return y


def _x_columns_backward(x: Array, w: Array, dy: Array, params: ConvParams) -> Grads:
    """Per block of outputs: dW += columns^T @ dy; w @ dy^T holds what each tap adds to dX.

    dX lies channels first meanwhile, so that what is added lies in long rows.
    """
    kernel = w.shape[:-2]
    padded = pad(x, params.padding)
    dx_padded = channels_last(np.zeros((x.shape[-1], *padded.shape[:-1]), x.dtype), 0)
    runs, dx_windows = runs_of(padded, kernel, params), windows_of(dx_padded, kernel, params)
    w_rows = as_rows(w)

    def part(block: Cells) -> Array:
        dy_rows = as_rows(dy[block])
        products = (w_rows @ dy_rows.T).reshape(*kernel, -1, *dy[block].shape[:-1])
        products = channels_last(products, params.rank)
        for tap in product(*map(range, kernel)):
            dx_windows[block + tap] += products[tap]
        return contract(columns_of(runs, block, w_rows), dy_rows)

    dw = total(map(part, blocks_of(dy.shape[:-1], _COLUMNS // len(w_rows))))
    return unpad(dx_padded, x.shape, params.padding), dw.reshape(w.shape)


def _dy_columns_backward(x: Array, w: Array, dy: Array, params: ConvParams) -> Grads:
    """Phase by phase: there dX is itself a convolution, of dy with the reversed kernel."""
    phases = phases_of(x.shape[1:-1], w.shape[:-2], dy.shape[1:-1], params)
    if max(params.stride) == 1:
        return _phase_backward(x, w, dy, *phases)
    dx, dw = np.zeros(x.shape, x.dtype), np.zeros(w.shape, w.dtype)
    for phase in phases:
        x_phase = np.ascontiguousarray(x[phase.inputs])
        grads = _phase_backward(x_phase, w[phase.taps], dy, phase)
        dx[phase.inputs], dw[phase.taps] = grads
    return dx, dw


def _phase_backward(x: Array, w: Array, dy: Array, phase: Phase) -> Grads:
    """Per block of inputs, with the outputs that each feeds as a row: dX = columns @ w^T.

    dW is x^T @ columns. Where w is much larger than x, it is made tap by tap: to put it in order
    afterwards would take longer.
    """
    kernel, rank = w.shape[:-2], phase.params.rank
    by_tap = w.size > _HEAVY * x.size
    runs = runs_of(pad(dy, phase.padding), kernel, phase.params)
    w_rows = as_rows(np.ascontiguousarray(taps_reversed(w, rank).swapaxes(-1, -2)))
    dx = np.empty(x.shape, x.dtype)

    def part(block: Cells) -> Array:
        columns = columns_of(runs, block, w_rows)
        multiply(columns, w_rows, as_rows(dx[block]))
        if not by_tap:
            return contract(as_rows(x[block]), columns)
        taps = columns.reshape(len(columns), -1, w.shape[-1]).swapaxes(0, 1)
        return as_rows(x[block]).T @ taps[::-1]

    blocks = blocks_of(x.shape[:-1], _COLUMNS // len(w_rows))
    share = is_narrow(w.size) and are_worth_it(multiply_adds(dy, w))
    dw = total(in_order(part, blocks, share))
    if by_tap:
        return dx, dw.reshape(w.shape)
    dw = dw.reshape(-1, *kernel, w.shape[-1])
    dw = taps_reversed(dw.transpose(*range(1, rank + 1), 0, rank + 1), rank)
    return dx, np.ascontiguousarray(dw)


def _dense_forward(x: Array, w: Array, params: ConvParams) -> Array:
    return PLANS[choose(x.shape, w.shape, params)].forward(x, w, params)


def _dense_backward(x: Array, w: Array, dy: Array, params: ConvParams) -> Grads:
    return PLANS[choose(x.shape, w.shape, params)].backward(x, w, dy, params)


PLANS: Mapping[str, Plan] = MappingProxyType(
    {
        "point": Plan(_is_point, _point_forward, _point_backward, suspects=()),
        "depthwise": Plan(_is_depthwise, depthwise.forward, depthwise.backward, suspects=_PADDED),
        "groups": Plan(
            _is_grouped,
            partial(groups.forward, dense=_dense_forward),
            partial(groups.backward, dense=_dense_backward),
            suspects=("y", "dx", "dw"),
        ),
        "x columns": Plan(_is_dense, _columns_forward, _x_columns_backward, suspects=_PADDED),
        "dy columns": Plan(_is_dense, _columns_forward, _dy_columns_backward, suspects=_PADDED),
        "taps": Plan(lambda *_: True, _taps_forward, _taps_backward, suspects=()),
    }
)
