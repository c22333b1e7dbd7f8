"""Gradients of a convolution whose filters see one channel each: no matrix product, but sums.

np.einsum makes them, over channels and outputs that lie side by side in memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple, TypeAlias

import numpy as np

from reference.problem import Array, ConvParams, Padding, Size
from reference.shapes import Backward, Forward, Grads, Shapes
from reference.threads import are_worth_it, for_each, total
from reference.windows import (
    Cells,
    Frame,
    channels_last,
    frame_of,
    padding_of_rows,
    phase_count,
    phases_of,
    taps_reversed,
    windows_in,
)

# dW (*K, C), and into dX, of x or padded x, w (*K, C), dy and dX
_OfFilter: TypeAlias = Callable[[Array, Array, Array, Array], Array]

_EINSUM = 1 << 11  # multiply-adds of a filter that are worth np.einsum, if it is asked once
_LANES = 4096  # that are summed together: three rows of them fit in a cache
_MANY = 384  # channels from which outputs left over cost more than joining gains
_VERY_MANY = 1024  # channels that are long enough by themselves
_PART = 1 << 22  # multiply-adds of a part
_LONG_PART = 1 << 24  # of one that has no stride: threads that meet often wait for each other
_BANDS = 4  # parts up to which images are cut: each pads anew what it sees of the next one
_SLOWER = 4  # times as long as a multiply-add of BLAS is one of np.einsum
_COPIED = range(128, 8192 // 3)  # lanes that NumPy's iterator copies, unless asked tap by tap
_ASKED = 1 << 14  # multiply-adds that are worth asking once more
_FEW = 32  # lanes that are added to what has just been stored, unless asked tap by tap
_OUTPUTS = 128  # that are worth asking for then


def is_fast(x_shape: Size, w_shape: Size, params: ConvParams) -> bool:
    """Whether np.einsum, once for each phase and filter of a channel, beats a product per tap."""
    kernel, filters = w_shape[:-2], w_shape[-1] // x_shape[-1]
    phases = phase_count(kernel, params.stride)
    return math.prod(x_shape) * math.prod(kernel) >= _EINSUM * (phases * filters) ** 2


def forward(shapes: Shapes) -> Forward:
    """Y without bias = sum over taps of the windows * w, channel by channel."""
    channels, params = shapes.x[-1], shapes.params
    parts, share = _parts(shapes.y, shapes.multiply_adds, params)
    framed = [(cells, _frame(cells, shapes.x, shapes, params.padding)) for cells in parts]

    def compute(x: Array, w: Array) -> Array:
        filters = _by_filter(w[..., 0, :], channels)
        y = np.empty((*shapes.y[:-1], channels, len(filters)), x.dtype)

        def part(framed: tuple[Cells, Frame]) -> None:
            cells, frame = framed
            padded = frame.around(x[cells[0]])
            for m, w_m in enumerate(filters):
                _sum_windows(padded, w_m, y[cells][..., m], params)

        for_each(part, framed, share)
        return y.reshape(shapes.y)

    return compute


def backward(shapes: Shapes) -> Backward:
    """dX and dW, filter by filter of every channel."""
    channels = shapes.x[-1]
    prepare = _by_phases if max(shapes.params.stride) > 1 else _at_once
    parts, share = _parts(shapes.x, 2 * shapes.multiply_adds, shapes.params)
    prepared = [(cells, *prepare(cells, shapes)) for cells in parts]

    def compute(x: Array, w: Array, dy: Array) -> Grads:
        filters = _by_filter(w[..., 0, :], channels)
        dx = np.empty(x.shape, x.dtype)

        def part(prepared: tuple[Cells, Frame, _OfFilter]) -> Array:
            cells, frame, of_filter = prepared
            x_part, dx_part = frame.around(x[cells]), dx[cells]
            dw = np.empty(filters.shape, w.dtype)
            for m, dy_m in enumerate(_by_filter(dy[cells[0]], channels)):
                dx_m = np.empty(dx_part.shape, dx.dtype) if m else dx_part
                dw[m] = of_filter(x_part, filters[m], dy_m, dx_m)
                if m:
                    dx_part += dx_m
            return dw

        dw = total(part, prepared, share)
        return dx, channels_last(dw, 0).reshape(w.shape)

    return compute


def _at_once(cells: Cells, shapes: Shapes) -> tuple[Frame, _OfFilter]:
    """Of stride 1, dX and dW both from the windows of padded dy; x has no frame.

    dX = sum over taps of the windows * the reversed w; the reversed dW = sum over inputs of the
    windows * x.
    """
    [phase] = phases_of(shapes)
    params, rank = phase.shapes.params, phase.shapes.params.rank
    frame = _frame(cells, (*shapes.y[:-1], shapes.x[-1]), phase.shapes, phase.padding)

    def of_filter(x: Array, w: Array, dy: Array, dx: Array) -> Array:
        padded_dy = frame.around(dy)
        _sum_windows(padded_dy, taps_reversed(w, rank), dx, params)
        return taps_reversed(_sum_products(padded_dy, w.shape[:-1], x, params), rank)

    return frame_of(shapes.x, params.padding), of_filter


def _by_phases(cells: Cells, shapes: Shapes) -> tuple[Frame, _OfFilter]:
    """DX phase by phase as above, and dW from the windows of padded x, of whole images."""
    params, images = shapes.params, cells[0].stop - cells[0].start
    dy_shape = (images, *shapes.y[1:-1], shapes.x[-1])
    phases = [(phase, frame_of(dy_shape, phase.padding)) for phase in phases_of(shapes)]

    def of_filter(padded: Array, w: Array, dy: Array, dx: Array) -> Array:
        dx[...] = 0  # where no tap reads it
        for phase, frame in phases:
            w_phase = taps_reversed(w[phase.taps], params.rank)
            _sum_windows(frame.around(dy), w_phase, dx[phase.inputs], phase.shapes.params)
        return _sum_products(padded, w.shape[:-1], dy, params)

    return frame_of((images, *shapes.x[1:]), params.padding), of_filter


def _frame(cells: Cells, seen: Size, shapes: Shapes, padding: Padding) -> Frame:
    """Of what the outputs in `cells` see of images (N, *S, C), which have this padding."""
    images, rows = cells
    padding = padding_of_rows(rows, seen[1], shapes.w[0], padding, shapes.params)
    return frame_of((images.stop - images.start, *seen[1:]), padding)


def _parts(shape: Size, work: int, params: ConvParams) -> tuple[tuple[Cells, ...], bool]:
    """Images and rows of `shape` in parts of `work` multiply-adds; whether threads share them.

    They are some images each, or, where threads share what has no stride, rows of one image.
    """
    images, rows = shape[:2]
    share = are_worth_it(_SLOWER * work)
    if share and max(params.stride) == 1:
        count = 2 * -(-work // (2 * _LONG_PART))
    else:
        count = -(-images // max(1, _PART * images // work))
    return _cells(images, rows, count), share


def _cells(images: int, rows: int, count: int) -> tuple[Cells, ...]:
    """About `count` parts, of some images each or, up to _BANDS parts, of rows of one."""
    each, bands = -(-images // count), -(-min(count, _BANDS) // images)
    band = -(-rows // bands)
    return tuple(
        (slice(image, min(image + each, images)), slice(row, min(row + band, rows)))
        for image in range(0, images, each)
        for row in range(0, rows, band)
    )


def _by_filter(array: Array, channels: int) -> Array:
    """(*M, F) as (F / C, *M, C), C-contiguous: filter by filter of every channel."""
    array = array.reshape(*array.shape[:-1], channels, array.shape[-1] // channels)
    return np.ascontiguousarray(array.transpose(array.ndim - 1, *range(array.ndim - 1)))


def _sum_windows(padded: Array, w: Array, out: Array, params: ConvParams) -> None:
    """`out` (N, *O, C) = sum over taps of the windows of `padded` * w (*K, C)."""
    windows = windows_in(padded.shape, w.shape[:-1], params, padded.dtype).of(padded)
    for strip in _strips(out.shape[-2], out.shape[-1], params.stride[-1]):
        seen = _lanes(windows, padded, strip, params.rank)
        w_lanes = _repeated(w, strip.side)
        if out.flags.c_contiguous:
            _sum_taps(seen, w_lanes, _lanes(out, out, strip, params.rank))
        else:
            part = out[..., strip.first : strip.stop, :]
            part[...] = _sum_taps(seen, w_lanes).reshape(part.shape)


def _sum_taps(windows: Array, w: Array, out: Array | None = None) -> Array:
    """`out`, or a new array, (N, *O, L): sums over taps of `windows` (N, *O, *K, L) * w (*K, L).

    Few lanes are asked for tap by tap along the last axis: tap after tap of an output would have
    to wait for the sum before.
    """
    places, taps, lane = _axes(w.ndim - 1)
    if w.shape[-1] <= _FEW and math.prod(windows.shape[: w.ndim]) >= _OUTPUTS:
        axes = places + taps[:-1] + lane, taps[:-1] + lane, places + lane

        def of_tap(tap: int) -> Array:
            return np.asarray(np.einsum(windows[..., tap, :], axes[0], w[..., tap, :], *axes[1:]))

        sums = total(of_tap, range(w.shape[-2]))
        if out is None:
            return sums
        out[...] = sums
        return out
    arguments = (windows, places + taps + lane, w, taps + lane, places + lane)
    return np.asarray(np.einsum(*arguments, out=out))


def _sum_products(padded: Array, kernel: Size, other: Array, params: ConvParams) -> Array:
    """(*K, C): sums over (N, *O) of the windows of `padded` * `other` (N, *O, C)."""
    windows = windows_in(padded.shape, kernel, params, padded.dtype).of(padded)
    channels = other.shape[-1]

    def part(strip: _Strip) -> Array:
        seen = _lanes(windows, padded, strip, params.rank)
        sums = _sum_places(seen, _lanes(other, other, strip, params.rank))
        if strip.side == 1:
            return sums
        return np.asarray(sums.reshape(*kernel, strip.side, channels).sum(axis=-2))

    return total(part, _strips(other.shape[-2], channels, params.stride[-1]))


def _sum_places(windows: Array, other: Array) -> Array:
    """(*K, L): sums over (N, *O) of `windows` (N, *O, *K, L) * `other` (N, *O, L).

    Taps that are not one run of memory are asked for one by one along the last axis, because the
    buffer of NumPy's iterator holds three of them, and to fill it takes as long as to add up.
    """
    rank = other.ndim - 2
    places, taps, lane = _axes(rank)
    kernel, lanes = windows.shape[rank + 1 : -1], windows.shape[-1]
    if not _are_copied(windows, other.size, kernel, lanes):
        sums: Array = np.einsum(windows, places + taps + lane, other, places + lane, taps + lane)
        return sums
    sums = np.empty((*kernel, lanes), other.dtype)
    for tap in range(kernel[-1]):
        arguments = (windows[..., tap, :], places + taps[:-1] + lane, other, places + lane)
        np.einsum(*arguments, taps[:-1] + lane, out=sums[..., tap, :])
    return sums


def _are_copied(windows: Array, outputs: int, kernel: Size, lanes: int) -> bool:
    others, is_run = math.prod(kernel[:-1]), windows.strides[-2] == lanes * windows.itemsize
    many = min(others, kernel[-1]) > 1 and outputs * others >= _ASKED
    return many and not is_run and lanes in _COPIED


class _Strip(NamedTuple):
    """Outputs along the last axis, `side` of which, at a time, are one axis with the channels."""

    first: int
    stop: int
    side: int


@lru_cache(maxsize=4096)
def _strips(outputs: int, channels: int, stride: int) -> tuple[_Strip, ...]:
    """All `outputs`, so many together that loops are long but fit in a cache; and a rest, if any.

    Outputs that do not lie side by side, and those of very many channels, are by themselves. Of
    many channels there are few together, and a rest would be nearly as much: they have none.
    """
    is_alone = stride > 1 or channels >= _VERY_MANY
    most = 1 if is_alone else min(outputs, max(1, _LANES // channels))
    side = outputs // -(-outputs // most)
    if channels >= _MANY:
        side = max(side for side in range(1, most + 1) if outputs % side == 0)
    done = outputs - outputs % side
    rest = (_Strip(done, outputs, outputs - done),) if done < outputs else ()
    return (_Strip(0, done, side), *rest)


def _lanes(array: Array, memory: Array, strip: _Strip, rank: int) -> Array:
    """The `strip` of (N, *O, ..., C), which begins where `memory` does.

    It is (N, *O[:-1], O[-1] / side, ..., side * C), for sums in which each channel is by itself.
    """
    shape, offset, strides = _lane_layout(array.shape, array.strides, strip, rank)
    return np.ndarray(shape, array.dtype, memory, offset, strides)


@lru_cache(maxsize=4096)
def _lane_layout(shape: Size, strides: Size, strip: _Strip, rank: int) -> tuple[Size, int, Size]:
    side, across = strip.side, strides[rank]
    count = (strip.stop - strip.first) // side
    return (
        (*shape[:rank], count, *shape[rank + 1 : -1], side * shape[-1]),
        strip.first * across,
        (*strides[:rank], side * across, *strides[rank + 1 :]),
    )


def _repeated(w: Array, side: int) -> Array:
    """W (*K, C) for as many outputs side by side."""
    return np.tile(w, side) if side > 1 else np.ascontiguousarray(w)


def _axes(rank: int) -> tuple[list[int], list[int], list[int]]:
    """Numbers, for np.einsum, of the axes of outputs, of *K, and of lanes."""
    return [*range(rank + 1)], [*range(rank + 1, 2 * rank + 1)], [2 * rank + 1]
