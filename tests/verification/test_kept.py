"""Counterexamples that were kept come first: every oracle is asked for each of them again."""

from __future__ import annotations

import pytest

from oracles.worker import Connection
from tests.support.regressions import load
from tests.support.verification import Verification


def test_kept_counterexamples(
    oracle: Connection, verification: Verification, subtests: pytest.Subtests
) -> None:
    """What was found once is right now; left out where the domain or the ledger says so."""
    for path in verification.kept:
        with subtests.test(path.name):
            refusal = verification.replay(oracle, load(path))
            if verification.must_ask:
                assert refusal is None, f"{oracle.name} is not asked for {path.name}: {refusal}"
