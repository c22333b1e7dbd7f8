"""Which elements meet: what each output of a convolution sees, tap by tap, as slices and views.

Arrays are shaped as in `problem`. What follows from shapes alone is worked out before there are
arrays: of a small problem it takes as long as the sums.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache
from itertools import accumulate, product
from operator import mul
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from reference.problem import Array, ConvParams, Padding, Size
from reference.shapes import Shapes

Cells: TypeAlias = tuple[slice, ...]

_BORDERED = 1 << 15  # elements from which to make only the border zero takes less time than all
_SHORT = 128  # bytes of a run up to which NumPy copies it faster as one element


def taps_of(shapes: Shapes) -> tuple[tuple[Size, Cells, Cells], ...]:
    """Each tap that meets input: its index, the cells of x that it reads, those of y it feeds.

    Output o and tap k meet at input o * stride + k * dilation - lo; outputs for which that lies in
    the padding are left out.
    """
    params, spatial, out = shapes.params, shapes.x[1:-1], shapes.y[1:-1]
    lows = (lo for lo, _ in params.padding)
    axes = map(_taps_along, spatial, shapes.kernel, out, params.stride, params.dilation, lows)
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


class Phase(NamedTuple):
    """Every so many inputs along each axis, and all the taps that read these.

    dX there is a convolution of stride 1, of dy with `padding` and these taps from last to first.
    `shapes` has the inputs, the taps and dy.
    """

    inputs: Cells
    taps: Cells
    padding: Padding
    shapes: Shapes


def phases_of(shapes: Shapes) -> tuple[Phase, ...]:
    """All that have taps; inputs that are in none are read by no tap, and their dX is zero."""
    params, spatial, out = shapes.params, shapes.x[1:-1], shapes.y[1:-1]
    lows = (lo for lo, _ in params.padding)
    axes = map(_phases_along, spatial, shapes.kernel, out, params.stride, params.dilation, lows)
    ones, none = (1,) * params.rank, ((0, 0),) * params.rank
    found = []
    for along in product(*axes):
        inputs, taps, padding, dilation = zip(*along)
        inputs = (slice(None), *inputs)
        x, w = _sizes_of(inputs, shapes.x), _sizes_of(taps, shapes.w)
        parts = Shapes(x, w, shapes.y, shapes.dtype, ConvParams(ones, none, dilation))
        found.append(Phase(inputs, taps, padding, parts))
    return tuple(found)


def _sizes_of(cells: Cells, sizes: Size) -> Size:
    """The shape of `cells` of an array of `sizes`."""
    some = (len(range(size)[part]) for part, size in zip(cells, sizes))
    return (*some, *sizes[len(cells) :])


def phase_count(kernel: Size, stride: Size) -> int:
    """How many there are, of inputs that are not very small."""
    return math.prod(map(min, kernel, stride))


def are_apart(kernel: Size, params: ConvParams) -> bool:
    """Whether no two outputs see the same input."""
    axes = zip(kernel, params.stride, params.dilation)
    return all((taps - 1) * dilation < stride for taps, stride, dilation in axes)


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


class Windows(NamedTuple):
    """How what each output sees of a padded array lies in that."""

    shape: Size
    dtype: np.dtype[Any]
    strides: Size

    def of(self, padded: Array) -> Array:
        """A view (N, *O, ...) of all its memory; as_strided would take five times as long."""
        return np.ndarray(self.shape, self.dtype, padded, 0, self.strides)


@lru_cache(maxsize=4096)
def windows_in(
    shape: Size,
    kernel: Size,
    params: ConvParams,
    dtype: np.dtype[Any],
    *,
    channels_first: bool = False,
) -> Windows:
    """(N, *O, *K, A) of padded arrays (N, *S, A), whose memory may be that of (A, N, *S)."""
    if channels_first:
        first, *others = _contiguous((shape[-1], *shape[:-1]), dtype)
        strides = (*others, first)
    else:
        strides = _contiguous(shape, dtype)
    axes = zip(kernel, shape[1:], strides[1:], params.stride, params.dilation)
    out, across, within = zip(
        *(
            ((size - (taps - 1) * gap - 1) // stride + 1, step * stride, step * gap)
            for taps, size, step, stride, gap in axes
        )
    )
    shape = (shape[0], *out, *kernel, shape[-1])
    return Windows(shape, dtype, (strides[0], *across, *within, strides[-1]))


@lru_cache(maxsize=4096)
def runs_in(shape: Size, kernel: Size, params: ConvParams, dtype: np.dtype[Any]) -> Windows:
    """The same of C-contiguous ones, for `columns_of`: short runs are one element each."""
    windows = windows_in(shape, kernel, params, dtype)
    along = 2 if params.dilation[-1] == 1 else 1  # axes that lie together
    size = math.prod(windows.shape[-along:]) * dtype.itemsize
    if size > _SHORT or dtype.hasobject:
        return windows
    return Windows(windows.shape[:-along], np.dtype(f"V{size}"), windows.strides[:-along])


def _contiguous(shape: Size, dtype: np.dtype[Any]) -> Size:
    """The strides of a C-contiguous array, in bytes."""
    steps = accumulate(reversed(shape[1:]), mul, initial=dtype.itemsize)
    return tuple(steps)[::-1]


def columns_of(runs: Array, cells: Cells, like: Array) -> Array:
    """What the outputs in `cells` see, a row each, to multiply by `like`: of its dtype, as long."""
    columns = np.ascontiguousarray(runs[cells])
    return columns.view(like.dtype).reshape(-1, len(like))


class Shifts(NamedTuple):
    """Some outputs (N, *O), and where each tap of the first axis has the columns that they see.

    A tap further, they see what other outputs saw, some rows on: columns of the other axes' taps
    are for all taps of the first.
    """

    cells: Cells  # of the outputs as (N, prod(O), A); where they are all, none is named
    seen: Cells  # of runs, likewise
    shape: Size  # (N, K0, prod(O), A)
    strides: Size

    def of(self, runs: Array, dtype: np.dtype[Any]) -> Array:
        """A view of the columns, shifted by each tap."""
        columns = np.ascontiguousarray(runs[self.seen])
        return np.ndarray(self.shape, dtype, columns, 0, self.strides)


def shifts_of(
    out: Size, taps: int, dilation: int, width: int, itemsize: int, most: int
) -> tuple[Shifts, ...]:
    """All of outputs (N, *O), in blocks of at most `most`, or of one row of the first axis.

    `width` is that of columns; the stride along the first axis is 1.
    """
    across = math.prod(out[2:])
    strides = tuple(itemsize * step for step in (dilation * across * width, width, 1))
    found, blocks = [], blocks_of(out[:2], max(1, most // across))
    for images, rows in blocks:
        stop, count = min(rows.stop, out[1]), min(images.stop, out[0]) - images.start
        size, reach = stop - rows.start, stop - rows.start + (taps - 1) * dilation
        is_all = len(blocks) == 1
        found.append(
            Shifts(
                () if is_all else (images, slice(rows.start * across, stop * across)),
                () if is_all else (images, slice(rows.start, rows.start + reach)),
                (count, taps, size * across, width),
                (reach * across * width * itemsize, *strides),
            )
        )
    return tuple(found)


class Frame(NamedTuple):
    """Zeros around an array (N, *S, A), or less of it where padding is negative."""

    shape: Size
    place: Cells  # within `shape`, of what there is of the array
    source: Cells  # within the array; where it is all of that, none is named
    border: tuple[Cells, ...]  # within `shape`, all the rest; of small ones none
    is_empty: bool

    def around(self, array: Array) -> Array:
        """`array` with the frame."""
        if self.is_empty:
            return array
        make = np.empty if self.border else np.zeros
        framed = make(self.shape, array.dtype)
        for cells in self.border:
            framed[cells] = 0
        framed[self.place] = array[self.source]
        return framed

    def within(self, framed: Array) -> Array:
        """The way back: what lies within the frame, C-contiguous."""
        return np.ascontiguousarray(framed[self.place])


@lru_cache(maxsize=4096)
def frame_of(shape: Size, padding: Padding) -> Frame:
    """Of arrays of this shape."""
    sizes = tuple(size + lo + hi for size, (lo, hi) in zip(shape[1:], padding))
    source, place = [slice(None)], [slice(None)]
    for size, (lo, hi) in zip(shape[1:], padding):
        first, last = max(0, -lo), max(0, -lo, size + min(0, hi))
        source.append(slice(first, last))
        place.append(slice(first + lo, last + lo))
    framed, is_empty = (shape[0], *sizes, shape[-1]), not any(map(any, padding))
    border = _around(tuple(place), framed) if math.prod(framed) >= _BORDERED else ()
    is_cut = min(map(min, padding)) < 0
    return Frame(framed, tuple(place), tuple(source) if is_cut else (), border, is_empty)


def _around(place: Cells, sizes: Size) -> tuple[Cells, ...]:
    """All of an array of `sizes` that is not in `place`."""
    slabs = (
        (*place[:axis], slab)
        for axis, (inner, size) in enumerate(zip(place, sizes))
        if inner != slice(None)
        for slab in (slice(0, inner.start), slice(inner.stop, size))
    )
    return tuple(slab for slab in slabs if slab[-1].start < slab[-1].stop)


def padding_of_rows(
    rows: slice, size: int, taps: int, padding: Padding, params: ConvParams
) -> Padding:
    """`padding` of (N, *S, A) for what `rows` of the outputs' first axis see, and no more.

    `size` and `taps` are S and K there; it is negative where they do not see all.
    """
    first = rows.start * params.stride[0] - padding[0][0]
    last = (rows.stop - 1) * params.stride[0] - padding[0][0] + (taps - 1) * params.dilation[0]
    return ((-first, last + 1 - size), *padding[1:])


def taps_reversed(w: Array, rank: int) -> Array:
    """W (*K, ...) with its taps from last to first."""
    return w[(slice(None, None, -1),) * rank]


def channels_last(array: Array, axis: int) -> Array:
    """A view of `array` with `axis` at the end; np.moveaxis takes ten times as long."""
    return array.transpose(*range(axis), *range(axis + 1, array.ndim), axis)


@lru_cache(maxsize=4096)
def blocks_of(sizes: Size, most: int) -> tuple[Cells, ...]:
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
