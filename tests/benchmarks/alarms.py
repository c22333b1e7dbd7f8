"""`python -m tests.benchmarks.alarms [ORACLE...]`: false alarms on real data, and near ones.

For each oracle and dtype 20,000 random problems of five seeds, of all ranks, outside the ledger.
Every alarm is printed. The largest error / bound says how much room there is.
"""

from __future__ import annotations

import sys
import time

from hypothesis import HealthCheck, Phase, given, seed, settings

from oracles import divergences
from oracles.compare import judge
from oracles.registry import connect, entries, find
from oracles.worker import Connection
from reference import ConvProblem
from tests.support.independent import INDEPENDENT
from tests.support.strategies import problems

COUNT = 20_000
SEEDS = range(1, 6)


def main(names: list[str]) -> None:
    """A line for each oracle and dtype."""
    print(f"{'oracle':<20}{'dtype':<10}{'problems':>9}{'alarms':>8}{'error/bound':>13}{'s':>7}")
    for name in names or [entry.name for entry in entries() if entry.installed]:
        oracle = connect(find(name))
        try:
            for dtype in dict.fromkeys(dtype for _, dtype in oracle.domain.cells()):
                start = time.monotonic()
                asked, alarms, largest = look(oracle, dtype)
                seconds = time.monotonic() - start
                print(f"{name:<20}{dtype:<10}{asked:>9,}{alarms:>8}{largest:>13.4f}{seconds:>7.0f}")
                sys.stdout.flush()
        finally:
            oracle.close()


def look(oracle: Connection, dtype: str) -> tuple[int, int, float]:
    """How many problems were asked, how many alarms that made, and the largest error / bound."""
    entry = find(oracle.name)
    asked, alarms, largest = 0, 0, 0.0
    ranks = [rank for rank, of_dtype in oracle.domain.cells() if of_dtype == dtype]
    for rank in ranks:

        def ask(problem: ConvProblem) -> None:
            nonlocal asked, alarms, largest
            if divergences.find(entry.base, entry.version or "", problem, entry.environment):
                return
            verdict = judge(oracle, problem)
            asked += 1
            largest = max([largest, *(float(of.max()) for of in verdict.ratios.values())])
            if verdict.kind != "agrees":
                alarms += 1
                print(verdict.message, flush=True)
                oracle.calm()

        for number in SEEDS:
            many = settings(
                max_examples=-(-COUNT // len(ranks) // len(SEEDS)),
                phases=[Phase.generate],
                database=None,
                deadline=None,
                suppress_health_check=list(HealthCheck),
                backend=INDEPENDENT,
            )
            seed(number)(many(given(problem=problems(oracle.domain, rank, dtype, "reals"))(ask)))()
    return asked, alarms, largest


if __name__ == "__main__":
    main(sys.argv[1:])
