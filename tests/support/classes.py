"""What an oracle is asked before random problems, class by class: each three classes, each region.

Of each class one problem is drawn that tells something. Nothing is left to luck but its numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from hypothesis import HealthCheck, Phase, Verbosity, given, reject, settings
from hypothesis import seed as seeded
from hypothesis.strategies import SearchStrategy

from oracles.protocol import DTYPES, Domain
from reference.problem import RANKS, ConvProblem
from tests.support.coverage import Combinations, coverage_of, problems_of, wish, words
from tests.support.regions import REGIONS
from tests.support.space import can_be, problems_like
from tests.support.strategies import Fill

THREE_CLASSES = "three classes"
REGION = "region"
_FILLS: tuple[Fill, ...] = ("wide", "reals")
_TRIES = 5  # problems of a class that may tell nothing, before one counts all the same


@dataclass(frozen=True)
class Class:
    """Problems that have something in common: `check` says whether three classes, or a region.

    `combination` is that of the covering array.
    """

    check: str
    name: str
    rank: int
    dtype: str
    fill: Fill
    problems: SearchStrategy[ConvProblem]
    combination: Combinations | None = None


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


def regions(domain: Domain, seed: int = 0) -> list[Class]:
    """The regions that `domain` has, in each rank and dtype, on integers and on reals, mixed."""
    found = [
        Class(REGION, name, rank, dtype, fill, problems_like(like, domain, rank, dtype, fill))
        for rank, dtype in domain.cells()
        for name, like in REGIONS.items()
        if can_be(like, domain, rank, dtype)
        for fill in _FILLS
    ]
    return [found[place] for place in np.random.default_rng(seed).permutation(len(found))]


def ask_one(of: Class, ask: Callable[[ConvProblem, bool], bool], seed: int = 0) -> None:
    """Draw a problem of a class and `ask` it; if that returns False, which says nothing, another.

    The second argument of `ask` is whether this is the last try.
    """
    __tracebackhide__ = True
    tries = 0

    @settings(
        max_examples=1,
        deadline=None,
        phases=[Phase.generate],
        verbosity=Verbosity.quiet,
        database=None,
        suppress_health_check=[HealthCheck.filter_too_much],  # the first is all zeros, thus weak
    )
    @seeded(f"{seed} {of.name} {of.rank} {of.dtype} {of.fill}")
    @given(problem=of.problems)
    def draw(problem: ConvProblem) -> None:
        __tracebackhide__ = True
        nonlocal tries
        tries += 1
        if not ask(problem, tries >= _TRIES) and tries < _TRIES:
            reject()

    draw()


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
