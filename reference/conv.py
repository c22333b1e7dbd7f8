"""The vectorised convolution and its gradients, by the plan that is fastest for the shapes.

Every plan of `reference.plans` gives the same sums in another order. float16 and bfloat16 are
summed in float32 and rounded once, at the end.

A tap in the padding is absent, not a product with zero: an Inf or NaN in w or dy makes no NaN
there. Everything else is IEEE 754: inside the input 0 * Inf is NaN, and a NaN or Inf reaches the
elements that a product with it belongs to, and no others. Plans that store zeros, for the padding
or between groups, are right as long as nothing that meets them is Inf or NaN; where it may be,
"taps" is asked, which clips its slices to the input and knows one group at a time.

NumPy's floating-point warnings are off: BLAS kernels compute on registers that hold more than the
arrays, and whatever lies there can raise one for finite data (numpy/numpy#24067).
"""

from __future__ import annotations

import math
import os
from functools import cache, lru_cache
from typing import Any

import numpy as np

from reference import threads
from reference.plans import PLANS, Plan, choose
from reference.problem import (
    Array,
    ConvGrads,
    ConvParams,
    Size,
    check_backward,
    check_bias,
    check_forward,
    y_shape,
)
from reference.shapes import Backward, Forward, Shapes

_PREPARED = 256  # layers, of a network or two, for which a plan is prepared once

# Elements that BLAS has one thread for. If it has more, they stay awake for a while, looking for
# more to do, and are in the way of ours.
_PIECE = 1 << 13
_ONES = {np.dtype(name): np.ones(_PIECE, name) for name in ("float32", "float64")}


@np.errstate(all="ignore")
def conv_forward(
    x: Array, w: Array, b: Array | None, params: ConvParams, *, plan: str | None = None
) -> Array:
    """y (N, *O, F) for x (N, *S, C), w (*K, C/groups, F), b (F,) or None, in x's dtype.

    `plan` is one of `PLANS`, None for the fastest. Raises TypeError or ValueError for arguments
    that do not fit, see `ConvProblem`.
    """
    check_forward(x, w, params)
    if b is not None:
        check_bias(b, w)
    asked = x.shape, w.shape, x.dtype, params
    chosen, compute = _forward_by(plan, *asked)
    dtype, x, w = x.dtype, _summable(x), _summable(w)
    y = compute(x, w)
    seen = y if chosen.joins or y.size < w.size else w  # what has met a stored zero is in it
    if (chosen.pads or chosen.joins) and not _are_finite(seen):
        _, compute = _forward_by("taps", *asked)
        y = compute(x, w)
    if b is not None:
        y += b
    return y.astype(dtype, copy=False)


@np.errstate(all="ignore")
def conv_backward(
    x: Array, w: Array, dy: Array, params: ConvParams, *, plan: str | None = None
) -> ConvGrads:
    """dX, dW, db of sum(dy * y) for x (N, *S, C), w (*K, C/groups, F), dy (N, *O, F), in x's dtype.

    `plan` is one of `PLANS`, None for the fastest. Raises TypeError or ValueError for arguments
    that do not fit, see `ConvProblem`.
    """
    check_backward(x, w, dy, params)
    asked = x.shape, w.shape, x.dtype, params
    chosen, compute = _backward_by(plan, *asked)
    dtype, x, w, dy = x.dtype, _summable(x), _summable(w), _summable(dy)
    dx, dw = compute(x, w, dy)
    if (chosen.pads or chosen.joins) and not _can_be_used(x, w, dy, dx, dw):
        _, compute = _backward_by("taps", *asked)
        dx, dw = compute(x, w, dy)
    db = _sum(dy)
    if dx.dtype != dtype:
        dx, dw, db = (array.astype(dtype) for array in (dx, dw, db))
    return ConvGrads(dx, dw, db)


@cache
def _keep_memory() -> None:
    """Have glibc keep what is freed, up to 64 MB, instead of handing it back after every call.

    It keeps twice the largest block that it has seen freed, if that is below 32 MB (mallopt(3),
    M_TRIM_THRESHOLD); to be given it again, zeroed, takes the system as long as a small layer does.
    Not where glibc fills what it hands out: that takes as long as some hundred small layers.
    """
    if "MALLOC_PERTURB_" not in os.environ:
        np.empty(31 << 20, np.uint8)


@lru_cache(maxsize=_PREPARED)
def _forward_by(
    name: str | None, x_shape: Size, w_shape: Size, dtype: np.dtype[Any], params: ConvParams
) -> tuple[Plan, Forward]:
    """The plan of this name, None for the fastest, and what it computes with."""
    plan = _plan(name, x_shape, w_shape, dtype, params)
    return plan, plan.forward(_shapes(x_shape, w_shape, dtype, params))


@lru_cache(maxsize=_PREPARED)
def _backward_by(
    name: str | None, x_shape: Size, w_shape: Size, dtype: np.dtype[Any], params: ConvParams
) -> tuple[Plan, Backward]:
    """The same for the gradients."""
    plan = _plan(name, x_shape, w_shape, dtype, params)
    return plan, plan.backward(_shapes(x_shape, w_shape, dtype, params))


def _plan(
    name: str | None, x_shape: Size, w_shape: Size, dtype: np.dtype[Any], params: ConvParams
) -> Plan:
    _keep_memory()
    if name is None:
        name = choose(x_shape, w_shape, params)
        is_object = dtype.kind == "O"  # whose sums by others may not be used
        return PLANS["taps" if is_object or (name == "groups" and not _has_blas(dtype)) else name]
    fitting = [key for key, plan in PLANS.items() if plan.fits(x_shape, w_shape, params)]
    if name not in fitting:
        raise ValueError(
            f"plan={name!r}: must be None or one that fits x.shape={x_shape}, w.shape={w_shape}, "
            f"{params}: {', '.join(map(repr, fitting))}"
        )
    return PLANS[name]


def _shapes(x_shape: Size, w_shape: Size, dtype: np.dtype[Any], params: ConvParams) -> Shapes:
    sums = np.dtype(np.float32) if _is_summed_in_float32(dtype) else dtype
    return Shapes(x_shape, w_shape, y_shape(x_shape, w_shape, params), sums, params)


def _is_summed_in_float32(dtype: np.dtype[Any]) -> bool:
    """Whether it is a 16-bit format (bfloat16's kind is V)."""
    return dtype.itemsize == 2 and dtype.kind in "fV"


def _summable(array: Array) -> Array:
    """`array`, C-contiguous, in the dtype of its sums."""
    if _is_summed_in_float32(array.dtype):
        array = array.astype(np.float32)
    return np.ascontiguousarray(array)


def _has_blas(dtype: np.dtype[Any]) -> bool:
    """Whether BLAS multiplies such arrays, once they are summable: then a few zeros are free."""
    return dtype.kind in "fV" and dtype.itemsize <= 8


def _can_be_used(x: Array, w: Array, dy: Array, dx: Array, dw: Array) -> bool:
    """Whether no Inf or NaN has met a zero that a plan stores.

    It would be in w or dW, and in x, dX or dy: whichever are less to look through.
    """
    if w.size <= x.size + dy.size:
        return _are_finite(w, dw)
    return _are_finite(x, dx) and _are_finite(dy)


def _are_finite(a: Array, b: Array | None = None) -> bool:
    """Whether no element is Inf or NaN, which the sum of the products a * b then is too.

    The two are of one size; one alone is asked with itself. Of objects nobody knows.
    """
    if a.dtype.kind == "O":
        return False
    if b is None:
        b = a
    if a.dtype.kind == "f":
        total = np.vdot(a, b) if _is_for_one_thread(a) else _dot(a.reshape(-1), b.reshape(-1))
        if math.isfinite(total):
            return True
    return all(bool(np.isfinite(array).all()) for array in (a, b))


def _dot(a: Array, b: Array) -> float:
    """The same by pieces."""
    rest = len(a) % _PIECE
    pieces = (flat[rest:].reshape(-1, _PIECE) for flat in (a, b))
    return float(np.dot(a[:rest], b[:rest]) + np.vecdot(*pieces).sum())


def _sum(dy: Array) -> Array:
    """db (F,): dy (N, *O, F) summed over all but F, as products where BLAS has them.

    Adding row to row is slow where rows are short.
    """
    ones = _ONES.get(dy.dtype)
    if ones is None or not dy.size:
        return np.asarray(dy.sum(axis=tuple(range(dy.ndim - 1)), dtype=dy.dtype))
    rows = dy.reshape(-1, dy.shape[-1])
    if len(rows) <= _PIECE and _is_for_one_thread(dy):
        total: Array = ones[: len(rows)].dot(rows)
        return total
    piece = max(1, _PIECE // dy.shape[-1])
    rest = len(rows) % piece
    pieces = rows[rest:].reshape(-1, piece, dy.shape[-1])
    total = ones[:rest].dot(rows[:rest])
    total += (ones[:piece] @ pieces).sum(axis=0)
    return total


def _is_for_one_thread(array: Array) -> bool:
    """Whether BLAS has one thread for it, or in any case."""
    return array.size <= _PIECE or threads.THREADS == 1
