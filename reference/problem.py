"""One convolution to differentiate, as plain data: shapes, parameters, gradients and their checks.

Arrays are channels-last: x (N, *S, C), w (*K, C/groups, F), b (F,), y and dy (N, *O, F), with S, K
and O the spatial sizes of the input, the kernel and the output, one entry per axis, rank 1 to 3.
"""

from __future__ import annotations

import math
import numbers
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np

from reference.layout import Array as Array  # the two are public here
from reference.layout import Size as Size
from reference.layout import extent, memory_of, strides_of

Padding: TypeAlias = tuple[tuple[int, int], ...]

RANKS = (1, 2, 3)
# of nearly all problems, which pay for no further look at them
_USUAL = frozenset(map(np.dtype, ("float32", "float64")))
_LONG = 16  # elements of one value beyond which a literal does not list them


@dataclass(frozen=True)
class ConvParams:
    """Stride, padding, dilation and groups of one convolution; its rank is the number of axes.

    `stride` and `dilation` hold one int >= 1 per spatial axis, `padding` one (lo, hi) pair >= 0 per
    spatial axis, in cells; `groups` >= 1 divides the input and the output channels. `ConvParams.of`
    takes the short forms (one number for all axes, "SAME", "VALID").

    Raises TypeError for what is not an int, ValueError for an int that is out of range and for axes
    that do not match.
    """

    stride: Size = (1, 1)
    padding: Padding = ((0, 0), (0, 0))
    dilation: Size = (1, 1)
    groups: int = 1

    def __post_init__(self) -> None:
        stride = _sizes("stride", self.stride, least=1)
        dilation = _sizes("dilation", self.dilation, least=1)
        padding = _pairs("padding", self.padding)
        if len(stride) not in RANKS:
            raise ValueError(f"stride={stride}: must have 1, 2 or 3 axes, one entry each")
        if not len(stride) == len(padding) == len(dilation):
            raise ValueError(
                f"stride={stride}, padding={padding}, dilation={dilation}: must have as many axes "
                f"each, but have {len(stride)}, {len(padding)} and {len(dilation)}; give every "
                "axis in all three"
            )
        groups = _integer("groups", self.groups)
        if groups < 1:
            raise ValueError(f"groups={groups}: must be at least 1; 1 is an ordinary convolution")
        object.__setattr__(self, "stride", stride)
        object.__setattr__(self, "padding", padding)
        object.__setattr__(self, "dilation", dilation)
        object.__setattr__(self, "groups", groups)

    @property
    def rank(self) -> int:
        """The number of spatial axes."""
        return len(self.stride)

    @classmethod
    def of(
        cls,
        x_shape: Sequence[int],
        w_shape: Sequence[int],
        *,
        stride: int | Sequence[int] = 1,
        padding: str | int | Sequence[Any] = "VALID",
        dilation: int | Sequence[int] = 1,
        groups: int = 1,
    ) -> ConvParams:
        """Numbers for every axis from the short forms, for x (N, *S, C) and w (*K, C/groups, F).

        One int stands for all axes; `padding` also takes one int per axis, (lo, hi) pairs, "VALID"
        (no padding) and "SAME" (see `same_padding`). Raises as `ConvParams` does.
        """
        spatial = _sizes("x_shape", x_shape, least=0)[1:-1]
        kernel = _sizes("w_shape", w_shape, least=0)[:-2]
        if len(spatial) != len(kernel) or len(spatial) not in RANKS:
            raise ValueError(
                f"x_shape={tuple(x_shape)}, w_shape={tuple(w_shape)}: must be (N, *S, C) and "
                "(*K, C/groups, F) with as many sizes in S as in K, 1 to 3 of them"
            )
        strides = _per_axis("stride", stride, len(spatial))
        dilations = _per_axis("dilation", dilation, len(spatial))
        if isinstance(padding, str):
            if padding not in ("SAME", "VALID"):
                raise ValueError(
                    f"padding={padding!r}: must be 'SAME', 'VALID', an int, or one int or one "
                    "(lo, hi) pair per axis"
                )
            pairs: tuple[Any, ...] = (
                same_padding(spatial, kernel, strides, dilations)
                if padding == "SAME"
                else ((0, 0),) * len(spatial)
            )
        else:
            pairs = tuple(
                (entry, entry) if _is_one(entry) else entry
                for entry in _per_axis("padding", padding, len(spatial))
            )
        return cls(strides, pairs, dilations, groups)


@dataclass(frozen=True, eq=False)
class ConvGrads:
    """Gradients of L = sum(dy * y): `dx`, `dw`, `db` shaped as x, w, b, and `y` if it was computed.

    `db` is None where the problem has no bias; `y` (N, *O, F) is None where only gradients are
    claimed.
    """

    dx: Array
    dw: Array
    db: Array | None
    y: Array | None = None


@dataclass(frozen=True, eq=False, repr=False)
class ConvProblem:
    """One convolution to differentiate: x (N, *S, C), w (*K, C/groups, F), b (F,) or None, dy.

    dy (N, *O, F) is the upstream gradient. All arrays have one dtype. `repr` is a constructor call
    that can be pasted (it needs `np`, `ConvParams` and, for rationals, `Fraction`). Raises
    TypeError or ValueError naming the argument, its value, what is allowed and the fix.
    """

    x: Array
    w: Array
    b: Array | None
    dy: Array
    params: ConvParams

    def __post_init__(self) -> None:
        check_backward(self.x, self.w, self.dy, self.params)
        if self.b is not None:
            check_bias(self.b, self.w)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype that all arrays share."""
        return self.x.dtype

    @property
    def spatial(self) -> Size:
        """S, the spatial sizes of the input."""
        return self.x.shape[1:-1]

    @property
    def kernel(self) -> Size:
        """K, the spatial sizes of the kernel."""
        return self.w.shape[:-2]

    @property
    def extent(self) -> Size:
        """The cells that the dilated kernel spans on each axis, (K - 1) * dilation + 1."""
        return tuple((k - 1) * d + 1 for k, d in zip(self.kernel, self.params.dilation))

    def __repr__(self) -> str:
        arrays = ",\n".join(
            f"    {name}={array_literal(getattr(self, name))}" for name in ("x", "w", "b", "dy")
        )
        return f"ConvProblem(\n{arrays},\n    params={self.params},\n)"

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """The same in Hypothesis' reports and in IPython, which have a printer of their own."""
        del cycle
        printer.text(repr(self))


def output_size(spatial: Sequence[int], kernel: Sequence[int], params: ConvParams) -> Size:
    """O, the spatial output sizes for input sizes S and kernel sizes K, one entry per axis.

    O = (S + lo + hi - ((K - 1) * dilation + 1)) // stride + 1. Raises ValueError if the numbers of
    axes differ from the rank of `params`, a size is out of range, or the dilated kernel does not
    fit the padded input.
    """
    _check_params(params)
    spatial, kernel = _sizes("spatial", spatial, least=0), _sizes("kernel", kernel, least=1)
    for name, sizes in (("spatial", spatial), ("kernel", kernel)):
        if len(sizes) != params.rank:
            raise ValueError(
                f"{name}={sizes}: has {_axes(len(sizes))}, but params are of rank {params.rank} "
                f"(stride={params.stride})"
            )
    out = []
    for axis, (size, taps, stride, (lo, hi), dilation) in enumerate(
        zip(spatial, kernel, params.stride, params.padding, params.dilation)
    ):
        extent = (taps - 1) * dilation + 1
        padded = size + lo + hi
        if padded < extent:
            raise ValueError(
                f"kernel={kernel}: on axis {axis} it spans {extent} cells with dilation "
                f"{dilation}, but the padded input has {size} + {lo} + {hi} = {padded}; make the "
                f"input larger, the kernel smaller, or add {extent - padded} to the padding"
            )
        out.append((padded - extent) // stride + 1)
    return tuple(out)


def same_padding(
    spatial: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
) -> Padding:
    """(lo, hi) per axis of TensorFlow's SAME: O = ceil(S / stride), the odd cell goes to hi.

    All arguments have one entry per spatial axis, at least 1. Source: TensorFlow, "Notes on
    padding" in the documentation of tf.nn, with the kernel's dilated extent in the place of its
    size.
    """
    sizes = {
        "spatial": _sizes("spatial", spatial, least=1),
        "kernel": _sizes("kernel", kernel, least=1),
        "stride": _sizes("stride", stride, least=1),
        "dilation": _sizes("dilation", dilation, least=1),
    }
    if len(set(map(len, sizes.values()))) != 1:
        raise ValueError(f"same_padding: all arguments must have as many axes, got {sizes}")
    pairs = []
    for size, taps, step, gap in zip(spatial, kernel, stride, dilation):
        total = max((-(-size // step) - 1) * step + (taps - 1) * gap + 1 - size, 0)
        pairs.append((total // 2, total - total // 2))
    return tuple(pairs)


def check_forward(x: Array, w: Array, params: ConvParams) -> Size:
    """Raise unless x (N, *S, C) and w (*K, C/groups, F) fit each other and `params`: `y_shape`."""
    check_arrays(params, x, w)
    return y_shape(x.shape, w.shape, params)


def check_backward(x: Array, w: Array, dy: Array, params: ConvParams) -> None:
    """Raise unless x, w and dy (N, *O, F) fit each other and `params`."""
    check_arrays(params, x, w, dy)
    check_dy(x.shape, w.shape, dy.shape, params)


def check_arrays(params: ConvParams, x: Array, w: Array, dy: Array | None = None) -> None:
    """Raise unless all are plain arrays of numbers, of one type; nothing is asked of shapes."""
    last = w if dy is None else dy
    are_plain = type(params) is ConvParams and type(x) is type(w) is type(last) is np.ndarray
    if are_plain and x.dtype is w.dtype is last.dtype and x.dtype in _USUAL:
        return
    _check_params(params)
    _check_numbers("x", x)
    others = {"w": w} if dy is None else {"w": w, "dy": dy}
    for name, array in others.items():
        _check_numbers(name, array)
        _check_same_dtype(x, name, array)


def check_dy(x_shape: Size, w_shape: Size, dy_shape: Size, params: ConvParams) -> None:
    """Raise unless they fit each other and `params`, dy being (N, *O, F)."""
    want = y_shape(x_shape, w_shape, params)
    if dy_shape != want:
        raise ValueError(
            f"dy.shape={dy_shape}: must be (N, *O, F) = {want}, the shape of y for "
            f"x.shape={x_shape}, w.shape={w_shape}, {params}"
        )


@lru_cache(maxsize=4096)
def y_shape(x_shape: Size, w_shape: Size, params: ConvParams) -> Size:
    """(N, *O, F) for x (N, *S, C) and w (*K, C/groups, F); ValueError where these do not fit."""
    for name, shape, layout in (("x", x_shape, "(N, *S, C)"), ("w", w_shape, "(*K, C/groups, F)")):
        if len(shape) != params.rank + 2:
            raise ValueError(
                f"{name}.shape={shape}: has {_axes(len(shape))}, but params of rank "
                f"{params.rank} (stride={params.stride}) need {params.rank + 2}: {layout}"
            )
    channels, groups = x_shape[-1], params.groups
    if channels % groups:
        raise ValueError(
            f"groups={groups}: must divide the input channels C={channels} (x.shape={x_shape}); "
            f"allowed {_divisors(channels)}"
        )
    if w_shape[-2] != channels // groups:
        raise ValueError(
            f"w.shape={w_shape}: axis -2 must be C / groups = {channels} / {groups} = "
            f"{channels // groups} for x.shape={x_shape}, not {w_shape[-2]}; w is (*K, C/groups, F)"
        )
    if w_shape[-1] % groups:
        raise ValueError(
            f"groups={groups}: must divide the output channels F={w_shape[-1]} "
            f"(w.shape={w_shape}); allowed {_divisors(math.gcd(w_shape[-1], channels))}"
        )
    return (x_shape[0], *output_size(x_shape[1:-1], w_shape[:-2], params), w_shape[-1])


def check_bias(b: Array, w: Array) -> None:
    """Raise unless b is (F,) for w (*K, C/groups, F), of w's dtype."""
    _check_numbers("b", b)
    _check_same_dtype(w, "b", b, of="w")
    if b.shape != w.shape[-1:]:
        raise ValueError(
            f"b.shape={b.shape}: must be (F,) = {w.shape[-1:]} for w.shape={w.shape}; "
            "for no bias pass b=None"
        )


def array_literal(array: Array | None) -> str:
    """A NumPy expression that makes `array` again, value for value, with the same strides."""
    if array is None:
        return "None"
    dtype = repr(array.dtype.name)
    if array.size == 0:
        return f"np.zeros({array.shape}, {dtype})"
    if array.dtype != object and (strides := strides_of(array)) is not None:
        memory = array_literal(memory_of(array, strides))
        start = extent(array.shape, strides)[1] * array.itemsize
        return f"np.ndarray({array.shape}, {dtype}, {memory}, {start}, {array.strides})"
    equal = array.dtype != object and array.tobytes() == array.ravel()[:1].tobytes() * array.size
    if array.size > _LONG and equal:
        return f"np.full({array.shape}, {_number_literal(array.flat[0])}, {dtype})"
    return f"np.array({_nested_literal(array)}, {dtype})"


def _nested_literal(array: Array) -> str:
    if array.ndim == 0:
        return _number_literal(array[()])
    return "[" + ", ".join(_nested_literal(np.asarray(part)) for part in array) + "]"


def _number_literal(value: Any) -> str:
    if isinstance(value, Fraction):
        return f"Fraction({value.numerator}, {value.denominator})"
    if isinstance(value, np.longdouble) and np.dtype(np.longdouble) != np.dtype(np.float64):
        return repr(str(value))  # a Python float would round it
    if not isinstance(value, (int, np.integer)):  # bfloat16 is no np.floating
        number = float(value)
        if not math.isfinite(number):
            return f"float('{number}')"
        is_short = number.is_integer() and abs(number) < 2**53 and str(number) != "-0.0"
        return str(int(number)) if is_short else repr(number)
    return str(value)


def _check_params(params: object) -> None:
    if not isinstance(params, ConvParams):
        raise TypeError(f"params={params!r}: must be a ConvParams, got {type(params).__name__}")


def _check_numbers(name: str, array: Array) -> None:
    is_plain = type(array) is np.ndarray  # as nearly all are
    if not is_plain and (
        not isinstance(array, np.ndarray) or isinstance(array, (np.ma.MaskedArray, np.matrix))
    ):
        raise TypeError(
            f"{name}={array!r:.60}: must be a plain NumPy array, got {type(array).__name__}; "
            f"np.asarray({name}, dtype) makes one"
        )
    kind = array.dtype.kind
    numeric = kind in "iuf" or array.dtype.name == "bfloat16"
    numeric = numeric or (kind == "O" and all(_is_real(value) for value in array.flat))
    if not numeric:
        raise TypeError(
            f"{name}.dtype={array.dtype}: must be a real number type (float16, bfloat16, float32, "
            "float64, longdouble, an integer, or objects that are all int or Fraction); "
            f"{name}.astype(np.float64) makes one of most"
        )
    if not array.dtype.isnative:
        raise TypeError(
            f"{name}.dtype={array.dtype!r}: must be in this machine's byte order; "
            f"{name}.astype({name}.dtype.newbyteorder('=')) makes it so"
        )


def _is_real(value: object) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, (bool, np.bool_))


def _check_same_dtype(reference: Array, name: str, array: Array, of: str = "x") -> None:
    if array.dtype != reference.dtype:
        raise TypeError(
            f"{name}.dtype={array.dtype}: must be {of}'s dtype {reference.dtype}, all arrays of a "
            f"problem share one; convert it or {of} with astype"
        )


def _integer(name: str, value: object) -> int:
    if isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name}={value!r}: must be an int, not a bool")
    try:
        return operator.index(value)  # type: ignore[arg-type]  # what else it is, is asked here
    except TypeError:
        raise TypeError(f"{name}={value!r}: must be an int, got {type(value).__name__}") from None


def _entries(name: str, value: object, form: str) -> tuple[object, ...]:
    if not isinstance(value, (tuple, list, np.ndarray)) or _is_one(value):
        raise TypeError(
            f"{name}={value!r}: must be a tuple with {form} per spatial axis; short forms of "
            "parameters are worked out by ConvParams.of(x.shape, w.shape, ...)"
        )
    return tuple(value)


def _sizes(name: str, value: object, *, least: int) -> Size:
    sizes = tuple(_integer(name, entry) for entry in _entries(name, value, "one int"))
    if any(size < least for size in sizes):
        raise ValueError(f"{name}={sizes}: every entry must be at least {least}")
    return sizes


def _pairs(name: str, value: object) -> Padding:
    pairs = []
    for entry in _entries(name, value, "one (lo, hi) pair"):
        pair = tuple(entry) if isinstance(entry, (tuple, list, np.ndarray)) else ()
        if len(pair) != 2:
            raise ValueError(
                f"{name}={value!r}: must be one (lo, hi) pair of ints per spatial axis, "
                "for example ((1, 1), (0, 2))"
            )
        lo, hi = (_integer(name, cells) for cells in pair)
        if lo < 0 or hi < 0:
            raise ValueError(
                f"{name}={value!r}: no entry may be negative; to crop the input, slice x"
            )
        pairs.append((lo, hi))
    return tuple(pairs)


def _per_axis(name: str, value: object, rank: int) -> tuple[Any, ...]:
    return (value,) * rank if _is_one(value) else _entries(name, value, "one entry")


def _is_one(value: object) -> bool:
    """Whether `value` is a single number, a NumPy array of no axes included."""
    if isinstance(value, (tuple, list)):
        return False
    return isinstance(value, numbers.Number) or (isinstance(value, np.ndarray) and value.ndim == 0)


def _axes(count: int) -> str:
    return "1 axis" if count == 1 else f"{count} axes"


def _divisors(number: int) -> str:
    return ", ".join(str(d) for d in range(1, number + 1) if number % d == 0) or "any"
