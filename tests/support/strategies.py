"""Random convolution problems, each legal by construction: nothing is filtered away.

A box of an oracle's domain is narrowed to what it takes, then sizes are drawn so that the kernel
always fits: padding, kernel, dilation and stride first, the input from the smallest that fits.
Some problems have
kernels of one tap, some have long axes, for long sums and what only shows from some size on, some
have hardly more input than the kernel needs, for single outputs and windows in the padding only.
Everything shrinks towards one cell, one channel, one tap, stride 1, no padding, data of zeros.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from itertools import product
from typing import Literal, NamedTuple, TypeVar

import numpy as np
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from oracles.protocol import Box, Domain, GroupKind
from reference.problem import Array, ConvParams, ConvProblem, Size, output_size, same_padding
from reference.rounding import ACCUMULATION, FORMATS
from tests.support import fills

Fill = Literal["small", "wide", "integers", "reals"]

# Most taps, dilation, stride, padding and further input cells of one axis, by rank: what a
# framework's corner cases need, small enough for thousands of problems a minute.
_MAX_TAPS = {1: 6, 2: 4, 3: 3}
_MAX_DILATION = {1: 4, 2: 3, 3: 2}
_MAX_STRIDE = {1: 5, 2: 4, 3: 3}
_MAX_PADDING = {1: 9, 2: 6, 3: 3}
_MAX_FURTHER_CELLS = {1: 12, 2: 6, 3: 3}
_MAX_ELEMENTS = 4096
# Channels of one group: mostly few, and now and then the counts around vector widths.
CHANNELS = (1, 1, 1, 2, 2, 2, 3, 3, 4, 4, 5, 7, 8, 9, 15, 16, 17, 24, 32, 33)
# Fewest input channels of each kind of groups.
FEWEST: dict[GroupKind, int] = {"one": 1, "depthwise": 2, "some": 4}
# What a problem is like, as often as each is listed.
_SHAPES = 6 * ("plain",) + ("pointwise", "long", "long pointwise", "tight", "tight pointwise")
# Every array is drawn from as many bytes, however large it is: where Hypothesis changes an
# example, it puts all zeros in the place of bytes whose number has changed. The number is prime, so
# that a tiled array repeats along no axis.
_DATA_BYTES = 127
_DATA = st.binary(min_size=_DATA_BYTES, max_size=_DATA_BYTES)
_BOOLEANS = st.booleans()
_WIDE = tuple(product(fills.WIDE, fills.SHARES))

T = TypeVar("T")


class _Axis(NamedTuple):
    """What is drawn for one spatial axis."""

    cells: int
    taps: int
    stride: int
    padding: tuple[int, int]
    dilation: int


def problems(
    domain: Domain, rank: int, dtype: str, fill: Fill = "small"
) -> SearchStrategy[ConvProblem]:
    """Problems of one rank and dtype that `domain` accepts, their data as `fill` says.

    "small": integers from -4 to 4; "wide": wide odd ones; "integers": of both; all are exact in any
    order of summation. "reals": numbers of all magnitudes, in one of the styles of the domain.
    """
    styles = styles_of(domain, dtype)
    boxes = st.sampled_from(domain.boxes_in(rank, dtype))

    @st.composite
    def problems_in_boxes(draw: DrawFn) -> ConvProblem:
        return _problem(draw, draw(boxes, label="box"), rank, dtype, fill, styles)

    return problems_in_boxes()


# Made once each: Hypothesis takes longer to make and check a strategy than to draw from it.
@lru_cache(maxsize=4096)
def whole(least: int, most: int) -> SearchStrategy[int]:
    """An integer between two, shrinking towards the least."""
    return st.integers(least, most)


@lru_cache(maxsize=4096)
def one_of(choices: tuple[T, ...]) -> SearchStrategy[T]:
    """One of `choices`, shrinking towards the first.

    From one alone Hypothesis would not choose: where a smaller axis leaves more to choose from, all
    that is drawn later would be taken for something else, and the axis could not shrink.
    """
    return st.sampled_from(choices if len(choices) > 1 else 2 * choices)


def styles_of(domain: Domain, dtype: str) -> tuple[str, ...]:
    """The styles of reals of which no sum overflows that `domain` may take.

    Transforms sum over whole samples; who sums float16 in float32 can go beyond its largest number.
    """
    if not domain.exact:
        return fills.MODEST
    summed = FORMATS[domain.accumulation.get(dtype, ACCUMULATION[dtype])]
    wider = summed.largest > 2 * FORMATS[dtype].largest
    return (*fills.STYLES, fills.RETURNING) if wider else fills.STYLES


SPECIAL_VALUES = {"NaN": np.nan, "Inf": np.inf, "-Inf": -np.inf}


@st.composite
def special_problems(
    draw: DrawFn,
    domain: Domain,
    rank: int,
    dtype: str,
    fill: Fill = "small",
    names: Sequence[str] = ("x", "w", "dy"),
    values: Sequence[float] = tuple(SPECIAL_VALUES.values()),
) -> ConvProblem:
    """The same with one to three of `values` in the arrays `names`."""
    problem = draw(problems(domain, rank, dtype, fill))
    arrays = {name: getattr(problem, name).copy() for name in names}
    filled_ones = [name for name, array in arrays.items() if array.size]
    for _ in range(draw(st.integers(1, 3), label="special values") if filled_ones else 0):
        array = arrays[draw(st.sampled_from(filled_ones))]
        array.flat[draw(st.integers(0, array.size - 1))] = draw(st.sampled_from(values))
    return replace(problem, **arrays)


@st.composite
def problems_in_box(
    draw: DrawFn,
    box: Box,
    rank: int,
    dtype: str,
    fill: Fill = "small",
    styles: tuple[str, ...] = fills.STYLES,
) -> ConvProblem:
    """Problems of one rank and dtype in `box`, shrinking towards the smallest one."""
    return _problem(draw, box, rank, dtype, fill, styles)


def _problem(
    draw: DrawFn, box: Box, rank: int, dtype: str, fill: Fill, styles: tuple[str, ...]
) -> ConvProblem:
    padding_kind = draw(one_of(_padding_kinds(box)), label="padding kind")
    most_stride = 1 if box.stride == "one" else _MAX_STRIDE[rank]
    stride = None
    if box.stride != "any":
        stride = draw(whole(1, most_stride), label="stride of all axes")
    limit = min(box.max_elements or _MAX_ELEMENTS, _MAX_ELEMENTS)
    shape = draw(one_of(_SHAPES), label="shape")
    most_taps = 1 if "pointwise" in shape else _MAX_TAPS[rank]
    most_cells = int((limit // min(FEWEST[kind] for kind in box.groups)) ** (1 / rank))
    if "long" in shape:
        most_further = most_cells
    else:
        most_further = 1 if "tight" in shape else _MAX_FURTHER_CELLS[rank]
    most = (most_taps, most_further, most_cells)
    axes = [_axis(draw, box, rank, padding_kind, stride, *most) for _ in range(rank)]
    spatial, kernel, strides, paddings, dilations = map(tuple, zip(*axes))
    groups, group_in, group_out = _channels(draw, box.groups, limit, spatial, kernel)
    params = ConvParams(strides, paddings, dilations, groups)
    channels, filters = groups * group_in, groups * group_out
    samples = min(3, limit // (channels * math.prod(spatial)))
    batch = draw(one_of(_batches(samples, box.empty_batch)), label="batch")
    x, w = (batch, *spatial, channels), (*kernel, group_in, filters)
    shapes = {"x": x, "w": w, "dy": (batch, *output_size(spatial, kernel, params), filters)}
    if draw(_BOOLEANS, label="bias"):
        shapes["b"] = (filters,)
    return filled(draw, shapes, params, dtype, fill, styles)


def filled(
    draw: DrawFn,
    shapes: dict[str, Size],
    params: ConvParams,
    dtype: str,
    fill: Fill,
    styles: tuple[str, ...],
) -> ConvProblem:
    """A problem of these shapes of x, w, dy and perhaps b, its data drawn a byte an element."""
    made: Callable[[fills.Seeds, ConvParams, str], ConvProblem] = fills.small_integers
    if fill == "reals":
        made = partial(fills.reals, style=draw(one_of(styles), label="style"))
    elif fill != "small":
        few = (None,) * len(_WIDE) if fill == "integers" else ()
        if (wide := draw(one_of((*few, *_WIDE)), label="wide, and its share")) is not None:
            made = partial(fills.wide_integers, wide=wide[0], share=wide[1])
    # The bias last: it goes without any other choice changing its place.
    order = sorted(shapes, key=("x", "w", "dy", "b").index)
    return made({name: _bytes(draw, shapes[name], name) for name in order}, params, dtype)


def integers(draw: DrawFn, shape: Size, dtype: str, label: str) -> Array:
    """An array of integers from -4 to 4."""
    return fills.small_values(_bytes(draw, shape, label)).astype(dtype)


def _bytes(draw: DrawFn, shape: Size, label: str) -> Array:
    """A byte for each element; those of large arrays repeat every 127 elements."""
    drawn = draw(_DATA, label=label)
    # Backwards: Hypothesis shrinks bytes by sorting them, so what is not zero comes to the front of
    # the array, and stays there when its shape shrinks.
    return np.resize(np.frombuffer(drawn, np.uint8)[::-1], shape)


def _axis(
    draw: DrawFn,
    box: Box,
    rank: int,
    padding_kind: str,
    stride: int | None,
    most_taps: int,
    most_further: int,
    most_cells: int,
) -> _Axis:
    """One axis, with at most `most_further` input cells beyond the fewest that fit."""
    taps = draw(whole(1, min(most_taps, most_cells)), label="taps")
    most_dilation = 1 if box.dilation == "one" else _MAX_DILATION[rank]
    if taps > 1:
        most_dilation = min(most_dilation, (most_cells - 1) // (taps - 1))
    dilation = draw(whole(1, most_dilation), label="dilation")
    if stride is None:
        stride = draw(whole(1, _MAX_STRIDE[rank]), label="stride")
    extent = (taps - 1) * dilation + 1
    further = draw(whole(0, min(most_further, most_cells - extent)), label="further cells")
    if padding_kind == "same":
        cells = 1 + further
        [padding] = same_padding([cells], [taps], [stride], [dilation])
        return _Axis(cells, taps, stride, padding, dilation)
    lo = hi = 0
    if padding_kind != "zero":
        cells_of_padding = whole(0, min(extent + 1, _MAX_PADDING[rank]))
        lo = draw(cells_of_padding, label="lo")
        hi = lo if padding_kind == "symmetric" else draw(cells_of_padding, label="hi")
    return _Axis(max(extent - lo - hi, 1) + further, taps, stride, (lo, hi), dilation)


def _padding_kinds(box: Box) -> tuple[str, ...]:
    if box.padding == "zero":
        return ("zero",)
    if box.padding == "symmetric":
        return ("zero", "symmetric")
    return ("zero", "same", "symmetric", "any")


def _channels(
    draw: DrawFn, kinds: tuple[GroupKind, ...], limit: int, spatial: Size, kernel: Size
) -> tuple[int, int, int]:
    """Groups, and the input and output channels of each, so that x and w keep to `limit`."""
    cells, taps = math.prod(spatial), math.prod(kernel)
    room = limit // max(cells, taps)  # for channels
    # A kind stays the same choice when there is more room, and each takes as many choices:
    # otherwise Hypothesis could not shrink the axes of an example, or make its kind a simpler one.
    by_room = sorted(kinds, key=FEWEST.__getitem__)
    having_room = tuple(kind for kind in by_room if FEWEST[kind] <= room)
    kind = draw(one_of(having_room), label="groups")
    return groups_of(draw, kind, room, limit // taps)


def groups_of(
    draw: DrawFn,
    kind: GroupKind,
    room: int,
    room_of_kernel: int,
    channels: tuple[int, ...] = CHANNELS,
    group_out: tuple[int, ...] = CHANNELS,
) -> tuple[int, int, int]:
    """Groups, and the input and output channels of each, of one kind; there must be room for it.

    `room` is for all input channels, `room_of_kernel` for the input channels of a group times all
    output channels. `channels` are the input channels of the kinds "one" and "depthwise".
    """
    inputs = {
        "one": _between(channels, 1, room),
        "depthwise": (1,),
        "some": _between(CHANNELS, 2, room // 2),
    }
    group_in = draw(one_of(inputs[kind]), label="channels of a group")
    counts = {
        "one": (1,),
        "depthwise": _between(channels, 2, room),
        "some": tuple(range(2, min(room // group_in, 4) + 1)),
    }
    groups = draw(one_of(counts[kind]), label="number of groups")
    most = room_of_kernel // (groups * group_in)
    filters = draw(one_of(_between(group_out, 1, most)), label="filters of a group")
    return groups, group_in, filters


def _between(counts: tuple[int, ...], fewest: int, most: int) -> tuple[int, ...]:
    return tuple(count for count in counts if fewest <= count <= most)


def _batches(most: int, empty: bool) -> tuple[int, ...]:
    """Batch sizes to choose from: an empty one, which tells little, comes up now and then."""
    return 3 * tuple(range(1, most + 1)) + ((0,) if empty else ())
