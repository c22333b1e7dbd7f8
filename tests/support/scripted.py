"""The oracles that can write themselves down as source, asked through that source.

"tests.support.scripted:pytorch" and so on: what a standalone script runs is what the oracle runs.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from oracles import registry
from oracles.protocol import MEMORY_LIMIT, Oracle
from reference.problem import ConvGrads, ConvProblem


class Scripted:
    """The oracle `oracle`, its answers computed by the source that its `script` returns."""

    def __init__(self, oracle: Oracle) -> None:
        self._oracle = oracle
        self.distribution = oracle.distribution
        self.preload = getattr(oracle, "preload", ())
        self.environment = getattr(oracle, "environment", {})
        self.memory_limit = getattr(oracle, "memory_limit", MEMORY_LIMIT)
        self.domain = oracle.domain

    def grads(self, problem: ConvProblem) -> ConvGrads:
        """Run the source, where NumPy is imported as in a standalone script."""
        names: dict[str, Any] = {name: getattr(problem, name) for name in ("x", "w", "b", "dy")}
        names["np"] = np
        exec(self._oracle.script(problem), names)  # type: ignore[attr-defined]
        return ConvGrads(names["dx"], names["dw"], names["db"], names["y"])


def __getattr__(name: str) -> Scripted:
    """`NAME` or `NAME_VARIANT` of an oracle in the tree."""
    oracle = registry.find(name.replace("_", ":")).oracle
    if not hasattr(oracle, "script"):
        raise AttributeError(name)
    return Scripted(oracle)
