"""How many problems an oracle can be asked: by what they cost, whoever it is.

As much time is given as problems of COST seconds would take; most oracles take a tenth of it. The
classes of the problem space have more: a part of it that is left out has not been verified.
"""

from __future__ import annotations

import time

from tests.support.reporting import Count

COST = 0.1  # seconds, of a random problem
COST_OF_A_CLASS = 1.0
_KNOWN = 20  # problems after which the cost of one is known


def affordable(count: Count, problems: int) -> int:
    """As many of `problems` as there is time for, going by those that were asked before."""
    if count.problems < _KNOWN:
        return problems
    return max(1, int(problems * min(1.0, COST * count.problems / max(count.seconds, 1e-9))))


class Purse:
    """The time for so many classes, from now on."""

    def __init__(self, classes: int) -> None:
        self._until = time.monotonic() + COST_OF_A_CLASS * classes

    @property
    def is_empty(self) -> bool:
        """Whether it is spent."""
        return time.monotonic() > self._until
