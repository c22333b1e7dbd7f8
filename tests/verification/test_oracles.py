"""The product: every oracle agrees with the NumPy reference on random problems."""

from __future__ import annotations

from hypothesis import Phase, Verbosity, given, settings

from oracles.worker import Connection
from reference import ConvProblem
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
    drives = Phase.target in settings().phases  # as in the profile "nightly"

    def run(count: int) -> None:
        __tracebackhide__ = True

        # quiet: the failure itself ends with the problem's constructor
        @settings(max_examples=count, verbosity=Verbosity.quiet)
        @given(problem=problems(oracle.domain, rank, dtype, fill))
        def agrees(problem: ConvProblem) -> None:
            __tracebackhide__ = True
            verdict = verification.verify(oracle, problem)
            if verdict is not None and drives:
                verification.drive(verdict)

        agrees()

    count = affordable(verification.tally.count(oracle.name), settings().max_examples)
    verification.look(oracle.name, run, count)
