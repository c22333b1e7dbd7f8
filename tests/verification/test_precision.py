"""How exact an oracle is: the bits that it carries of the mantissa."""

from __future__ import annotations

from oracles.worker import Connection
from tests.support.verification import Verification


def test_effective_precision(
    oracle: Connection, rank: int, dtype: str, verification: Verification
) -> None:
    """All bits of the dtype arrive in every result: no detour through a narrower format."""
    with verification.keeping():
        verification.probe(oracle, rank, dtype)
