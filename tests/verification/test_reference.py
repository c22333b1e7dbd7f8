"""The reference where convolutions break: degenerate sizes, odd memory, number types."""

from __future__ import annotations

from contextvars import ContextVar
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from reference import (
    ConvGrads,
    ConvParams,
    conv_backward,
    conv_forward,
    naive_conv_backward,
    naive_conv_forward,
    output_size,
    same_padding,
)
from reference.problem import Array

both = pytest.mark.parametrize(
    ("forward", "backward"),
    [(conv_forward, conv_backward), (naive_conv_forward, naive_conv_backward)],
    ids=["conv", "naive"],
)


def line(*values: float) -> Array:
    """A 1-D signal as x or dy: (1, S, 1)."""
    return np.array(values, np.float32).reshape(1, -1, 1)


def kernel(*values: float) -> Array:
    """A 1-D kernel: (K, 1, 1)."""
    return np.array(values, np.float32).reshape(-1, 1, 1)


def params_1d(
    stride: int = 1, padding: tuple[int, int] = (0, 0), dilation: int = 1, groups: int = 1
) -> ConvParams:
    """Parameters of rank 1."""
    return ConvParams((stride,), (padding,), (dilation,), groups)


@both
def test_zero_batch(forward: Any, backward: Any) -> None:
    """An empty batch has an empty dX, and dW and db of zeros."""
    x, w, dy = np.zeros((0, 3, 2)), np.ones((2, 2, 4)), np.zeros((0, 2, 4))
    grads = backward(x, w, dy, params_1d())
    assert grads.dx.shape == (0, 3, 2)
    assert np.array_equal(grads.dw, np.zeros((2, 2, 4)))
    assert np.array_equal(grads.db, np.zeros(4))
    assert forward(x, w, np.ones(4), params_1d()).shape == (0, 2, 4)


@both
@pytest.mark.parametrize(("channels", "filters"), [(0, 2), (2, 0), (0, 0)])
def test_no_channels(forward: Any, backward: Any, channels: int, filters: int) -> None:
    """Without input channels y is the bias; without filters dX is zero."""
    x, w = np.ones((1, 3, channels)), np.ones((2, channels, filters))
    b, dy = np.full(filters, 7.0), np.ones((1, 2, filters))
    grads = backward(x, w, dy, params_1d())
    assert np.array_equal(grads.dx, np.zeros((1, 3, channels)))
    assert grads.dw.shape == w.shape
    assert np.array_equal(grads.db, np.full(filters, 2.0))
    y = forward(x, w, b, params_1d())
    assert np.array_equal(y, np.full((1, 2, filters), 7.0))


@both
def test_one_pixel(forward: Any, backward: Any) -> None:
    """One input cell, one tap, one output."""
    grads = backward(line(3), kernel(5), line(7), params_1d())
    assert (grads.dx.item(), grads.dw.item(), grads.db.item()) == (35, 21, 7)
    assert forward(line(3), kernel(5), None, params_1d()).item() == 15


@both
def test_trailing_input(forward: Any, backward: Any) -> None:
    """Input behind the last window has a gradient of exactly zero, and dX has x's shape."""
    grads = backward(line(1, 2, 3, 4, 5, 6), kernel(1, 1), line(1, 1), params_1d(stride=3))
    assert grads.dx.ravel().tolist() == [1, 1, 0, 1, 1, 0]
    assert grads.dw.ravel().tolist() == [5, 7]


@both
def test_stride_larger_than_kernel(forward: Any, backward: Any) -> None:
    """Input between windows has a gradient of exactly zero."""
    grads = backward(line(1, 2, 3, 4, 5, 6, 7), kernel(2), line(1, 10, 100), params_1d(stride=3))
    assert grads.dx.ravel().tolist() == [2, 0, 0, 20, 0, 0, 200]
    assert grads.dw.item() == 1 + 40 + 700


@both
def test_windows_wholly_in_the_padding(forward: Any, backward: Any) -> None:
    """Their outputs are the bias, and their dy reaches db only."""
    params = params_1d(padding=(3, 2))
    x, w, b, dy = line(5), kernel(2, 3), np.float32([9]), line(1, 2, 4, 8, 16)
    assert forward(x, w, b, params).ravel().tolist() == [9, 9, 9 + 15, 9 + 10, 9]
    grads = backward(x, w, dy, params)
    assert grads.dx.ravel().tolist() == [4 * 3 + 8 * 2]
    assert grads.dw.ravel().tolist() == [8 * 5, 4 * 5]
    assert grads.db.item() == 31


@both
def test_kernel_wider_than_the_input(forward: Any, backward: Any) -> None:
    """A window that overhangs the input on both sides."""
    grads = backward(line(5, 6), kernel(1, 2, 3, 4), line(1), params_1d(padding=(1, 1)))
    assert grads.dx.ravel().tolist() == [2, 3]
    assert grads.dw.ravel().tolist() == [0, 5, 6, 0]


@both
def test_asymmetric_padding(forward: Any, backward: Any) -> None:
    """The low side shifts, the high side adds outputs."""
    grads = backward(line(1, 2), kernel(3, 4), line(1, 10), params_1d(padding=(1, 0)))
    assert grads.dx.ravel().tolist() == [4 + 30, 40]
    assert grads.dw.ravel().tolist() == [10, 1 + 20]
    grads = backward(line(1, 2), kernel(3, 4), line(1, 10), params_1d(padding=(0, 1)))
    assert grads.dx.ravel().tolist() == [3, 4 + 30]
    assert grads.dw.ravel().tolist() == [1 + 20, 2]


@both
def test_depthwise_with_multiplier(forward: Any, backward: Any) -> None:
    """Filter c * M + m belongs to input channel c."""
    x = np.float32([[[1, 10]]])
    w = np.float32([[[1, 2, 3, 4]]])
    dy = np.float32([[[1, 10, 100, 1000]]])
    grads = backward(x, w, dy, params_1d(groups=2))
    assert forward(x, w, None, params_1d(groups=2)).ravel().tolist() == [1, 2, 30, 40]
    assert grads.dx.ravel().tolist() == [21, 4300]
    assert grads.dw.ravel().tolist() == [1, 10, 1000, 10_000]


def some_problem(dtype: Any = np.float64) -> dict[str, Any]:
    """Integers on a 2-D problem in which every axis differs."""
    params = ConvParams((2, 1), ((1, 0), (0, 2)), (1, 2), groups=2)
    shapes = {
        "x": (2, 5, 4, 4),
        "w": (3, 2, 2, 6),
        "dy": (2, *output_size((5, 4), (3, 2), params), 6),
    }
    data = {
        name: (np.arange(np.prod(shape)) * 7 % 11 - 5).reshape(shape).astype(dtype)
        for name, shape in shapes.items()
    }
    return {**data, "params": params}


def same_grads(got: ConvGrads, want: ConvGrads) -> None:
    """Assert equality of every value."""
    for name in ("dx", "dw", "db"):
        assert getattr(got, name).shape == getattr(want, name).shape
        assert np.all(getattr(got, name) == getattr(want, name))


LAYOUTS = {
    "Fortran": np.asfortranarray,
    "channels moved": lambda a: np.ascontiguousarray(np.moveaxis(a, -1, 0)).transpose(
        *range(1, a.ndim), 0
    ),
    "every second": lambda a: np.repeat(a, 2, axis=-1)[..., ::2],
    "negative strides": lambda a: np.flip(np.flip(a).copy()),
    "misaligned": lambda a: (
        np.frombuffer(b"\0" + a.tobytes(), np.uint8)[1:].view(a.dtype).reshape(a.shape)
    ),
}


@both
@pytest.mark.parametrize("layout", LAYOUTS)
def test_memory_layout(forward: Any, backward: Any, layout: str) -> None:
    """Any memory order gives the same values; inputs, read-only here, are not written to."""
    plain = some_problem()
    want = backward(**plain)
    laid_out = {name: LAYOUTS[layout](plain[name]) for name in ("x", "w", "dy")}
    for array in laid_out.values():
        array.flags.writeable = False
    before = {name: array.copy() for name, array in laid_out.items()}
    same_grads(backward(**laid_out, params=plain["params"]), want)
    y = forward(laid_out["x"], laid_out["w"], None, plain["params"])
    assert np.array_equal(y, forward(plain["x"], plain["w"], None, plain["params"]))
    for name, array in laid_out.items():
        assert np.array_equal(array, before[name])
        assert np.array_equal(array, plain[name])


@both
def test_expanded_dy(forward: Any, backward: Any) -> None:
    """A dy that is one number broadcast over all outputs is read as such."""
    p = some_problem()
    expanded = np.broadcast_to(np.float64(3), p["dy"].shape)
    want = backward(p["x"], p["w"], np.full(p["dy"].shape, 3.0), p["params"])
    same_grads(backward(p["x"], p["w"], expanded, p["params"]), want)


@both
@pytest.mark.parametrize(
    "dtype", [np.float32, np.float64, np.longdouble, np.int32, np.int64, object]
)
def test_number_types(forward: Any, backward: Any, dtype: Any) -> None:
    """Every number type keeps its dtype and has the values of Python's integers."""
    grads = backward(**some_problem(dtype))
    assert grads.dx.dtype == grads.dw.dtype == grads.db.dtype == np.dtype(dtype)
    same_grads(grads, naive_conv_backward(**some_problem(object)))


@both
def test_fractions_stay_exact(forward: Any, backward: Any) -> None:
    """Rational data are never rounded."""
    third = np.array([[[Fraction(1, 3)]]], object)
    grads = backward(third, third, third, params_1d())
    assert grads.dx.item() == grads.dw.item() == Fraction(1, 9)
    assert grads.db.item() == Fraction(1, 3)


@pytest.mark.parametrize(
    ("size", "taps", "stride", "dilation", "lo_hi", "out"),
    [
        (4, 3, 1, 1, (1, 1), 4),
        (5, 2, 1, 1, (0, 1), 5),  # an even kernel: the odd cell is at the end
        (7, 3, 2, 1, (1, 1), 4),
        (6, 3, 2, 1, (0, 1), 3),
        (5, 1, 3, 1, (0, 0), 2),  # stride > kernel: nothing to add
        (4, 3, 1, 3, (3, 3), 4),  # a dilated extent of 7
        (1, 5, 2, 1, (2, 2), 1),
    ],
)
def test_same_padding(
    size: int, taps: int, stride: int, dilation: int, lo_hi: tuple[int, int], out: int
) -> None:
    """TensorFlow's SAME in numbers, by hand; O is ceil(S / stride)."""
    assert same_padding((size,), (taps,), (stride,), (dilation,)) == (lo_hi,)
    params = ConvParams.of(
        (1, size, 1), (taps, 1, 1), stride=stride, padding="SAME", dilation=dilation
    )
    assert params == ConvParams((stride,), (lo_hi,), (dilation,))
    assert output_size((size,), (taps,), params) == (out,)


def test_short_forms() -> None:
    """One number stands for all axes, one int of padding for both sides, VALID for none."""
    shapes = (1, 9, 9, 2), (3, 3, 1, 4)
    assert ConvParams.of(*shapes, stride=2, padding=1, dilation=3, groups=2) == ConvParams(
        (2, 2), ((1, 1), (1, 1)), (3, 3), 2
    )
    assert ConvParams.of(*shapes, padding=(1, (0, 2))).padding == ((1, 1), (0, 2))
    assert ConvParams.of(*shapes, stride=np.array(2), padding=np.int64(1)).stride == (2, 2)
    assert ConvParams.of(*shapes, stride=np.array([2, 3])).stride == (2, 3)
    assert ConvParams.of(*shapes, padding="VALID") == ConvParams()


INF, NAN = np.inf, np.nan


def check_special(
    grads: ConvGrads, *, dx: list[float], dw: list[float], db: list[float] | None = None
) -> None:
    """Assert every value; NaN equals NaN."""
    np.testing.assert_array_equal(grads.dx.ravel(), dx)
    np.testing.assert_array_equal(grads.dw.ravel(), dw)
    if db is not None:
        np.testing.assert_array_equal(grads.db, db)


@both
def test_special_taps_in_the_padding_are_absent(forward: Any, backward: Any) -> None:
    """Inf and NaN in w make nothing where their taps lie in the padding."""
    params = params_1d(padding=(1, 1))
    x, w = line(5), kernel(INF, 2, NAN)
    assert forward(x, w, None, params).item() == 10
    check_special(backward(x, w, line(3), params), dx=[6], dw=[0, 15, 0])


@both
@pytest.mark.parametrize("value", [INF, -INF, NAN])
def test_special_dy_in_the_padding(forward: Any, backward: Any, value: float) -> None:
    """What dy holds at an output reaches the taps of its window that lie in the input, and db."""
    params = params_1d(padding=(1, 1))
    grads = backward(line(1, 2), kernel(3, 4, 5), line(value, 1), params)
    check_special(grads, dx=[value, value], dw=[1, value, value], db=[value])
    outside = params_1d(padding=(2, 0))  # the first window lies wholly in the padding
    grads = backward(line(1, 2), kernel(3, 4), line(value, 1, 1), outside)
    check_special(grads, dx=[4 + 3, 4], dw=[1, 1 + 2], db=[value])


@both
def test_what_overflows_in_the_padding_is_absent(forward: Any, backward: Any) -> None:
    """It makes nothing, and no warning."""
    params, large = params_1d(padding=(1, 1)), 2.0**100
    assert forward(line(large), kernel(large, 2, large), None, params).item() == 2 * large
    grads = backward(line(1), kernel(large, 2, large), line(large), params)
    check_special(grads, dx=[2 * large], dw=[0, large, 0], db=[large])


@both
def test_zero_times_inf_is_nan_in_the_input(forward: Any, backward: Any) -> None:
    """A zero that is no padding is multiplied, whichever array it is in."""
    params = params_1d()
    y = forward(line(INF, 0, 1), kernel(0, 2), None, params)
    np.testing.assert_array_equal(y.ravel(), [NAN, 2])
    y = forward(line(0, 1), kernel(INF, 2), None, params)
    np.testing.assert_array_equal(y.ravel(), [NAN])
    grads = backward(line(INF, 0, 1), kernel(0, 2), line(0, 1), params)
    check_special(grads, dx=[0, 0, 2], dw=[NAN, 1])
    grads = backward(line(0, 0, 1), kernel(INF, 2), line(0, 1), params)
    check_special(grads, dx=[NAN, INF, 2], dw=[0, 1])
    grads = backward(line(0, 5, 1), kernel(0, 2), line(INF, 1), params)
    check_special(grads, dx=[NAN, INF, 2], dw=[NAN, INF])


@both
def test_special_values_reach_what_they_are_multiplied_with(forward: Any, backward: Any) -> None:
    """Their own sample, group, filter and window; cells that no window reads reach nothing."""
    params = params_1d(stride=2, groups=2)
    x = np.ones((2, 3, 2))
    x[0, 1, 0] = NAN  # between the windows of one tap
    x[1, 0, 1] = -INF
    w, dy = np.ones((1, 1, 2)), np.ones((2, 2, 2))
    y = forward(x, w, None, params)
    np.testing.assert_array_equal(y.ravel(), [1, 1, 1, 1, 1, -INF, 1, 1])
    grads = backward(x, w, dy, params)
    check_special(grads, dx=[1, 1, 0, 0, 1, 1] * 2, dw=[4, -INF], db=[4, 4])
    dy[0, 0, 0] = NAN
    grads = backward(np.ones_like(x), w, dy, params)
    dx = [NAN, 1, 0, 0, 1, 1, 1, 1, 0, 0, 1, 1]
    check_special(grads, dx=dx, dw=[NAN, 4], db=[NAN, 4])


@both
def test_infinities_that_cancel(forward: Any, backward: Any) -> None:
    """Inf - Inf is NaN, Inf + Inf is Inf."""
    x, w = line(INF, INF, -INF), kernel(1, 1)
    y = forward(x, w, None, params_1d())
    np.testing.assert_array_equal(y.ravel(), [INF, NAN])
    check_special(backward(x, w, line(1, 1), params_1d()), dx=[1, 2, 1], dw=[INF, NAN])


@both
def test_special_objects_in_the_padding(forward: Any, backward: Any) -> None:
    """The rule holds for arrays of objects, and what is finite among them stays exact."""
    third = Fraction(1, 3)
    x, dy = np.full((1, 2, 1), third, object), np.array([[[INF], [1]]], object)
    w, params = np.array([[[-INF]], [[2]], [[5]]], object), params_1d(padding=(1, 1))
    assert forward(x[:, :1], w, None, params).tolist() == [[[2 * third]]]
    assert backward(x, w, dy, params).dw.ravel().tolist() == [third, INF, INF]


def test_floating_point_flags_raise_no_warning() -> None:
    """A BLAS kernel can set them for finite data (numpy#24067), so they mean nothing here."""
    params = ConvParams((1,), ((0, 0),), (1,))
    y = conv_forward(line(np.inf, 1), kernel(0, 1), None, params)
    grads = conv_backward(line(np.inf, 1), kernel(0, 1), line(0), params)
    assert np.isnan(y).all()
    assert np.isnan(grads.dw[0]).all()


@pytest.mark.parametrize("mode", ["warn", "raise"])
def test_too_large_for_the_dtype_is_infinite_without_a_warning(mode: Any) -> None:
    """Rounded to float16, with a bias and without; whatever the caller wants of NumPy."""
    params = ConvParams((1,), ((0, 0),), (1,))
    x, w, dy = (array.astype(np.float16) for array in (line(4e4, 4e4), kernel(1, 1), line(4e4)))
    with np.errstate(all=mode):
        y = conv_forward(x, w, None, params)
        y_with_bias = conv_forward(x[:, :1], w[:1], w[0, 0] * np.float16(6e4), params)
        grads = conv_backward(x, w, dy, params)
        assert np.geterr() == dict.fromkeys(("divide", "over", "under", "invalid"), mode)
    assert np.isinf(y).all()
    assert np.isinf(y_with_bias).all()
    assert np.isinf(grads.dw).all()
    assert grads.dx.ravel().tolist() == dy.ravel().tolist() * 2


def test_objects_are_computed_in_the_callers_context() -> None:
    """Numbers of their own kind may ask it how precise they are."""
    params, digits = ConvParams((1,), ((0, 0),), (1,)), ContextVar("digits", default=1)

    class Rounded(Fraction):
        def __mul__(self, other: Any) -> Fraction:
            return round(Fraction(self) * Fraction(other), digits.get())

        __rmul__ = __mul__

    third, one = Rounded(1, 3), Rounded(1)
    x, w = np.array([[[third]]], object), np.array([[[one]]], object)
    token = digits.set(3)
    y, grads = conv_forward(x, w, None, params), conv_backward(x, w, w, params)
    digits.reset(token)
    assert y.item() == Fraction(333, 1000)
    assert grads.dw.item() == Fraction(333, 1000)
