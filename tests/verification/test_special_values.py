"""NaN and Inf: who promises the reference's rule is held to it; of others it is information.

The rule is the definition's, `reference.naive`: they go where a product with them goes, and a tap
in the padding is no product. `tests.benchmarks.special_values` tells what everybody makes of them.
"""

from __future__ import annotations

import pytest
from hypothesis import Verbosity, given, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from oracles.protocol import Domain
from oracles.worker import Connection
from reference import ConvProblem
from tests.support.strategies import Fill, special_problems
from tests.support.verification import Verification


def drawn(domain: Domain, rank: int, dtype: str) -> SearchStrategy[ConvProblem]:
    """Problems of `domain` with NaN or Inf among integers, many of them 0, or among reals."""
    fills: list[Fill] = ["integers", "reals"]
    return st.sampled_from(fills).flatmap(lambda fill: special_problems(domain, rank, dtype, fill))


@pytest.mark.promise("special_values")
def test_special_values(
    oracle: Connection, rank: int, dtype: str, verification: Verification
) -> None:
    """NaN is where NaN should be, Inf where the same Inf, and nothing else has changed."""
    __tracebackhide__ = True

    def run(count: int) -> None:
        __tracebackhide__ = True

        @settings(max_examples=count, verbosity=Verbosity.quiet)
        @given(drawn(oracle.domain, rank, dtype))
        def agrees(problem: ConvProblem) -> None:
            __tracebackhide__ = True
            verification.verify(oracle, problem)

        agrees()

    verification.look(oracle.name, run, settings().max_examples)
