"""The product: every oracle agrees with the NumPy reference on random problems."""

from __future__ import annotations

from hypothesis import Phase, settings

from oracles.worker import Connection
from reference import ConvProblem
from tests.support.ahead import ask_all, draw
from tests.support.budget import affordable
from tests.support.strategies import Fill, problems
from tests.support.verification import Verification


def test_exact(oracle: Connection, rank: int, dtype: str, verification: Verification) -> None:
    """On integer data dX, dW, db and y equal the reference's, in shape, dtype and every value."""
    verify(oracle, rank, dtype, "integers", verification)


def test_bounded(oracle: Connection, rank: int, dtype: str, verification: Verification) -> None:
    """On real data no element is further off than rounding can have put it."""
    verify(oracle, rank, dtype, "reals", verification)


def verify(
    oracle: Connection, rank: int, dtype: str, fill: Fill, verification: Verification
) -> None:
    """Hold `oracle` against the reference on random problems."""
    __tracebackhide__ = True
    every = problems(oracle.domain, rank, dtype, fill)
    count = affordable(verification.tally.count(oracle.name), settings().max_examples)
    drives = fill == "reals" and Phase.target in settings().phases  # as in the profile "nightly"
    seed = verification.seed_of(rank, dtype)

    def drive(problem: ConvProblem) -> None:
        __tracebackhide__ = True
        if (verdict := verification.verify(oracle, problem)) is not None:
            verification.drive(verdict)

    def run(count: int) -> None:
        __tracebackhide__ = True
        if drives:
            draw(drive, every, seed, count, settings().phases)
        else:
            ask_all(verification, oracle, every, seed, count)

    def explore(count: int) -> None:
        def ask(problem: ConvProblem) -> None:
            verification.verify(oracle, problem)

        draw(ask, every, f"{seed} explored", count, [Phase.generate])

    verification.look(oracle.name, run, count, explore)
