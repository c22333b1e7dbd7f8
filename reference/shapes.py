"""A convolution without its numbers, and what computes it: all that plans are made from and give.

Arrays are C-contiguous, and shaped as in `problem`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from reference.problem import Array, ConvParams, Size

Grads: TypeAlias = tuple[Array, Array]
Forward: TypeAlias = Callable[[Array, Array], Array]  # y without bias, of x and w
Backward: TypeAlias = Callable[[Array, Array, Array], Grads]  # dX and dW, of x, w and dy


class Shapes(NamedTuple):
    """What x, w and y are shaped as, and the dtype of the sums."""

    x: Size
    w: Size
    y: Size
    dtype: np.dtype[Any]
    params: ConvParams

    @property
    def kernel(self) -> Size:
        """K, the spatial sizes of the kernel."""
        return self.w[:-2]

    @property
    def multiply_adds(self) -> int:
        """Of y; dX and dW take as many each."""
        return math.prod(self.y) * math.prod(self.w[:-1])
