"""Random problems for one oracle, each drawn while the oracle computes the one before.

Hypothesis makes smaller what fails before the next is drawn. So where a verdict comes late, the
same problems are drawn again: those that passed are not asked once more, and the one that failed
is asked and judged before the next.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection
from unittest import SkipTest

from hypothesis import Phase, Verbosity, given, reject, settings
from hypothesis import seed as seeded
from hypothesis.errors import Unsatisfiable
from hypothesis.strategies import SearchStrategy

from oracles.compare import Disagreement
from oracles.worker import Connection
from reference.problem import ConvProblem
from tests.support.budget import OutOfTime, Purse
from tests.support.independent import INDEPENDENT
from tests.support.verification import Late, Verification, is_weak


def ask_all(
    verification: Verification,
    oracle: Connection,
    every: SearchStrategy[ConvProblem],
    seed: str,
    count: int,
    purse: Purse,
) -> int:
    """Hold `oracle` against the reference on `count` problems; raises Disagreement, made small.

    What Hypothesis remembers of earlier runs is asked first. Returns how many were asked: fewer if
    the purse is spent before. A failure is made small in whatever time that takes.
    """
    __tracebackhide__ = True
    begun = asked = 0  # weak ones do not count as asked

    def in_step(problem: ConvProblem) -> None:
        __tracebackhide__ = True
        verification.verify(oracle, problem)

    def ahead(problem: ConvProblem) -> None:
        nonlocal begun, asked
        purse.check()
        begun += 1
        try:
            verification.verify_ahead(oracle, problem)
        except Late:  # of the one before
            begun -= 1
            raise
        asked += 1

    def from_the_last(problem: ConvProblem) -> None:
        __tracebackhide__ = True
        nonlocal begun
        begun -= 1
        if begun <= 0:
            verification.verify(oracle, problem)
        elif is_weak(problem) and not verification.known(oracle.name, problem):
            reject()

    phases = settings().phases
    if settings().database is not None and Phase.reuse in phases:
        # of Hypothesis, that it remembers nothing, or nothing but weak ones of another oracle
        with contextlib.suppress(SkipTest, Unsatisfiable):
            draw(in_step, every, seed, count, {Phase.reuse, Phase.shrink} & {*phases})
    late = None
    try:
        with contextlib.suppress(OutOfTime):
            draw(ahead, every, seed, count, {Phase.generate})
        verification.settle()
    except Late as found:
        late = found
    if late is None:
        return asked
    draw(from_the_last, every, seed, count, {Phase.generate, Phase.shrink} & {*phases})
    try:  # it has not shown again: what Hypothesis draws depends on what has been imported
        verification.count(late.problem, late.verdict, late.seconds)
    except Disagreement as failure:
        raise verification.smaller(failure) from None
    return asked


def draw(
    ask: Callable[[ConvProblem], None],
    every: SearchStrategy[ConvProblem],
    seed: str,
    count: int,
    phases: Collection[Phase],
) -> None:
    """Have Hypothesis `ask` up to `count` problems; the same ones for the same seed."""
    __tracebackhide__ = True

    def agrees(problem: ConvProblem) -> None:
        __tracebackhide__ = True
        ask(problem)

    backend = "hypothesis" if Phase.target in phases else INDEPENDENT
    # quiet: the failure itself ends with the problem's constructor
    many = settings(max_examples=count, verbosity=Verbosity.quiet, phases=phases, backend=backend)
    try:
        many(seeded(seed)(given(problem=every)(agrees)))()  # the other way round: no database
    except Disagreement as failure:  # without the frame of Hypothesis that looks like `agrees`
        raise failure.with_traceback(None) from failure.__cause__
