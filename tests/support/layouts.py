"""The ways in which an array can lie in memory; each is the same array to whoever reads it."""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType

import numpy as np

from reference.problem import Array


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
