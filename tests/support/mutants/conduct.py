"""Faults of conduct: crashes and hangs, side effects, memory of earlier calls, refusals, dtype."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from dataclasses import replace

import numpy as np

from oracles.protocol import Box, Domain
from reference.problem import Array, ConvGrads, ConvParams, ConvProblem
from tests.support.mutants.fault import Fault, is_pointwise, is_strided
from tests.support.mutants.loops import cells

ANSWER, DX, DW = Fault(()), Fault(("dx",)), Fault(("dw",))
PRODUCTS = Fault(("dx", "dw", "y"))
NOT_FLOAT32 = Domain(Box(ranks=(1, 2, 3), dtypes=("bfloat16", "float64")))

_contents: dict[tuple[int, ...], Array] = {}
_compiled: dict[object, ConvParams] = {}
_buffers: dict[object, Array] = {}


def _is_strided_pointwise(problem: ConvProblem) -> bool:
    return is_pointwise(problem) and is_strided(problem)


@ANSWER.answers("pytorch#142835", "pytorch#91558", "Paddle#49919", needs_process=True)
def sigfpe_on_zero(problem: ConvProblem, right: ConvGrads) -> ConvGrads:
    """The size of a sample is that of dy divided by N, with an empty batch too."""
    if len(problem.x) == 0:
        os.kill(os.getpid(), signal.SIGFPE)
    return right


@ANSWER.answers(
    "oneDNN#6035",
    "pytorch#45746",
    "pytorch#91547",
    where=lambda problem: _is_strided_pointwise(problem) and problem.x.shape[-1] < 4,
    needs_process=True,
)
def hang_on_small_channels(problem: ConvProblem, right: ConvGrads) -> ConvGrads:
    """With one tap, a stride and less than 4 channels its threads wait for each other."""
    while True:
        time.sleep(1)


@ANSWER.answers("oneDNN#6035", where=_is_strided_pointwise, needs_process=True)
def dw_workspace_overrun(problem: ConvProblem, right: ConvGrads) -> ConvGrads:
    """With one tap and a stride it writes behind the end of its workspace."""
    libc = ctypes.CDLL(None)
    libc.malloc.restype = ctypes.c_void_p
    workspace = ctypes.c_void_p(libc.malloc(ctypes.c_size_t(2048)))
    ctypes.memset(workspace, 0xA5, 2048 + 256)
    libc.free(workspace)
    return right


@DW.values(
    "NNlib#538",
    "LBANN#1022",
    needs="to be asked a second time in one process",
    needs_process=True,
)
def dw_scaled_previous_contents(problem: ConvProblem, right: ConvGrads) -> Array:
    """dW is added to what the last one of its shape left in the same memory."""
    dw = right.dw.astype(np.float64)
    wrong = dw + _contents.get(dw.shape, 0)
    _contents[dw.shape] = dw
    return np.asarray(wrong)


@PRODUCTS.tables(needs_process=True)
def kernel_cached_by_shape(problem: ConvProblem) -> Array:
    """What is compiled is looked up by shapes and dtype, without the params."""
    key = (problem.x.shape, problem.w.shape, problem.dy.shape, problem.dtype)
    return cells(problem, params=_compiled.setdefault(key, problem.params))


@DW.answers(needs_process=True)
def dw_buffer_reused(problem: ConvProblem, right: ConvGrads) -> ConvGrads:
    """Each dW is written over the last one of its shape and dtype."""
    buffer = _buffers.setdefault((right.dw.shape, right.dw.dtype), right.dw)
    buffer[...] = right.dw
    return replace(right, dw=buffer)


@ANSWER.answers("classic")
def gy_modified_in_place(problem: ConvProblem, right: ConvGrads) -> ConvGrads:
    """dy is scratch: zero once it is used."""
    problem.dy[...] = 0
    return right


@ANSWER.answers()
def kernel_flipped_in_place(problem: ConvProblem, right: ConvGrads) -> ConvGrads:
    """The taps of w are put in the reverse order for dX, and not back."""
    problem.w[...] = np.flip(problem.w, axis=tuple(range(problem.params.rank)))
    return right


@ANSWER.answers(where=lambda problem: not problem.x.flags.writeable)
def raises_on_read_only(problem: ConvProblem, right: ConvGrads) -> ConvGrads:
    """A read-only x is refused, as a memory view of it may be."""
    raise ValueError("buffer source array is read-only")


@ANSWER.answers(where=lambda problem: min(problem.dy.strides) < 0)
def raises_on_negative_strides(problem: ConvProblem, right: ConvGrads) -> ConvGrads:
    """A dy that runs backwards is refused."""
    raise ValueError("at least one stride is negative")


@DX.answers(where=lambda problem: len(problem.x) == 0)
def dx_none_when_empty(problem: ConvProblem, right: ConvGrads) -> ConvGrads:
    """With an empty batch there is no dX."""
    nothing: dict[str, object] = {"dx": None}
    return replace(right, **nothing)  # type: ignore[arg-type]  # that is the fault


@DX.forms("tvm#10459", domain=NOT_FLOAT32)
def grads_wrong_dtype(problem: ConvProblem, right: ConvGrads) -> Array:
    """dX is float32 whatever the dtype of x."""
    return right.dx.astype(np.float32)
