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
from hypothesis.strategies import SearchStrategy

from oracles.compare import Disagreement
from oracles.worker import Connection
from reference.problem import ConvProblem
from tests.support.verification import Late, Verification, is_weak


def ask_all(
    verification: Verification,
    oracle: Connection,
    every: SearchStrategy[ConvProblem],
    seed: str,
    count: int,
) -> None:
    """Hold `oracle` against the reference on `count` problems; raises Disagreement, made small.

    What Hypothesis remembers of earlier runs is asked first.
    """
    __tracebackhide__ = True
    begun = 0

    def in_step(problem: ConvProblem) -> None:
        __tracebackhide__ = True
        verification.verify(oracle, problem)

    def ahead(problem: ConvProblem) -> None:
        nonlocal begun
        verification.settle()
        begun += 1
        verification.verify_ahead(oracle, problem)

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
        with contextlib.suppress(SkipTest):  # of Hypothesis, that it remembers nothing
            draw(in_step, every, seed, count, {Phase.reuse, Phase.shrink} & {*phases})
    late = None
    try:
        draw(ahead, every, seed, count, {Phase.generate})
        verification.settle()
    except Late as found:
        late = found
    if late is None:
        return
    draw(from_the_last, every, seed, count, {Phase.generate, Phase.shrink} & {*phases})
    try:  # it has not shown again: what Hypothesis draws depends on what has been imported
        verification.count(late.problem, late.verdict, late.seconds)
    except Disagreement as failure:
        raise verification.smaller(failure) from None


def draw(
    ask: Callable[[ConvProblem], None],
    every: SearchStrategy[ConvProblem],
    seed: str,
    count: int,
    phases: Collection[Phase],
) -> None:
    """Have Hypothesis `ask` up to `count` problems; the same ones for the same seed."""
    __tracebackhide__ = True

    # quiet: the failure itself ends with the problem's constructor; settings come first, as a seed
    # takes the database away
    @settings(max_examples=count, verbosity=Verbosity.quiet, phases=phases)
    @seeded(seed)
    @given(problem=every)
    def agrees(problem: ConvProblem) -> None:
        __tracebackhide__ = True
        ask(problem)

    agrees()
