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
from collections.abc import Callable
from contextvars import Context
from functools import cache, lru_cache
from typing import Any, TypeVar

import numpy as np

from reference import threads
from reference.plans import PLANS, Plan, choose
from reference.problem import (
    Array,
    ConvGrads,
    ConvParams,
    Size,
    check_arrays,
    check_bias,
    check_dy,
    y_shape,
)
from reference.shapes import Backward, Forward, Grads, Shapes

Result = TypeVar("Result")

_PREPARED = 256  # shapes for which all that follows from them is kept, as those of a network
# Elements that BLAS has one thread for. If it has more, they stay awake for a while, looking for
# more to do, and are in the way of ours.
_PIECE = 1 << 13
_ROW = 1 << 10  # elements of a row from which rows are added up as fast as they are multiplied
_QUIET = Context()  # in which NumPy does not warn
_QUIET.run(np.seterr, all="ignore")
_ONES = {np.dtype(name): np.ones(_PIECE, name) for name in ("float32", "float64")}


def conv_forward(
    x: Array, w: Array, b: Array | None, params: ConvParams, *, plan: str | None = None
) -> Array:
    """y (N, *O, F) for x (N, *S, C), w (*K, C/groups, F), b (F,) or None, in x's dtype.

    `plan` is one of `PLANS`, None for the fastest. Raises TypeError or ValueError for arguments
    that do not fit, see `ConvProblem`.
    """
    check_arrays(params, x, w)
    compute = _forward_by(plan, x.shape, w.shape, x.dtype, params)
    if b is not None:
        check_bias(b, w)
    return _quietly(compute, x, w, b)


def conv_backward(
    x: Array, w: Array, dy: Array, params: ConvParams, *, plan: str | None = None
) -> ConvGrads:
    """dX, dW, db of sum(dy * y) for x (N, *S, C), w (*K, C/groups, F), dy (N, *O, F), in x's dtype.

    `plan` is one of `PLANS`, None for the fastest. Raises TypeError or ValueError for arguments
    that do not fit, see `ConvProblem`.
    """
    check_arrays(params, x, w, dy)
    compute = _backward_by(plan, x.shape, w.shape, dy.shape, x.dtype, params)
    return _quietly(compute, x, w, dy)


def _quietly(compute: Callable[..., Result], x: Array, *others: Array | None) -> Result:
    """`compute` of arrays without NumPy's warnings: np.errstate takes longer to turn them off.

    Objects are computed in the caller's context: it may say how precise they are.
    """
    if x.dtype.hasobject:
        with np.errstate(all="ignore"):
            return compute(x, *others)
    return _QUIET.copy().run(compute, x, *others)


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
) -> Callable[[Array, Array, Array | None], Array]:
    """What computes y of x, w and b, by the plan of this name."""
    _keep_memory()
    shapes = _shapes(x_shape, w_shape, dtype, params)
    compute, summable = _careful_forward(_plan(name, shapes), shapes), _summable(dtype)

    def forward(x: Array, w: Array, b: Array | None) -> Array:
        y = compute(summable(x), summable(w))
        if b is not None:
            y += b
        return y.astype(dtype, copy=False)

    return forward


@lru_cache(maxsize=_PREPARED)
def _backward_by(
    name: str | None,
    x_shape: Size,
    w_shape: Size,
    dy_shape: Size,
    dtype: np.dtype[Any],
    params: ConvParams,
) -> Callable[[Array, Array, Array], ConvGrads]:
    """The same for dX, dW and db, of x, w and dy."""
    _keep_memory()
    check_dy(x_shape, w_shape, dy_shape, params)
    shapes = _shapes(x_shape, w_shape, dtype, params)
    compute, summable = _careful_backward(_plan(name, shapes), shapes), _summable(dtype)
    add_up, are_sums = _adder(shapes), shapes.dtype == dtype

    def backward(x: Array, w: Array, dy: Array) -> ConvGrads:
        dy = summable(dy)
        dx, dw = compute(summable(x), summable(w), dy)
        db = add_up(dy)
        if are_sums:
            return ConvGrads(dx, dw, db)
        return ConvGrads(*(array.astype(dtype) for array in (dx, dw, db)))

    return backward


def _careful_forward(plan: Plan, shapes: Shapes) -> Forward:
    """By `plan`, or by taps if Inf or NaN may have met a zero that it stores.

    It would be in w, and in y.
    """
    compute = plan.forward(shapes)
    if not (plan.pads or plan.joins):
        return compute
    by_y = plan.joins or math.prod(shapes.y) < math.prod(shapes.w)
    are_finite = _finite(shapes.y if by_y else shapes.w, shapes.dtype)

    def forward(x: Array, w: Array) -> Array:
        y = compute(x, w)
        seen = y if by_y else w
        return y if are_finite(seen, seen) else PLANS["taps"].forward(shapes)(x, w)

    return forward


def _careful_backward(plan: Plan, shapes: Shapes) -> Backward:
    """The same for dX and dW.

    It would be in w or dW, and in x, dX or dy: whichever are less to look through.
    """
    compute = plan.backward(shapes)
    if not (plan.pads or plan.joins):
        return compute
    by_w = math.prod(shapes.w) <= math.prod(shapes.x) + math.prod(shapes.y)
    x_finite, w_finite, dy_finite = (_finite(shape, shapes.dtype) for shape in shapes[:3])

    def backward(x: Array, w: Array, dy: Array) -> Grads:
        dx, dw = compute(x, w, dy)
        if w_finite(w, dw) if by_w else x_finite(x, dx) and dy_finite(dy, dy):
            return dx, dw
        return PLANS["taps"].backward(shapes)(x, w, dy)

    return backward


def _plan(name: str | None, shapes: Shapes) -> Plan:
    """That of this name, None for the fastest."""
    of_shapes = shapes.x, shapes.w, shapes.params
    if name is None:
        name = choose(*of_shapes)
        is_object = shapes.dtype.kind == "O"  # whose sums by others may not be used
        is_slow = name == "groups" and not _has_blas(shapes.dtype)
        return PLANS["taps" if is_object or is_slow else name]
    fitting = [key for key, plan in PLANS.items() if plan.fits(*of_shapes)]
    if name not in fitting:
        raise ValueError(
            f"plan={name!r}: must be None or one that fits x.shape={shapes.x}, "
            f"w.shape={shapes.w}, {shapes.params}: {', '.join(map(repr, fitting))}"
        )
    return PLANS[name]


def _shapes(x_shape: Size, w_shape: Size, dtype: np.dtype[Any], params: ConvParams) -> Shapes:
    sums = np.dtype(np.float32) if _is_short(dtype) else dtype
    return Shapes(x_shape, w_shape, y_shape(x_shape, w_shape, params), sums, params)


def _is_short(dtype: np.dtype[Any]) -> bool:
    """Whether it is a 16-bit format, which is summed in float32 (bfloat16's kind is V)."""
    return dtype.itemsize == 2 and dtype.kind in "fV"


def _summable(dtype: np.dtype[Any]) -> Callable[[Array], Array]:
    """What makes arrays C-contiguous, in the dtype of their sums."""
    if _is_short(dtype):
        return lambda array: np.ascontiguousarray(array, np.float32)
    return np.ascontiguousarray


def _has_blas(dtype: np.dtype[Any]) -> bool:
    """Whether BLAS multiplies arrays that are summed in it: then a few zeros are free."""
    return dtype.kind == "f" and dtype.itemsize <= 8


def _finite(shape: Size, dtype: np.dtype[Any]) -> Callable[[Array, Array], bool]:
    """What says of two arrays whether no element is Inf or NaN.

    If none is, the sum of the products a * b is neither, unless that is too large. Of objects
    nobody knows.
    """
    if dtype.kind != "f":
        return lambda *_: dtype.kind != "O"
    multiply = np.vdot if _is_for_one_thread(shape) else _dot

    def are_finite(a: Array, b: Array) -> bool:
        if math.isfinite(multiply(a, b)):
            return True
        return all(bool(np.isfinite(array).all()) for array in (a, b))

    return are_finite


def _dot(a: Array, b: Array) -> float:
    """np.vdot by pieces."""
    a, b = a.reshape(-1), b.reshape(-1)
    rest = len(a) % _PIECE
    pieces = (flat[rest:].reshape(-1, _PIECE) for flat in (a, b))
    return float(np.dot(a[:rest], b[:rest]) + np.vecdot(*pieces).sum())


def _adder(shapes: Shapes) -> Callable[[Array], Array]:
    """What sums dy (N, *O, F) over all but F: db (F,).

    As products where BLAS has them: adding row to row is slow unless rows are long.
    """
    *cells, filters = shapes.y
    rows, dtype = math.prod(cells), shapes.dtype
    if dtype not in _ONES or 0 in shapes.y or filters >= _ROW:
        return lambda dy: np.asarray(dy.sum(axis=tuple(range(dy.ndim - 1)), dtype=dtype))
    if rows <= _PIECE and _is_for_one_thread(shapes.y):
        ones = _ONES[dtype][:rows]
        return lambda dy: np.asarray(ones.dot(dy.reshape(rows, filters)))
    piece = max(1, _PIECE // filters)
    rest = rows % piece
    of_piece, of_rest = _ONES[dtype][:piece], _ONES[dtype][:rest]

    def by_pieces(dy: Array) -> Array:
        dy_rows = dy.reshape(rows, filters)
        pieces = dy_rows[rest:].reshape(-1, piece, filters)
        total: Array = of_rest.dot(dy_rows[:rest])
        total += (of_piece @ pieces).sum(axis=0)
        return total

    return by_pieces


def _is_for_one_thread(shape: Size) -> bool:
    """Whether BLAS has one thread for such an array, or in any case."""
    return math.prod(shape) <= _PIECE or threads.THREADS == 1
