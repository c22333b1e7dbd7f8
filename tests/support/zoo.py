"""Bad citizens: oracles that crash, hang, leave, refuse or answer nonsense, each on every problem.

Each is named like "tests.support.zoo:segfaults" and must run in a process of its own.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from oracles.compare import reference_grads
from oracles.protocol import Box, Domain
from reference.problem import ConvProblem


class Bad:
    """An oracle whose `grads` is the function given."""

    distribution = None
    domain = Domain(Box(ranks=(1, 2, 3), dtypes=("float32", "float64")))

    def __init__(self, grads: Callable[[ConvProblem], Any]) -> None:
        self.grads = grads


@Bad
def right(problem: ConvProblem) -> Any:
    """Nothing is wrong with this one."""
    return reference_grads(problem)


class SlowStart(Bad):
    """An oracle that takes as many seconds to import as SLOW_START says."""

    @property
    def preload(self) -> tuple[str, ...]:
        """Asked for where the process imports; takes its time."""
        time.sleep(float(os.environ.get("SLOW_START", "0")))
        return ()


slow_start = SlowStart(reference_grads)


@Bad
def segfaults(problem: ConvProblem) -> Any:
    """Reads address zero."""
    print("about to read address zero", file=sys.stderr, flush=True)
    return ctypes.string_at(0)


@Bad
def segfaults_on_stride_2(problem: ConvProblem) -> Any:
    """Reads address zero if the stride of the first axis is 2."""
    if problem.params.stride[0] == 2:
        ctypes.string_at(0)
    return reference_grads(problem)


@Bad
def segfaults_once(problem: ConvProblem) -> Any:
    """Reads address zero if the file that ONCE names is there, which it removes."""
    once = Path(os.environ["ONCE"])
    if once.exists():
        once.unlink()
        ctypes.string_at(0)
    return reference_grads(problem)


@Bad
def aborts(problem: ConvProblem) -> Any:
    """Fails a CHECK, in C++ terms."""
    os.abort()


@Bad
def exits(problem: ConvProblem) -> Any:
    """Leaves without a word."""
    os._exit(0)


@Bad
def raises(problem: ConvProblem) -> Any:
    """Refuses everything."""
    raise NotImplementedError("no kernel for this")


@Bad
def calls_sys_exit(problem: ConvProblem) -> Any:
    """Asks Python to leave."""
    sys.exit("enough")


@Bad
def hangs(problem: ConvProblem) -> Any:
    """Never answers, and does not hear SIGTERM."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        time.sleep(1)


@Bad
def eats_memory(problem: ConvProblem) -> Any:
    """Allocates without end."""
    hoard = []
    while True:
        hoard.append(np.empty(1 << 28, np.uint8))


@Bad
def forks_a_child_that_stays(problem: ConvProblem) -> Any:
    """Leaves a process behind, which holds the channel open, and dies."""
    if os.fork() == 0:
        time.sleep(600)
    os.kill(os.getpid(), signal.SIGKILL)


@Bad
def answers_a_list(problem: ConvProblem) -> Any:
    """DX is a list."""
    grads = reference_grads(problem)
    return replace(grads, dx=grads.dx.tolist())


@Bad
def answers_none(problem: ConvProblem) -> Any:
    """No gradients at all."""
    return None


@Bad
def answers_objects(problem: ConvProblem) -> Any:
    """DX holds Python objects, which must not cross the process boundary."""
    grads = reference_grads(problem)
    return replace(grads, dx=grads.dx.astype(object))


@Bad
def answers_float64(problem: ConvProblem) -> Any:
    """DX is right, in float64."""
    grads = reference_grads(problem)
    return replace(grads, dx=grads.dx.astype(np.float64))


@Bad
def answers_another_shape(problem: ConvProblem) -> Any:
    """Db keeps an axis too many."""
    grads = reference_grads(problem)
    return replace(grads, db=None if grads.db is None else grads.db[None])


@Bad
def answers_nan(problem: ConvProblem) -> Any:
    """DW is NaN."""
    grads = reference_grads(problem)
    return replace(grads, dw=np.full_like(grads.dw, np.nan))


class WrongEverySecondTime:
    """Right at first and wrong the second time, and so on: as if something spoilt its memory."""

    distribution = None
    domain = Bad.domain

    def __init__(self) -> None:
        self.asked = 0

    def grads(self, problem: ConvProblem) -> Any:
        """Right, then wrong."""
        self.asked += 1
        grads = reference_grads(problem)
        return grads if self.asked % 2 else replace(grads, dx=grads.dx + 1)


wrong_every_second_time = WrongEverySecondTime()


@Bad
def writes_to_its_inputs(problem: ConvProblem) -> Any:
    """Uses x as scratch."""
    grads = reference_grads(problem)
    problem.x[...] += 1
    return grads


@Bad
def chatters(problem: ConvProblem) -> Any:
    """Prints a megabyte, then is right."""
    print("chatter " * 125_000)
    return reference_grads(problem)


@Bad
def closes_its_channel(problem: ConvProblem) -> Any:
    """Closes every file it has, then waits."""
    os.closerange(3, 256)
    time.sleep(600)


@Bad
def sends_garbage(problem: ConvProblem) -> Any:
    """Writes what is no message to every socket it has."""
    for descriptor in range(3, 64):
        try:
            os.write(descriptor, b"\xff" * 64)
        except OSError:
            continue
    time.sleep(600)
