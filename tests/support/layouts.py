"""The ways in which an array can lie in memory; each is the same array to whoever reads it.

One is of dy alone: "expanded dy" shows the gradient of one sample for each, with a stride of 0, as
the gradient of a mean is shown.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import MappingProxyType

import numpy as np

from reference.layout import strides_of
from reference.problem import Array, ConvProblem
from reference.rounding import FORMATS
from tests.support.fills import thinned


def _fortran(array: Array) -> Array:
    return np.asfortranarray(array)


def _channels_moved(array: Array) -> Array:
    """Channels first in memory: what a channels-first framework shows as channels-last."""
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(array, -1, 1)), 1, -1)


def _strided_view(array: Array) -> Array:
    """Every second element of the last two axes of a larger array, the others NaN."""
    larger = np.full((*array.shape[:-2], *(2 * size for size in array.shape[-2:])), np.nan)
    view: Array = larger.astype(array.dtype)[..., ::2, 1::2]
    view[...] = array
    return view


def _reversed(array: Array) -> Array:
    """Every axis backwards."""
    backwards = (slice(None, None, -1),) * array.ndim
    view: Array = array[backwards].copy()[backwards]
    return view


def _read_only(array: Array) -> Array:
    copy = array.copy()
    copy.flags.writeable = False
    return copy


LAYOUTS: MappingProxyType[str, Callable[[Array], Array]] = MappingProxyType(
    {
        "C": lambda array: array,
        "Fortran": _fortran,
        "channels moved": _channels_moved,
        "strided view": _strided_view,
        "reversed": _reversed,
        "read-only": _read_only,
    }
)
EXPANDED = "expanded dy"
NAMES = (*LAYOUTS, EXPANDED)


def laid_out(problem: ConvProblem, name: str, *, exact: bool) -> ConvProblem:
    """`problem` with x, w and dy in the layout `name`.

    Where dy is expanded its values change: `exact` says that no sum of them may be rounded.
    """
    if name == EXPANDED:
        return _expanded(problem, exact=exact)
    x, w, dy = map(LAYOUTS[name], (problem.x, problem.w, problem.dy))
    return replace(problem, x=x, w=w, dy=dy)


def _expanded(problem: ConvProblem, *, exact: bool) -> ConvProblem:
    batch = problem.dy.shape[0]
    if batch < 2:
        return problem
    first = problem.dy[:1]
    if not exact:  # sums are as many times as large, and must not overflow
        first = (first / 2 ** (batch - 1).bit_length()).astype(problem.dtype)
        return replace(problem, dy=np.broadcast_to(first, problem.dy.shape))
    most = 2.0 ** FORMATS[problem.dtype.name].precision
    sums = np.abs(first.astype(np.float64)).sum(axis=tuple(range(first.ndim - 1)))
    if batch * np.max(sums, initial=0) > most:  # then db
        first = np.sign(first)
    expanded = np.broadcast_to(first, problem.dy.shape)
    b = None if problem.b is None else problem.b.astype(np.float64)
    x, w, dy = (array.astype(np.float64) for array in (problem.x, problem.w, expanded))
    thin = thinned(ConvProblem(x, w, b, dy, problem.params), ("x", "w", "b"), most)
    x, w = thin.x.astype(problem.dtype), thin.w.astype(problem.dtype)
    b = None if thin.b is None else thin.b.astype(problem.dtype)
    return ConvProblem(x, w, b, expanded, problem.params)


def name_of(problem: ConvProblem) -> str:
    """The layout of `problem`, one of `NAMES`, by that of dy and x."""
    dy, x = strides_of(problem.dy), problem.x
    if dy is not None and problem.dy.shape[0] > 1 and dy[0] == 0:
        return EXPANDED
    if not x.flags.writeable:
        return "read-only"
    strides = strides_of(x)
    if strides is None:
        return "C"
    if min(strides) < 0:
        return "reversed"
    if x.flags.f_contiguous:
        return "Fortran"
    order = np.moveaxis(x, -1, 1)
    return "channels moved" if order.flags.c_contiguous else "strided view"
