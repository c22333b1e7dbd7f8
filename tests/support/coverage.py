"""A covering array of the problem space: every three classes that can meet, meet in some problem.

A combination names a level of each factor. Six factors are of one axis of the problem, looked up in
`tests.support.space`; the others are rank, dtype, what the arrays hold, how they lie in memory, and
the groups. Whether levels can meet is what an oracle's domain and arithmetic say: no problem is
drawn in vain.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from types import MappingProxyType

import numpy as np
from hypothesis.strategies import SearchStrategy
from numpy.typing import NDArray

from oracles.protocol import DTYPES, Box, Domain, GroupKind, group_kind
from reference.problem import RANKS, ConvProblem
from tests.support import layouts
from tests.support.space import (
    Axes,
    Condition,
    Mask,
    Wish,
    axes_of,
    columns_of,
    problems_like,
    rows_of,
    table,
)
from tests.support.strategies import Fill

STRENGTH = 3
_TRIED = 24  # combinations of which the one that meets the most is taken

AXIS: Mapping[str, Mapping[str, Condition]] = MappingProxyType(
    {
        "stride": {
            "1": lambda a: a.stride == 1,
            "> 1": lambda a: (a.stride > 1) & (a.stride <= a.extent),
            "> extent": lambda a: (a.stride > 1) & (a.stride > a.extent),
        },
        "rest": {"none": lambda a: a.rest == 0, "some": lambda a: a.rest > 0},
        "dilation": {
            "1": lambda a: a.dilation == 1,
            "of one tap": lambda a: (a.dilation > 1) & (a.taps == 1),
            "> 1": lambda a: (a.dilation > 1) & (a.taps > 1) & (a.dilation < a.cells),
            ">= input": lambda a: (a.dilation > 1) & (a.taps > 1) & (a.dilation >= a.cells),
        },
        "padding": {
            "none": lambda a: _padding(a) == 0,
            "SAME": lambda a: _padding(a) == 1,
            "symmetric": lambda a: _padding(a) == 2,
            "asymmetric": lambda a: _padding(a) == 3,
            "as wide as the kernel": lambda a: _padding(a) == 4,
        },
        "kernel": {
            "one tap": lambda a: a.taps == 1,
            "in the input": lambda a: (a.taps > 1) & (a.extent <= a.cells),
            "> input": lambda a: (a.taps > 1) & (a.extent > a.cells),
        },
        "outputs": {
            "1": lambda a: a.out == 1,
            "2 to 4": lambda a: (a.out >= 2) & (a.out <= 4),
            "a multiple of 8": lambda a: (a.out > 4) & (a.out % 8 == 0),
            "a rest of 4 or 8": lambda a: (a.out > 4) & (a.out % 8 > 0),
        },
    }
)
_GROUPS: Mapping[str, tuple[GroupKind, tuple[int, ...] | None]] = MappingProxyType(
    {
        "one": ("one", None),
        "depthwise": ("depthwise", (1,)),
        "depthwise, several filters": ("depthwise", (2, 3, 4)),
        "some": ("some", None),
    }
)
_FILLS: tuple[Fill, ...] = ("small", "wide", "reals")
FACTORS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "rank": tuple(map(str, RANKS)),
        "dtype": DTYPES,
        "values": _FILLS,
        "layout": layouts.NAMES,
        "groups": tuple(_GROUPS),
        **{name: tuple(levels) for name, levels in AXIS.items()},
    }
)
_FREE = len(FACTORS) - len(AXIS)
_SIZES = tuple(map(len, AXIS.values()))
_FIRST = np.cumsum([0, *map(len, FACTORS.values())])[:-1]  # of all levels, the first of each factor
_LEVELS = sum(map(len, FACTORS.values()))
_TRIPLES = np.array(list(itertools.combinations(range(len(FACTORS)), STRENGTH)))

Combinations = NDArray[np.int64]
"""The level of each factor, a row for each combination."""


def _padding(a: Axes) -> NDArray[np.int64]:
    """0 to 4 for the classes of padding, the first that fits."""
    lo, hi = a.same
    widest = np.maximum(a.lo, a.hi)
    return np.select(
        [widest == 0, widest >= a.extent, (a.lo == lo) & (a.hi == hi), a.lo == a.hi],
        [0, 4, 1, 2],
        3,
    )


def _axis_levels(axes: Axes) -> Combinations:
    """Of each axis the level of each of the six factors, -1 where it has none."""
    columns = []
    for levels in AXIS.values():
        column = np.full(len(axes.cells), -1)
        for number, holds in enumerate(levels.values()):
            column[holds(axes)] = number
        columns.append(column)
    return np.stack(columns, axis=1)


@lru_cache(maxsize=1)
def _table_levels() -> Combinations:
    return _axis_levels(table())


@lru_cache(maxsize=1)
def _table_kinds() -> NDArray[np.int64]:
    """A number for each combination of the six factors."""
    kinds: NDArray[np.int64] = np.ravel_multi_index(tuple(_table_levels().T), _SIZES)
    return kinds


def triples(combinations: Combinations) -> NDArray[np.int64]:
    """A number for each three levels that meet in each combination."""
    levels = combinations + _FIRST
    first, second, third = (levels[:, _TRIPLES[:, place]] for place in range(STRENGTH))
    codes: NDArray[np.int64] = (first * _LEVELS + second) * _LEVELS + third
    return codes


@dataclass(frozen=True)
class _Part:
    """The combinations that one box has: some levels of the free factors, with all of `axes`."""

    free: tuple[tuple[int, ...], ...]
    axes: Combinations

    @staticmethod
    def all_of(box: Box) -> Iterator[_Part]:
        """What there is in `box`, each kind of groups and each layout by itself."""
        for groups, layout in itertools.product(range(len(_GROUPS)), range(len(layouts.NAMES))):
            like = _wish(groups, layout)
            if like.kinds(box):
                free = (
                    tuple(FACTORS["rank"].index(str(rank)) for rank in box.ranks),
                    tuple(FACTORS["dtype"].index(dtype) for dtype in box.dtypes),
                    tuple(range(len(_FILLS))),
                    (layout,),
                    (groups,),
                )
                [kind] = like.groups
                rows = rows_of(like, box, kind, rank=1)
                _, firsts = np.unique(_table_kinds()[rows], return_index=True)
                yield _Part(free, _table_levels()[rows[firsts]])

    def has(self, given: Mapping[int, int]) -> bool:
        """Whether the levels in `given`, factor to level, meet here."""
        return bool(self._axes_with(given).any())

    def some(self, rng: np.random.Generator, given: Mapping[int, int]) -> NDArray[np.int64]:
        """A random combination with the levels in `given`."""
        row = rng.choice(np.flatnonzero(self._axes_with(given)))
        free = [given.get(n, int(rng.choice(levels))) for n, levels in enumerate(self.free)]
        return np.array([*free, *self.axes[row]])

    def _axes_with(self, given: Mapping[int, int]) -> Mask:
        mask = np.ones(len(self.axes), bool)
        for factor, level in given.items():
            if factor < _FREE:
                mask &= level in self.free[factor]
            else:
                mask &= self.axes[:, factor - _FREE] == level
        return mask

    def all_triples(self) -> NDArray[np.int64]:
        """Every three levels that meet."""
        found = np.zeros(_LEVELS**STRENGTH, bool)
        for levels in itertools.product(*self.free):
            rows = np.broadcast_to(levels, (len(self.axes), _FREE))
            found[triples(np.column_stack([rows, self.axes]))] = True
        return np.flatnonzero(found)


class Coverage:
    """The covering array of one domain."""

    def __init__(self, domain: Domain) -> None:
        self._parts = [part for box in domain.boxes for part in _Part.all_of(box)]

    @cached_property
    def valid(self) -> NDArray[np.int64]:
        """Every three levels that meet in some problem of the domain."""
        return np.unique(np.concatenate([part.all_triples() for part in self._parts]))

    @cached_property
    def array(self) -> Combinations:
        """Combinations in which all of `valid` meet, the same ones each time."""
        rng = np.random.default_rng(0)
        missing = np.zeros(_LEVELS**STRENGTH, bool)
        missing[self.valid] = True
        chosen = []
        for code in rng.permutation(self.valid):
            if not missing[code]:
                continue
            given = _levels_of(int(code))
            parts = [part for part in self._parts if part.has(given)]
            chances = rng.choice(len(parts), _TRIED)
            some = np.stack([parts[chance].some(rng, given) for chance in chances])
            best = some[missing[triples(some)].sum(axis=1).argmax()]
            missing[triples(best[None])] = False
            chosen.append(best)
        return np.array(chosen)

    def mixed(self, seed: int) -> Combinations:
        """The covering array in the order of this seed."""
        mixed: Combinations = np.random.default_rng(seed).permutation(self.array)
        return mixed


class Met:
    """What of a covering array has been met, and what the ledger keeps from being met."""

    def __init__(self, coverage: Coverage) -> None:
        self._valid = coverage.valid
        self._met = np.zeros(_LEVELS**STRENGTH, bool)
        self._left_out = np.zeros(_LEVELS**STRENGTH, bool)

    def meet(self, problem: ConvProblem, fill: Fill) -> None:
        """Count what meets in `problem`."""
        if (found := combinations_of(problem, fill)) is not None:
            self._met[triples(found)] = True

    def leave_out(self, combination: NDArray[np.int64]) -> None:
        """Say that no problem of this combination may be asked."""
        self._left_out[triples(combination[None])] = True

    @property
    def valid(self) -> int:
        """How many three levels there are."""
        return len(self._valid)

    @property
    def met(self) -> int:
        """How many of them have met."""
        return int(self._met[self._valid].sum())

    @property
    def missing(self) -> list[str]:
        """Those that have not met, though the ledger says nothing of them, as text."""
        codes = self._valid[~(self._met | self._left_out)[self._valid]]
        return [", ".join(map(_level_words, _levels_of(int(c)).items())) for c in codes]


def _levels_of(code: int) -> dict[int, int]:
    """Factor to level, of three that meet."""
    given = {}
    for level in (code // _LEVELS**2, code // _LEVELS % _LEVELS, code % _LEVELS):
        factor = int(np.searchsorted(_FIRST, level, side="right")) - 1
        given[factor] = level - int(_FIRST[factor])
    return given


@lru_cache(maxsize=16)
def coverage_of(domain: Domain) -> Coverage:
    """The one of this domain."""
    return Coverage(domain)


def words(combination: Iterable[int]) -> str:
    """A combination as text."""
    return ", ".join(map(_level_words, enumerate(combination)))


def _level_words(level: tuple[int, int]) -> str:
    name, levels = list(FACTORS.items())[level[0]]
    return f"{name} {levels[level[1]]}"


def wish(combination: NDArray[np.int64]) -> tuple[Wish, Fill]:
    """What a problem of this combination is like, and what its arrays hold."""
    levels = combination[_FREE:]
    kind = np.ravel_multi_index(tuple(levels), _SIZES)

    def holds(axes: Axes) -> Mask:
        if axes is table():
            return _table_kinds() == kind
        return (_axis_levels(columns_of([axes])) == levels).all(axis=1)[0]

    like = _wish(int(combination[4]), int(combination[3]))
    return replace(like, axis=holds), _FILLS[combination[2]]


def _wish(groups: int, layout: int) -> Wish:
    """Of these levels."""
    kind, group_out = list(_GROUPS.values())[groups]
    name = layouts.NAMES[layout]
    batches = (2, 3) if name == layouts.EXPANDED else None
    return Wish(groups=(kind,), group_out=group_out, layout=name, batches=batches)


def problems_of(domain: Domain, combination: NDArray[np.int64]) -> SearchStrategy[ConvProblem]:
    """Problems of `domain` in which the levels of `combination` meet."""
    like, fill = wish(combination)
    rank, dtype = RANKS[combination[0]], DTYPES[combination[1]]
    return problems_like(like, domain, rank, dtype, fill)


def combinations_of(problem: ConvProblem, fill: Fill) -> Combinations | None:
    """The combinations of `problem`, one for each axis that has all levels; None if it has none."""
    kind, group_out = group_kind(problem), problem.w.shape[-1] // problem.params.groups
    groups = "depthwise, several filters" if kind == "depthwise" and group_out > 1 else kind
    levels = _axis_levels(columns_of(axes_of(problem)))
    levels = levels[(levels >= 0).all(axis=1)]
    if not len(levels) or problem.x.shape[0] == 0:
        return None
    names = (str(problem.params.rank), problem.dtype.name, fill, layouts.name_of(problem), groups)
    free = [all_levels.index(name) for all_levels, name in zip(FACTORS.values(), names)]
    return np.column_stack([np.tile(free, (len(levels), 1)), levels])
