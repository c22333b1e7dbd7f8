"""Every oracle keeps to its contract: what `oracles.protocol` asks of one, promise by promise."""

from __future__ import annotations

import pytest
from hypothesis import Verbosity, given, settings

from oracles.worker import Connection
from reference import ConvProblem
from tests.support.conformance import CHECKS, concerns, problems_for
from tests.support.verification import Verification

_PROBLEMS = 25  # of each check; right answers are asked for elsewhere, of many more


@pytest.mark.reason("contract")
@pytest.mark.parametrize("check", CHECKS)
def test_contract(oracle: Connection, check: str, verification: Verification) -> None:
    """No problem is found on which the promise is broken, but for those the ledger knows."""

    @settings(max_examples=min(_PROBLEMS, settings().max_examples), verbosity=Verbosity.quiet)
    @given(problem=problems_for(check, oracle.domain))
    def keeps(problem: ConvProblem) -> None:
        if concerns(check, oracle.domain, problem) and not verification.known(oracle.name, problem):
            verification.tally.add_check(oracle.name)
            CHECKS[check](oracle, problem)

    keeps()
