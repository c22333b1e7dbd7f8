"""How exact an oracle is: the bits that it carries, and whether it has become less exact."""

from __future__ import annotations

import pytest

from oracles.worker import Connection
from tests.support.verification import Verification


def test_effective_precision(
    oracle: Connection, rank: int, dtype: str, verification: Verification
) -> None:
    """All bits of the dtype arrive in every result: no detour through a narrower format."""
    with verification.keeping():
        asked = verification.probe(oracle, rank, dtype)
    assert asked, f"no probe lies in the domain of {oracle.name}: see tests/support/fixed.py"


@pytest.mark.reason("drift")
def test_drift(oracle: Connection, rank: int, dtype: str, verification: Verification) -> None:
    """On ordinary layers errors keep to their bounds and, with --baseline, to what they were."""
    with verification.keeping():
        found = verification.drift(oracle, rank, dtype)
    if found:
        pytest.fail("\n".join(found), pytrace=False)
