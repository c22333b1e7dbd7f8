"""Work in parts, side by side in as many threads as BLAS has.

NumPy lets go of Python's lock while it computes, and so does BLAS, whose small products have one
thread only.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import copy_context
from functools import reduce
from operator import iadd
from threading import Thread
from typing import TypeVar

from reference.problem import Array

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


def total(function: Callable[[Part], Array], parts: Sequence[Part], share: bool = False) -> Array:
    """The sum of what `function` gives for each of `parts`, one at least, in their order.

    It is added up in the first, which must be nobody else's.
    """
    if len(parts) == 1:
        return function(parts[0])
    return reduce(iadd, in_order(function, parts, share))


def in_order(
    function: Callable[[Part], Result], parts: Sequence[Part], share: bool = True
) -> Iterator[Result]:
    """`function` of each of `parts`, in their order; this thread does all unless it is to `share`.

    What it gives does not depend on the number of threads. Shared results are there all at once,
    so they should be small, and no thread is left then: a process that has threads is not safe to
    fork.
    """
    threads = min(THREADS, len(parts)) if share else 1
    return map(function, parts) if threads < 2 else iter(_side_by_side(function, parts, threads))


def _side_by_side(
    function: Callable[[Part], Result], parts: Sequence[Part], threads: int
) -> list[Result]:
    """All results, or the error of a part, after which no other part is begun."""
    found: dict[int, Result] = {}
    errors: dict[int, BaseException] = {}
    left = deque(enumerate(parts))

    def work() -> None:
        while left and not errors:
            try:
                place, part = left.popleft()
            except IndexError:  # another was faster
                return
            try:
                found[place] = function(part)
            except BaseException as error:
                errors[place] = error

    others: list[Thread] = []
    try:
        for _ in range(threads - 1):
            # a thread begins with an empty context, in which np.errstate is the default
            thread = Thread(target=copy_context().run, args=(work,))
            try:
                thread.start()
            except RuntimeError:  # the system gives no more: those that there are do it all
                break
            others.append(thread)
        work()
    finally:
        left.clear()
        for thread in others:
            thread.join()
    if errors:
        raise errors[min(errors)]
    return [found[place] for place in range(len(parts))]
