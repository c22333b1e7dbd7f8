"""Which elements meet: what each output of a convolution sees, tap by tap, as slices and views.

Arrays are shaped as in `problem`; shapes of views and lists of slices are kept, for small problems.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from functools import lru_cache
from itertools import product
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from reference.problem import Array, ConvParams, Padding, Size

Cells: TypeAlias = tuple[slice, ...]

_SHORT = 128  # bytes of a run up to which NumPy copies it faster as one element


@lru_cache(maxsize=64)
def taps_of(
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


class Phase(NamedTuple):
    """Every so many inputs along each axis, and all the taps that read these.

    dX there is a convolution of stride 1, of padded dy with these taps from last to first.
    """

    inputs: Cells
    taps: Cells
    padding: Padding
    params: ConvParams


@lru_cache(maxsize=4096)
def phases_of(spatial: Size, kernel: Size, out: Size, params: ConvParams) -> tuple[Phase, ...]:
    """All that have taps; inputs that are in none are read by no tap, and their dX is zero."""
    lows = (lo for lo, _ in params.padding)
    axes = map(_phases_along, spatial, kernel, out, params.stride, params.dilation, lows)
    ones, none = (1,) * params.rank, ((0, 0),) * params.rank
    return tuple(
        Phase((slice(None), *inputs), taps, padding, ConvParams(ones, none, dilation))
        for inputs, taps, padding, dilation in (zip(*phase) for phase in product(*axes))
    )


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


def windows_of(padded: Array, kernel: Size, params: ConvParams) -> Array:
    """A view (N, *O, *K, A) of (N, *S, A): what each output sees of it.

    `padded` is C-contiguous, or all of such an array with its axes in another order. (as_strided
    would take any, and five times as long.)
    """
    shape, strides = _window_strides(padded.shape, padded.strides, kernel, params)
    memory = padded if padded.flags.c_contiguous else padded.base
    return np.ndarray(shape, padded.dtype, memory, 0, strides)


def runs_of(padded: Array, kernel: Size, params: ConvParams) -> Array:
    """The same of C-contiguous `padded`, for `columns_of`: short runs are one element each."""
    layout = _run_layout(padded.shape, padded.strides, padded.dtype, kernel, params)
    shape, dtype, strides = layout
    return np.ndarray(shape, dtype, padded, 0, strides)


@lru_cache(maxsize=4096)
def _run_layout(
    shape: Size, strides: Size, dtype: np.dtype[Any], kernel: Size, params: ConvParams
) -> tuple[Size, np.dtype[Any], Size]:
    shape, strides = _window_strides(shape, strides, kernel, params)
    along = 2 if params.dilation[-1] == 1 else 1  # axes that lie together
    size = math.prod(shape[-along:]) * dtype.itemsize
    if size > _SHORT or dtype.hasobject:
        return shape, dtype, strides
    return shape[:-along], np.dtype(f"V{size}"), strides[:-along]


def columns_of(runs: Array, cells: Cells, like: Array) -> Array:
    """What the outputs in `cells` see, a row each, to multiply by `like`: of its dtype, as long."""
    columns = np.ascontiguousarray(runs[cells])
    return columns.view(like.dtype).reshape(-1, len(like))


class Shifts(NamedTuple):
    """Some outputs (N, *O), and where each tap of the first axis has the columns that they see.

    A tap further, they see what other outputs saw, some rows on: columns of the other axes' taps
    are for all taps of the first.
    """

    cells: Cells  # of the outputs as (N, prod(O), A)
    seen: Cells  # of runs
    shape: Size  # (N, K0, prod(O), A)
    strides: Size

    def of(self, runs: Array, dtype: np.dtype[Any]) -> Array:
        """A view of the columns, shifted by each tap."""
        columns = np.ascontiguousarray(runs[self.seen])
        return np.ndarray(self.shape, dtype, columns, 0, self.strides)


@lru_cache(maxsize=256)
def shifts_of(
    out: Size, taps: int, dilation: int, width: int, itemsize: int, most: int
) -> tuple[Shifts, ...]:
    """All of outputs (N, *O), in blocks of at most `most`, or of one row of the first axis.

    `width` is that of columns; the stride along the first axis is 1.
    """
    across = math.prod(out[2:])
    strides = tuple(itemsize * step for step in (dilation * across * width, width, 1))
    found = []
    for images, rows in blocks_of(out[:2], max(1, most // across)):
        stop, count = min(rows.stop, out[1]), min(images.stop, out[0]) - images.start
        size, reach = stop - rows.start, stop - rows.start + (taps - 1) * dilation
        found.append(
            Shifts(
                (images, slice(rows.start * across, stop * across)),
                (images, slice(rows.start, rows.start + reach)),
                (count, taps, size * across, width),
                (reach * across * width * itemsize, *strides),
            )
        )
    return tuple(found)


@lru_cache(maxsize=4096)
def _window_strides(
    shape: Size, strides: Size, kernel: Size, params: ConvParams
) -> tuple[Size, Size]:
    extents = ((k - 1) * d + 1 for k, d in zip(kernel, params.dilation))
    out = ((size - e) // s + 1 for size, e, s in zip(shape[1:], extents, params.stride))
    across = (step * s for step, s in zip(strides[1:], params.stride))
    within = (step * d for step, d in zip(strides[1:], params.dilation))
    return (shape[0], *out, *kernel, shape[-1]), (strides[0], *across, *within, strides[-1])


def pad(array: Array, padding: Padding, kept: dict[Any, Array] | None = None) -> Array:
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


class Kept(threading.local):
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


def padding_of_rows(
    rows: slice, size: int, taps: int, padding: Padding, params: ConvParams
) -> Padding:
    """`padding` of (N, *S, A) for what `rows` of the outputs' first axis see, and no more.

    `size` and `taps` are S and K there; it is negative where they do not see all.
    """
    first = rows.start * params.stride[0] - padding[0][0]
    last = (rows.stop - 1) * params.stride[0] - padding[0][0] + (taps - 1) * params.dilation[0]
    return ((-first, last + 1 - size), *padding[1:])


def unpad(padded: Array, shape: Size, padding: Padding) -> Array:
    """What lies within `padding`: (N, *S, A), C-contiguous, of that `shape`."""
    inside = (slice(lo, lo + size) for size, (lo, _) in zip(shape[1:], padding))
    return np.ascontiguousarray(padded[(slice(None), *inside)])


def taps_reversed(w: Array, rank: int) -> Array:
    """W (*K, ...) with its taps from last to first."""
    return w[(slice(None, None, -1),) * rank]


def channels_last(array: Array, axis: int) -> Array:
    """A view of `array` with `axis` at the end; np.moveaxis takes ten times as long."""
    return array.transpose(*range(axis), *range(axis + 1, array.ndim), axis)


@lru_cache(maxsize=256)
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
