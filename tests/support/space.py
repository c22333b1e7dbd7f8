"""The problem space as a table: what one axis of a convolution can be like, and all that there is.

Each row is one axis: its taps, dilation, stride, padding and cells. A class of axes is a condition
on rows, so a problem of any class is looked up, not searched for: an axis is drawn from the rows
that meet the condition, the least one first. The same condition tells whether a given problem is of
the class.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn
from numpy.typing import NDArray

from oracles.protocol import Box, Domain, GroupKind, group_kind
from reference.problem import ConvParams, ConvProblem, output_size
from tests.support import fills, layouts
from tests.support.strategies import (
    CHANNELS,
    FEWEST,
    Fill,
    filled,
    groups_of,
    one_of,
    problems,
    styles_of,
    whole,
)

# Of one axis. Outputs around what vector code takes at once: one, a few, 8 or 16, and a rest.
_TAPS = (1, 2, 3, 4, 5)
_DILATIONS = (1, 2, 3, 5)
_STRIDES = (1, 2, 3, 5)
_PADDING = (0, 1, 2, 3, 4, 6)
_MANY_OUTPUTS = 260
_OUTPUTS = (1, 2, 3, 4, 8, 9, 11, 13, 16, 17, _MANY_OUTPUTS)
_MOST_CELLS = 64
_MANY_CELLS = 280  # for many outputs
_MOST_OTHER_CELLS = 6  # of the axes that no condition is put on
_MOST_DISTINCT_CELLS = 7
_ONE_CELL = (1, 1, 1, 0, 0, 1)  # the row of one tap, without padding
_LIMIT = 16_384  # elements of x and of w
_BATCHES = (1, 2, 3)

# Arrays of int64 and of bool, or an int and a bool: a condition holds for columns or for one axis.
Column: TypeAlias = Any
Mask: TypeAlias = Any


@dataclass(frozen=True)
class Axes:
    """Some axes, a column for each number, or one axis; the properties follow from the numbers."""

    taps: Column
    dilation: Column
    stride: Column
    lo: Column
    hi: Column
    cells: Column

    @property
    def extent(self) -> Column:
        """The cells that the dilated kernel spans."""
        return (self.taps - 1) * self.dilation + 1

    @property
    def out(self) -> Column:
        """Outputs."""
        return (self.cells + self.lo + self.hi - self.extent) // self.stride + 1

    @property
    def rest(self) -> Column:
        """Cells of the padded input beyond the last window."""
        return (self.cells + self.lo + self.hi - self.extent) % self.stride

    @property
    def same(self) -> tuple[Column, Column]:
        """The padding of TensorFlow's SAME."""
        total = (-(-self.cells // self.stride) - 1) * self.stride + self.extent - self.cells
        total = total * (total > 0)
        return total // 2, total - total // 2

    def where(self, mask: Mask) -> Axes:
        """The rows of `mask`."""
        return Axes(*(getattr(self, field.name)[mask] for field in fields(self)))


Condition = Callable[[Axes], Mask]


def axes_of(problem: ConvProblem) -> list[Axes]:
    """The axes of `problem`, in their order."""
    params = problem.params
    lo, hi = zip(*params.padding)
    columns = (problem.kernel, params.dilation, params.stride, lo, hi, problem.spatial)
    return [Axes(*axis) for axis in zip(*columns)]


def columns_of(axes: Sequence[Axes]) -> Axes:
    """Single axes as columns."""
    names = [field.name for field in fields(Axes)]
    return Axes(*(np.array([getattr(axis, name) for axis in axes]) for name in names))


@lru_cache(maxsize=1)
def table() -> Axes:
    """Every axis of the numbers above that reads an input cell somewhere, small ones first."""
    numbers = (_TAPS, _DILATIONS, _STRIDES, _PADDING, _PADDING, _OUTPUTS, range(max(_STRIDES)))
    grid = np.meshgrid(*map(np.array, numbers), indexing="ij")
    taps, dilation, stride, lo, hi, out, rest = (column.ravel() for column in grid)
    cells = (out - 1) * stride + (taps - 1) * dilation + 1 + rest - lo - hi
    every = Axes(taps, dilation, stride, lo, hi, cells)
    most = np.where(out == _MANY_OUTPUTS, _MANY_CELLS, _MOST_CELLS)
    legal = (rest < stride) & (cells >= 1) & (cells <= most)
    axes = every.where(legal)
    axes = axes.where(_reads(axes))
    size = axes.cells + axes.taps + axes.lo + axes.hi + axes.dilation + axes.stride
    order = np.argsort(size, kind="stable")
    return Axes(*(getattr(axes, field.name)[order] for field in fields(axes)))


def _reads(axes: Axes) -> Mask:
    """Whether some tap of some window lies in the input."""
    found = np.zeros(len(axes.cells), bool)
    for tap in range(max(_TAPS)):
        place = tap * axes.dilation - axes.lo  # of the first output
        out = np.maximum(0, -(place // axes.stride))  # the first that does not lie before the input
        place = place + out * axes.stride
        found |= (tap < axes.taps) & (out < axes.out) & (place < axes.cells)
    return found


def allowed(axes: Axes, box: Box) -> Mask:
    """Whether `box` takes an axis like this; of equal strides only one axis can be seen."""
    mask = np.ones(len(axes.cells), bool)
    if box.stride == "one":
        mask &= axes.stride == 1
    if box.dilation == "one":
        mask &= axes.dilation == 1
    if box.padding == "zero":
        mask &= (axes.lo == 0) & (axes.hi == 0)
    elif box.padding == "symmetric":
        mask &= axes.lo == axes.hi
    return mask


@dataclass(frozen=True)
class Facts:
    """What a problem is like, found out once for all wishes."""

    axes: tuple[Axes, ...]
    kind: GroupKind
    batch: int
    channels: int
    group_out: int
    filters: int
    bias: bool
    layout: str

    @staticmethod
    def of(problem: ConvProblem) -> Facts:
        """Those of `problem`."""
        filters = problem.w.shape[-1]
        return Facts(
            tuple(axes_of(problem)),
            group_kind(problem),
            problem.x.shape[0],
            problem.x.shape[-1],
            filters // problem.params.groups,
            filters,
            problem.b is not None,
            layouts.name_of(problem),
        )

    @property
    def is_distinct(self) -> bool:
        """Whether no two axes have the same cells, taps, stride or low padding."""
        columns = zip(*((a.cells, a.taps, a.stride, a.lo) for a in self.axes))
        return all(len(set(column)) == len(column) for column in columns)


@dataclass(frozen=True)
class Wish:
    """What a problem shall be like; None for anything.

    `axis` holds for one of its axes, `others` for the others. `group_out` are filters of a group,
    `channels` the input channels (not of the kind "some"). `is_square` asks for as many channels
    and filters as that axis has outputs, `is_distinct` for no number twice among the axes. `limit`
    is the most elements that x and w may have. Where `batches` are above `above`, which is not 0,
    any batch above it will do.
    """

    axis: Condition | None = None
    others: Condition | None = None
    groups: tuple[GroupKind, ...] = ("one", "depthwise", "some")
    group_out: tuple[int, ...] | None = None
    channels: tuple[int, ...] | None = None
    batches: tuple[int, ...] | None = None
    bias: bool | None = None
    layout: str | None = None
    is_square: bool = False
    is_distinct: bool = False
    limit: int = _LIMIT
    above: int = 0

    def holds(self, facts: Facts) -> bool:
        """Whether a problem of which these are the facts is like this."""
        return (
            facts.kind in self.groups
            and (self.group_out is None or facts.group_out in self.group_out)
            and (
                self.channels is None or (facts.kind != "some" and facts.channels in self.channels)
            )
            and (self.batches is None or self._has_batch(facts.batch))
            and (self.bias is None or self.bias is facts.bias)
            and (self.layout is None or self.layout == facts.layout)
            and (not self.is_distinct or facts.is_distinct)
            and (
                (self.axis is None and self.others is None and not self.is_square)
                or any(self._can_be_the_axis(place, facts) for place in range(len(facts.axes)))
            )
        )

    def _has_batch(self, batch: int) -> bool:
        return batch in (self.batches or ()) or batch > self.above > 0

    def _can_be_the_axis(self, place: int, facts: Facts) -> bool:
        axis = facts.axes[place]
        return bool(
            (self.axis is None or self.axis(axis))
            and (
                not self.is_square or (axis.out > 1 and axis.out == facts.channels == facts.filters)
            )
            and (
                self.others is None
                or all(map(self.others, (*facts.axes[:place], *facts.axes[place + 1 :])))
            )
        )

    def kinds(self, box: Box) -> list[GroupKind]:
        """The kinds of groups that both allow, those of the fewest channels first."""
        return sorted(set(self.groups) & set(box.groups), key=FEWEST.__getitem__)

    @property
    def must_show(self) -> bool:
        """Whether x needs several samples, cells and channels for its layout to be told."""
        return self.layout not in (None, "C", "read-only", layouts.EXPANDED)

    def sizes(self, box: Box) -> list[int]:
        """The batches that both allow."""
        batches = self.batches or ((2, 3) if self.must_show else _BATCHES)
        return [batch for batch in batches if batch or box.empty_batch]

    def inputs(self) -> tuple[int, ...]:
        """The input channels to choose from, but for the kind "some"."""
        least = 2 if self.must_show else 1
        return tuple(count for count in self.channels or CHANNELS if count >= least)

    def samples(self, box: Box, kind: GroupKind) -> int:
        """The fewest channels of all samples together."""
        least = max(FEWEST[kind], min(self.inputs()) if kind != "some" else 1)
        return max(1, *self.sizes(box)[:1]) * least

    def kinds_in(self, box: Box, rank: int) -> list[GroupKind]:
        """The kinds of groups of which `box` has problems like this."""
        if not self.sizes(box) or (self.is_distinct and box.stride != "any"):
            return []
        return [kind for kind in self.kinds(box) if len(rows_of(self, box, kind, rank))]

    def most(self, box: Box) -> int:
        """The most elements that x and w may have."""
        return min(box.max_elements or self.limit, self.limit)

    def room(self, axes: Axes, box: Box, kind: GroupKind) -> tuple[Column, Column]:
        """How many times the cells, and the taps, of each axis x and w can hold."""
        limit = self.most(box)
        batch = max(1, *self.sizes(box)[:1])
        of_x = self.samples(box, kind)
        of_w = of_x // batch * min(self.group_out or (1,))
        if self.is_square:
            return limit // (axes.cells * of_x * axes.out), limit // (axes.taps * axes.out**2)
        return limit // (axes.cells * of_x), limit // (axes.taps * of_w)


Rows: TypeAlias = NDArray[np.int32]
"""Places in the table."""


@lru_cache(maxsize=512)
def rows_of(wish: Wish, box: Box, kind: GroupKind, rank: int) -> Rows:
    """The rows of the table that the one axis can be, so that others have room beside it."""
    axes = table()
    mask = allowed(axes, box)
    beside = mask.copy()
    if wish.must_show:
        mask &= axes.cells > 1
    if wish.is_square:
        mask &= axes.out > 1
    if wish.axis is not None:
        mask &= wish.axis(axes)
    if wish.others is not None:
        beside &= wish.others(axes)
    sizes = np.where(beside, np.maximum(axes.cells, axes.taps), wish.limit)
    least = np.full(len(mask), sizes.min())
    if box.stride == "equal":
        for stride in _STRIDES:
            least[axes.stride == stride] = sizes[axes.stride == stride].min()
    mask &= np.minimum(*wish.room(axes, box, kind)) >= least ** (rank - 1)
    return np.flatnonzero(mask).astype(np.int32)


@lru_cache(maxsize=1)
def _small() -> tuple[Rows, Axes]:
    """Those that an axis without a condition can be."""
    rows = np.flatnonzero(table().cells <= _MOST_OTHER_CELLS).astype(np.int32)
    return rows, table().where(rows)


def _beside(wish: Wish, box: Box, kind: GroupKind, one: int, rank: int) -> Rows:
    """The rows of the table that the other axes can be, each of them, beside the row `one`."""
    axis = Axes(*_row(table(), one))
    cells, taps = (room ** (1 / (rank - 1)) + 1e-9 for room in wish.room(axis, box, kind))
    rows, axes = _small()
    mask = allowed(axes, box) & (axes.cells <= cells) & (axes.taps <= taps)
    if box.stride == "equal":
        mask &= axes.stride == axis.stride
    if wish.is_square:  # the channels are as many as the outputs of the axis that has most
        mask &= axes.out <= axis.out
    if wish.others is not None:
        mask &= wish.others(axes)
    found: Rows = rows[mask]
    return found


def can_be(wish: Wish, domain: Domain, rank: int, dtype: str) -> bool:
    """Whether `domain` has problems of this rank and dtype that are like `wish`."""
    needs = 2 if wish.is_distinct or wish.others is not None else 1
    return rank >= needs and any(wish.kinds_in(box, rank) for box in domain.boxes_in(rank, dtype))


@st.composite
def problems_like(
    draw: DrawFn, wish: Wish, domain: Domain, rank: int, dtype: str, fill: Fill
) -> ConvProblem:
    """Problems like `wish` that `domain` accepts; there must be some (`can_be`)."""
    boxes = tuple(box for box in domain.boxes_in(rank, dtype) if wish.kinds_in(box, rank))
    box = draw(one_of(boxes), label="box")
    kind = draw(one_of(tuple(wish.kinds_in(box, rank))), label="groups")
    limit = wish.most(box)
    axes = draw(_spatial(wish, box, kind, rank), label="axes")
    if rank > 1:
        axes = draw(st.permutations(axes), label="order of the axes")
    taps, dilation, stride, lo, hi, spatial = zip(*axes)
    cells, all_taps = math.prod(spatial), math.prod(taps)
    fewest = max(1, *wish.sizes(box)[:1])
    channels, group_out = wish.inputs(), wish.group_out or CHANNELS
    if wish.is_square:
        channels = group_out = (_square(wish, axes),)
    room = min(limit // (cells * fewest), limit // (all_taps * min(group_out)))
    sizes = groups_of(draw, kind, room, limit // all_taps, channels, group_out)
    groups, group_in, group_out_drawn = sizes
    params = ConvParams(stride, tuple(zip(lo, hi)), dilation, groups)
    filters = groups * group_out_drawn
    most = limit // (cells * groups * group_in)
    batch = draw(one_of(tuple(n for n in wish.sizes(box) if n <= most)), label="batch")
    x, w = (batch, *spatial, groups * group_in), (*taps, group_in, filters)
    shapes = {"x": x, "w": w, "dy": (batch, *output_size(spatial, taps, params), filters)}
    if draw(st.booleans(), label="bias") if wish.bias is None else wish.bias:
        shapes["b"] = (filters,)
    layout = wish.layout or "C"
    styles = fills.MODEST if layout == layouts.EXPANDED else styles_of(domain, dtype)
    problem = filled(draw, shapes, params, dtype, fill, styles)
    return layouts.laid_out(problem, layout, exact=fill != "reals")


@st.composite
def _spatial(
    draw: DrawFn, wish: Wish, box: Box, kind: GroupKind, rank: int
) -> list[tuple[int, ...]]:
    """Rows of the table, that of the one axis first."""
    every = table()
    rows = rows_of(wish, box, kind, rank)
    if wish.is_distinct:
        return draw(_distinct(rows, wish.room(Axes(*_ONE_CELL), box, kind), rank))
    chosen = [int(rows[draw(whole(0, len(rows) - 1), label="axis")])]
    if rank > 1:
        others = _beside(wish, box, kind, chosen[0], rank)
        place = whole(0, len(others) - 1)
        chosen += [int(others[draw(place, label="other axis")]) for _ in range(rank - 1)]
    return [_row(every, number) for number in chosen]


@st.composite
def _distinct(draw: DrawFn, rows: Rows, room: tuple[int, int], rank: int) -> list[tuple[int, ...]]:
    """Rows of which no two have the same cells, taps, stride or low padding.

    All cells together are no more than the first of `room`, all taps no more than the second.
    """
    every = table()
    cells, taps = (_most_distinct(rank, most) for most in room)
    rows = rows[(every.cells[rows] <= cells) & (every.taps[rows] <= taps)]
    chosen = []
    for _ in range(rank):
        number = int(rows[draw(whole(0, len(rows) - 1), label="axis")])
        chosen.append(_row(every, number))
        for column in (every.cells, every.taps, every.stride, every.lo):
            rows = rows[column[rows] != column[number]]
    return chosen


def _most_distinct(rank: int, room: int) -> int:
    """The largest of `rank` different numbers, so that whichever they are they fit into `room`."""
    numbers = range(rank, _MOST_DISTINCT_CELLS + 1)
    return max(most for most in numbers if math.perm(most, rank) <= room)


def _square(wish: Wish, axes: Sequence[tuple[int, ...]]) -> int:
    """The outputs of the axis that has the most: as many there shall be channels and filters."""
    return max(int(Axes(*axis).out) for axis in axes)


def _row(axes: Axes, number: int) -> tuple[int, ...]:
    return tuple(int(getattr(axes, field.name)[number]) for field in fields(axes))


def various(domain: Domain, rank: int, dtype: str, fill: Fill) -> st.SearchStrategy[ConvProblem]:
    """Problems of one rank and dtype: random ones, and as many of the table's."""
    anything = problems_like(Wish(), domain, rank, dtype, fill)
    return st.one_of(problems(domain, rank, dtype, fill), anything)
