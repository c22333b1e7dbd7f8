"""`make bench`: what one problem costs, and in which part. Figures, never pass or fail.

Each row is of one oracle, on the same random problems in one run; compare figures as ratios.
"oracle" is asked in this process, "transport" is what a worker takes beyond that; both for shapes
that it has not seen. "comparison" is a verdict on answers that are at hand, less the reference,
"bookkeeping" what a run does beside verdicts. While an oracle computes in its own process the
reference does in ours, so the parts are more than the whole. What isolation costs is the difference
of two small times: of each, the best of five counts.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from hypothesis import Phase, given, settings

from oracles import divergences
from oracles.compare import expected_of, judge, reference_grads
from oracles.protocol import Domain
from oracles.registry import Entry, connect, entries, find
from oracles.wire import Inbox, decode_problem, encode_problem
from oracles.worker import ENVIRONMENT, TIME_LIMIT, InProcess, Worker
from reference import ConvGrads, ConvParams, ConvProblem, conv_backward
from tests.support.reporting import Tally
from tests.support.strategies import problems
from tests.support.verification import Verification

COUNT = 300
BEST_OF = 5
RANK, DTYPE = 2, "float32"
PARTS = ("generation", "reference", "oracle", "transport", "comparison", "bookkeeping")


def main() -> None:
    """Print a table of parts by oracle, then single figures."""
    os.environ.update(ENVIRONMENT)  # of workers: one thread
    installed = [entry for entry in entries() if entry.installed]
    print(f"{COUNT} random {RANK}-D {DTYPE} problems per oracle; ms a problem, mean\n")
    print(f"{'oracle':<14}{''.join(f'{part:>13}' for part in PARTS)}{'whole':>9}{'problems/s':>12}")
    for entry in installed:
        parts, whole = costs(entry)
        cells = "".join(f"{1000 * part:>13.2f}" for part in parts)
        print(f"{entry.name:<14}{cells}{1000 * whole:>9.2f}{1 / whole:>12.0f}", flush=True)
    drawn, _ = draw_problems(installed[0].oracle.domain)
    print("\nms, median")
    show("transport, there and back", times(transport, drawn))
    show("isolation, beyond asking in this process", isolation(drawn))
    show("numerical: a problem of 200 parameters", times(connect(find("numerical")).grads, many()))
    show("reference: a tiny problem, backward", times(backward, 200 * [tiny()]))
    for entry in installed:
        if not entry.ours:
            show_restart(entry)
    print("\ns")
    print(f"{'make verify: until the first verdict, warm':<48}{first_verdict():>10.1f}")


def costs(entry: Entry) -> tuple[list[float], float]:
    """Seconds of each part, and of the whole, of a problem for one oracle."""
    drawn, generation = draw_problems(entry.oracle.domain)
    asked = [problem for problem in drawn if is_asked(entry, problem)]
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
    with tempfile.TemporaryDirectory() as nowhere:
        verification = Verification(
            [entry], Tally(), in_process=False, time_limit=TIME_LIMIT, regressions=Path(nowhere)
        )
        verified = mean(partial(verification.verify, at_hand))
        oracle = verification.connection(entry.name)
        oracle.grads(asked[0])
        whole = draw_problems(domain, partial(verification.verify, oracle))[1]
        verification.close()
    parts = [generation, of_reference, alone, there - alone, verdict - of_reference]
    return [*parts, verified - verdict], whole


class AtHand(InProcess):
    """An oracle whose answers are known, by the identity of the problem."""

    def __init__(self, entry: Entry, answers: Mapping[int, ConvGrads]) -> None:
        super().__init__(entry.name, entry.oracle)
        self._ask = lambda problem: answers[id(problem)]


def is_asked(entry: Entry, problem: ConvProblem) -> bool:
    """Whether the oracle takes `problem`, and the ledger does not know it."""
    known = divergences.find(entry.name, entry.version or "", problem)
    return entry.oracle.domain.accepts(problem) and not known


def many() -> list[ConvProblem]:
    """Problems of 200 parameters: x, w and b."""
    generator = np.random.default_rng(0)
    x, w = (generator.integers(-4, 5, n).astype(DTYPE) for n in ((1, 8, 8, 2), (3, 3, 2, 4)))
    b, dy = (generator.integers(-4, 5, n).astype(DTYPE) for n in (4, (1, 6, 6, 4)))
    return 20 * [ConvProblem(x, w, b[:4], dy, ConvParams())]


def tiny() -> ConvProblem:
    """A 3x3 kernel with stride 2 on 7x7 cells of 3 channels, 4 filters."""
    generator = np.random.default_rng(0)
    shapes = ((1, 7, 7, 3), (3, 3, 3, 4), (1, 3, 3, 4))
    x, w, dy = (generator.standard_normal(shape).astype(DTYPE) for shape in shapes)
    return ConvProblem(x, w, None, dy, ConvParams(stride=(2, 2)))


def backward(problem: ConvProblem) -> object:
    """The reference's gradients."""
    return conv_backward(problem.x, problem.w, problem.dy, problem.params)


def show_restart(entry: Entry) -> None:
    """How long an oracle takes to answer at first, and after its process has died."""
    oracle = connect(entry)
    assert isinstance(oracle, Worker)
    drawn, _ = draw_problems(oracle.domain)
    asked = [problem for problem in drawn if is_asked(entry, problem)][:40]
    try:
        show(f"{entry.name}: start, import and first answer", times(oracle.grads, asked[:1]))
        again = times(restarted(oracle), asked)
        show(f"{entry.name}: from a death to the next answer", again)
    finally:
        oracle.close()


def first_verdict() -> float:
    """Seconds until a run of all oracles, started anew, says of a test that it passed."""
    options = ["-v", "-n", "2", "--dist", "worksteal", "--hypothesis-profile", "ci"]
    command = [sys.executable, "-m", "pytest", "tests/verification", *options]
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        for line in run.stdout:
            if "PASSED" in line:
                break
        seconds = time.perf_counter() - start
        run.terminate()
        run.stdout.read()
    return seconds


def draw_problems(
    domain: Domain, ask: Callable[[ConvProblem], object] = lambda _: None
) -> tuple[list[ConvProblem], float]:
    """Random problems, each asked when it is drawn, and the seconds that each took."""
    drawn: list[ConvProblem] = []

    @settings(max_examples=COUNT, derandomize=True, database=None, phases=[Phase.generate])
    @given(problem=problems(domain, RANK, DTYPE, "integers"))
    def collect(problem: ConvProblem) -> None:
        ask(problem)
        drawn.append(problem)

    start = time.perf_counter()
    collect()
    return drawn, (time.perf_counter() - start) / len(drawn)


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
