"""The same layer small, medium and large, filled in each way that the verification knows.

It is what one would put into any gradient check: a kernel of 3 x 3, padding 1, stride 1, with bias.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

import numpy as np

from reference.problem import ConvParams, ConvProblem
from tests.support import fills
from tests.support.fixed import layer

SIZES = {  # batch, cells of an axis, channels, filters
    "small": (2, 6, 3, 4),
    "medium": (2, 28, 16, 16),
    "large": (8, 56, 64, 64),
}
FILLS = ("small integers", "wide integers", "reals")
PARAMS = ConvParams(padding=((1, 1), (1, 1)))


def seeds(size: str) -> fills.Seeds:
    """Bytes that repeat every 127 elements, as those which Hypothesis draws."""
    batch, cells, channels, filters = SIZES[size]
    shapes, _ = layer((batch, cells, cells, channels), (3, 3), filters, PARAMS)
    random = Random(size)
    return {
        name: np.resize(np.frombuffer(random.randbytes(127), np.uint8), shape)
        for name, shape in shapes.items()
    }


def problems(fill: str, size: str, dtype: str, *, exact: bool) -> Iterator[ConvProblem]:
    """The problems of one of `FILLS`: one for each way in which the strategies make some.

    `exact` is the domain's: transforms get reals of which sums over a sample do not overflow.
    """
    if fill == "small integers":
        yield fills.small_integers(seeds(size), PARAMS, dtype)
    elif fill == "wide integers":
        for share in fills.SHARES:
            for wide in fills.WIDE:
                yield fills.wide_integers(seeds(size), PARAMS, dtype, wide, share)
    else:
        for style in fills.STYLES if exact else fills.MODEST:
            yield fills.reals(seeds(size), PARAMS, dtype, style)
