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
from reference.problem import Array, ConvParams, Size, y_shape
from reference.products import (
    as_rows,
    contract,
    contract_shifts,
    is_narrow,
    matmul_of_transpose,
    multiply,
    multiply_adds,
    multiply_shifts,
    total,
)
from reference.threads import are_worth_it, for_each, in_order
from reference.windows import (
    Cells,
    Phase,
    Shifts,
    are_apart,
    blocks_of,
    channels_last,
    columns_of,
    pad,
    phase_count,
    phases_of,
    runs_of,
    shifts_of,
    taps_of,
    taps_reversed,
    unpad,
    windows_of,
)

Grads: TypeAlias = tuple[Array, Array]

_COLUMNS = 1 << 19  # elements of a block of columns: in float32 2 MB, what a core's cache holds
_SPAN = 3  # times as many as w has, if that is more: after each block all of dW is added up
_WIDE = 48  # channels from which they lie together where a tap adds to dX
_NARROW = 128  # channels up to which adding up a product per tap costs more than columns
_FEW = 16  # channels that a matrix product is too large a tool for
_LARGE = 256  # outputs of an image from which a product more costs less than the columns it saves
_WIDER = 2  # times as many channels as filters up to which adding up that product costs less too
_SPARSE = 4  # times as large as the input
_SLIGHT = 2048  # multiply-adds a row up to which that is faster than two threads
_HEAVY = 2  # times as large as x


class Plan(NamedTuple):
    """One way to compute.

    `fits` says for which shapes of x and w and which params. Where it `pads`, an Inf or NaN in w,
    or in dy and so in dW, may have met a zero of the padding; where it `joins` groups, by a plan
    that may pad, one in x or dy, and so in y or dW, a zero of another group's filters too. The
    result is then not to be used.
    """

    fits: Callable[[Size, Size, ConvParams], bool]
    forward: Callable[[Array, Array, ConvParams], Array]
    backward: Callable[[Array, Array, Array, ConvParams], Grads]
    pads: bool = False
    joins: bool = False


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
    if are_apart(kernel, params) and math.prod(kernel) > 1:
        few = _NARROW
    if channels <= min(_NARROW, max(few, filters // 4)):
        return "x columns"
    if not is_shared:
        return "taps"
    is_large = math.prod(y_shape(x_shape, w_shape, params)[1:-1]) >= _LARGE
    if _WIDE <= channels <= filters // 2 and (channels <= _NARROW or is_large):
        return "x columns"
    if min(channels, filters) > (_NARROW // 2 if is_strided else _NARROW):
        return "taps"
    saves = params.rank > 1 < kernel[0] and channels <= _WIDER * filters and is_large
    return "rows" if saves else "dy columns"


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
    y = np.zeros(y_shape(x.shape, w.shape, params), x.dtype)
    if 0 in (x.size, w.size, y.size):
        return y
    taps = taps_of(x.shape[1:-1], w.shape[:-2], y.shape[1:-1], params)
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
        dw_of_taps[tap] = matmul_of_transpose(_by_group(x[x_cells]), dy_tap)
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

    for_each(part, _column_blocks(y, w_rows), _are_shared(y, w))
    return y


def _column_blocks(cells: Array, w_rows: Array) -> tuple[Cells, ...]:
    """Of (N, *O, B), for columns that `w_rows` (K * A, B) is multiplied by."""
    return blocks_of(cells.shape[:-1], max(_COLUMNS, _SPAN * w_rows.size) // len(w_rows))


def _x_columns_backward(x: Array, w: Array, dy: Array, params: ConvParams) -> Grads:
    """Per block of outputs: dW += columns^T @ dy; dy @ w^T holds what each tap adds to dX."""
    kernel, channels = w.shape[:-2], x.shape[-1]
    if are_apart(kernel, params):
        return _patches_backward(x, w, dy, params)
    padded = pad(x, params.padding)
    if channels >= _WIDE:
        dx_padded = np.zeros_like(padded)
    else:  # channels first meanwhile, so that what is added lies in long rows
        dx_padded = channels_last(np.zeros((channels, *padded.shape[:-1]), x.dtype), 0)
    runs, dx_windows = runs_of(padded, kernel, params), windows_of(dx_padded, kernel, params)
    w_rows, taps = as_rows(w), list(product(*map(range, kernel)))

    def part(block: Cells) -> Array:
        dw = contract(columns_of(runs, block, w_rows), as_rows(dy[block]))
        for tap, of_tap in zip(taps, _fed_by_tap(dy[block], w_rows, channels)):
            fed = dx_windows[block + tap]
            fed += of_tap
        return dw

    dw = total(map(part, _column_blocks(dy, w_rows)))
    return unpad(dx_padded, x.shape, params.padding), dw.reshape(w.shape)


def _fed_by_tap(dy: Array, w_rows: Array, channels: int) -> Array:
    """What each tap adds to dX for dy (N, *O, F): (prod(K), N, *O, C), a view."""
    cells = dy.shape[:-1]
    if channels >= _WIDE:
        by_cell = (as_rows(dy) @ w_rows.T).reshape(*cells, -1, channels)
        return by_cell.transpose(len(cells), *range(len(cells)), -1)
    by_channel = (w_rows @ as_rows(dy).T).reshape(-1, channels, *cells)
    return channels_last(by_channel, 1)


def _patches_backward(x: Array, w: Array, dy: Array, params: ConvParams) -> Grads:
    """The same where outputs are apart: what a block adds to dX is all of it there."""
    kernel = w.shape[:-2]
    padded = pad(x, params.padding)
    dx_padded = np.zeros_like(padded)
    runs, dx_runs = runs_of(padded, kernel, params), runs_of(dx_padded, kernel, params)
    w_rows = as_rows(w)
    w_transposed = np.ascontiguousarray(w_rows.T)

    def part(block: Cells) -> Array:
        dy_rows, place = as_rows(dy[block]), dx_runs[block]
        patches = np.empty((len(dy_rows), len(w_rows)), x.dtype)
        multiply(dy_rows, w_transposed, patches)
        place[...] = patches.view(place.dtype).reshape(place.shape)
        return contract(columns_of(runs, block, w_rows), dy_rows)

    dw = total(in_order(part, _column_blocks(dy, w_rows), _are_shared(dy, w)))
    return unpad(dx_padded, x.shape, params.padding), dw.reshape(w.shape)


def _each_phase(
    backward: Callable[[Array, Array, Array, Phase], Grads],
    x: Array,
    w: Array,
    dy: Array,
    params: ConvParams,
) -> Grads:
    """Phase by phase: there dX is itself a convolution, of dy with the reversed kernel."""
    phases = phases_of(x.shape[1:-1], w.shape[:-2], dy.shape[1:-1], params)
    if max(params.stride) == 1:
        return backward(x, w, dy, *phases)
    dx, dw = np.zeros(x.shape, x.dtype), np.zeros(w.shape, w.dtype)
    for phase in phases:
        x_phase = np.ascontiguousarray(x[phase.inputs])
        grads = backward(x_phase, w[phase.taps], dy, phase)
        dx[phase.inputs], dw[phase.taps] = grads
    return dx, dw


def _columns_phase_backward(x: Array, w: Array, dy: Array, phase: Phase) -> Grads:
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
        return matmul_of_transpose(as_rows(x[block]), taps[::-1])

    dw = total(in_order(part, _column_blocks(x, w_rows), _are_shared(dy, w)))
    if by_tap:
        return dx, dw.reshape(w.shape)
    dw = dw.reshape(-1, *kernel, w.shape[-1])
    dw = taps_reversed(dw.transpose(*range(1, rank + 1), 0, rank + 1), rank)
    return dx, np.ascontiguousarray(dw)


def _rows_forward(x: Array, w: Array, params: ConvParams) -> Array:
    """One product for each tap of the first axis, of the same columns, where it has no stride."""
    if params.stride[0] > 1:
        return _columns_forward(x, w, params)
    runs = runs_of(pad(x, params.padding), (1, *w.shape[1:-2]), params)
    y = np.empty(y_shape(x.shape, w.shape, params), x.dtype)
    w_taps, y_images = w.reshape(len(w), -1, w.shape[-1]), _images(y)
    cut = is_narrow(w.size) or threads.THREADS == 1  # BLAS has all its threads for large products

    def part(shifts: Shifts) -> None:
        multiply_shifts(shifts.of(runs, y.dtype), w_taps, y_images[shifts.cells], cut=cut)

    for_each(part, _row_blocks(y, w_taps, params), _are_shared(y, w))
    return y


def _rows_phase_backward(x: Array, w: Array, dy: Array, phase: Phase) -> Grads:
    """The same for dX and dW, of what each input feeds."""
    kernel, rank = w.shape[:-2], phase.params.rank
    runs = runs_of(pad(dy, phase.padding), (1, *kernel[1:]), phase.params)
    w_taps = np.ascontiguousarray(taps_reversed(w, rank).swapaxes(-1, -2))
    w_taps = w_taps.reshape(len(w), -1, x.shape[-1])
    dx = np.empty(x.shape, x.dtype)
    x_images, dx_images = _images(x), _images(dx)
    cut = is_narrow(w.size) or threads.THREADS == 1

    def part(shifts: Shifts) -> Array:
        seen = shifts.of(runs, dx.dtype)
        multiply_shifts(seen, w_taps, dx_images[shifts.cells], cut=cut)
        return contract_shifts(x_images[shifts.cells], seen, cut=cut)

    blocks = _row_blocks(dx, w_taps, phase.params)
    dw = total(in_order(part, blocks, _are_shared(dy, w)))
    dw = channels_last(dw.reshape(len(w), -1, *kernel[1:], w.shape[-1]), 1).swapaxes(-1, -2)
    return dx, np.ascontiguousarray(taps_reversed(dw, rank))


def _are_shared(y: Array, w: Array) -> bool:
    """Whether threads of ours share the blocks: BLAS has one thread for products that small."""
    return is_narrow(w.size) and are_worth_it(multiply_adds(y, w))


def _row_blocks(out: Array, w_taps: Array, params: ConvParams) -> tuple[Shifts, ...]:
    """Of outputs (N, *O, B), for w_taps (K0, A, B)."""
    taps, width, filters = w_taps.shape
    most = _COLUMNS // max(width, taps * filters)
    return shifts_of(out.shape[:-1], taps, params.dilation[0], width, out.itemsize, most)


def _images(array: Array) -> Array:
    """(N, *S, A) as a matrix for each of N."""
    return array.reshape(len(array), -1, array.shape[-1])


def _dense_forward(x: Array, w: Array, params: ConvParams) -> Array:
    return PLANS[choose(x.shape, w.shape, params)].forward(x, w, params)


def _dense_backward(x: Array, w: Array, dy: Array, params: ConvParams) -> Grads:
    return PLANS[choose(x.shape, w.shape, params)].backward(x, w, dy, params)


PLANS: Mapping[str, Plan] = MappingProxyType(
    {
        "point": Plan(_is_point, _point_forward, _point_backward),
        "depthwise": Plan(_is_depthwise, depthwise.forward, depthwise.backward, pads=True),
        "groups": Plan(
            _is_grouped,
            partial(groups.forward, dense=_dense_forward),
            partial(groups.backward, dense=_dense_backward),
            joins=True,
        ),
        "x columns": Plan(_is_dense, _columns_forward, _x_columns_backward, pads=True),
        "dy columns": Plan(
            _is_dense, _columns_forward, partial(_each_phase, _columns_phase_backward), pads=True
        ),
        "rows": Plan(
            _is_dense, _rows_forward, partial(_each_phase, _rows_phase_backward), pads=True
        ),
        "taps": Plan(lambda *_: True, _taps_forward, _taps_backward),
    }
)
