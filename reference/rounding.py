"""How far from the right answer a rightly computed one can be, element by element.

Every result is a sum of products: of x and w for y, of dy and w for dX, of x and dy for dW, of dy
alone for db. Whatever the order in which n products, each rounded, are summed in a format of unit
roundoff u, the sum is off by at most gamma_n * S, with gamma_n = n u / (1 - n u) and S the same sum
of absolute values (Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., sections 3.1
and 4.2; a product that is zero rounds nothing and is not counted, nor is a tap in the padding). A
multiplication or an addition whose result underflows loses at most the least normal number more,
also where a processor flushes it to zero. What is summed in one format and stored in a narrower one
is rounded once more. On integers nothing is rounded as long as S is at most 2^p, p the precision:
every partial sum is an integer that the format holds, so there the bound is zero. Factors that are
first cut to p bits are each off by 2^(1-p) of themselves at most, rounded or truncated, which adds
((1 + 2^(1-p))^2 - 1) S, and nothing where they have no more bits.

An element that a product with NaN or Inf reaches is NaN or Inf whatever the order: it must be that
very value. One that no such product reaches is what it would be with zeros in their place.

What is beyond the largest number of the format that it is stored in is Inf, which stands for 2^e,
the first number that a format of more exponents would have there, and for all beyond. A partial sum
may be as large as all positive products together, and is off by ((1 + u)^n - 1) S at most: where
that is too large for the format of the sums, Inf is right too, and so is -Inf for the negative
ones, and NaN where both are. Of an element whose S is too large for float64 nothing is claimed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from types import MappingProxyType
from typing import Any

import numpy as np

from reference.conv import conv_backward, conv_forward
from reference.problem import Array, ConvGrads, ConvProblem

RESULTS = ("dx", "dw", "db", "y")


@dataclass(frozen=True)
class Format:
    """A binary floating-point format.

    `precision` counts significant bits, the implicit one included; `tiny` is the least positive
    normal number, `largest` the largest finite one.
    """

    precision: int
    tiny: float
    largest: float

    @property
    def unit(self) -> float:
        """The unit roundoff: half the distance from 1 to the next number, 2^-precision."""
        return 2.0**-self.precision

    @property
    def maxexp(self) -> int:
        """The e of 2^e, the least power of two that is too large, as in `numpy.finfo`."""
        return math.frexp(self.largest)[1]


FORMATS = MappingProxyType(
    {
        "float16": Format(11, 2.0**-14, 65504.0),
        "bfloat16": Format(8, 2.0**-126, (2 - 2.0**-7) * 2.0**127),
        "float32": Format(24, 2.0**-126, (2 - 2.0**-23) * 2.0**127),
        "float64": Format(53, 2.0**-1022, (2 - 2.0**-52) * 2.0**1023),
    }
)
FACTORS = MappingProxyType(  # what matrix units round float32 to before they multiply
    {"tfloat32": Format(11, 2.0**-126, (2 - 2.0**-10) * 2.0**127), "bfloat16": FORMATS["bfloat16"]}
)
ACCUMULATION = MappingProxyType(  # the least that sums must be computed in, where nothing is said
    {"float16": "float32", "bfloat16": "float32", "float32": "float32", "float64": "float64"}
)
_DOUBLE = FORMATS["float64"].unit
_MOST_COUNTED = 2.0**53 - 1  # S is summed in float64, and up to here only rightly


def _never(name: str, where: Array, signs: Array) -> Array:
    del name, where
    return np.zeros(signs.shape, bool)


@dataclass(frozen=True, eq=False)
class Expected:
    """What an answer to `problem`, which holds finite numbers only, must be.

    `want` holds the right results in higher precision, and NaN and Inf where they belong, `allowed`
    the most that each element may be off (0: it must be equal, NaN where that is NaN). All have the
    shapes of x, w, b and dy; db is None without a bias. `overflows`, given the name
    of a result, where answers are no finite numbers, and their signs in a row, NaN for NaN, says
    whether a partial sum may come to that.
    """

    want: ConvGrads
    allowed: ConvGrads
    problem: ConvProblem
    overflows: Callable[[str, Array, Array], Array] = _never

    @cached_property
    def sums(self) -> ConvGrads:
        """The sums of absolute products S."""
        return absolute_sums(self.problem)

    def wrong(self, name: str, got: Array) -> Array:
        """Where `got`, an answer for result `name`, is further off than it may be, or NaN."""
        allowed: Array = getattr(self.allowed, name)
        want: Array = getattr(self.want, name)
        if want.dtype != object and np.array_equal(got.astype(want.dtype), want):
            return np.zeros(want.shape, bool)
        with np.errstate(invalid="ignore"):  # comparing objects that are NaN raises a flag
            return np.logical_not(self.error(name, got) <= allowed)

    def error(self, name: str, got: Array) -> Array:
        """|got - want|, in the higher precision; NaN where that is infinite or no number.

        It is 0 where both are NaN, or the same Inf, and where a sum may overflow to what `got` is.
        """
        want: Array = getattr(self.want, name)
        error: Array
        if want.dtype != object:
            with np.errstate(all="ignore"):
                error = np.abs(got.astype(want.dtype) - want)
            finite = np.isfinite(error)
        else:
            finite = np.isfinite(got.astype(np.float64)) & ~_is_special(want)
            error = np.full(got.shape, np.nan, object)
            error[finite] = np.abs(as_rationals(got[finite]) - want[finite])
        if not finite.all():
            error[~finite] = np.where(self._may_be(name, got, ~finite), 0, np.nan)
        return error

    def is_infinite(self, name: str) -> Array:
        """Where a result is finite, but so large that no answer may be."""
        want = getattr(self.want, name)
        if (stored := FORMATS.get(self.problem.dtype.name)) is None:
            return np.zeros(want.shape, bool)
        size = np.where(_is_special(want), 0, abs(want))
        with np.errstate(over="ignore"):
            return np.asarray(size > stored.largest + getattr(self.allowed, name), bool)

    def _may_be(self, name: str, got: Array, where: Array) -> Array:
        """Whether `got` is right, or may be, `where` it or what it should be is no finite number.

        Of these elements in a row.
        """
        values, want = got[where].astype(np.float64), getattr(self.want, name)[where]
        special = _is_special(want)
        right = np.where(special, want, 0).astype(np.float64)
        is_same = (values == right) | (np.isnan(values) & np.isnan(right))
        may_overflow = self._may_overflow(name, values, np.where(special, 0, want), where)
        return np.asarray(np.where(special, is_same, may_overflow))

    def _may_overflow(self, name: str, values: Array, want: Array, where: Array) -> Array:
        """Whether a result, or a partial sum of it, may be too large, and so come to `values`."""
        signs = np.sign(values)
        if (stored := FORMATS.get(self.problem.dtype.name)) is None:
            return np.zeros(signs.shape, bool)
        too_large: Any = 2**stored.maxexp
        if want.dtype != object:
            too_large = np.ldexp(want.dtype.type(1), stored.maxexp)
        allowed = getattr(self.allowed, name)[where]
        off = too_large - np.where(signs < 0, -want, want)
        is_beyond = ~np.isnan(signs) & (off <= np.where(np.isinf(allowed), 0, allowed))
        return np.asarray(is_beyond | self.overflows(name, where, signs), bool)

    def ratios(self, name: str, got: Array) -> Array:
        """Error / allowed, in float64, of those elements of `got` that need not be equal."""
        allowed: Array = getattr(self.allowed, name)
        if not allowed.any():
            return np.empty(0)
        rounded = (allowed > 0) & np.isfinite(allowed)
        ratios: Array = as_doubles(self.error(name, got)[rounded]) / allowed[rounded]
        return ratios

    def bits(self, name: str, got: Array, precision: int) -> int:
        """How many bits of the mantissa `got` carries: 2^-bits of S is as far as it is off."""
        error = as_doubles(self.error(name, got))
        with np.errstate(divide="ignore", invalid="ignore"):
            relative = np.where(error == 0, 0, error / getattr(self.sums, name))
        worst = float(np.max(relative, initial=0))
        if not math.isfinite(worst):
            return 0
        return min(max(0, math.floor(-math.log2(worst))), precision) if worst else precision


def expect(
    problem: ConvProblem,
    accumulation: str | None = None,
    *,
    factors: str | None = None,
    conventional: bool = True,
) -> Expected:
    """What `problem` has for an answer if sums are in format `accumulation`.

    `factors` names the format of `FACTORS` that x, w and dy are cut to before they are multiplied.

    The right results are computed in float64, those of float64 in longdouble, or in rational
    arithmetic where that is no wider. None of the data may be subnormal: a processor that takes
    such numbers for zeros does so before it multiplies.

    Sums that are not `conventional` but Winograd's or Fourier's have errors relative to a whole
    sample: S is replaced by the product of the operands' Euclidean norms, which it never exceeds, n
    by the number of cells and taps that a transform can mix, and integers are rounded too (Higham,
    section 24.1; Barabasz et al., Error Analysis and Improving the Accuracy of Winograd
    Convolution, 2020).
    """
    if problem.dtype.name not in FORMATS:  # integers, rationals: nothing is rounded
        want = _of(problem, lambda array: array)
        return Expected(want, _each(_zeros, want), problem)
    if not is_finite(problem):
        finite = expect(
            finite_part(problem), accumulation, factors=factors, conventional=conventional
        )
        rule = _of(problem, _signs)
        want = with_special_values(finite.want, rule)
        near = _each(_none_if_special, finite.allowed, rule)
        return Expected(want, near, finite.problem, finite.overflows)
    stored = FORMATS[problem.dtype.name]
    summed = FORMATS[accumulation or ACCUMULATION[problem.dtype.name]]
    want, unit_of_want = _in_higher_precision(problem)
    integral = conventional and _is_integral(problem)
    cut = _cut(problem, factors)
    most = _most(min(stored.precision, summed.precision))
    is_whole = integral and (factors is None or _largest_of(cut) == 0)
    if is_whole and _sums_are_at_most(most, problem):
        return Expected(want, _each(_zeros, want), problem)
    counts = _of(problem, lambda array: (array != 0).astype(np.float64))
    if conventional:
        magnitudes = absolute_sums(problem)
    else:
        magnitudes, counts = _norms(problem), _each(lambda n: n + _transform_size(problem), counts)

    def overflows(name: str, where: Array, signs: Array) -> Array:
        right, upper, count = (getattr(one, name)[where] for one in (want, magnitudes, counts))
        with np.errstate(over="ignore", invalid="ignore"):
            right = as_doubles(right)
            toward = np.where(np.isnan(signs), -np.abs(right), signs * right)
            upper = upper * (1 + gamma(count + 8, _DOUBLE))
            one_way = upper / 2 + toward / 2 if conventional else upper
            off = np.expm1(count * np.log1p(summed.unit)) * upper
            return np.asarray(np.isinf(upper) | (one_way + off > summed.largest))

    def allowed(right: Array, magnitude: Array, count: Array, cut: Array) -> Array:
        upper = magnitude * (1 + gamma(count + 8, _DOUBLE))  # it and this formula are rounded too
        off = (gamma(count, summed.unit) + gamma(count, unit_of_want)) * upper
        off += 2 * count * summed.tiny
        if cut:
            off += cut * (1 + gamma(count, summed.unit)) * upper
        if integral and not cut:
            off[magnitude <= _most(summed.precision)] = 0
        if stored.precision < summed.precision:
            size = np.abs(as_doubles(right))
            fits = (off == 0) & integral & (size <= 2.0**stored.precision)
            flushed = (count > 0) & (size < 2 * stored.tiny + off)
            rounded = stored.unit * (size * (1 + 2 * _DOUBLE) + off)
            off += np.where(fits, 0, rounded + stored.tiny * flushed)
        return np.asarray(off)

    with np.errstate(over="ignore"):  # infinite: anything finite is near enough
        return Expected(want, _each(allowed, want, magnitudes, counts, cut), problem, overflows)


def _cut(problem: ConvProblem, factors: str | None) -> ConvGrads:
    """How far off the products of each result are, of themselves, if their factors are cut."""
    if factors is None:
        return _NOTHING_CUT
    precision = FACTORS[factors].precision
    x, w, dy = (_cut_off(array, precision) for array in (problem.x, problem.w, problem.dy))
    products = ((1 + a) * (1 + b) - 1 for a, b in ((dy, w), (x, dy), (dy, 0.0), (x, w)))
    return ConvGrads(*map(np.asarray, products))


_NOTHING_CUT = ConvGrads(*(np.zeros(()) for _ in RESULTS))


def _cut_off(array: Array, precision: int) -> float:
    """The most that an element, cut to so many bits, is off, of itself; 0 if none has more."""
    scaled = np.ldexp(np.frexp(array.astype(np.float64))[0], precision)
    return 2.0 ** (1 - precision) if (scaled != np.rint(scaled)).any() else 0.0


def _most(precision: int) -> float:
    """The largest S for which a format of that precision holds every partial sum of integers."""
    return min(2.0**precision, _MOST_COUNTED)


def gamma(count: Array, unit: float) -> Array:
    """n u / (1 - n u) for each number of roundings n; infinite where n u reaches 1."""
    small = np.minimum(count * unit, 1.0)
    with np.errstate(divide="ignore"):
        return np.asarray(small / (1 - small))


def absolute_sums(problem: ConvProblem) -> ConvGrads:
    """S of every element: the results of `problem` with absolute values, in float64."""
    return _of(problem, lambda array: np.abs(array.astype(np.float64)))


def upper_bounds(problem: ConvProblem) -> dict[str, float]:
    """What S of no element of each result exceeds: quicker to know than the largest."""
    x, w, b, dy = map(largest_in, (problem.x, problem.w, problem.b, problem.dy))
    filters = problem.w.shape[-1]
    of_dx = math.prod(problem.kernel) * filters // problem.params.groups
    of_dw = problem.dy.size // max(1, filters)
    of_y = math.prod(problem.w.shape[:-1])
    return {"dx": of_dx * dy * w, "dw": of_dw * x * dy, "db": of_dw * dy, "y": of_y * x * w + b}


def _sums_are_at_most(most: float, problem: ConvProblem) -> bool:
    """Whether S of no element exceeds it; S is worked out only where that is not plain to see."""
    if max(upper_bounds(problem).values()) <= most:
        return True
    return _largest_of(absolute_sums(problem)) <= most


def largest_in(array: Array | None) -> float:
    """The largest absolute value in `array`; 0 in none."""
    return 0.0 if array is None else float(np.max(np.abs(array), initial=0))


def is_finite(problem: ConvProblem) -> bool:
    """Whether there is no NaN and no Inf in the arrays of `problem`, which are of a float type."""
    arrays = (problem.x, problem.w, problem.b, problem.dy)
    return all(bool(np.isfinite(array).all()) for array in arrays if array is not None)


def finite_part(problem: ConvProblem) -> ConvProblem:
    """`problem` with zeros in the place of NaN and Inf."""
    return _changed(problem, lambda array: np.where(np.isfinite(array), array, array.dtype.type(0)))


def signs_of(problem: ConvProblem) -> ConvProblem:
    """`problem` in float64, with the signs of its numbers, and its NaN and Inf.

    Its results are NaN and Inf where those of `problem` are, and no others: no sum overflows.
    """
    return _changed(problem, _signs)


def with_special_values(finite: ConvGrads, rule: ConvGrads) -> ConvGrads:
    """`finite` with the NaN and Inf of `rule`."""

    def merged(array: Array, of_rule: Array) -> Array:
        return np.asarray(np.where(np.isfinite(of_rule), array, of_rule))

    return _each(merged, finite, rule)


def _none_if_special(allowed: Array, rule: Array) -> Array:
    return np.asarray(np.where(np.isfinite(rule), allowed, 0))


def _signs(array: Array) -> Array:
    array = array.astype(np.float64)
    return np.where(np.isfinite(array), np.sign(array), array)


def _changed(problem: ConvProblem, change: Callable[[Array], Array]) -> ConvProblem:
    x, w, dy = map(change, (problem.x, problem.w, problem.dy))
    return ConvProblem(x, w, None if problem.b is None else change(problem.b), dy, problem.params)


def _is_special(want: Array) -> Array:
    """Where right results are NaN or Inf."""
    if want.dtype != object:
        return ~np.isfinite(want)
    return np.asarray(np.frompyfunc(lambda value: isinstance(value, float), 1, 1)(want), bool)


def as_rationals(array: Array) -> Array:
    """`array` as Python ints where it holds integers, else as Fractions: exact either way."""
    values = np.empty(array.shape, object)
    for index in np.ndindex(array.shape):
        value: Any = array[index]
        if not hasattr(value, "as_integer_ratio"):  # bfloat16
            value = float(value)
        fraction = Fraction(*value.as_integer_ratio())
        values[index] = fraction.numerator if fraction.denominator == 1 else fraction
    return values


def as_doubles(array: Array) -> Array:
    """`array` in float64; what is too large is Inf, also of rationals."""
    if array.dtype != object:
        with np.errstate(over="ignore"):
            return array.astype(np.float64)

    def double(value: Any) -> float:
        try:
            return float(value)
        except OverflowError:
            return math.inf if value > 0 else -math.inf

    return np.asarray(np.frompyfunc(double, 1, 1)(array), np.float64)


def _in_higher_precision(problem: ConvProblem) -> tuple[ConvGrads, float]:
    """The right results, and the unit roundoff with which they were computed."""
    if problem.dtype != np.float64:
        return _of(problem, lambda array: array.astype(np.float64)), _DOUBLE
    bits = np.finfo(np.longdouble).nmant + 1
    if bits > FORMATS["float64"].precision:
        return _of(problem, lambda array: array.astype(np.longdouble)), 2.0**-bits
    return _of(problem, as_rationals), 0.0


def _of(problem: ConvProblem, change: Callable[[Array], Array]) -> ConvGrads:
    """The results of `problem` with its arrays changed."""
    x, w, dy = map(change, (problem.x, problem.w, problem.dy))
    grads = conv_backward(x, w, dy, problem.params)
    if problem.b is None:
        return ConvGrads(grads.dx, grads.dw, None, conv_forward(x, w, None, problem.params))
    y = conv_forward(x, w, change(problem.b), problem.params)
    return ConvGrads(grads.dx, grads.dw, grads.db, y)


def _each(make: Callable[..., Array], *operands: ConvGrads) -> ConvGrads:
    """`make` of the operands' dx, of their dw, and so on."""
    dx, dw, y = (make(*(getattr(one, name) for one in operands)) for name in ("dx", "dw", "y"))
    first = operands[0]
    return ConvGrads(dx, dw, None if first.db is None else make(*(one.db for one in operands)), y)


def _zeros(like: Array) -> Array:
    return np.zeros(like.shape)


def _is_integral(problem: ConvProblem) -> bool:
    arrays = (problem.x, problem.w, problem.b, problem.dy)
    return all(bool((array == np.rint(array)).all()) for array in arrays if array is not None)


def _largest_of(grads: ConvGrads) -> float:
    return max(map(largest_in, (grads.dx, grads.dw, grads.db, grads.y)))


def _norms(problem: ConvProblem) -> ConvGrads:
    """For each result a product of Euclidean norms that no sum of absolute products exceeds."""
    x, w, dy = (array.astype(np.float64) for array in (problem.x, problem.w, problem.dy))
    of_sample = tuple(range(1, x.ndim))
    bias = 0.0 if problem.b is None else np.abs(problem.b.astype(np.float64))
    with np.errstate(over="ignore"):  # infinite: it is not exceeded either
        return ConvGrads(
            np.broadcast_to(_norm(dy, of_sample) * _norm(w), x.shape),
            np.broadcast_to(_norm(x) * _norm(dy), w.shape),
            None if problem.b is None else np.abs(dy).sum(axis=tuple(range(dy.ndim - 1))),
            np.broadcast_to(_norm(x, of_sample) * _norm(w), dy.shape) + bias,
        )


def _norm(array: Array, axes: tuple[int, ...] | None = None) -> Array:
    """Euclidean norms over `axes`, kept; scaled, so that no square over- or underflows."""
    largest = np.max(np.abs(array), axis=axes, keepdims=True, initial=0)
    exponent = np.frexp(largest)[1]
    squares = np.ldexp(array, -exponent) ** 2
    norms: Array = np.ldexp(np.sqrt(np.sum(squares, axis=axes, keepdims=True)), exponent)
    return norms


def _transform_size(problem: ConvProblem) -> int:
    """The most cells and taps that one transform of a sample can mix."""
    padded = (size + lo + hi for size, (lo, hi) in zip(problem.spatial, problem.params.padding))
    return math.prod(padded) + math.prod(problem.kernel)
