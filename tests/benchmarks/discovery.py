"""`python -m tests.benchmarks.discovery`: how soon a framework's crash is found, and how small.

The ledger is not used. For each seed an oracle is asked what the profile "nightly" asks of one rank
and dtype, each region in 20 turns and then random problems, until it dies of the defect looked for;
the problem to blame is made small. Wrong answers and crashes of other defects are passed over.
"""

from __future__ import annotations

import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

from hypothesis import HealthCheck, Phase, Verbosity, given, settings
from hypothesis import seed as seeded

from oracles import divergences
from oracles.compare import Disagreement, Verdict, judge
from oracles.protocol import describe
from oracles.registry import find
from oracles.worker import TIME_LIMIT, Connection
from reference import ConvProblem
from tests.support.classes import ask_one, regions
from tests.support.independent import INDEPENDENT
from tests.support.reporting import Tally
from tests.support.strategies import problems
from tests.support.verification import Verification

DEFECTS = {  # how the id of its record in the ledger begins
    "tensorflow": "tensorflow-strided-1x1-filter-heap",
    "pytorch": "pytorch-columns-in-padding",
}
RANK, DTYPE = 2, "float32"
SEEDS = range(1, 6)
TURNS = 20
MOST = 20_000  # random problems


def main(names: list[str]) -> None:
    """Print a line per oracle and seed."""
    warnings.filterwarnings("ignore", "Generating overly large repr")  # Hypothesis, of a failure
    for name in names or DEFECTS:
        for seed in SEEDS:
            print(f"{name}, seed {seed}: {discover(name, seed)}", flush=True)


def discover(name: str, seed: int) -> str:
    """What was found, after how many problems and seconds, from a cold start."""
    start = time.perf_counter()
    entry, others = find(name), list[str]()
    with tempfile.TemporaryDirectory() as nowhere:
        verification = Verification(
            [entry],
            Tally(),
            in_process=False,
            time_limit=TIME_LIMIT,
            regressions=Path(nowhere),
            ledger=False,
        )
        oracle = verification.connection(name)
        asked = 0

        def survives(problem: ConvProblem) -> None:
            nonlocal asked
            asked += 1
            verdict = judge(oracle, problem)
            if verdict.kind == "crashes":
                problem = verdict.shown_by.problem
                record = divergences.find(entry.base, entry.version or "", problem)
                if record is not None and record.id.startswith(DEFECTS[name]):
                    verdict.check()
                others.append(record.id if record else describe(problem))
                oracle.calm()

        try:
            ask_all(oracle, survives, seed)
        except Disagreement as failure:
            after = f"problem {asked:,}, {time.perf_counter() - start:.1f} s"
            found = say(verification.smaller(failure).verdict)
            after += f"; made small after {time.perf_counter() - start:.1f} s"
            passed = "".join(f"\n  passed over: {other}" for other in others)
            return f"{after}: {found}{passed}"
        finally:
            if incidents := len(oracle.incidents):
                print(f"  {incidents} faults were seen once")
            verification.close()
    return f"nothing in {asked:,} problems, {time.perf_counter() - start:.1f} s"


def ask_all(oracle: Connection, survives: Callable[[ConvProblem], None], seed: int) -> None:
    """Ask for each region in turns, then for random problems."""

    def ask(problem: ConvProblem, is_last: bool) -> bool:
        del is_last
        survives(problem)
        return True

    for of in regions(oracle.domain, seed, TURNS):
        if (of.rank, of.dtype) == (RANK, DTYPE):
            ask_one(of, ask, seed)
    many = settings(
        max_examples=MOST,
        phases=[Phase.generate],
        database=None,
        deadline=None,
        verbosity=Verbosity.quiet,
        suppress_health_check=list(HealthCheck),
        backend=INDEPENDENT,
    )
    seeded(seed)(many(given(problem=problems(oracle.domain, RANK, DTYPE))(survives)))()


def say(verdict: Verdict) -> str:
    """Who is to blame, and how it died."""
    words = verdict.message.partition(" [")[0].removeprefix(f"{verdict.oracle} ")
    return f"{words} [{describe(verdict.shown_by.problem)}]"


if __name__ == "__main__":
    main(sys.argv[1:])
