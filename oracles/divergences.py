"""The ledger: cases in which a framework is known to be wrong, to crash or to refuse.

Inside a record's predicate that oracle is not asked; everything else still is. A record names its
cause, where upstream knows of it, and a script in tests/findings that shows it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from reference.problem import ConvProblem


@dataclass(frozen=True)
class Divergence:
    """One confirmed, understood case.

    `versions` is a version specifier such as "==2.13.*", `upstream` a link or "not found upstream",
    `script` the file in tests/findings that shows it, needing that framework only.
    """

    id: str
    oracle: str
    versions: str
    applies: Callable[[ConvProblem], bool]
    kind: Literal["crash", "wrong", "NaN", "hang", "refuses", "imprecise"]
    cause: str
    upstream: str
    script: str


LEDGER: tuple[Divergence, ...] = ()


def find(oracle: str, version: str, problem: ConvProblem) -> Divergence | None:
    """The record of `oracle` at `version` that `problem` falls under, or None."""
    for record in LEDGER:
        if (
            record.oracle == oracle
            and _covers(record.versions, version)
            and record.applies(problem)
        ):
            return record
    return None


@functools.cache
def _covers(versions: str, version: str) -> bool:
    from packaging.specifiers import SpecifierSet  # comes with pytest; reference needs NumPy only

    return SpecifierSet(versions).contains(version, prereleases=True)
