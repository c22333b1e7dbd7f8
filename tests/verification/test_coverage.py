"""The problem space, class by class, before random problems: each three classes, each region."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable

from hypothesis import HealthCheck, Phase, Verbosity, given, seed, settings
from hypothesis.strategies import SearchStrategy

from oracles.compare import Disagreement
from oracles.worker import Connection
from reference import ConvProblem
from tests.support.coverage import coverage_of, problems_of, wish, words
from tests.support.regions import REGIONS
from tests.support.space import can_be, problems_like, various
from tests.support.strategies import Fill
from tests.support.verification import Verification

_FILLS: tuple[Fill, ...] = ("wide", "reals")
_WEAK = 5  # problems of a class that may show nothing, before one counts all the same


def test_every_three_classes_meet(
    oracle: Connection, rank: int, dtype: str, verification: Verification
) -> None:
    """In some problem each: of strides, padding, dilation, groups, values, layout and so on."""
    __tracebackhide__ = True
    coverage = coverage_of(oracle.domain)
    combinations = coverage.of(rank, dtype)
    assert len(combinations)
    verify(
        oracle,
        (rank, dtype),
        [(words(row), problems_of(oracle.domain, row), wish(row)[1]) for row in combinations],
        verification,
    )


def test_every_region(
    oracle: Connection, rank: int, dtype: str, verification: Verification
) -> None:
    """Problems of each region that the oracle's domain has, on integers and on reals."""
    __tracebackhide__ = True
    verify(
        oracle,
        (rank, dtype),
        [
            (name, problems_like(like, oracle.domain, rank, dtype, fill), fill)
            for name, like in REGIONS.items()
            if can_be(like, oracle.domain, rank, dtype)
            for fill in _FILLS
        ],
        verification,
    )


def verify(
    oracle: Connection,
    cell: tuple[int, str],
    classes: Iterable[tuple[str, SearchStrategy[ConvProblem], Fill]],
    verification: Verification,
) -> None:
    """Hold `oracle` against the reference on a problem of each class.

    A failure is made smaller, into whatever class: what is left is what it takes.
    """
    __tracebackhide__ = True
    left = deque(classes)

    def run(count: int) -> None:
        __tracebackhide__ = True
        del count
        while left:
            try:
                verify_one(oracle, *left.popleft(), verification)
            except Disagreement as failure:
                raise verification.smaller(failure) from None

    def explore(count: int) -> None:
        @settings(max_examples=count, phases=[Phase.generate], verbosity=Verbosity.quiet)
        @given(problem=various(oracle.domain, *cell, "integers"))
        def agrees(problem: ConvProblem) -> None:
            verification.verify(oracle, problem)

        agrees()

    verification.look(oracle.name, run, math.inf, explore)


def verify_one(
    oracle: Connection,
    name: str,
    problems: SearchStrategy[ConvProblem],
    fill: Fill,
    verification: Verification,
) -> None:
    """Hold `oracle` against the reference on one of `problems`."""
    __tracebackhide__ = True

    @settings(
        max_examples=1,
        verbosity=Verbosity.quiet,
        suppress_health_check=[HealthCheck.filter_too_much],  # the first is all zeros, thus weak
    )
    @seed(f"{name} {fill}")
    @given(problem=problems)
    def agrees(problem: ConvProblem) -> None:
        __tracebackhide__ = True
        nonlocal tries
        tries += 1
        if verification.verify(oracle, problem, is_enough=tries > _WEAK) is not None:
            coverage_of(oracle.domain).meet(problem, fill)

    tries = 0
    agrees()
