"""Bad citizens: oracles that crash, hang, leave, refuse or answer nonsense, each on every problem.

Each is named like "tests.support.zoo:segfaults" and must run in a process of its own.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import socket
import subprocess
import sys
import time
import types
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from oracles.compare import reference_grads
from oracles.protocol import MEMORY_LIMIT, Box, Domain
from oracles.wire import encode_grads, frame
from reference import (
    ConvParams,
    ConvProblem,
    conv_backward,
    conv_forward,
    naive_conv_backward,
    naive_conv_forward,
    output_size,
)
from reference.problem import Array
from reference.rounding import expect
from tests.support.sums import products


class Citizen:
    """What all of them have in common."""

    distribution = None
    domain = Domain(Box(ranks=(1, 2, 3), dtypes=("float32", "float64")))
    environment: Any = types.MappingProxyType({})
    memory_limit: Any = MEMORY_LIMIT
    prepare: Any = staticmethod(lambda: None)


class Bad(Citizen):
    """An oracle whose `grads` is the function given."""

    def __init__(self, grads: Callable[[ConvProblem], Any]) -> None:
        self.grads = grads


@Bad
def right(problem: ConvProblem) -> Any:
    """Nothing is wrong with this one."""
    return reference_grads(problem)


@Bad
def plain_loops(problem: ConvProblem) -> Any:
    """Right, and slow."""
    x, w, params = problem.x, problem.w, problem.params
    grads = naive_conv_backward(x, w, problem.dy, params)
    y = naive_conv_forward(x, w, problem.b, params)
    return replace(grads, db=None if problem.b is None else grads.db, y=y)


@Bad
def multiplies_padding(problem: ConvProblem) -> Any:
    """Takes padding for zeros in the input, with which w and dy are multiplied."""
    params = problem.params
    padded = np.pad(problem.x, ((0, 0), *params.padding, (0, 0)))
    unpadded = replace(params, padding=((0, 0),) * params.rank)
    grads = reference_grads(replace(problem, x=padded, params=unpadded))
    inside = (slice(lo, lo + s) for s, (lo, _) in zip(problem.spatial, params.padding))
    return replace(grads, dx=grads.dx[(slice(None), *inside)])


class Promising(Bad):
    """An oracle that promises the reference's rule for NaN and Inf."""

    domain = Domain(
        Box(ranks=(1, 2, 3), dtypes=("float32", "float64"), max_elements=256), special_values=True
    )


keeps_to_the_rule = Promising(plain_loops.grads)
pads_with_zeros = Promising(multiplies_padding.grads)


@Promising
def swallows_nan(problem: ConvProblem) -> Any:
    """DW has zeros where it should have NaN."""
    grads = reference_grads(problem)
    return replace(grads, dw=np.where(np.isnan(grads.dw), 0, grads.dw))


@Promising
def clips_inf(problem: ConvProblem) -> Any:
    """DX has the largest number where it should have Inf."""
    grads = reference_grads(problem)
    largest = np.finfo(problem.dtype).max
    return replace(grads, dx=np.clip(grads.dx, -largest, largest))


@Promising
def stuffs_zeros(problem: ConvProblem) -> Any:
    """DX is a sum over dy with zeros between strides and around it, which w is multiplied with."""
    params, dy = problem.params, problem.dy
    outputs, (batch, *cells, _) = dy.shape[1:-1], problem.x.shape
    stretched = ((o - 1) * s + 1 for o, s in zip(outputs, params.stride))
    stuffed = np.zeros((batch, *stretched, dy.shape[-1]), dy.dtype)
    stuffed[(slice(None), *(slice(None, None, s) for s in params.stride))] = dy
    stuffed = np.pad(stuffed, ((0, 0), *_around(problem), (0, 0)))
    flipped = np.flip(problem.w, axis=tuple(range(params.rank)))
    by_group = np.split(flipped, params.groups, axis=-1)
    turned = np.concatenate([part.swapaxes(-1, -2) for part in by_group], axis=-1)
    plain = ConvParams((1,) * params.rank, ((0, 0),) * params.rank, params.dilation, params.groups)
    dx = conv_forward(stuffed, turned, None, plain)
    inside = (slice(lo, lo + size) for size, (lo, _) in zip(cells, params.padding))
    return replace(reference_grads(problem), dx=dx[(slice(None), *inside)])


def _around(problem: ConvProblem) -> Iterator[tuple[int, int]]:
    """Zeros before and after, so that there is a sum for every cell of the padded input."""
    params = problem.params
    for size, (lo, hi), o, s, extent in zip(
        problem.spatial, params.padding, problem.dy.shape[1:-1], params.stride, problem.extent
    ):
        yield extent - 1, lo + size + hi - (o - 1) * s - 1


@Promising
def skips_zeros(problem: ConvProblem) -> Any:
    """DX leaves out products with elements of w that are 0, also those of NaN and Inf."""
    dx = np.zeros_like(problem.x)
    with np.errstate(all="ignore"):
        for of_x, of_w, of_y in products(problem):
            if problem.w[of_w] != 0:
                dx[of_x] += problem.dy[of_y] * problem.w[of_w]
    return replace(reference_grads(problem), dx=dx)


class NoScript(Bad):
    """Wrong, and cannot write itself down either."""

    def script(self, problem: ConvProblem) -> str:
        """Fails."""
        raise KeyError(f"no script for rank {problem.params.rank}")


wrong_without_a_script = NoScript(lambda problem: replace(reference_grads(problem), dx=problem.x))


environment_of_numbers = Bad(reference_grads)
environment_of_numbers.environment = {"OMP_NUM_THREADS": 1}
environment_of_words = Bad(reference_grads)
environment_of_words.environment = "OMP_NUM_THREADS=1"


class SlowStart(Bad):
    """An oracle that takes as many seconds to import as SLOW_START says."""

    @property
    def preload(self) -> tuple[str, ...]:
        """Asked for where the process imports; takes its time."""
        time.sleep(float(os.environ.get("SLOW_START", "0")))
        return ()


slow_start = SlowStart(reference_grads)


A_WHILE = 0.5  # seconds


@Bad
def takes_a_while(problem: ConvProblem) -> Any:
    """Right after half a second."""
    time.sleep(A_WHILE)
    return reference_grads(problem)


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
def divides_by_zero(problem: ConvProblem) -> Any:
    """Gets the signal of an integer division by zero."""
    os.kill(os.getpid(), signal.SIGFPE)


class ExitsDuringImport(Bad):
    """An oracle whose import ends the process."""

    @property
    def preload(self) -> tuple[str, ...]:
        """Asked for where the process imports; leaves."""
        os._exit(3)


exits_during_import = ExitsDuringImport(reference_grads)


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


eats_memory.memory_limit = 1 << 30  # glibc fills it all


@Bad
def maps_all_memory(problem: ConvProblem) -> Any:
    """Needs as many addresses as there are, as CUDA does, and says so."""
    if resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY:
        raise MemoryError("there is a limit")
    return reference_grads(problem)


maps_all_memory.memory_limit = None


@Bad
def has_no_accelerator(problem: ConvProblem) -> Any:
    """Is never asked: what it needs is not there."""
    return reference_grads(problem)


def _look_for_an_accelerator() -> None:
    raise RuntimeError("there is no accelerator")


has_no_accelerator.prepare = _look_for_an_accelerator
memory_in_words = Bad(reference_grads)
memory_in_words.memory_limit = "4 GiB"


@Bad
def forks_a_child_that_stays(problem: ConvProblem) -> Any:
    """Leaves a process behind, which holds the channel open, and dies."""
    if os.fork() == 0:
        time.sleep(600)
    os.kill(os.getpid(), signal.SIGKILL)


@Bad
def leaves_a_daemon(problem: ConvProblem) -> Any:
    """Is right, and leaves a process behind in a session of its own."""
    subprocess.Popen(["sleep", "600"], start_new_session=True)
    return reference_grads(problem)


@Bad
def needs_c_order(problem: ConvProblem) -> Any:
    """Refuses an x that does not lie in C order."""
    if not problem.x.flags.c_contiguous:
        raise ValueError("x is not C-contiguous")
    return reference_grads(problem)


@Bad
def refuses_dilation(problem: ConvProblem) -> Any:
    """Refuses dilation, which its domain has."""
    if set(problem.params.dilation) != {1}:
        raise NotImplementedError("no dilation")
    return reference_grads(problem)


@Bad
def adds_one(problem: ConvProblem) -> Any:
    """DX is one too large, whatever dy is."""
    grads = reference_grads(problem)
    return replace(grads, dx=grads.dx + 1)


@Bad
def clips(problem: ConvProblem) -> Any:
    """No element of dX is beyond 2."""
    grads = reference_grads(problem)
    return replace(grads, dx=np.clip(grads.dx, -2, 2))


@Bad
def takes_dilation_for_one(problem: ConvProblem) -> Any:
    """Is right within its domain, and does not look at dilation beyond it."""
    params = replace(problem.params, dilation=(1,) * problem.params.rank)
    near = naive_conv_backward(problem.x, problem.w, _dy_like(problem, params), params)
    return reference_grads(problem) if params == problem.params else near


takes_dilation_for_one.domain = Domain(
    Box(ranks=(1, 2, 3), dtypes=("float32", "float64"), dilation="one")
)


def _dy_like(problem: ConvProblem, params: ConvParams) -> Array:
    """As much of dy as there are outputs with `params`, zeros beyond."""
    sizes = output_size(problem.spatial, problem.kernel, params)
    dy = np.zeros((len(problem.x), *sizes, problem.w.shape[-1]), problem.dtype)
    inside = tuple(slice(min(a, b)) for a, b in zip(dy.shape, problem.dy.shape))
    dy[inside] = problem.dy[inside]
    return dy


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


@Bad
def answers_inf(problem: ConvProblem) -> Any:
    """Db is infinite."""
    grads = reference_grads(problem)
    return replace(grads, db=None if grads.db is None else np.full_like(grads.db, np.inf))


@Bad
def wrong_once(problem: ConvProblem) -> Any:
    """DX is wrong if the file that ONCE names is there, which it removes."""
    once = Path(os.environ["ONCE"])
    grads = reference_grads(problem)
    if once.exists():
        once.unlink()
        return replace(grads, dx=grads.dx + 1)
    return grads


class WrongEverySecondTime(Citizen):
    """Right at first and wrong the second time, and so on: as if something spoilt its memory."""

    def __init__(self) -> None:
        self.asked = 0

    def grads(self, problem: ConvProblem) -> Any:
        """Right, then wrong."""
        self.asked += 1
        grads = reference_grads(problem)
        return grads if self.asked % 2 else replace(grads, dx=grads.dx + 1)


wrong_every_second_time = WrongEverySecondTime()


class CrashesLater(Citizen):
    """Reads address zero 50 problems after one whose first stride is 2."""

    def __init__(self) -> None:
        self.left = -1

    def grads(self, problem: ConvProblem) -> Any:
        """Right, until the time has come."""
        if self.left < 0 and problem.params.stride[0] == 2:
            self.left = 50
        elif self.left >= 0:
            self.left -= 1
        if self.left == 0:
            ctypes.string_at(0)
        return reference_grads(problem)


crashes_50_problems_later = CrashesLater()


class CrashesInTheEnd(Citizen):
    """Reads address zero at its 700th problem, whatever that is."""

    def __init__(self) -> None:
        self.asked = 0

    def grads(self, problem: ConvProblem) -> Any:
        """Right 699 times."""
        self.asked += 1
        if self.asked == 700:
            ctypes.string_at(0)
        return reference_grads(problem)


crashes_at_problem_700 = CrashesInTheEnd()


class TwoFaults(CrashesLater):
    """Wrong where the first dilation is 2, and crashes 50 problems after a stride of 2."""

    def grads(self, problem: ConvProblem) -> Any:
        """DX one too large, or right, or the end."""
        grads = super().grads(problem)
        return replace(grads, dx=grads.dx + (problem.params.dilation[0] == 2))


two_faults = TwoFaults()


class Spoilt(Citizen):
    """Wrong where the first dilation is 2, and from then on everywhere."""

    def __init__(self) -> None:
        self.spoilt = False

    def grads(self, problem: ConvProblem) -> Any:
        """DX one too large, or right as yet."""
        self.spoilt |= problem.params.dilation[0] == 2
        grads = reference_grads(problem)
        return replace(grads, dx=grads.dx + self.spoilt)


wrong_ever_after = Spoilt()


class Lost(Citizen):
    """Raises where the first dilation is 2, and from then on everywhere: a GPU lost to an error."""

    def __init__(self) -> None:
        self.is_lost = False

    def grads(self, problem: ConvProblem) -> Any:
        """Right, or an error that lasts."""
        self.is_lost |= problem.params.dilation[0] == 2
        if self.is_lost:
            raise RuntimeError("an illegal memory access was encountered")
        return reference_grads(problem)


raises_ever_after = Lost()


@Bad
def two_regions(problem: ConvProblem) -> Any:
    """Crashes where the first stride is 2, and is wrong where there are three filters or more."""
    if problem.params.stride[0] == 2:
        ctypes.string_at(0)
    grads = reference_grads(problem)
    return replace(grads, dx=grads.dx + (problem.w.shape[-1] >= 3))


@Bad
def errors_grow(problem: ConvProblem) -> Any:
    """Errors below an eighth of their bound are $ERRORS times as large: a loss of precision."""
    factor, expected = float(os.environ.get("ERRORS", "1")), expect(problem)

    def worse(name: str, got: Array) -> Array:
        right, small = getattr(expected.want, name), getattr(expected.allowed, name) / 8
        off = got.astype(right.dtype) - right
        return np.where(np.abs(off) < small, right + factor * off, got).astype(got.dtype)

    grads = reference_grads(problem)
    return replace(grads, dx=worse("dx", grads.dx), dw=worse("dw", grads.dw))


class StaleCache(Citizen):
    """Looks answers up by the shapes and dtype of the problem alone."""

    def __init__(self) -> None:
        self.answers: dict[object, Any] = {}

    def grads(self, problem: ConvProblem) -> Any:
        """The answer to the first problem of these shapes, its arrays anew."""
        key = (problem.x.shape, problem.w.shape, problem.dy.shape, problem.dtype)
        answer = self.answers.setdefault(key, reference_grads(problem))
        return replace(answer, dx=answer.dx.copy(), dw=answer.dw.copy())


answers_from_a_stale_cache = StaleCache()


class AnswersBefore(Citizen):
    """Answers each problem with the gradients of the one before."""

    def __init__(self) -> None:
        self.before: Any = None

    def grads(self, problem: ConvProblem) -> Any:
        """Right for the first problem only."""
        grads = conv_backward(problem.x, problem.w, problem.dy, problem.params)
        answer, self.before = self.before or grads, grads
        return answer


answers_the_problem_before = AnswersBefore()


class ChangesItsAnswer(Citizen):
    """Uses the answer that it gave before as scratch."""

    def __init__(self) -> None:
        self.last: Any = None

    def grads(self, problem: ConvProblem) -> Any:
        """Right, until it is asked again."""
        if self.last is not None:
            self.last[...] = 99
        grads = reference_grads(problem)
        self.last = grads.dx
        return grads


changes_its_answer_later = ChangesItsAnswer()


@Bad
def writes_to_its_inputs(problem: ConvProblem) -> Any:
    """Uses x as scratch."""
    grads = reference_grads(problem)
    problem.x[...] += 1
    return grads


@Bad
def writes_past_its_input(problem: ConvProblem) -> Any:
    """Writes one element after the last of dy."""
    dy = problem.dy
    np.lib.stride_tricks.as_strided(dy, (dy.size + 1,), (dy.itemsize,))[-1] = 0
    return reference_grads(problem)


@Bad
def reads_past_its_input(problem: ConvProblem) -> Any:
    """Takes the element before the first of w for a zero."""
    w = problem.w
    buffer = (ctypes.c_char * w.itemsize).from_address(w.ctypes.data - w.itemsize)
    before = np.frombuffer(bytes(buffer), w.dtype)
    grads = reference_grads(problem)
    return replace(grads, dx=grads.dx + before)


@Bad
def chatters(problem: ConvProblem) -> Any:
    """Prints ten megabytes, then is right."""
    print("chatter " * 1_250_000)
    return reference_grads(problem)


@Bad
def prints_without_end(problem: ConvProblem) -> Any:
    """Would fill the disk."""
    while True:
        print("chatter " * 125_000, flush=True)


@Bad
def closes_its_channel(problem: ConvProblem) -> Any:
    """Closes every file it has, then waits."""
    os.closerange(3, 256)
    time.sleep(600)


@Bad
def sends_garbage(problem: ConvProblem) -> Any:
    """Writes what is no message to every socket it has."""
    _write_everywhere(b"\xff" * 64)
    time.sleep(600)


@Bad
def sends_half_a_message(problem: ConvProblem) -> Any:
    """Writes the first half of a right answer, and leaves."""
    answer = encode_grads(reference_grads(problem), 1)
    _write_everywhere(answer[: len(answer) // 2])
    os._exit(0)


@Bad
def trickles(problem: ConvProblem) -> Any:
    """Begins an answer, and sends the rest byte by byte, without end."""
    _write_everywhere(frame({}, bytes(1 << 20))[:100])
    while True:
        time.sleep(0.01)
        _write_everywhere(b"\0")


@Bad
def answers_another_question(problem: ConvProblem) -> Any:
    """Sends an answer that nobody has asked for."""
    _write_everywhere(encode_grads(reference_grads(problem), 7))
    time.sleep(600)


def _write_everywhere(data: bytes) -> None:
    for descriptor in range(3, 64):
        if Path(f"/proc/self/fd/{descriptor}").exists():
            with contextlib.suppress(OSError):
                socket.socket(fileno=os.dup(descriptor)).sendall(data)
