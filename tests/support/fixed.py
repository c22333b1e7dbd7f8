"""A fixed set of problems for measurements: the same with every version of everything.

Only Python's own generator is used, whose sequences are promised not to change for a given seed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from random import Random

import numpy as np

from oracles.protocol import Box, Domain
from reference.problem import ConvParams, ConvProblem, Size, output_size
from tests.support import fills

_FIRST = 9  # bytes from which on a fill takes no small integer

# Cells of each axis of a probe, by rank, and where there may be no more than 128 elements.
_CELLS = {1: 12, 2: 6, 3: 4}
_FEW_CELLS = {1: 12, 2: 5, 3: 3}


def probes(domain: Domain, rank: int, dtype: str) -> Iterator[ConvProblem]:
    """Problems of wide odd integers that show how many bits an oracle carries: few, exact.

    They are ordinary layers, with few channels and, where the domain has room, with as many as a
    vector register holds, for each kind of groups, each array wide in turn, with sums of several
    terms and of one.
    """
    for box in domain.boxes_in(rank, dtype):
        small = box.max_elements is not None
        batch, cells, taps = (1, _FEW_CELLS[rank], 2) if small else (2, _CELLS[rank], 3)
        for kind in box.groups:
            for channels in (2,) if small else (2, 16):
                groups = {"one": 1, "some": 2, "depthwise": channels}[kind]
                shapes, params = layer(
                    (batch,) + (cells,) * rank + (channels * (1 + (kind == "some")),),
                    (taps,) * rank,
                    2 * channels,
                    ConvParams((1,) * rank, ((0, 0),) * rank, (1,) * rank, groups),
                )
                # from a byte on that is no zero: the first elements are what is left of short sums
                numbers = np.arange(_FIRST + 1, 256, dtype=np.uint8)
                seeds = {name: np.resize(numbers, shape) for name, shape in shapes.items()}
                for share in fills.SHARES[1:]:
                    for wide in fills.WIDE:
                        yield fills.wide_integers(seeds, params, dtype, wide, share)


def reals(domain: Domain, rank: int, dtype: str, number: int) -> ConvProblem:
    """The problem number `number` of a sequence of layers: dense ones, where `domain` has any.

    Their sums are long: short ones have errors near their bounds, and would hide others.
    """
    random = Random(f"{rank} {dtype} {number}")
    boxes = domain.boxes_in(rank, dtype)
    box = random.choice([box for box in boxes if "one" in box.groups] or boxes)
    shapes, params = _random_layer(random, box, rank)
    seeds = {
        name: np.array([random.randrange(_FIRST, 256) for _ in range(127)], np.uint8)[
            np.arange(np.prod(shape, dtype=int)) % 127
        ].reshape(shape)
        for name, shape in shapes.items()
    }
    return fills.reals(seeds, params, dtype, random.choice(("unit", "mixed", "cancelling")))


def _random_layer(random: Random, box: Box, rank: int) -> tuple[dict[str, Size], ConvParams]:
    limit = box.max_elements or 4096
    kind = "one" if "one" in box.groups else random.choice(box.groups)
    while True:  # a few times, until it is small enough
        channels = random.choice((4, 8, 16, 32))
        groups = {"one": 1, "some": 2, "depthwise": channels}[kind]
        filters = groups * random.choice((4, 8, 16) if groups == 1 else (1, 2))
        kernel = tuple(random.choice((1, 2, 3, 3, 5)) for _ in range(rank))
        strides = (1,) * rank if box.stride == "one" else (random.choice((1, 1, 2)),) * rank
        lo = 0 if box.padding == "zero" else random.choice((0, 1))
        spatial = tuple(taps + random.randrange(16) for taps in kernel)
        params = ConvParams(strides, ((lo, lo),) * rank, (1,) * rank, groups)
        x = (random.choice((1, 2, 3)), *spatial, channels)
        shapes, params = layer(x, kernel, filters, params)
        if max(math.prod(shapes[name]) for name in ("x", "w")) <= limit:
            return shapes, params


def layer(
    x: Size, kernel: Size, filters: int, params: ConvParams
) -> tuple[dict[str, Size], ConvParams]:
    """The shapes of all arrays of a layer with a bias."""
    shapes = {
        "x": x,
        "w": (*kernel, x[-1] // params.groups, filters),
        "b": (filters,),
        "dy": (x[0], *output_size(x[1:-1], kernel, params), filters),
    }
    return shapes, params
