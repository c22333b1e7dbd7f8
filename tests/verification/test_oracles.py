"""The product: every oracle agrees with the NumPy reference on random problems."""

from __future__ import annotations

import pytest
from hypothesis import Phase, Verbosity, given, settings

from oracles.compare import Disagreement
from oracles.worker import Connection
from reference import ConvProblem
from tests.support.budget import OutOfTime, Purse, affordable
from tests.support.reporting import RANDOM
from tests.support.strategies import Fill, problems
from tests.support.verification import Verification

pytestmark = pytest.mark.random  # what a budget cuts first


def test_exact(
    oracle: Connection, rank: int, dtype: str, verification: Verification, share: float
) -> None:
    """On integer data dX, dW, db and y equal the reference's, in shape, dtype and every value."""
    verify(oracle, rank, dtype, "integers", verification, share)


def test_bounded(
    oracle: Connection, rank: int, dtype: str, verification: Verification, share: float
) -> None:
    """On real data no element is further off than rounding can have put it."""
    verify(oracle, rank, dtype, "reals", verification, share)


def verify(
    oracle: Connection,
    rank: int,
    dtype: str,
    fill: Fill,
    verification: Verification,
    share: float,
) -> None:
    """Hold `oracle` against the reference on random problems, in `share` seconds at most.

    A failure is made small in whatever time that takes.
    """
    __tracebackhide__ = True
    drives = Phase.target in settings().phases  # as in the profile "nightly"
    wanted, purse = settings().max_examples, Purse(share)
    asked, is_late = 0, False

    def run(count: int) -> None:
        __tracebackhide__ = True
        has_failed = False

        # quiet: the failure itself ends with the problem's constructor
        @settings(max_examples=count, verbosity=Verbosity.quiet)
        @given(problem=problems(oracle.domain, rank, dtype, fill))
        def agrees(problem: ConvProblem) -> None:
            __tracebackhide__ = True
            nonlocal asked, is_late, has_failed
            if is_late := purse.is_empty and not has_failed:
                raise OutOfTime
            try:
                verdict = verification.verify(oracle, problem)
            except Disagreement:
                has_failed = True
                raise
            asked += 1
            if verdict is not None and drives:
                verification.drive(verdict)

        agrees()

    count = affordable(verification.tally.count(oracle.name), wanted)
    verification.look(oracle.name, run, count)
    reached = min(asked, count) if is_late else count
    verification.tally.add_cut(oracle.name, RANDOM, wanted - reached, wanted)
