"""The product: every oracle agrees with the NumPy reference on random problems."""

from __future__ import annotations

import pytest
from hypothesis import Phase, settings

from oracles.compare import Disagreement
from oracles.worker import Connection
from reference import ConvProblem
from tests.support.ahead import ask_all, draw
from tests.support.budget import Purse, affordable
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
    every = problems(oracle.domain, rank, dtype, fill)
    wanted, purse = settings().max_examples, Purse(share)
    count = affordable(verification.tally.count(oracle.name), wanted)
    drives = fill == "reals" and Phase.target in settings().phases  # as in the profile "nightly"
    seed = verification.seed_of(rank, dtype)
    asked, has_failed = 0, False

    def drive(problem: ConvProblem) -> None:
        __tracebackhide__ = True
        nonlocal asked, has_failed
        if not has_failed:
            purse.check()
        try:
            verdict = verification.verify(oracle, problem)
        except Disagreement:
            has_failed = True
            raise
        asked += 1
        if verdict is not None:
            verification.drive(verdict)

    def run(count: int) -> None:
        __tracebackhide__ = True
        nonlocal asked, has_failed
        has_failed = False
        if drives:
            draw(drive, every, seed, count, settings().phases)
        else:
            asked += ask_all(verification, oracle, every, seed, count, purse)

    def explore(count: int) -> None:
        def ask(problem: ConvProblem) -> None:
            verification.verify(oracle, problem)

        draw(ask, every, f"{seed} explored", count, [Phase.generate])

    verification.look(oracle.name, run, count, explore)
    reached = min(asked, count) if purse.was_missed else count
    verification.tally.add_cut(oracle.name, RANDOM, wanted - reached, wanted)
