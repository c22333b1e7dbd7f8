"""`python -m tests.benchmarks.discovery`: how soon a framework's crash is found, and how small.

The ledger is not used. For each seed problems are drawn until the oracle's process dies, and the
problem to blame is shrunk; wrong answers, of which there are others, are passed over.
"""

from __future__ import annotations

import sys
import time

from hypothesis import HealthCheck, Phase, Verbosity, given, seed, settings

from oracles.compare import Disagreement, NoAnswer, judge
from oracles.protocol import describe
from oracles.registry import connect, find
from reference import ConvProblem
from tests.support.strategies import problems

ORACLES = ("tensorflow", "pytorch")
RANK, DTYPE = 2, "float32"
SEEDS = range(1, 6)
MOST = 20_000  # problems
PHASES = (Phase.generate, Phase.shrink)


def main(names: list[str]) -> None:
    """Print a line per oracle and seed."""
    for name in names or ORACLES:
        for number in SEEDS:
            print(f"{name}, seed {number}: {discover(name, number)}", flush=True)


def discover(name: str, number: int) -> str:
    """What was found, after how many problems and seconds, from a cold start."""
    start = time.perf_counter()
    found: list[tuple[int, float]] = []
    asked = 0
    oracle = connect(find(name))

    @seed(number)
    @settings(
        max_examples=MOST,
        phases=PHASES,
        database=None,
        deadline=None,
        verbosity=Verbosity.quiet,
        suppress_health_check=list(HealthCheck),
    )
    @given(problem=problems(oracle.domain, RANK, DTYPE))
    def survives(problem: ConvProblem) -> None:
        nonlocal asked
        asked += 1
        verdict = judge(oracle, problem)
        if verdict.kind == "crashes":
            found.append((asked, time.perf_counter() - start))
            verdict.check()

    try:
        survives()
    except NoAnswer as error:
        count, seconds = found[0]
        total = time.perf_counter() - start
        evidence = error.verdict.evidence
        words = error.verdict.message.partition(" [")[0].removeprefix(f"{name} ")
        return (
            f"problem {count:,}, {seconds:.1f} s; shrunk after {total:.1f} s: "
            f"{words} [{describe(evidence.problem if evidence else error.verdict.problem)}]"
        )
    except Disagreement as error:
        return str(error)
    finally:
        incidents = len(oracle.incidents)
        oracle.close()
        if incidents:
            print(f"  {incidents} faults were seen once")
    return f"nothing in {asked:,} problems, {time.perf_counter() - start:.1f} s"


if __name__ == "__main__":
    main(sys.argv[1:])
