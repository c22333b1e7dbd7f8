"""What a problem costs in a run, and in which part, for each oracle.

Each row is of one oracle, on the same random problems in one run; compare figures as ratios.
"oracle" is asked in this process, "transport" is what a worker takes beyond that; both for shapes
that it has not seen. "comparison" is a verdict on answers that are at hand, less the reference,
"bookkeeping" what a run does beside verdicts. "in step" is the whole where each problem is judged
before the next is drawn: the reference computes while an oracle does in its own process. "whole" is
what a run takes, which draws the next problem meanwhile; so the parts are more than either.

Every oracle has a process of its own (`python -m tests.benchmarks.harness NAME`), which loads its
framework only after the whole has been timed: a run does not, and Python's garbage collector would
look through all of it. Rounds go in turn; of each figure the median counts.
"""

from __future__ import annotations

import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar
from xml.sax.saxutils import escape

from hypothesis import Phase, given, settings

from oracles import divergences
from oracles.compare import expected_of, judge, reference_grads
from oracles.process import ENVIRONMENT
from oracles.protocol import Domain
from oracles.registry import Entry, connect, find
from oracles.worker import TIME_LIMIT, InProcess
from reference import ConvGrads, ConvProblem
from tests.support.independent import INDEPENDENT
from tests.support.reporting import Tally
from tests.support.strategies import problems
from tests.support.verification import Verification

Thing = TypeVar("Thing")
COUNT = 1000
ROOT = Path(__file__).resolve().parents[2]
RANK, DTYPE = 2, "float32"
PARTS = ("generation", "reference", "oracle", "transport", "comparison", "bookkeeping")
HEADS = ("oracle", *PARTS, "in step", "whole", "whole / oracle", "problems/s")
COLORS = ("#0969da", "#8250df", "#1a7f37", "#bf8700", "#bc4c00", "#6e7781")


class Cost(NamedTuple):
    """Seconds of a problem: of each of `PARTS`, and of all, in step and as a run asks."""

    parts: tuple[float, ...]
    in_step: float
    whole: float


def cells(name: str, cost: Cost) -> list[str]:
    """A line under `HEADS`, in milliseconds."""
    times = [f"{1000 * part:.2f}" for part in (*cost.parts, cost.in_step, cost.whole)]
    ratio = cost.whole / cost.parts[PARTS.index("oracle")]
    return [name, *times, f"{ratio:.2f}", f"{1 / cost.whole:.0f}"]


def row(cells: Sequence[str]) -> list[str]:
    """The cells, as wide as their columns."""
    return [f"{cells[0]:<12}", *(f"{c:>{len(head) + 2}}" for c, head in zip(cells[1:], HEADS[1:]))]


def svg(costs: Mapping[str, Cost]) -> str:
    """A bar of all parts for each oracle, and a thin one below for the whole."""
    most = max(max(sum(cost.parts), cost.whole) for cost in costs.values())
    left, width, top, step = 110, 640, 50, 54
    lines = []
    for place, (part, color) in enumerate(zip(PARTS, COLORS)):
        x = left + 108 * place
        lines += [
            f'<rect x="{x}" y="12" width="12" height="12" fill="{color}"/>',
            f'<text x="{x + 16}" y="22">{part}</text>',
        ]
    for number, (name, cost) in enumerate(costs.items()):
        x, y = float(left), top + step * number
        lines.append(f'<text x="{left - 8}" y="{y + 16}" text-anchor="end">{escape(name)}</text>')
        for part, color in zip(cost.parts, COLORS):
            across = max(0.0, part) / most * width
            lines.append(
                f'<rect x="{x:.1f}" y="{y}" width="{across:.1f}" height="22" fill="{color}"/>'
            )
            x += across
        across = cost.whole / most * width
        lines += [
            f'<rect x="{left}" y="{y + 25}" width="{across:.1f}" height="6" fill="#24292f"/>',
            f'<text x="{left + across + 6:.1f}" y="{y + 34}">'
            f"whole {1000 * cost.whole:.2f} ms: {1 / cost.whole:.0f} problems/s</text>",
        ]
    height = top + step * len(costs) + 10
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 900 {height}" '
        'font-family="sans-serif" font-size="12">\n'
        '<rect width="100%" height="100%" fill="white"/>\n' + "\n".join(lines) + "\n</svg>\n"
    )


def costs_of(names: Sequence[str], rounds: int) -> dict[str, Cost]:
    """What a problem costs for each of these oracles: the median of rounds that go in turn."""
    found: dict[str, list[Cost]] = {name: [] for name in names}
    for name in shown([*names] * rounds, "the harness"):
        command = [sys.executable, "-m", "tests.benchmarks.harness", name, str(COUNT)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{shlex.join(command)}\n{done.stderr}")
        found[name].append(Cost(*json.loads(done.stdout)))
    return {name: median(each) for name, each in found.items()}


def shown(things: Sequence[Thing], what: str) -> Iterable[Thing]:
    """The same, with their progress, if that goes to a terminal."""
    from rich.console import Console  # without which the process of an oracle makes do
    from rich.progress import track

    screen = Console(stderr=True)
    return track(things, what, console=screen, transient=True, disable=not screen.is_terminal)


def median(costs: Sequence[Cost]) -> Cost:
    """Of each figure."""
    parts = zip(*(cost.parts for cost in costs))
    in_step, whole = zip(*((cost.in_step, cost.whole) for cost in costs))
    middle = statistics.median
    return Cost(tuple(map(middle, parts)), middle(in_step), middle(whole))


def costs(entry: Entry) -> Cost:
    """What a problem costs for one oracle, mean."""
    drawn, generation = draw_problems(entry.oracle.domain)
    asked = [problem for problem in drawn if is_asked(entry, problem)]
    in_step, whole = in_a_run(entry, asked[0])
    domain, direct, worker = entry.oracle.domain, connect(entry, in_process=True), connect(entry)
    answers: dict[int, ConvGrads] = {}

    def reference(problem: ConvProblem) -> None:
        reference_grads(problem)
        expected_of(problem, domain)

    def ask(problem: ConvProblem) -> None:
        answers[id(problem)] = direct.grads(problem)

    def mean(function: Callable[[ConvProblem], object]) -> float:
        function(asked[0])  # what is slow the first time only
        return statistics.fmean(times(function, asked))

    of_reference, alone, there = mean(reference), mean(ask), mean(worker.grads)
    worker.close()
    at_hand = AtHand(entry, answers)
    verdict = mean(partial(judge, at_hand))
    with verification_of(entry) as verification:
        verified = mean(partial(verification.verify, at_hand))
    parts = [generation, of_reference, alone, there - alone, verdict - of_reference]
    return Cost((*parts, verified - verdict), in_step, whole)


def in_a_run(entry: Entry, first: ConvProblem) -> tuple[float, float]:
    """Seconds of a problem, in step and as a run asks, each of a new process; `first` starts it."""
    domain = entry.oracle.domain
    with verification_of(entry) as verification:
        oracle = verification.connection(entry.name)
        oracle.grads(first)
        whole = draw_problems(domain, partial(verification.verify_ahead, oracle))[1]
        verification.settle()
        oracle.renew()
        in_step = draw_problems(domain, partial(verification.verify, oracle))[1]
    return in_step, whole


@contextmanager
def verification_of(entry: Entry) -> Iterator[Verification]:
    """A run of one oracle, which keeps what it finds to itself."""
    with tempfile.TemporaryDirectory() as nowhere:
        verification = Verification(
            [entry], Tally(), in_process=False, time_limit=TIME_LIMIT, regressions=Path(nowhere)
        )
        try:
            yield verification
        finally:
            verification.close()


class AtHand(InProcess):
    """An oracle whose answers are known, by the identity of the problem."""

    def __init__(self, entry: Entry, answers: Mapping[int, ConvGrads]) -> None:
        super().__init__(entry.name, entry.oracle)
        self._ask = lambda problem: answers[id(problem)]


def is_asked(entry: Entry, problem: ConvProblem) -> bool:
    """Whether the oracle takes `problem`, and the ledger does not know it."""
    known = divergences.find(entry.name, entry.version or "", problem)
    return entry.oracle.domain.accepts(problem) and not known


def draw_problems(
    domain: Domain, ask: Callable[[ConvProblem], object] = lambda _: None
) -> tuple[list[ConvProblem], float]:
    """Random problems, each asked when it is drawn, and the seconds that each took."""
    drawn: list[ConvProblem] = []

    @settings(
        max_examples=COUNT,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        backend=INDEPENDENT,
    )
    @given(problem=problems(domain, RANK, DTYPE, "integers"))
    def collect(problem: ConvProblem) -> None:
        ask(problem)
        drawn.append(problem)

    start = time.perf_counter()
    collect()
    return drawn, (time.perf_counter() - start) / len(drawn)


def times(function: Callable[[ConvProblem], object], drawn: list[ConvProblem]) -> list[float]:
    """Seconds of each call."""
    seconds = []
    for problem in drawn:
        start = time.perf_counter()
        function(problem)
        seconds.append(time.perf_counter() - start)
    return seconds


if __name__ == "__main__":
    COUNT = int(sys.argv[2])
    os.environ.update(ENVIRONMENT)  # of workers: one thread
    print(json.dumps(costs(find(sys.argv[1]))))
