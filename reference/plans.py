"""Plans: ways to lay out the products of one convolution. They make the same sums in other orders.

`choose` says in one place which is used; `python -m tests.benchmarks.speed` times all of them.
A plan is prepared for `Shapes`, once, and then computes y without bias, or dX and dW: of a small
problem, what follows from its shapes takes as long as its sums.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from itertools import product
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from reference import depthwise, groups, threads
from reference.problem import Array, ConvParams, Size, y_shape
from reference.products import (
    as_rows,
    contract,
    is_narrow,
    matmul_of_transpose,
    multiply,
    shifts_contractor,
    shifts_multiplier,
)
from reference.shapes import Backward, Forward, Grads, Shapes
from reference.threads import are_worth_it, for_each, total
from reference.windows import (
    Cells,
    Phase,
    Shifts,
    are_apart,
    blocks_of,
    channels_last,
    columns_of,
    frame_of,
    phase_count,
    phases_of,
    runs_in,
    shifts_of,
    taps_of,
    windows_in,
)

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
    forward: Callable[[Shapes], Forward]
    backward: Callable[[Shapes], Backward]
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


def _point_forward(shapes: Shapes) -> Forward:
    """One product for a kernel of one tap."""
    cut = _is_cut(shapes)

    def forward(x: Array, w: Array) -> Array:
        y = np.empty(shapes.y, x.dtype)
        multiply(as_rows(x), as_rows(w), as_rows(y), cut=cut)
        return y

    return forward


def _point_backward(shapes: Shapes) -> Backward:
    """The same for dX and dW; in blocks where there are few channels, for the cache's sake."""
    *cells, channels = shapes.x
    sizes, cut = (channels, shapes.w[-1]), _is_cut(shapes)
    rows = math.prod(cells)
    blocks = blocks_of((rows,), _COLUMNS // sum(sizes) if min(sizes) <= _FEW else rows)

    def backward(x: Array, w: Array, dy: Array) -> Grads:
        x_rows, w_rows, dy_rows = as_rows(x), as_rows(w), as_rows(dy)
        dx = np.empty(x_rows.shape, x.dtype)

        def part(block: Cells) -> Array:
            multiply(dy_rows[block], w_rows.T, dx[block], cut=cut)
            return contract(x_rows[block], dy_rows[block], cut=cut)

        dw = total(part, blocks)
        return dx.reshape(x.shape), dw.reshape(w.shape)

    return backward


def _is_cut(shapes: Shapes) -> bool:
    """Whether small products are faster than large ones, which BLAS has all its threads for."""
    return threads.THREADS == 1 or math.prod(shapes.w) <= _SLIGHT


def _taps_forward(shapes: Shapes) -> Forward:
    """One product per tap, of all groups: y += x_tap @ w_tap, x_tap being what the tap reads."""
    taps, groups = _taps(shapes), shapes.params.groups

    def forward(x: Array, w: Array) -> Array:
        y = np.zeros(shapes.y, x.dtype)
        x_grouped, y_grouped = _grouped(x, groups), _grouped(y, groups)
        w_of_taps = _of_taps(w, groups)
        for tap, x_cells, y_cells in taps:
            fed = y_grouped[y_cells]
            fed += _from_groups(_by_group(x_grouped[x_cells]) @ w_of_taps[tap], fed.shape)
        return y

    return forward


def _taps_backward(shapes: Shapes) -> Backward:
    """With dy_tap the outputs that a tap feeds: dX += dy_tap @ w_tap^T, dW = x_tap^T @ dy_tap."""
    taps, groups = _taps(shapes), shapes.params.groups

    def backward(x: Array, w: Array, dy: Array) -> Grads:
        dx, dw = np.zeros(x.shape, x.dtype), np.zeros(w.shape, w.dtype)
        x_grouped, dx_grouped, dy_grouped = (_grouped(array, groups) for array in (x, dx, dy))
        w_transposed, dw_of_taps = _of_taps(w, groups).swapaxes(-1, -2), _of_taps(dw, groups)
        for tap, x_cells, y_cells in taps:
            dy_tap, read = _by_group(dy_grouped[y_cells]), dx_grouped[x_cells]
            read += _from_groups(dy_tap @ w_transposed[tap], read.shape)
            dw_of_taps[tap] = matmul_of_transpose(_by_group(x_grouped[x_cells]), dy_tap)
        return dx, dw

    return backward


def _taps(shapes: Shapes) -> tuple[tuple[Size, Cells, Cells], ...]:
    """Those that anything is computed for."""
    return () if 0 in (*shapes.x, *shapes.w, *shapes.y) else taps_of(shapes)


def _grouped(array: Array, groups: int) -> Array:
    """(*M, groups * A) as (*M, groups, A), a view."""
    *rest, channels = array.shape
    return array.reshape(*rest, groups, channels // groups)


def _of_taps(w: Array, groups: int) -> Array:
    """(*K, C/groups, F) as matrices, (*K, groups, C/groups, F/groups), a view."""
    return _grouped(w, groups).swapaxes(-2, -3)


def _by_group(cells: Array) -> Array:
    """(*M, groups, A) as one matrix per group, (groups, prod(M), A)."""
    return cells.reshape(-1, *cells.shape[-2:]).swapaxes(0, 1)


def _from_groups(products: Array, shape: Size) -> Array:
    """(groups, prod(M), A) back to `shape` = (*M, groups, A)."""
    return products.swapaxes(0, 1).reshape(shape)


def _columns_forward(shapes: Shapes) -> Forward:
    """One product per block of outputs: their windows, a row each, with w."""
    params = shapes.params
    frame = frame_of(shapes.x, params.padding)
    windows = runs_in(frame.shape, shapes.kernel, params, shapes.dtype)
    blocks = _column_blocks(shapes.y, math.prod(shapes.w[:-1]))
    share = _are_shared(shapes)

    def forward(x: Array, w: Array) -> Array:
        runs, w_rows = windows.of(frame.around(x)), as_rows(w)
        y = np.empty(shapes.y, x.dtype)

        def part(block: Cells) -> None:
            multiply(columns_of(runs, block, w_rows), w_rows, as_rows(y[block]))

        for_each(part, blocks, share)
        return y

    return forward


def _column_blocks(shape: Size, width: int) -> tuple[Cells, ...]:
    """Of cells (N, *O, B) that have a column of `width` each."""
    *cells, filters = shape
    return blocks_of(tuple(cells), max(_COLUMNS, _SPAN * width * filters) // width)


def _x_columns_backward(shapes: Shapes) -> Backward:
    """Per block of outputs: dW += columns^T @ dy; dy @ w^T holds what each tap adds to dX.

    Of few channels dX has these first meanwhile, so that what is added lies in long rows.
    """
    kernel, params, channels = shapes.kernel, shapes.params, shapes.x[-1]
    if are_apart(kernel, params):
        return _patches_backward(shapes)
    frame = frame_of(shapes.x, params.padding)
    windows = runs_in(frame.shape, kernel, params, shapes.dtype)
    is_wide = channels >= _WIDE
    in_dx = windows_in(frame.shape, kernel, params, shapes.dtype, channels_first=not is_wide)
    blocks = _column_blocks(shapes.y, math.prod(shapes.w[:-1]))
    taps = tuple(product(*map(range, kernel)))

    def backward(x: Array, w: Array, dy: Array) -> Grads:
        runs, w_rows = windows.of(frame.around(x)), as_rows(w)
        dx = np.zeros(frame.shape if is_wide else (channels, *frame.shape[:-1]), x.dtype)
        dx_windows = in_dx.of(dx)

        def part(block: Cells) -> Array:
            dw = contract(columns_of(runs, block, w_rows), as_rows(dy[block]))
            for tap, of_tap in zip(taps, _fed_by_tap(dy[block], w_rows, channels, is_wide)):
                fed = dx_windows[block + tap]
                fed += of_tap
            return dw

        dw = total(part, blocks)
        return frame.within(dx if is_wide else channels_last(dx, 0)), dw.reshape(w.shape)

    return backward


def _fed_by_tap(dy: Array, w_rows: Array, channels: int, is_wide: bool) -> Array:
    """What each tap adds to dX for dy (N, *O, F): (prod(K), N, *O, C), a view.

    Channels lie together there, or cells.
    """
    cells = dy.shape[:-1]
    if is_wide:
        by_cell = (as_rows(dy) @ w_rows.T).reshape(*cells, -1, channels)
        return by_cell.transpose(len(cells), *range(len(cells)), -1)
    by_channel = (w_rows @ as_rows(dy).T).reshape(-1, channels, *cells)
    return channels_last(by_channel, 1)


def _patches_backward(shapes: Shapes) -> Backward:
    """The same where outputs are apart: what a block adds to dX is all of it there."""
    frame = frame_of(shapes.x, shapes.params.padding)
    windows = runs_in(frame.shape, shapes.kernel, shapes.params, shapes.dtype)
    blocks = _column_blocks(shapes.y, math.prod(shapes.w[:-1]))
    share = _are_shared(shapes)

    def backward(x: Array, w: Array, dy: Array) -> Grads:
        dx = np.zeros(frame.shape, x.dtype)
        runs, dx_runs = windows.of(frame.around(x)), windows.of(dx)
        w_rows = as_rows(w)
        w_transposed = np.ascontiguousarray(w_rows.T)

        def part(block: Cells) -> Array:
            dy_rows, place = as_rows(dy[block]), dx_runs[block]
            patches = np.empty((len(dy_rows), len(w_rows)), x.dtype)
            multiply(dy_rows, w_transposed, patches)
            place[...] = patches.view(place.dtype).reshape(place.shape)
            return contract(columns_of(runs, block, w_rows), dy_rows)

        dw = total(part, blocks, share)
        return frame.within(dx), dw.reshape(w.shape)

    return backward


def _each_phase(prepare: Callable[[Phase], Backward], shapes: Shapes) -> Backward:
    """Phase by phase: there dX is itself a convolution, of dy with the reversed kernel."""
    prepared = [(phase, prepare(phase)) for phase in phases_of(shapes)]
    if max(shapes.params.stride) == 1:
        [(_, backward)] = prepared
        return backward

    def each(x: Array, w: Array, dy: Array) -> Grads:
        dx, dw = np.zeros(x.shape, x.dtype), np.zeros(w.shape, w.dtype)
        for phase, backward in prepared:
            x_phase = np.ascontiguousarray(x[phase.inputs])
            dx[phase.inputs], dw[phase.taps] = backward(x_phase, w[phase.taps], dy)
        return dx, dw

    return each


def _columns_phase_backward(phase: Phase) -> Backward:
    """Per block of inputs, with the outputs that each feeds as a row: dX = columns @ w^T.

    dW is x^T @ columns. Where w is much larger than x, it is made tap by tap: to put it in order
    afterwards would take longer.
    """
    shapes, (channels, filters) = phase.shapes, phase.shapes.w[-2:]
    frame = frame_of(shapes.y, phase.padding)
    windows = runs_in(frame.shape, shapes.kernel, shapes.params, shapes.dtype)
    by_tap = math.prod(shapes.w) > _HEAVY * math.prod(shapes.x)
    blocks = _column_blocks(shapes.x, math.prod(shapes.kernel) * filters)
    share = _are_shared(shapes)

    def backward(x: Array, w: Array, dy: Array) -> Grads:
        runs = windows.of(frame.around(dy))
        w_taps = w.reshape(-1, channels, filters)[::-1].swapaxes(1, 2)
        w_rows = np.ascontiguousarray(w_taps).reshape(-1, channels)
        dx = np.empty(x.shape, x.dtype)

        def part(block: Cells) -> Array:
            columns = columns_of(runs, block, w_rows)
            multiply(columns, w_rows, as_rows(dx[block]))
            if not by_tap:
                return contract(as_rows(x[block]), columns)
            taps = columns.reshape(len(columns), -1, filters).swapaxes(0, 1)
            return matmul_of_transpose(as_rows(x[block]), taps[::-1])

        dw = total(part, blocks, share)
        if not by_tap:
            dw = dw.reshape(channels, -1, filters)[:, ::-1].swapaxes(0, 1)
        return dx, np.ascontiguousarray(dw).reshape(w.shape)

    return backward


def _rows_forward(shapes: Shapes) -> Forward:
    """One product for each tap of the first axis, of the same columns, where it has no stride."""
    params, filters = shapes.params, shapes.w[-1]
    if params.stride[0] > 1:
        return _columns_forward(shapes)
    frame = frame_of(shapes.x, params.padding)
    windows = runs_in(frame.shape, (1, *shapes.kernel[1:]), params, shapes.dtype)
    blocks = _row_blocks(shapes.y, shapes.w[:-1], shapes)
    share, y_images_shape = _are_shared(shapes), _by_image(shapes.y)

    def forward(x: Array, w: Array) -> Array:
        runs, w_taps = windows.of(frame.around(x)), w.reshape(len(w), -1, filters)
        y = np.empty(shapes.y, x.dtype)
        y_images = y.reshape(y_images_shape)

        def part(block: _RowBlock) -> None:
            shifts, multiply, _ = block
            multiply(shifts.of(runs, y.dtype), w_taps, y_images[shifts.cells])

        for_each(part, blocks, share)
        return y

    return forward


def _rows_phase_backward(phase: Phase) -> Backward:
    """The same for dX and dW, of what each input feeds."""
    shapes = phase.shapes
    *kernel, channels, filters = shapes.w
    frame = frame_of(shapes.y, phase.padding)
    windows = runs_in(frame.shape, (1, *kernel[1:]), shapes.params, shapes.dtype)
    blocks = _row_blocks(shapes.x, (*kernel, filters), shapes)
    share, images_shape = _are_shared(shapes), _by_image(shapes.x)

    def backward(x: Array, w: Array, dy: Array) -> Grads:
        runs = windows.of(frame.around(dy))
        w_taps = w.reshape(len(w), -1, channels, filters)[::-1, ::-1].swapaxes(2, 3)
        w_taps = np.ascontiguousarray(w_taps).reshape(len(w), -1, channels)
        dx = np.empty(x.shape, x.dtype)
        x_images, dx_images = x.reshape(images_shape), dx.reshape(images_shape)

        def part(block: _RowBlock) -> Array:
            shifts, multiply, contract = block
            seen = shifts.of(runs, dx.dtype)
            multiply(seen, w_taps, dx_images[shifts.cells])
            return contract(x_images[shifts.cells], seen)

        dw = total(part, blocks, share)
        dw = dw.reshape(len(w), channels, -1, filters)[::-1, :, ::-1].swapaxes(1, 2)
        return dx, np.ascontiguousarray(dw).reshape(w.shape)

    return backward


def _are_shared(shapes: Shapes) -> bool:
    """Whether threads of ours share the blocks: BLAS has one thread for products that small."""
    return is_narrow(math.prod(shapes.w)) and are_worth_it(shapes.multiply_adds)


class _RowBlock(NamedTuple):
    """Some outputs, and products with what each tap of the first axis has them see."""

    shifts: Shifts
    multiply: Callable[[Array, Array, Array], None]
    contract: Callable[[Array, Array], Array]


def _row_blocks(out: Size, of_filter: Size, shapes: Shapes) -> tuple[_RowBlock, ...]:
    """Of outputs (N, *O, B), for filters (*K, A).

    Products are made in pieces unless they are so large that BLAS has all its threads for them.
    """
    taps, width, each = of_filter[0], math.prod(of_filter[1:]), math.prod(shapes.w)
    most = _COLUMNS // max(width, taps * out[-1])
    dilation, itemsize = shapes.params.dilation[0], shapes.dtype.itemsize
    cut = is_narrow(each) or threads.THREADS == 1
    found = []
    for shifts in shifts_of(out[:-1], taps, dilation, width, itemsize, most):
        of_rows = shifts.shape[2], each // taps
        products = shifts_multiplier(*of_rows, cut=cut), shifts_contractor(*of_rows, cut=cut)
        found.append(_RowBlock(shifts, *products))
    return tuple(found)


def _by_image(shape: Size) -> Size:
    """(N, *S, A) as a matrix for each of N."""
    return (shape[0], math.prod(shape[1:-1]), shape[-1])


def _dense_forward(shapes: Shapes) -> Forward:
    return PLANS[choose(shapes.x, shapes.w, shapes.params)].forward(shapes)


def _dense_backward(shapes: Shapes) -> Backward:
    return PLANS[choose(shapes.x, shapes.w, shapes.params)].backward(shapes)


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
