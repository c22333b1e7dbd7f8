"""How an array lies in memory: its strides, kept when it is copied or sent.

A layout is a tuple of strides in elements, one for each axis; negative ones run backwards, those of
0 show one element many times.
"""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[Any]
Size: TypeAlias = tuple[int, ...]


def strides_of(array: Array) -> Size | None:
    """The strides in elements of an array that is not C-contiguous; None if it is, or cannot be.

    What is not a whole number of elements apart cannot be.
    """
    size = array.itemsize
    if array.flags.c_contiguous or any(stride % size for stride in array.strides):
        return None
    return tuple(stride // size for stride in array.strides)


def extent(shape: Size, strides: Size | None) -> tuple[int, int]:
    """The elements that an array of these strides spans, and those before its first one."""
    if strides is None or math.prod(shape) == 0:
        return math.prod(shape), 0
    reach = [(size - 1) * stride for size, stride in zip(shape, strides)]
    before = -sum(cells for cells in reach if cells < 0)
    return before + 1 + sum(cells for cells in reach if cells > 0), before


def placed(array: Array, memory: Any, start: int) -> Array:
    """A copy of `array` in `memory` from byte `start` on, with the same strides.

    `memory` holds what `extent` asks for; what lies between elements stays as it is.
    """
    strides, size = strides_of(array), array.itemsize
    _, before = extent(array.shape, strides)
    apart = None if strides is None else tuple(stride * size for stride in strides)
    copy: Array = np.ndarray(array.shape, array.dtype, memory, start + before * size, apart)
    copy[...] = array
    copy.flags.writeable = array.flags.writeable
    return copy


def with_strides(array: Array, strides: Size | None) -> Array:
    """A copy of `array` with these strides, 0xFF in the bytes between its elements."""
    if strides is None:
        return array
    size = array.itemsize
    elements, before = extent(array.shape, strides)
    memory = np.full(elements * size, 0xFF, np.uint8)
    apart = tuple(stride * size for stride in strides)
    copy: Array = np.ndarray(array.shape, array.dtype, memory.data, before * size, apart)
    copy[...] = array
    return copy


def laid_like(array: Array, original: Array) -> Array:
    """A copy of `array`, which has as many axes, that lies in memory as `original` does.

    Its axes have the same order and direction, and are as far apart; where `original` shows one
    element many times, so does the copy.
    """
    strides = strides_of(original)
    if strides is None:
        copy = np.array(array, order="C")
    else:
        apart = [0] * array.ndim
        sizes = zip(original.shape, strides)
        step = min((abs(stride) for size, stride in sizes if size > 1 and stride), default=1)
        for axis in sorted(range(array.ndim), key=lambda axis: abs(strides[axis])):
            if strides[axis]:
                apart[axis] = step if strides[axis] > 0 else -step
                step *= max(1, array.shape[axis])
        copy = with_strides(array, tuple(apart))
    copy.flags.writeable = original.flags.writeable
    return copy


def memory_of(array: Array, strides: Size) -> Array:
    """All elements that `array` of these strides spans, those between its own too, in one row."""
    forwards = array[tuple(slice(None, None, -1 if stride < 0 else 1) for stride in strides)]
    elements, _ = extent(array.shape, strides)
    return np.lib.stride_tricks.as_strided(forwards, (elements,), (array.itemsize,)).copy()
