"""What an oracle is asked before random problems, class by class: each three classes, each region.

Of each class one problem is drawn that tells something. Nothing is left to luck but its numbers.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeAlias

import numpy as np
from hypothesis import HealthCheck, Phase, Verbosity, given, reject, settings
from hypothesis import seed as seeded
from hypothesis.strategies import SearchStrategy

from oracles.protocol import DTYPES, Domain
from reference.problem import RANKS, ConvProblem
from tests.support.coverage import Combinations, coverage_of, problems_of, wish, words
from tests.support.independent import INDEPENDENT
from tests.support.regions import REGIONS
from tests.support.space import Wish, can_be, problems_like
from tests.support.strategies import SPECIAL_VALUES, Fill, special_problems

THREE_CLASSES = "three classes"
REGION = "region"
SAME_SHAPES = "same shapes again, with other numbers and params"
_FILLS: tuple[Fill, ...] = ("wide", "reals")
_TRIES = 5  # problems of a class that may tell nothing, before one counts all the same
_ONE = settings(
    max_examples=1,
    deadline=None,
    phases=[Phase.generate],
    verbosity=Verbosity.quiet,
    database=None,
    suppress_health_check=[HealthCheck.filter_too_much],  # one is, of two
    backend=INDEPENDENT,
)


_Others: TypeAlias = Callable[[ConvProblem], list[ConvProblem]]
_OfCell: TypeAlias = Callable[[int, str, Fill], SearchStrategy[ConvProblem]]


@dataclass(frozen=True)
class Class:
    """Problems that have something in common: `check` says whether three classes, or a region.

    `combination` is that of the covering array; `others` are asked for after a problem. In another
    `turn` other problems of the class are drawn.
    """

    check: str
    name: str
    rank: int
    dtype: str
    fill: Fill
    problems: SearchStrategy[ConvProblem]
    combination: Combinations | None = None
    others: _Others = lambda _: []
    turn: int = 0


def three_classes(domain: Domain, seed: int = 0) -> list[Class]:
    """Classes in which every three levels meet that can meet in `domain`, in a mixed order."""
    return [
        Class(
            THREE_CLASSES,
            words(row),
            RANKS[row[0]],
            DTYPES[row[1]],
            wish(row)[1],
            problems_of(domain, row),
            row,
        )
        for row in coverage_of(domain).mixed(seed)
    ]


def regions(domain: Domain, seed: int = 0, turns: int = 1) -> list[Class]:
    """The regions that `domain` has, in each rank and dtype, on integers and on reals.

    They are mixed, but each region comes once before any comes a second time, and so on. In each of
    the `turns` all of them come.
    """
    found = [
        Class(REGION, name, rank, dtype, fill, of(rank, dtype, fill), others=others)
        for name, of, others in _regions(domain)
        for rank, dtype in domain.cells()
        if name not in REGIONS or can_be(REGIONS[name], domain, rank, dtype)
        for fill in _FILLS
    ]
    mixed = [found[place] for place in np.random.default_rng(seed).permutation(len(found))]
    before: Counter[str] = Counter()
    places = []
    for of in mixed:
        places.append(before[of.name])
        before[of.name] += 1
    once = [mixed[place] for place in np.argsort(places, kind="stable")]
    return [replace(of, turn=turn) for turn in range(turns) for of in once]


def region_names(domain: Domain) -> list[str]:
    """Those of the regions that `domain` has."""
    return list(dict.fromkeys(of.name for of in regions(domain)))


def _regions(domain: Domain) -> Iterator[tuple[str, _OfCell, _Others]]:
    """Of each region, name, problems, and what is asked for after each."""
    for name, like in REGIONS.items():
        yield name, partial(problems_like, like, domain), lambda _: []
    shapes = Wish(lambda a: (a.lo != a.hi) | (a.out == 1) | (a.taps == 1))
    yield SAME_SHAPES, partial(problems_like, shapes, domain), partial(alike, domain=domain)
    if domain.special_values:
        for array, (word, value) in itertools.product(("x", "w", "dy"), SPECIAL_VALUES.items()):
            special = partial(special_problems, domain, names=(array,), values=(value,))
            yield f"{word} in {array}", special, lambda _: []


def alike(problem: ConvProblem, domain: Domain) -> list[ConvProblem]:
    """Problems of the same shapes with other numbers, and with other params, in `domain`."""
    params = problem.params
    out = problem.dy.shape[1:-1]
    padding = tuple((hi, lo) for lo, hi in params.padding)
    stride = tuple(s + (o == 1) for s, o in zip(params.stride, out))
    dilation = tuple(d + (k == 1) for d, k in zip(params.dilation, problem.kernel))
    changes = ({"padding": padding}, {"stride": stride}, {"dilation": dilation})
    found = [replace(problem, **{name: -getattr(problem, name)}) for name in ("x", "w", "dy")]
    found += [replace(problem, params=replace(params, **change)) for change in changes]
    return [other for other in found if domain.accepts(other)]


def ask_one(of: Class, ask: Callable[[ConvProblem, bool], bool], seed: int = 0) -> None:
    """Draw a problem of a class and `ask` it; if that returns False, which says nothing, another.

    The second argument of `ask` is whether this is the last try.
    """
    __tracebackhide__ = True
    tries = 0

    def ask_this(problem: ConvProblem) -> None:
        __tracebackhide__ = True
        nonlocal tries
        if not tries and not any(map(np.any, (problem.x, problem.w, problem.dy))):
            reject()  # Hypothesis' first, all zeros
        tries += 1
        if not ask(problem, tries >= _TRIES) and tries < _TRIES:
            reject()
        for other in of.others(problem):
            ask(other, True)

    def draw(problem: ConvProblem) -> None:  # short: Hypothesis parses it each time
        __tracebackhide__ = True
        ask_this(problem)

    seed_of = f"{seed + of.turn} {of.name} {of.rank} {of.dtype} {of.fill}"
    seeded(seed_of)(_ONE(given(problem=of.problems)(draw)))()


def one_of_each(classes: Iterable[Class], seed: int = 0) -> Iterator[ConvProblem]:
    """A problem of each class, as it comes."""
    found: list[ConvProblem] = []

    def keep(problem: ConvProblem, is_last: bool) -> bool:
        del is_last
        found.append(problem)
        return True

    for of in classes:
        ask_one(of, keep, seed)
        yield found.pop()
