"""NaN and Inf: who promises the reference's rule is held to it; of others it is information.

The rule is the definition's, `reference.naive`: they go where a product with them goes, and a tap
in the padding is no product. `tests.benchmarks.special_values` tells what everybody makes of them.
Sums that are too large are everybody's: what they come to is in `reference.rounding`.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import Verbosity, given, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from oracles.protocol import Domain
from oracles.worker import Connection
from reference import ConvProblem
from reference.rounding import FORMATS
from tests.support.strategies import Fill, problems, special_problems
from tests.support.verification import Verification

_TOO_LARGE = 40  # problems


def with_special_values(domain: Domain, rank: int, dtype: str) -> SearchStrategy[ConvProblem]:
    """Problems of `domain` with NaN or Inf among integers, many of them 0, or among reals."""
    fills: list[Fill] = ["integers", "reals"]
    return st.sampled_from(fills).flatmap(lambda fill: special_problems(domain, rank, dtype, fill))


def too_large(domain: Domain, rank: int, dtype: str) -> SearchStrategy[ConvProblem]:
    """Problems of `domain` with sums, and parts of sums, that are too large for `dtype`."""
    scale = 2.0 ** (FORMATS[dtype].maxexp // 2 - 1)

    def scaled(problem: ConvProblem) -> ConvProblem:
        x, w, dy = (a * a.dtype.type(scale) for a in (problem.x, problem.w, problem.dy))
        return replace(problem, x=x, w=w, dy=dy)

    return problems(domain, rank, dtype).map(scaled)


@pytest.mark.promise("special_values")
def test_special_values(
    oracle: Connection, rank: int, dtype: str, verification: Verification
) -> None:
    """NaN is where NaN should be, Inf where the same Inf, and nothing else has changed."""
    __tracebackhide__ = True
    look(oracle, with_special_values(oracle.domain, rank, dtype), verification)


@pytest.mark.promise("exact")
def test_sums_that_are_too_large(
    oracle: Connection, rank: int, dtype: str, verification: Verification
) -> None:
    """They are Inf of their sign; where a part of one may be, they are Inf, NaN or right."""
    __tracebackhide__ = True
    look(oracle, too_large(oracle.domain, rank, dtype), verification, _TOO_LARGE)


def look(
    oracle: Connection,
    every: SearchStrategy[ConvProblem],
    verification: Verification,
    most: int | None = None,
) -> None:
    """Ask `oracle` as many problems as the profile says, `most` at most."""
    __tracebackhide__ = True

    def run(count: int) -> None:
        __tracebackhide__ = True

        @settings(max_examples=count, verbosity=Verbosity.quiet)
        @given(every)
        def agrees(problem: ConvProblem) -> None:
            __tracebackhide__ = True
            verification.verify(oracle, problem)

        agrees()

    wanted = settings().max_examples
    verification.look(oracle.name, run, wanted if most is None else min(wanted, most))
