"""`make bench`: what one problem costs, in which part, and ours against frameworks. Only figures.

The first table is that of `harness`. What isolation costs is the difference of two small times: of
each, the best of five counts. The last table is that of `speed`, of some of its layers.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from oracles.process import ENVIRONMENT
from oracles.registry import Entry, connect, entries, find
from oracles.wire import Inbox, decode_problem, encode_problem
from oracles.worker import Worker
from reference import ConvParams, ConvProblem, conv_backward
from tests.benchmarks import harness, speed
from tests.benchmarks.harness import DTYPE, RANK, costs_of, draw_problems, is_asked, times
from tests.support.layers import real_layers

BEST_OF = 5
ROUNDS = 3
EVERY = 6  # layer that is timed here


def main() -> None:
    """Print a table of parts by oracle, then single figures."""
    os.environ.update(ENVIRONMENT)  # of workers: one thread
    installed = [entry for entry in entries() if entry.installed]
    print(
        f"{harness.COUNT} random {RANK}-D {DTYPE} problems per oracle; ms a problem, mean, "
        f"median of {ROUNDS} rounds\n"
    )
    print("".join(harness.row(harness.HEADS)))
    for name, cost in costs_of([entry.name for entry in installed], ROUNDS).items():
        print("".join(harness.row(harness.cells(name, cost))))
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
    show_ratios()


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


def show_ratios() -> None:
    """The reference against frameworks, below 1 where it is faster."""
    layers = real_layers()[::EVERY]
    print(
        f"\nours / theirs, of {len(layers)} layers of real networks, medians of {ROUNDS} rounds\n"
        f"{'':<24}{'theirs':<24}{'geometric mean':>16}{'least':>8}{'most':>8}{'layers':>8}"
    )
    for what, name, mean, *others in speed.summaries(speed.compare(layers, ROUNDS)):
        print(f"{what:<24}{name:<24}{mean:>16}" + "".join(f"{figure:>8}" for figure in others))
    print(f"\nall layers, Chainer, plans, memory: {speed.COMMAND}, which writes docs/speed.md")


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
        worker.renew()
        return worker.grads(problem)

    return ask


def show(what: str, seconds: list[float]) -> None:
    """One line of the table."""
    print(f"{what:<48}{statistics.median(seconds) * 1000:>10.2f}")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
