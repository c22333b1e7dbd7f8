"""`make power`: which check catches which planted fault, after how many problems and seconds.

Every mutant is asked what the profile "ci" asks of an oracle, with five seeds; the problem that
caught it with the first is made smaller, and the regions named that its failures have in common.
`--write FILE` also writes all of it as JSON, which `tests.benchmarks.power_report` reads. `--alarms
N` asks the reference instead, with N seeds: it must never be caught.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import HealthCheck, Phase, given, seed, settings

from oracles.compare import judge
from oracles.protocol import Domain
from oracles.registry import connect, find
from reference.problem import ConvProblem
from tests.support.independent import INDEPENDENT
from tests.support.mutants import MUTANTS, oracle_name
from tests.support.mutants.fault import EVERYTHING
from tests.support.power import TIME_LIMIT, Catch, catch, hunt, sentence
from tests.support.regions import regions_in_common
from tests.support.regressions import write_atomically
from tests.support.reporting import Tally
from tests.support.space import various
from tests.support.verification import Verification

SEEDS = range(1, 6)
COUNT = 250  # random problems of each rank and dtype, as in the profile "ci"
EXPLORED = 15  # random problems of each rank and dtype, to see what failures have in common


def main() -> None:
    """Print a line per mutant, the one last that takes the most problems."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.power")
    parser.add_argument("--write", type=Path, metavar="FILE")
    parser.add_argument("--alarms", type=int, metavar="N")
    arguments = parser.parse_args()
    start = time.perf_counter()
    if arguments.alarms:
        print(f"false alarms in {arguments.alarms} seeds: {alarms(arguments.alarms)}")
        return
    runs = []
    for number in SEEDS:
        runs.append(hunt(MUTANTS, number, COUNT))
        print(f"seed {number}: {sentence(runs[-1], len(MUTANTS))}", flush=True)
    pools: dict[Domain, list[ConvProblem]] = {}
    rows = {name: row(name, [run.get(name) for run in runs], pools) for name in MUTANTS}
    show(rows)
    print(f"{time.perf_counter() - start:.0f} s")
    if arguments.write is not None:
        text = json.dumps({"mutants": rows, "seeds": list(SEEDS)}, indent=1, sort_keys=True)
        write_atomically(arguments.write, text + "\n")


def alarms(seeds: int) -> int:
    """How many of so many seeds find something wrong with the reference."""
    return sum(
        len(catch({"right": connect(find("tests.support.zoo:right"))}, EVERYTHING, number, COUNT))
        for number in range(seeds)
    )


def row(
    name: str, catches: Sequence[Catch | None], pools: dict[Domain, list[ConvProblem]]
) -> dict[str, Any]:
    """What is known of one mutant: a problem count and seconds for each seed, None for a miss."""
    mutant, first = MUTANTS[name], catches[0]
    known = {
        "check": first.check if first else None,
        "problems": [c and c.problems for c in catches],
        "seconds": [c and round(c.seconds, 3) for c in catches],
        "gradients": list(mutant.gradients),
        "upstream": list(mutant.upstream),
        "size": None,
        "regions": [],
    }
    if first is not None:
        small, regions = shrunk(name, first, pools)
        known |= {"size": size(small), "regions": regions}
    return known


def shrunk(
    name: str, catch: Catch, pools: dict[Domain, list[ConvProblem]]
) -> tuple[ConvProblem, list[str]]:
    """A smaller problem that shows the fault, and the regions that problems like it are in."""
    entry, mutant = find(oracle_name(name)), MUTANTS[name]
    verification = Verification(
        [entry],
        Tally(),
        in_process=not mutant.needs_process,
        time_limit=TIME_LIMIT,
        regressions=Path(),
    )
    oracle = verification.connection(entry.name)
    try:
        small = verification.smaller(catch.verdict.failure()).verdict.problem
        failing, passing = [small, catch.verdict.problem], []
        for problem in [] if mutant.needs_process else pool(mutant.domain, pools):
            agrees = judge(oracle, problem).kind == "agrees"
            (passing if agrees else failing).append(problem)
    finally:
        verification.close()
    return small, regions_in_common(failing, passing) if passing else []


def pool(domain: Domain, pools: dict[Domain, list[ConvProblem]]) -> list[ConvProblem]:
    """Random problems of all ranks and dtypes of `domain`, the same ones for all mutants."""
    if domain not in pools:
        found = pools[domain] = []
        few = settings(
            max_examples=EXPLORED,
            phases=[Phase.generate],
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            backend=INDEPENDENT,
        )
        for (rank, dtype), fill in itertools.product(domain.cells(), ("integers", "reals")):
            drawn = various(domain, rank, dtype, fill)
            keep = given(problem=drawn)(lambda problem: found.append(problem))
            seed(f"{rank} {dtype} {fill}")(few(keep))()
    return pools[domain]


def size(problem: ConvProblem) -> int:
    """Elements of x, w and dy together."""
    return problem.x.size + problem.w.size + problem.dy.size


def show(rows: dict[str, dict[str, Any]]) -> None:
    """Print the matrix."""
    head = ("mutant", "caught by", "problems", "p95", "seconds", "p95", "size", "regions")
    lines = [head]
    for name, of in sorted(rows.items(), key=lambda item: _middle(item[1]["problems"])):
        cells = [
            f"{figure:,.{digits}f}"
            for key, digits in (("problems", 0), ("seconds", 2))
            for figure in (_middle(of[key]), _nearly_all(of[key]))
        ]
        lines.append((name, of["check"] or "-", *cells, str(of["size"]), "; ".join(of["regions"])))
    widths = [max(map(len, column)) for column in zip(*lines)]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip())
    caught = [n for of in rows.values() for n in of["problems"] if n is not None]
    print(f"median {statistics.median(caught):g} problems, at most {max(caught):,}")


def _middle(figures: Sequence[float | None]) -> float:
    return float(np.median([np.inf if f is None else f for f in figures]))


def _nearly_all(figures: Sequence[float | None]) -> float:
    ordered = np.array([np.inf if f is None else f for f in figures])
    return float(np.quantile(ordered, 0.95, method="higher"))


if __name__ == "__main__":
    main()
