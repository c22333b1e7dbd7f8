"""Work in parts, side by side in as many threads as BLAS has.

NumPy lets go of Python's lock while it computes, and so does BLAS, whose small products have one
thread only.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from itertools import islice
from typing import Generic, TypeVar

Part = TypeVar("Part")
Result = TypeVar("Result")

_MOST = 8  # for the sake of memory: each has arrays of its own
_SHARED = 1 << 25  # multiply-adds from which parts are computed side by side
VARIABLES = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS")


def thread_count(environment: Mapping[str, str]) -> int:
    """How many threads BLAS is told to have, or else as many as this process has cores; a few."""
    for name in VARIABLES:
        if environment.get(name, "").isdecimal() and int(environment[name]):
            return min(int(environment[name]), _MOST)
    has_affinity = hasattr(os, "sched_getaffinity")
    return min(len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1, _MOST)


THREADS = thread_count(os.environ)  # read once, as BLAS does


def are_worth_it(multiply_adds: int) -> bool:
    """Whether there is so much to do: they begin on one core, and take a while to find another."""
    return multiply_adds >= _SHARED


def for_each(function: Callable[[Part], None], parts: Sequence[Part], share: bool = True) -> None:
    """`in_order`, for what it does to the arrays."""
    for _ in in_order(function, parts, share):
        pass


def in_order(
    function: Callable[[Part], Result], parts: Sequence[Part], share: bool = True
) -> Iterator[Result]:
    """`function` of each of `parts`, in their order; this thread does all unless it is to `share`.

    What it gives does not depend on the number of threads. At most two results a thread are kept,
    and no thread is left once all are taken: a process that has threads is not safe to fork.
    """
    threads = min(THREADS, len(parts)) if share else 1
    return map(function, parts) if threads < 2 else _side_by_side(function, parts, threads)


def _side_by_side(
    function: Callable[[Part], Result], parts: Sequence[Part], threads: int
) -> Iterator[Result]:
    rest = iter(parts)
    ahead: list[_Job[Result]] = []
    with ThreadPoolExecutor(threads - 1) as pool:
        while True:
            more = islice(rest, 2 * threads - len(ahead))
            ahead += [_Job(partial(function, part), pool) for part in more]
            if not ahead:
                return
            while not ahead[0].future.done() and any(job.done_here() for job in ahead):
                pass
            yield ahead.pop(0).future.result()


class _Job(Generic[Result]):
    def __init__(self, call: Callable[[], Result], pool: ThreadPoolExecutor) -> None:
        self._call = call
        # a thread begins with an empty context, in which np.errstate is the default
        self.future = pool.submit(copy_context().run, call)

    def done_here(self) -> bool:
        """Do it in this thread, unless another has begun."""
        if not self.future.cancel():
            return False
        self.future = Future()
        self.future.set_result(self._call())
        return True
