"""The problem space, class by class, before random problems: each three classes, each region."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Sequence

import pytest
from hypothesis import Phase, Verbosity, given, settings
from hypothesis import strategies as st
from hypothesis.strategies import DataObject

from oracles.compare import Disagreement
from oracles.worker import Connection
from reference import ConvProblem
from tests.support.budget import COST_OF_A_CLASS, Purse
from tests.support.classes import Class, ask_one, regions, three_classes
from tests.support.reporting import CLASSES
from tests.support.space import various
from tests.support.verification import Late, Verification

_A_TURN = 250  # random problems to one of each region: those of the profile ci


@pytest.mark.reason("empty region")
def test_every_three_classes_meet(
    oracle: Connection, verification: Verification, share: float
) -> None:
    """In some problem each: of strides, padding, dilation, groups, values, layout and so on."""
    __tracebackhide__ = True
    classes = three_classes(oracle.domain, verification.seed)
    check_time(oracle, verify(oracle, classes, verification, share), verification, share)
    missing = verification.met(oracle).missing
    assert not missing, f"{oracle.name} was not asked where these meet: {'; '.join(missing)}"


@pytest.mark.reason("empty region")
def test_every_region(oracle: Connection, verification: Verification, share: float) -> None:
    """Problems of each region that the oracle's domain has, on integers and on reals."""
    __tracebackhide__ = True
    turns = max(1, settings().max_examples // _A_TURN)
    classes = regions(oracle.domain, verification.seed, turns)
    check_time(oracle, verify(oracle, classes, verification, share), verification, share)
    empty = verification.empty_regions(oracle)
    assert not empty, f"no problem for {oracle.name} was in: {'; '.join(empty)}"


def check_time(
    oracle: Connection, left: Sequence[Class], verification: Verification, share: float
) -> None:
    """Say that there was no time for all classes: red, unless the oracle is there by chance.

    Nor is it red if a budget has cut classes of which others have been asked for already.
    """
    words = f"{oracle.name} is slow"
    if (budget := verification.budget).text:
        words = f"{oracle.name} had {share:.0f} s of the budget of {budget.text}"
        left = [of for of in left if not of.turn]
    words += f": no time for {len(left):,} classes of problems"
    if left and verification.is_wanted(oracle.name):
        pytest.fail(words)
    if left:
        pytest.skip(words)


def verify(
    oracle: Connection, classes: Iterable[Class], verification: Verification, share: float
) -> Sequence[Class]:
    """Hold `oracle` against the reference on a problem of each class; returns those left.

    There are some if it takes too long for all of them, or longer than `share` seconds. A failure
    is made smaller, into whatever class: what is left of it is what it takes.
    """
    __tracebackhide__ = True
    left = deque(classes)
    wanted = len(left)
    of, begun, purse = left[0], True, Purse(min(share, COST_OF_A_CLASS * wanted))

    def run(count: int) -> None:
        __tracebackhide__ = True
        nonlocal of, begun
        del count
        try:
            while left and not purse.is_empty:
                of, begun = left.popleft(), False
                ask_one(of, ask, verification.seed)
            verification.settle()
        except Late as late:
            if not begun:  # it is of the class before
                left.appendleft(of)
            fail(late)

    def fail(late: Late) -> None:
        __tracebackhide__ = True
        try:
            verification.count(late.problem, late.verdict, late.seconds)
        except Disagreement as failure:
            raise verification.smaller(failure) from None

    def ask(problem: ConvProblem, is_last: bool) -> bool:
        __tracebackhide__ = True
        nonlocal begun
        before, begun = begun, True
        try:
            return verification.verify_class(oracle, of, problem, is_last=is_last)
        except Late:  # of what was asked before
            begun = before
            raise

    def explore(count: int) -> None:
        @settings(max_examples=count, phases=[Phase.generate], verbosity=Verbosity.quiet)
        @given(data=st.data())
        def agrees(data: DataObject) -> None:
            rank, dtype = data.draw(st.sampled_from(oracle.domain.cells()))
            verification.verify(oracle, data.draw(various(oracle.domain, rank, dtype, "integers")))

        agrees()

    verification.look(oracle.name, run, math.inf, explore)
    verification.tally.add_cut(oracle.name, CLASSES, len(left), wanted)
    return left
