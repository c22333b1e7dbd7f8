"""The problem space, class by class, before random problems: each three classes, each region."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable

import pytest
from hypothesis import Phase, Verbosity, given, settings
from hypothesis import strategies as st
from hypothesis.strategies import DataObject

from oracles.compare import Disagreement
from oracles.worker import Connection
from reference import ConvProblem
from tests.support.budget import Purse
from tests.support.classes import Class, ask_one, regions, three_classes
from tests.support.space import various
from tests.support.verification import Late, Verification

_A_TURN = 250  # random problems to one of each region: those of the profile ci


@pytest.mark.reason("empty region")
def test_every_three_classes_meet(oracle: Connection, verification: Verification) -> None:
    """In some problem each: of strides, padding, dilation, groups, values, layout and so on."""
    __tracebackhide__ = True
    left = verify(oracle, three_classes(oracle.domain, verification.seed), verification)
    check_time(oracle, left, verification)
    missing = verification.met(oracle).missing
    assert not missing, f"{oracle.name} was not asked where these meet: {'; '.join(missing)}"


@pytest.mark.reason("empty region")
def test_every_region(oracle: Connection, verification: Verification) -> None:
    """Problems of each region that the oracle's domain has, on integers and on reals."""
    __tracebackhide__ = True
    turns = max(1, settings().max_examples // _A_TURN)
    left = verify(oracle, regions(oracle.domain, verification.seed, turns), verification)
    check_time(oracle, left, verification)
    empty = verification.empty_regions(oracle)
    assert not empty, f"no problem for {oracle.name} was in: {'; '.join(empty)}"


def check_time(oracle: Connection, left: int, verification: Verification) -> None:
    """Say that there was no time for all classes: red, unless the oracle is there by chance."""
    words = f"{oracle.name} is slow: no time for {left:,} classes of problems"
    if left and verification.entry(oracle.name).required:
        pytest.fail(words)
    if left:
        pytest.skip(words)


def verify(oracle: Connection, classes: Iterable[Class], verification: Verification) -> int:
    """Hold `oracle` against the reference on a problem of each class; returns how many are left.

    There are some if it takes too long for all of them. A failure is made smaller, into whatever
    class: what is left of it is what it takes.
    """
    __tracebackhide__ = True
    left = deque(classes)
    of, begun, purse = left[0], True, Purse(len(left))

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
        verification.settle()
        begun = True
        return verification.verify_class(oracle, of, problem, is_last=is_last)

    def explore(count: int) -> None:
        @settings(max_examples=count, phases=[Phase.generate], verbosity=Verbosity.quiet)
        @given(data=st.data())
        def agrees(data: DataObject) -> None:
            rank, dtype = data.draw(st.sampled_from(oracle.domain.cells()))
            verification.verify(oracle, data.draw(various(oracle.domain, rank, dtype, "integers")))

        agrees()

    verification.look(oracle.name, run, math.inf, explore)
    return len(left)
