"""Bad input raises an error that names the argument, its value, what is allowed and the fix."""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import ml_dtypes  # noqa: F401  # makes NumPy know bfloat16
import numpy as np
import pytest

from reference import (
    ConvParams,
    ConvProblem,
    conv_backward,
    conv_forward,
    naive_conv_backward,
    naive_conv_forward,
    output_size,
    same_padding,
)
from reference.problem import array_literal

PARAMS: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (
        lambda: ConvParams(stride=(0, 1)),
        ValueError,
        "stride=(0, 1): every entry must be at least 1",
    ),
    (
        lambda: ConvParams(stride=(1.0, 1)),
        TypeError,
        "stride=1.0: must be an int, got float",
    ),
    (
        lambda: ConvParams(stride=(True, 1)),
        TypeError,
        "stride=True: must be an int, not a bool",
    ),
    (
        lambda: ConvParams(stride=2),
        TypeError,
        "stride=2: must be a tuple with one int per spatial axis; short forms of parameters are "
        "worked out by ConvParams.of(x.shape, w.shape, ...)",
    ),
    (
        lambda: ConvParams(dilation=(1, -1)),
        ValueError,
        "dilation=(1, -1): every entry must be at least 1",
    ),
    (
        lambda: ConvParams(padding="SAME"),
        TypeError,
        "padding='SAME': must be a tuple with one (lo, hi) pair per spatial axis; short forms of "
        "parameters are worked out by ConvParams.of(x.shape, w.shape, ...)",
    ),
    (
        lambda: ConvParams(padding=(1, 1)),
        ValueError,
        "padding=(1, 1): must be one (lo, hi) pair of ints per spatial axis, "
        "for example ((1, 1), (0, 2))",
    ),
    (
        lambda: ConvParams(padding=((1, -2), (0, 0))),
        ValueError,
        "padding=((1, -2), (0, 0)): no entry may be negative; to crop the input, slice x",
    ),
    (
        lambda: ConvParams(stride=(2,)),
        ValueError,
        "stride=(2,), padding=((0, 0), (0, 0)), dilation=(1, 1): must have as many axes each, but "
        "have 1, 2 and 2; give every axis in all three",
    ),
    (
        lambda: ConvParams((1,) * 4, ((0, 0),) * 4, (1,) * 4),
        ValueError,
        "stride=(1, 1, 1, 1): must have 1, 2 or 3 axes, one entry each",
    ),
    (
        lambda: ConvParams(groups=0),
        ValueError,
        "groups=0: must be at least 1; 1 is an ordinary convolution",
    ),
    (
        lambda: ConvParams.of((1, 4, 4, 1), (3, 3, 1, 1), padding="same"),
        ValueError,
        "padding='same': must be 'SAME', 'VALID', an int, or one int or one (lo, hi) pair per axis",
    ),
    (
        lambda: ConvParams.of((1, 4, 1), (3, 3, 1, 1)),
        ValueError,
        "x_shape=(1, 4, 1), w_shape=(3, 3, 1, 1): must be (N, *S, C) and (*K, C/groups, F) with as "
        "many sizes in S as in K, 1 to 3 of them",
    ),
    (
        lambda: ConvParams(stride=b"ab"),
        TypeError,
        "stride=b'ab': must be a tuple with one int per spatial axis; short forms of parameters "
        "are worked out by ConvParams.of(x.shape, w.shape, ...)",
    ),
    (
        lambda: ConvParams(stride={1, 2}),
        TypeError,
        "stride={1, 2}: must be a tuple with one int per spatial axis; short forms of parameters "
        "are worked out by ConvParams.of(x.shape, w.shape, ...)",
    ),
    (
        lambda: ConvParams.of((1, 4.5, 4, 1), (3, 3, 1, 1)),
        TypeError,
        "x_shape=4.5: must be an int, got float",
    ),
    (
        lambda: ConvParams.of(5, (3, 3, 1, 1)),
        TypeError,
        "x_shape=5: must be a tuple with one int per spatial axis; short forms of parameters are "
        "worked out by ConvParams.of(x.shape, w.shape, ...)",
    ),
    (
        lambda: output_size((4,), (3,), None),
        TypeError,
        "params=None: must be a ConvParams, got NoneType",
    ),
    (
        lambda: output_size((4,), (3, 3), ConvParams()),
        ValueError,
        "spatial=(4,): has 1 axis, but params are of rank 2 (stride=(1, 1))",
    ),
    (
        lambda: output_size((4, 4), (3, 0), ConvParams()),
        ValueError,
        "kernel=(3, 0): every entry must be at least 1",
    ),
    (
        lambda: same_padding((4, 4), (3, 3), (1,), (1, 1)),
        ValueError,
        "same_padding: all arguments must have as many axes, got "
        "{'spatial': (4, 4), 'kernel': (3, 3), 'stride': (1,), 'dilation': (1, 1)}",
    ),
    (
        lambda: output_size((4.0, 4), (3, 3), ConvParams()),
        TypeError,
        "spatial=4.0: must be an int, got float",
    ),
    (
        lambda: output_size((-1, 4), (3, 3), ConvParams()),
        ValueError,
        "spatial=(-1, 4): every entry must be at least 0",
    ),
    (
        lambda: same_padding((4,), (3,), (0,), (1,)),
        ValueError,
        "stride=(0,): every entry must be at least 1",
    ),
]


@pytest.mark.parametrize(("make", "error", "words"), PARAMS)
def test_params(make: Callable[[], Any], error: type[Exception], words: str) -> None:
    """Parameters and sizes that make no sense."""
    with pytest.raises(error) as caught:
        make()
    assert str(caught.value) == words


def zeros(*shape: int, dtype: Any = np.float32) -> Any:
    """An array of zeros."""
    return np.zeros(shape, dtype)


RIGHT = {
    "x": zeros(2, 5, 4, 4),
    "w": zeros(3, 2, 2, 6),
    "b": zeros(6),
    "dy": zeros(2, 3, 3, 6),
    "params": ConvParams(groups=2),
}
ARGUMENTS: list[tuple[dict[str, Any], type[Exception], str]] = [
    (
        {"x": [[1.0]]},
        TypeError,
        "x=[[1.0]]: must be a plain NumPy array, got list; np.asarray(x, dtype) makes one",
    ),
    (
        {"x": zeros(2, 5, 4, 4, dtype=np.float64)},
        TypeError,
        "w.dtype=float32: must be x's dtype float64, all arrays of a problem share one; "
        "convert it or x with astype",
    ),
    (
        {"dy": zeros(2, 3, 3, 6, dtype=np.int32)},
        TypeError,
        "dy.dtype=int32: must be x's dtype float32, all arrays of a problem share one; "
        "convert it or x with astype",
    ),
    (
        {"w": zeros(3, 2, 2, 6, dtype=bool)},
        TypeError,
        "w.dtype=bool: must be a real number type (float16, bfloat16, float32, float64, "
        "longdouble, an integer, or objects that are all int or Fraction); w.astype(np.float64) "
        "makes one of most",
    ),
    (
        {"x": zeros(2, 5, 4, 4, dtype="U1")},
        TypeError,
        "x.dtype=<U1: must be a real number type",
    ),
    (
        {"x": np.full((2, 5, 4, 4), "a", object)},
        TypeError,
        "x.dtype=object: must be a real number type",
    ),
    (
        {"x": zeros(2, 5, 4, 4, dtype=object), "w": np.full((3, 2, 2, 6), "a", object)},
        TypeError,
        "w.dtype=object: must be a real number type",
    ),
    (
        {
            "x": zeros(2, 5, 4, 4, dtype=object),
            "w": zeros(3, 2, 2, 6, dtype=object),
            "dy": np.full((2, 3, 3, 6), None, object),
        },
        TypeError,
        "dy.dtype=object: must be a real number type",
    ),
    (
        {"x": np.ma.masked_array(zeros(2, 5, 4, 4))},
        TypeError,
        "x=masked_array(",
    ),
    (
        {"w": np.ma.masked_array(zeros(3, 2, 2, 6))},
        TypeError,
        "w=masked_array(",
    ),
    (
        {"dy": np.ma.masked_array(zeros(2, 3, 3, 6))},
        TypeError,
        "dy=masked_array(",
    ),
    (
        {"x": zeros(2, 5, 4, 4, dtype=">f4")},
        TypeError,
        "x.dtype=dtype('>f4'): must be in this machine's byte order; "
        "x.astype(x.dtype.newbyteorder('=')) makes it so",
    ),
    (
        {"x": zeros(2, 5, 4)},
        ValueError,
        "x.shape=(2, 5, 4): has 3 axes, but params of rank 2 (stride=(1, 1)) need 4: (N, *S, C)",
    ),
    (
        {"w": zeros(3, 2, 6)},
        ValueError,
        "w.shape=(3, 2, 6): has 3 axes, but params of rank 2 (stride=(1, 1)) need 4: "
        "(*K, C/groups, F)",
    ),
    (
        {"params": ConvParams(groups=3)},
        ValueError,
        "groups=3: must divide the input channels C=4 (x.shape=(2, 5, 4, 4)); allowed 1, 2, 4",
    ),
    (
        {"params": ConvParams(groups=1)},
        ValueError,
        "w.shape=(3, 2, 2, 6): axis -2 must be C / groups = 4 / 1 = 4 for x.shape=(2, 5, 4, 4), "
        "not 2; w is (*K, C/groups, F)",
    ),
    (
        {"w": zeros(3, 2, 2, 5)},
        ValueError,
        "groups=2: must divide the output channels F=5 (w.shape=(3, 2, 2, 5)); allowed 1",
    ),
    (
        {"w": zeros(6, 2, 2, 6)},
        ValueError,
        "kernel=(6, 2): on axis 0 it spans 6 cells with dilation 1, but the padded input has "
        "5 + 0 + 0 = 5; make the input larger, the kernel smaller, or add 1 to the padding",
    ),
    (
        {"dy": zeros(2, 3, 2, 6)},
        ValueError,
        "dy.shape=(2, 3, 2, 6): must be (N, *O, F) = (2, 3, 3, 6), the shape of y for "
        "x.shape=(2, 5, 4, 4), w.shape=(3, 2, 2, 6), ConvParams(stride=(1, 1)",
    ),
    (
        {"b": zeros(1, 6)},
        ValueError,
        "b.shape=(1, 6): must be (F,) = (6,) for w.shape=(3, 2, 2, 6); for no bias pass b=None",
    ),
    (
        {"b": zeros(6, dtype=np.float64)},
        TypeError,
        "b.dtype=float64: must be w's dtype float32",
    ),
    (
        {"params": (1, 1)},
        TypeError,
        "params=(1, 1): must be a ConvParams, got tuple",
    ),
]


@pytest.mark.parametrize(("changed", "error", "words"), ARGUMENTS)
def test_arguments(changed: dict[str, Any], error: type[Exception], words: str) -> None:
    """Arrays that do not fit, wherever they are passed."""
    a = {**RIGHT, **changed}
    calls: dict[str, Callable[[], Any]] = {
        "x w b dy params": lambda: ConvProblem(a["x"], a["w"], a["b"], a["dy"], a["params"]),
        "x w dy params": lambda: conv_backward(a["x"], a["w"], a["dy"], a["params"]),
        "x w b params": lambda: conv_forward(a["x"], a["w"], a["b"], a["params"]),
        "x w dy params naive": lambda: naive_conv_backward(a["x"], a["w"], a["dy"], a["params"]),
        "x w b params naive": lambda: naive_conv_forward(a["x"], a["w"], a["b"], a["params"]),
    }
    for arguments, call in calls.items():
        if set(changed) <= set(arguments.split()):
            with pytest.raises(error, match=f"^{re.escape(words)}"):
                call()


def test_the_right_arguments_are_right() -> None:
    """What the cases above change is accepted as it stands."""
    ConvProblem(**RIGHT)


def test_repr_can_be_pasted() -> None:
    """A problem's repr makes the same problem again, for every number type."""
    for dtype in (np.float32, np.float64, np.longdouble, np.int64, object):
        values = np.array([0, 1, -3, 7]).astype(dtype)
        if np.dtype(dtype).kind == "f":
            values[1:] = np.array([-0.0, np.inf, 0.1]).astype(dtype)
            values[3] += np.finfo(dtype).eps
        if dtype is object:
            values[1] = Fraction(1, 3)
        p = ConvProblem(
            values.reshape(1, 4, 1),
            values[:2].reshape(2, 1, 1),
            None,
            values[:3].reshape(1, 3, 1),
            ConvParams((1,), ((0, 0),), (1,)),
        )
        names = {"np": np, "ConvProblem": ConvProblem, "ConvParams": ConvParams}
        again = eval(repr(p), {**names, "Fraction": Fraction})  # our own text
        assert again.params == p.params
        for name in ("x", "w", "dy"):
            got, want = getattr(again, name), getattr(p, name)
            assert got.dtype == want.dtype
            assert got.shape == want.shape
            assert np.all(got == want)
            if want.dtype.kind == "f":
                assert np.all(np.signbit(got) == np.signbit(want))
    empty = ConvProblem(zeros(0, 5, 4, 4), RIGHT["w"], None, zeros(0, 3, 3, 6), RIGHT["params"])
    assert "x=np.zeros((0, 5, 4, 4), 'float32')" in repr(empty)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64", "int64"])
def test_long_arrays_can_be_pasted(dtype: str) -> None:
    """One value is written once, several in full; of a 16-bit format too, Inf and NaN included."""
    full, ramp = np.full((3, 7), 5, dtype), np.arange(21).reshape(3, 7).astype(dtype)
    assert array_literal(full) == f"np.full((3, 7), 5, {dtype!r})"
    special = [] if dtype == "int64" else [np.array([np.nan, np.inf, -np.inf, 0.1]).astype(dtype)]
    for array in (full, ramp, *special):
        again = eval(array_literal(array), {"np": np})  # our own text
        assert again.dtype == array.dtype
        assert again.tobytes() == array.tobytes()
