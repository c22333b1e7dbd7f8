"""Counterexamples that were kept come first: every oracle is asked for each of them again."""

from __future__ import annotations

import pytest

from oracles.worker import Connection
from tests.support.regressions import load
from tests.support.verification import Verification


def test_kept_counterexamples(
    oracle: Connection, verification: Verification, subtests: pytest.Subtests
) -> None:
    """What was found once is right now, or known to the ledger."""
    for path in verification.kept:
        with subtests.test(path.name):
            problem = load(path).problem
            if oracle.domain.accepts(problem):
                verification.verify(oracle, problem)
