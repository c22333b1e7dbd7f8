"""The same layer small, medium and large, filled in each way that the verification knows.

It is what one would put into any gradient check: a kernel of 3 x 3, padding 1, stride 1, with bias.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from random import Random

import numpy as np

from oracles.protocol import Domain
from reference.problem import ConvParams, ConvProblem
from tests.support import fills
from tests.support.fixed import layer

SIZES = {  # batch, cells of an axis, channels, filters
    "small": (2, 6, 3, 4),
    "medium": (2, 28, 16, 16),
    "large": (8, 56, 64, 64),
}
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


def small_integers(size: str, domain: Domain) -> Iterator[ConvProblem]:
    """One problem of integers from -4 to 4."""
    yield fills.small_integers(seeds(size), PARAMS, dtype_of(domain))


def wide_integers(size: str, domain: Domain) -> Iterator[ConvProblem]:
    """Odd integers, each array wide in turn, as wide as the strategies draw them."""
    for share in fills.SHARES:
        for wide in fills.WIDE:
            yield fills.wide_integers(seeds(size), PARAMS, dtype_of(domain), wide, share)


def reals(size: str, domain: Domain) -> Iterator[ConvProblem]:
    """One problem of each style."""
    for style in fills.STYLES if domain.exact else fills.MODEST:
        yield fills.reals(seeds(size), PARAMS, dtype_of(domain), style)


FILLS: dict[str, Callable[[str, Domain], Iterator[ConvProblem]]] = {
    "small integers": small_integers,
    "wide integers": wide_integers,
    "reals": reals,
}


def dtype_of(domain: Domain) -> str:
    """The one dtype, or the first, that `domain` takes."""
    return domain.boxes[0].dtypes[0]
