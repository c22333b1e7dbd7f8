"""How much a green run proves: the faults that it would have caught, planted and hunted for."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import settings

from tests.support.budget import Purse
from tests.support.mutants import MUTANTS
from tests.support.mutants.fault import Mutant
from tests.support.power import Catch, hunt, sentence
from tests.support.verification import Verification

LEAST = 148  # faults that a run catches; with more of them planted this grows, and never shrinks


@pytest.mark.reason("lost power")
def test_planted_faults_are_caught(verification: Verification, share: float) -> None:
    """Every mutant is, by what this run asks of an oracle; the sentence closes the report."""
    found = hunt(MUTANTS, verification.seed, settings().max_examples, Purse(share))
    verification.tally.power = sentence(found, len(MUTANTS))
    check_power(found, MUTANTS)


def check_power(found: Mapping[str, Catch], planted: Mapping[str, Mutant]) -> None:
    """Fail with the names of those that were not caught, or if fewer were than have been."""
    missed = [f"{name}: {mutant.words}" for name, mutant in planted.items() if name not in found]
    assert not missed, "planted faults that this run does not see:\n" + "\n".join(missed)
    assert len(found) >= LEAST, f"{len(found)} planted faults are caught; it has been {LEAST}"
