"""Regions of the problem space, by name: where bugs of convolution gradients have lived.

Each is a `Wish`: a predicate, and a way to draw problems that meet it. They come from some 170
reports upstream. Left out are those that no single problem can be in: the same shapes called again
with other parameters (a worker asks thousands of problems in a row), one thread or many, which
gradients are wanted, and empty results, which do not exist here: a kernel that does not fit is an
error.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache
from types import MappingProxyType

from oracles.protocol import GroupKind
from reference.problem import ConvProblem
from tests.support import layouts
from tests.support.space import Axes, Facts, Mask, Wish

_FEW = 5  # a region that more than one pass in so many is in says nothing
_MOST_NAMED = 3


def _even_same(a: Axes) -> Mask:
    lo, hi = a.same
    return (a.stride > 1) & (a.taps % 2 == 0) & (a.lo == lo) & (a.hi == hi) & (hi > 0)


def _same(a: Axes) -> Mask:
    lo, hi = a.same
    return (a.dilation == 1) & (a.lo == lo) & (a.hi == hi)


def _is_one_cell(a: Axes) -> Mask:
    return (a.cells == 1) & (a.taps == 1) & (a.out == 1)


def _dead_low(a: Axes) -> Mask:
    """The first window lies wholly in the low padding."""
    return a.lo >= a.extent


def _dead_high(a: Axes) -> Mask:
    """The last window begins beyond the input."""
    return (a.out - 1) * a.stride >= a.lo + a.cells


def _dead_tap(a: Axes) -> Mask:
    """The first tap of every window, or the last one, lies in the padding."""
    return ((a.out - 1) * a.stride < a.lo) | (a.extent - 1 >= a.lo + a.cells)


def _overhangs_both(a: Axes) -> Mask:
    """The first window begins before the input and ends beyond it."""
    return (a.lo > 0) & (a.extent - a.lo > a.cells)


def _bare_dx_of_two_taps(a: Axes) -> Mask:
    """Seen as a convolution of dy, spread by a stride of 2, dX needs no padding."""
    return (a.taps == a.stride) & (a.stride == 2) & (a.dilation == 1) & (a.lo == 1) & _to_the_end(a)


def _to_the_end(a: Axes) -> Mask:
    """The last window ends one cell behind the input, of more than two."""
    return (a.cells == (a.out - 1) * a.stride) & (a.out > 2)


_ONE: tuple[GroupKind, ...] = ("one",)
_DEPTHWISE: tuple[GroupKind, ...] = ("depthwise",)
REGIONS: Mapping[str, Wish] = MappingProxyType(
    {
        "all axes different": Wish(is_distinct=True),
        "input that no window reads": Wish(lambda a: a.rest > a.hi),
        "stride > kernel": Wish(lambda a: (a.stride > a.taps) & (a.taps > 1)),
        "stride > extent: holes in dX": Wish(lambda a: (a.stride > a.extent) & (a.out > 1)),
        "low padding only": Wish(lambda a: (a.lo > 0) & (a.hi == 0)),
        "high padding only": Wish(lambda a: (a.lo == 0) & (a.hi > 0)),
        "more high than low padding": Wish(lambda a: (a.hi > a.lo) & (a.lo > 0)),
        "SAME, even kernel, strided": Wish(_even_same),
        "SAME, input that no window reads": Wish(
            lambda a: _same(a) & (a.stride > a.taps + a.rest) & (a.rest > 0),
            lambda a: _same(a) & (a.hi > 0),
        ),
        "window in the low padding": Wish(_dead_low),
        "window in the high padding": Wish(_dead_high),
        "windows in both paddings": Wish(lambda a: _dead_low(a) & _dead_high(a)),
        "tap in the padding only": Wish(_dead_tap),
        "window over both ends": Wish(_overhangs_both),
        "kernel wider than the input": Wish(lambda a: a.extent > a.cells),
        "pointwise": Wish(lambda a: (a.taps == 1) & (a.stride == 1), lambda a: a.taps == 1),
        "pointwise, strided": Wish(lambda a: (a.taps == 1) & (a.stride > 1), lambda a: a.taps == 1),
        "pointwise, strided, many outputs": Wish(
            lambda a: (a.taps == 1) & (a.out > 256),
            lambda a: (a.taps == 1) & (a.stride > 1) & (a.out > 1),
            groups=_ONE,
        ),
        "pointwise, padded": Wish(
            lambda a: (a.taps == 1) & (a.lo + a.hi > 0), lambda a: a.taps == 1
        ),
        "one tap on one axis only": Wish(lambda a: a.taps == 1, lambda a: a.taps > 1),
        "one output on every axis": Wish(lambda a: a.out == 1, lambda a: a.out == 1),
        "one output on one axis only": Wish(lambda a: a.out == 1, lambda a: a.out > 1),
        "one channel, one output on a strided axis": Wish(
            lambda a: (a.out == 1) & (a.stride > 1) & (a.taps > 1) & (a.dilation == 1),
            lambda a: (a.out > 1) & (a.stride == 1),
            groups=_ONE,
            channels=(1,),
            batches=(2, 3),
        ),
        "one input cell on an axis": Wish(lambda a: (a.cells == 1) & (a.taps > 1)),
        "input narrower than the stride": Wish(lambda a: a.cells < a.stride),
        "1 < stride < padding < kernel": Wish(
            lambda a: (a.stride > 1) & (a.stride < a.lo) & (a.lo < a.taps)
        ),
        "dX without padding, more taps than outputs": Wish(
            _bare_dx_of_two_taps,
            lambda a: (a.taps > a.out) & (a.lo > 0) & (a.dilation == 1),
            groups=_ONE,
        ),
        "dilation of one tap": Wish(lambda a: (a.dilation > 1) & (a.taps == 1)),
        "dilation > input": Wish(lambda a: (a.dilation > a.cells) & (a.taps > 1)),
        "stride and dilation": Wish(
            lambda a: (a.stride > 1) & (a.dilation > 1) & (a.taps > 1) & (a.out > 1)
        ),
        "outputs beyond a multiple of 4": Wish(lambda a: (a.out > 4) & (a.out % 4 > 0)),
        "outputs beyond a multiple of 8": Wish(lambda a: (a.out > 8) & (a.out % 8 > 0)),
        "several groups, several channels": Wish(groups=("some",)),
        "depthwise": Wish(groups=_DEPTHWISE, group_out=(1,)),
        "depthwise, several filters": Wish(groups=_DEPTHWISE, group_out=(2, 3, 4)),
        "one input channel": Wish(groups=_ONE, channels=(1,)),
        "one output channel": Wish(groups=_ONE, group_out=(1,)),
        "7 to 9 channels": Wish(groups=_ONE, channels=(7, 8, 9)),
        "15 to 17 channels": Wish(groups=_ONE, channels=(15, 16, 17)),
        "32 or 33 channels": Wish(groups=_ONE, channels=(32, 33)),
        "15 to 17 filters": Wish(groups=_ONE, group_out=(15, 16, 17)),
        "as many channels as filters as outputs": Wish(groups=_ONE, is_square=True),
        "empty batch": Wish(batches=(0,)),
        "odd batch": Wish(batches=(3,)),
        "batch above 256": Wish(batches=(257, 260), above=256),
        "batch above 65,536": Wish(
            _is_one_cell,
            _is_one_cell,
            groups=_ONE,
            channels=(1,),
            group_out=(1,),
            batches=(66_000,),
            limit=70_000,
            above=65_536,
        ),
        "axis of more than 256 cells": Wish(lambda a: a.cells > 256),
        "sums of a thousand terms": Wish(lambda a: a.out >= 4, batches=(257, 260), above=256),
        "bias": Wish(bias=True),
        "no bias": Wish(bias=False),
        **{f"memory: {name}": Wish(layout=name) for name in layouts.LAYOUTS},
        f"memory: {layouts.EXPANDED}": Wish(batches=(2, 3), layout=layouts.EXPANDED),
    }
)

_BITS = tuple((1 << number, name, wish) for number, (name, wish) in enumerate(REGIONS.items()))


def regions_of(problem: ConvProblem) -> list[str]:
    """The names of the regions that `problem` is in."""
    facts = Facts.of(problem)
    possible = _possible(facts.axes)
    return [name for bit, name, wish in _BITS if possible & bit and wish.holds(facts)]


def _possible(axes: Sequence[Axes]) -> int:
    """The regions that a problem with these axes can be in, a bit each."""
    met = [_met_by(axis) for axis in axes]
    found = 0
    for place, (as_one, _) in enumerate(met):
        for _, as_other in (*met[:place], *met[place + 1 :]):
            as_one &= as_other
        found |= as_one
    return found


@lru_cache(maxsize=1 << 14)  # random problems have the same axes again and again
def _met_by(axis: Axes) -> tuple[int, int]:
    """The regions whose `axis` holds for this one, and those whose `others` does, a bit each."""
    as_one = as_other = 0
    for bit, _, wish in _BITS:
        as_one |= bit * (wish.axis is None or bool(wish.axis(axis)))
        as_other |= bit * (wish.others is None or bool(wish.others(axis)))
    return as_one, as_other


def regions_in_common(failing: Sequence[ConvProblem], passing: Sequence[ConvProblem]) -> list[str]:
    """The regions that all of `failing` are in and few of `passing`, the rarest first.

    Where nothing passes, a region says nothing.
    """
    if not passing:
        return []
    shared = set.intersection(*(set(regions_of(problem)) for problem in failing))
    counts = Counter(name for problem in passing for name in regions_of(problem))
    rare = [name for name in REGIONS if name in shared and counts[name] * _FEW <= len(passing)]
    return sorted(rare, key=counts.__getitem__)[:_MOST_NAMED]
