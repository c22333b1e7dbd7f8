"""Which planted faults a run catches: every mutant is asked what an oracle is asked, in that order.

What is asked does not depend on who is asked, so one stream of problems serves all mutants; each
leaves it when it is caught.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from hypothesis import HealthCheck, Phase, Verbosity, given, settings
from hypothesis import seed as seeded

from oracles.compare import Verdict, judge
from oracles.protocol import Domain
from oracles.registry import connect, find
from oracles.worker import Connection
from reference.problem import ConvProblem
from tests.support.budget import Purse
from tests.support.classes import REGION, Class, ask_one, regions, three_classes
from tests.support.independent import INDEPENDENT
from tests.support.mutants import oracle_name
from tests.support.mutants.fault import Mutant
from tests.support.strategies import Fill, problems
from tests.support.verification import is_weak

RANDOM: Mapping[str, Fill] = {"random integers": "integers", "random reals": "reals"}
TIME_LIMIT = 1.0  # seconds, for those that hang


@dataclass(frozen=True)
class Catch:
    """How a mutant was caught: by which check, at the how manieth problem, after how long."""

    check: str
    problems: int
    seconds: float
    verdict: Verdict


class _Enough(BaseException):
    """Everybody has been caught, or there is no time.

    Not an Exception: Hypothesis would take it for a failure.
    """


Ask = Callable[[str, ConvProblem, bool], bool]


def stream(domain: Domain, seed: int, count: int, ask: Ask) -> None:
    """`ask` what the verification asks of an oracle with this domain, as it does.

    First a problem of each class, then `count` random ones of each rank and dtype. `ask` is given
    the check, a problem, and whether it counts whatever it tells; returns whether it told anything.
    """
    for of in (*three_classes(domain, seed), *regions(domain, seed)):
        ask_one(of, partial(ask, _check(of)), seed)
    many = settings(
        max_examples=count,
        phases=[Phase.generate],
        database=None,
        deadline=None,
        verbosity=Verbosity.quiet,
        suppress_health_check=list(HealthCheck),
        backend=INDEPENDENT,
    )
    for check, fill in RANDOM.items():
        for rank, dtype in domain.cells():

            def one(problem: ConvProblem) -> None:
                ask(check, problem, True)  # noqa: B023  # called at once

            anything = given(problem=problems(domain, rank, dtype, fill))
            seeded(f"{seed} {rank} {dtype}")(many(anything(one)))()


def _check(of: Class) -> str:
    return f"region: {of.name}" if of.check == REGION else of.check


def hunt(
    mutants: Mapping[str, Mutant], seed: int, count: int, purse: Purse | None = None
) -> dict[str, Catch]:
    """Ask `mutants`, by name, while `purse` lasts; returns those that were caught, and how."""
    found: dict[str, Catch] = {}
    for domain in dict.fromkeys(mutant.domain for mutant in mutants.values()):
        alive = {
            name: connect(
                find(oracle_name(name)),
                in_process=not mutant.needs_process,
                time_limit=TIME_LIMIT,
            )
            for name, mutant in mutants.items()
            if mutant.domain is domain
        }
        found |= catch(alive, domain, seed, count, purse)
    return found


def catch(
    alive: dict[str, Connection],
    domain: Domain,
    seed: int,
    count: int,
    purse: Purse | None = None,
) -> dict[str, Catch]:
    """Ask these oracles, all at once, what one with `domain` is asked; returns those caught."""
    found: dict[str, Catch] = {}
    asked: Counter[str] = Counter()
    judging = dict.fromkeys(alive, 0.0)
    start = time.perf_counter()

    def ask(check: str, problem: ConvProblem, is_last: bool) -> bool:
        if purse is not None and purse.is_empty:
            raise _Enough
        for name, mutant in list(alive.items()):
            before = time.perf_counter()
            verdict = judge(mutant, problem)
            judging[name] += time.perf_counter() - before
            asked[name] += 1
            if verdict.kind != "agrees":
                drawing = time.perf_counter() - start - sum(judging.values())
                found[name] = Catch(check, asked[name], drawing + judging[name], verdict)
                alive.pop(name).close()
        if not alive:
            raise _Enough
        return is_last or not is_weak(problem)

    try:
        stream(domain, seed, count, ask)
    except _Enough:
        pass
    finally:
        for mutant in alive.values():
            mutant.close()
    return found


def sentence(found: Mapping[str, Catch], planted: int) -> str:
    """What a run can say of itself."""
    words = f"this run would have caught {len(found)} of {planted} planted faults"
    if not found:
        return words
    weakest = max(found, key=lambda name: found[name].problems)
    return f"{words}; weakest: {weakest} after {found[weakest].problems:,} problems"
