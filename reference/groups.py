"""Convolutions of several groups as dense ones: each group by itself, or narrow ones together.

A product of 4 channels takes as long as one of 16. So as many groups as that are one dense
convolution, with zeros for the filters where they see none of its channels.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache, lru_cache
from typing import NamedTuple, TypeVar

import numpy as np

from reference.problem import Array, ConvParams, Size, y_shape
from reference.shapes import Backward, Forward, Grads, Shapes
from reference.threads import are_worth_it, for_each
from reference.windows import phase_count

Compute = TypeVar("Compute")

_WIDE = 16  # channels or filters that a product takes as long for as for less
_NARROW = 64  # channels or filters of a group that are not better left to a product per tap
_EACH = 1500  # windows of a group that are worth a part


class _Part(NamedTuple):
    """Groups that are one convolution, and their channels and filters."""

    groups: slice
    channels: slice
    filters: slice


def is_fast(x_shape: Size, w_shape: Size, params: ConvParams) -> bool:
    """Whether it beats a product per tap and group, for which much is asked of NumPy."""
    kernel, channels, filters = w_shape[:-2], w_shape[-2], w_shape[-1] // params.groups
    if min(channels, filters) > _NARROW:
        return False
    parts = len(_parts(params.groups, channels, filters))
    taps, phases = math.prod(kernel), phase_count(kernel, params.stride)
    outputs = math.prod(y_shape(x_shape, w_shape, params)[:-1])
    each = outputs * taps * params.groups // (parts * phases)
    return parts == 1 or (taps >= 2 * phases and each >= _EACH)


def forward(shapes: Shapes, dense: Callable[[Shapes], Forward]) -> Forward:
    """Y without bias, by `dense`, which computes it for one group."""
    prepared, share = _prepared(shapes, dense), _is_shared(shapes)

    def compute(x: Array, w: Array) -> Array:
        y, w_by_group = np.empty(shapes.y, x.dtype), _by_group(w, shapes.params.groups)

        def of_part(part: _Part, forward: Forward) -> None:
            x_part = np.ascontiguousarray(x[..., part.channels])
            y[..., part.filters] = forward(x_part, _joined(w_by_group[..., part.groups, :]))

        for_each(lambda pair: of_part(*pair), prepared, share)
        return y

    return compute


def backward(shapes: Shapes, dense: Callable[[Shapes], Backward]) -> Backward:
    """dX and dW, by `dense`, which computes them for one group."""
    prepared, share = _prepared(shapes, dense), _is_shared(shapes)

    def compute(x: Array, w: Array, dy: Array) -> Grads:
        dx, dw = np.empty(x.shape, x.dtype), np.empty(w.shape, w.dtype)
        w_by_group, dw_by_group = (_by_group(array, shapes.params.groups) for array in (w, dw))

        def of_part(part: _Part, backward: Backward) -> None:
            w_part = w_by_group[..., part.groups, :]
            x_part = np.ascontiguousarray(x[..., part.channels])
            dy_part = np.ascontiguousarray(dy[..., part.filters])
            dx_part, dw_joined = backward(x_part, _joined(w_part), dy_part)
            dx[..., part.channels] = dx_part
            dw_by_group[..., part.groups, :] = _diagonal(dw_joined, w_part.shape[-2])

        for_each(lambda pair: of_part(*pair), prepared, share)
        return dx, dw

    return compute


def _prepared(
    shapes: Shapes, dense: Callable[[Shapes], Compute]
) -> tuple[tuple[_Part, Compute], ...]:
    """All parts, and how each is computed: one way, or two, if the last part is smaller."""
    prepare = cache(dense)
    return tuple((part, prepare(_alone(shapes, part))) for part in _all_parts(shapes))


def _alone(shapes: Shapes, part: _Part) -> Shapes:
    """A part as a convolution of one group."""
    channels, filters = (cut.stop - cut.start for cut in (part.channels, part.filters))
    return Shapes(
        (*shapes.x[:-1], channels),
        (*shapes.kernel, channels, filters),
        (*shapes.y[:-1], filters),
        shapes.dtype,
        _of_one_group(shapes.params),
    )


@lru_cache(maxsize=4096)
def _of_one_group(params: ConvParams) -> ConvParams:
    return replace(params, groups=1)


def _is_shared(shapes: Shapes) -> bool:
    """Whether threads share the parts, unless each is so large that it is computed so itself."""
    work = shapes.multiply_adds
    return are_worth_it(work) and not are_worth_it(work // len(_all_parts(shapes)))


def _all_parts(shapes: Shapes) -> tuple[_Part, ...]:
    groups = shapes.params.groups
    return _parts(groups, shapes.w[-2], shapes.w[-1] // groups)


@lru_cache(maxsize=4096)
def _parts(groups: int, channels: int, filters: int) -> tuple[_Part, ...]:
    """All parts, for groups of so many channels and filters each."""
    together = max(1, _WIDE // max(channels, filters))
    starts = range(0, groups, together)
    several = [(start, min(start + together, groups)) for start in starts]
    return tuple(
        _Part(*(slice(first * size, last * size) for size in (1, channels, filters)))
        for first, last in several
    )


def _by_group(w: Array, groups: int) -> Array:
    """W (*K, C/groups, F) as (*K, C/groups, groups, F/groups), a view."""
    return w.reshape(*w.shape[:-1], groups, w.shape[-1] // groups)


def _joined(w: Array) -> Array:
    """W (*K, A, groups, B) of several groups as of one, (*K, groups * A, groups * B)."""
    *kernel, channels, groups, filters = w.shape
    joined = np.zeros((*kernel, groups * channels, groups * filters), w.dtype)
    _diagonal(joined, groups)[...] = w
    return joined


def _diagonal(joined: Array, groups: int) -> Array:
    """The way back, a view."""
    *kernel, channels, filters = joined.shape
    blocks = joined.reshape(*kernel, groups, channels // groups, groups, filters // groups)
    diagonal: Array = np.einsum("...iaib->...aib", blocks)
    return diagonal
