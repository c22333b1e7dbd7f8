"""`make bench`: what one problem costs, and in which part. Figures, never pass or fail.

Every figure is a median over the same random problems in one run; compare figures as ratios. What
isolation costs is the difference of two small times: of each, the best of five counts.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from hypothesis import Phase, given, settings

from oracles import divergences
from oracles.compare import judge, reference_grads
from oracles.registry import connect, entries, find
from oracles.wire import Inbox, decode_problem, encode_problem
from oracles.worker import Worker
from reference import ConvProblem
from tests.support.strategies import problems

COUNT = 200
BEST_OF = 5
RANK, DTYPE = 2, "float32"


def main() -> None:
    """Print one line per part and per oracle."""
    installed = [entry for entry in entries() if entry.installed]
    drawn, seconds = draw_problems(installed[0].oracle.domain)
    print(f"{COUNT} random {RANK}-D {DTYPE} problems, median ms a problem\n")
    show("generation", [seconds / len(drawn)])
    show("reference, forward and backward", times(reference_grads, drawn))
    show("transport, there and back", times(transport, drawn))
    show("isolation, beyond asking in this process", isolation(drawn))
    for entry in installed:
        oracle = connect(entry)
        asked = [
            problem
            for problem in drawn
            if oracle.domain.accepts(problem)
            and not divergences.find(entry.name, entry.version or "", problem)
        ]
        try:
            start = time.perf_counter()
            oracle.grads(asked[0])
            show(f"{entry.name}: start, import and first answer", [time.perf_counter() - start])
            show(f"{entry.name}: answer", times(oracle.grads, asked))
            show(f"{entry.name}: answer and verdict", times(partial(judge, oracle), asked))
            if isinstance(oracle, Worker):
                show(
                    f"{entry.name}: from a death to the next answer",
                    times(restarted(oracle), asked[:40]),
                )
        finally:
            oracle.close()


def draw_problems(domain: object) -> tuple[list[ConvProblem], float]:
    """Random problems and the seconds that drawing them took."""
    drawn: list[ConvProblem] = []

    @settings(max_examples=COUNT, derandomize=True, database=None, phases=[Phase.generate])
    @given(problem=problems(domain, RANK, DTYPE))
    def collect(problem: ConvProblem) -> None:
        drawn.append(problem)

    start = time.perf_counter()
    collect()
    return drawn, time.perf_counter() - start


def transport(problem: ConvProblem) -> ConvProblem:
    """A problem as a message and back."""
    inbox = Inbox(limit=1 << 30)
    inbox.feed(encode_problem(problem))
    message = inbox.message()
    assert message is not None
    return decode_problem(*message)


def isolation(drawn: list[ConvProblem]) -> list[float]:
    """Seconds that a question to another process takes beyond the same question in this one."""
    entry = find("tests.support.zoo:right")
    worker, direct = connect(replace(entry, ours=False)), connect(entry, in_process=True)
    try:
        worker.grads(drawn[0])
        small = [problem for problem in drawn if max(problem.x.size, problem.w.size) < 500]
        there, here = (
            [times(ask, small) for _ in range(BEST_OF)] for ask in (worker.grads, direct.grads)
        )
        return [min(two) - min(one) for two, one in zip(zip(*there), zip(*here))]
    finally:
        worker.close()


def restarted(worker: Worker) -> Callable[[ConvProblem], object]:
    """Asks after the process has been killed."""

    def ask(problem: ConvProblem) -> object:
        worker.end_child()
        return worker.grads(problem)

    return ask


def times(function: Callable[[ConvProblem], object], drawn: list[ConvProblem]) -> list[float]:
    """Seconds of each call."""
    seconds = []
    for problem in drawn:
        start = time.perf_counter()
        function(problem)
        seconds.append(time.perf_counter() - start)
    return seconds


def show(what: str, seconds: list[float]) -> None:
    """One line of the table."""
    print(f"{what:<48}{statistics.median(seconds) * 1000:>10.2f}")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
