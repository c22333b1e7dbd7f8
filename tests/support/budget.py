"""How many problems an oracle can be asked: by what they cost, and by the time that a run may take.

As much time is given as problems of COST seconds would take; most oracles take a tenth of it. The
classes of the problem space have more: a part of it that is left out has not been verified. With
`--budget` a test has its share of the time that is left, too: as much as each test of its module
that is still to come.
"""

from __future__ import annotations

import math
import re
import time
from dataclasses import dataclass

from tests.support.reporting import Count

COST = 0.1  # seconds, of a random problem
COST_OF_A_CLASS = 1.0
_KNOWN = 20  # problems after which the cost of one is known
_UNITS = {"s": 1, "m": 60, "h": 3600}
_MOST = 7 * 24 * 3600


class OutOfTime(BaseException):
    """The purse is empty. Not an Exception: Hypothesis would take it for a failure."""


@dataclass(frozen=True)
class Budget:
    """The time that a run may take, up to `until` on the clock; `text` is how the user put it.

    `processes` work at the same time, those of pytest-xdist.
    """

    text: str = ""
    until: float = math.inf
    processes: int = 1

    @property
    def is_spent(self) -> bool:
        """Whether nothing is left."""
        return time.time() >= self.until

    def share(self, tests: int) -> float:
        """Seconds for one of so many `tests`, if all have the same."""
        left = max(0.0, self.until - time.time())
        return min(left, left * self.processes / tests)


ENDLESS = Budget()


def seconds_of(text: str) -> float:
    """The seconds in "90s", "5m" or "1h"; raises ValueError that says what is allowed."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", text.strip())
    seconds = float(found[1]) * _UNITS[found[2]] if found else 0.0
    if not 0 < seconds <= _MOST:
        raise ValueError(f"{text}: must be a time such as 90s, 5m or 1h, at most 168h")
    return seconds


def affordable(count: Count, problems: int) -> int:
    """As many of `problems` as there is time for, going by those that were asked before."""
    if count.problems < _KNOWN:
        return problems
    return max(1, int(problems * min(1.0, COST * count.problems / max(count.seconds, 1e-9))))


class Purse:
    """Some seconds, from now on."""

    def __init__(self, seconds: float) -> None:
        self._until = time.monotonic() + seconds
        self.was_missed = False

    def check(self) -> None:
        """Raise OutOfTime if they are spent; `was_missed` says that this has happened."""
        if self.is_empty:
            self.was_missed = True
            raise OutOfTime

    @property
    def is_empty(self) -> bool:
        """Whether they are spent."""
        return time.monotonic() >= self._until
