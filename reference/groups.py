"""Convolutions of several groups as dense ones: each group by itself, or narrow ones together.

A product of 4 channels takes as long as one of 16. So as many groups as that are one dense
convolution, with zeros for the filters where they see none of its channels.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from reference.problem import Array, ConvParams, Size, y_shape
from reference.products import multiply_adds
from reference.threads import are_worth_it, for_each
from reference.windows import phase_count

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


def forward(
    x: Array, w: Array, params: ConvParams, dense: Callable[[Array, Array, ConvParams], Array]
) -> Array:
    """Y without bias, by `dense`, which computes it for one group."""
    y = np.empty(y_shape(x.shape, w.shape, params), x.dtype)
    w_by_group, alone = _by_group(w, params.groups), _alone(params)

    def compute(part: _Part) -> None:
        x_part = np.ascontiguousarray(x[..., part.channels])
        y[..., part.filters] = dense(x_part, _joined(w_by_group[..., part.groups, :]), alone)

    _for_each(compute, w, y, params)
    return y


def backward(
    x: Array,
    w: Array,
    dy: Array,
    params: ConvParams,
    dense: Callable[[Array, Array, Array, ConvParams], tuple[Array, Array]],
) -> tuple[Array, Array]:
    """dX and dW, by `dense`, which computes them for one group."""
    dx, dw = np.empty(x.shape, x.dtype), np.empty(w.shape, w.dtype)
    w_by_group, dw_by_group = (_by_group(array, params.groups) for array in (w, dw))
    alone = _alone(params)

    def compute(part: _Part) -> None:
        w_part = w_by_group[..., part.groups, :]
        x_part, dy_part = (
            np.ascontiguousarray(array) for array in (x[..., part.channels], dy[..., part.filters])
        )
        dx_part, dw_joined = dense(x_part, _joined(w_part), dy_part, alone)
        dx[..., part.channels] = dx_part
        dw_by_group[..., part.groups, :] = _diagonal(dw_joined, w_part.shape[-2])

    _for_each(compute, w, dy, params)
    return dx, dw


def _for_each(compute: Callable[[_Part], None], w: Array, y: Array, params: ConvParams) -> None:
    """Of all parts, side by side unless each is so large that it is computed so itself."""
    parts = _parts(params.groups, w.shape[-2], w.shape[-1] // params.groups)
    work = multiply_adds(y, w)
    for_each(compute, parts, are_worth_it(work) and not are_worth_it(work // len(parts)))


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


@lru_cache(maxsize=4096)
def _alone(params: ConvParams) -> ConvParams:
    return replace(params, groups=1)


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
