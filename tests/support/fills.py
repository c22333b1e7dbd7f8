"""What the arrays of a problem hold: integers that no sum rounds, or reals over all magnitudes.

Every array is made from bytes, one an element, so that Hypothesis can shrink it: the byte 0 is the
number 0, the next ones are small integers. Integers are thinned out until S, the sum of absolute
products of each result, is at most 2^p: then every partial sum is an integer that a format of
precision p holds, in whatever order it is summed. That bound, and nothing guessed, is what makes
them exact.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import ml_dtypes  # noqa: F401  # makes NumPy know bfloat16
import numpy as np

from reference.conv import conv_backward, conv_forward
from reference.problem import Array, ConvParams, ConvProblem
from reference.rounding import ACCUMULATION, FORMATS, absolute_sums, largest_in, upper_bounds

ARRAYS = ("x", "w", "b", "dy")
WIDE = ("x", "w", "dy")
OPERANDS = MappingProxyType(  # of each result, those of the fewest operands first
    {"db": ("dy",), "dw": ("x", "dy"), "dx": ("dy", "w"), "y": ("x", "w", "b")}
)
SHARES = (2, 4, 64)
STYLES = ("unit", "mixed", "cancelling", "tiny", "huge")
MODEST = tuple(style for style in STYLES if style != "huge")
RETURNING = "returning"  # for who sums float16 in float32

_SMALL = np.array([0, 1, -1, 2, -2, 3, -3, 4, -4])
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio, odd: Knuth's multiplicative hash

Seeds = dict[str, Array]
"""A byte for each element of x, w, dy and, where there is a bias, b."""


def small_integers(seeds: Seeds, params: ConvParams, dtype: str) -> ConvProblem:
    """Integers from -4 to 4, thinned out where the format needs it."""
    problem = _problem(seeds, params, lambda name: small_values(seeds[name]))
    return _as_type(thinned(problem, ARRAYS, 2 ** FORMATS[dtype].precision), dtype)


def small_values(seeds: Array) -> Array:
    """An integer from -4 to 4 for each byte."""
    values: Array = _SMALL[seeds % len(_SMALL)]
    return values


def wide_integers(
    seeds: Seeds, params: ConvParams, dtype: str, wide: str, share: int
) -> ConvProblem:
    """Odd integers as wide as they can be in the array `wide`, in the others -1, 0 and 1.

    A kernel that takes its inputs, or sums, in a narrower format cannot hold these. All but 1 in
    `share` of the bits are theirs, which leaves the others for sums: the arrays are thinned out
    until there are that few terms. For a share of 2 there are more than bfloat16, TF32 and float16
    have, and float32 of float64; for 4 more than two bfloat16 halves, which hold 17 of 24 bits. For
    64 there are all, and sums of one product: two halves in TF32 or float16 hold 23.
    """
    precision = FORMATS[dtype].precision
    thin = tuple(name for name in ARRAYS if name != wide or name == "dy")  # which db is a sum of
    signs = _problem(seeds, params, lambda name: _SMALL[seeds[name] % 3])
    most = 2 ** (precision // share)
    if most == 1 and signs.b is not None:
        signs = replace(signs, b=0 * signs.b)
    signs, largest = _thinned(signs, thin, most)
    terms = max(1.0, *largest.values())
    width = precision - math.ceil(math.log2(terms))
    magnitudes = (_hash(seeds[wide], wide) >> np.uint64(64 - width)) | np.uint64(1)
    magnitudes = np.where(seeds[wide] < len(_SMALL), 1, magnitudes.astype(np.float64))
    return _as_type(replace(signs, **{wide: getattr(signs, wide) * magnitudes}), dtype)


def reals(seeds: Seeds, params: ConvParams, dtype: str, style: str) -> ConvProblem:
    """Numbers with all bits of the mantissa, none subnormal, of which no partial sum overflows.

    `style` is "unit" (all between 1 and 2), "mixed" (exponents over a wide range), "cancelling"
    (sums of numbers that nearly cancel), "tiny" (products near the least normal number) or "huge"
    (sums near the largest number). "returning" is for sums in a format of more exponents only: the
    first sample brings dW beyond the largest number, the second brings it back.
    """
    stored, summed = FORMATS[dtype], FORMATS[ACCUMULATION[dtype]]
    tiny = max(stored.tiny, summed.tiny)
    span = 3 if dtype == "float16" else 10

    def values(name: str) -> Array:
        hashed = _hash(seeds[name], name)
        bits = np.uint64(stored.precision - 1)
        fraction = (hashed >> np.uint64(1)) >> (np.uint64(63) - bits)
        if style == "cancelling":
            fraction %= np.uint64(4)
        mantissa = 1 + fraction.astype(np.float64) * 2.0 ** -float(bits)
        if style == "mixed":
            mantissa = np.ldexp(mantissa, (hashed % np.uint64(2 * span + 1)).astype(int) - span)
        signed = np.where(hashed & np.uint64(1 << 20), mantissa, -mantissa)
        return np.where(seeds[name] < len(_SMALL), small_values(seeds[name]), signed)

    problem = _problem(seeds, params, values)
    if style == RETURNING:
        return _as_type(_returning(problem, stored.largest), dtype, tiny=stored.tiny)
    if style == "tiny":
        return _as_type(_scaled(problem, math.ceil(math.log2(tiny) / 2)), dtype)
    room = math.log2(min(stored.largest, summed.largest)) - 1
    if style == "huge" or _room(upper_bounds(problem), problem, room) < 0:
        exponent = math.floor(_room(_largest_sums(problem), problem, room))
        if style == "huge" or exponent < 0:
            problem = _scaled(problem, exponent)
    return _as_type(problem, dtype, tiny=stored.tiny)


def _room(sums: Mapping[str, float], problem: ConvProblem, room: float) -> float:
    """The binary exponent that x, w and dy can be scaled by for no sum to be above 2^`room`."""
    largest = max(1.0, *sums.values(), largest_in(problem.b))
    of_dy = np.abs(problem.dy).sum(axis=tuple(range(problem.dy.ndim - 1)))  # scaled once, not twice
    return min((room - math.log2(largest)) / 2, room - math.log2(np.max(of_dy, initial=1)))


def _returning(problem: ConvProblem, largest: float) -> ConvProblem:
    """`problem` with dW up to twice `largest` after one sample, and half of that after two."""
    if len(problem.x) < 2:
        return problem
    x, dy = np.abs(problem.x), np.abs(problem.dy)
    x[1:2], dy[1:2], x[2:] = -x[:1] / 2, dy[:1], 0
    problem = replace(problem, x=x, dy=dy)
    sums = absolute_sums(problem)
    of_dw = math.floor(math.log2(2 * largest / max(1.0, largest_in(sums.dw) / 1.5)))
    of_db = math.floor(math.log2(largest / max(1.0, largest_in(sums.db))))
    of_dy = min(of_dw // 2, of_db)
    of_x = min(of_dw - of_dy, math.floor(math.log2(largest / max(1.0, largest_in(x)))))
    most = max(1.0, largest_in(sums.dx) * 2.0**of_dy, largest_in(sums.y) * 2.0**of_x)
    of_w = min(0, math.floor(math.log2(largest / most)) - 1)
    x, w, dy = (np.ldexp(a, e) for a, e in ((x, of_x), (problem.w, of_w), (dy, of_dy)))
    return replace(problem, x=x, w=w, dy=dy)


def thinned(problem: ConvProblem, names: tuple[str, ...], most: float) -> ConvProblem:
    """`problem` with as many zeros in the arrays `names` as it takes for every S to be <= `most`.

    Only the operands of a sum that is too large are thinned out, so that the other results keep
    their sums. The first element of each array is kept.
    """
    is_small = max(upper_bounds(problem).values()) < most
    return problem if is_small else _thinned(problem, names, most)[0]


def _thinned(
    problem: ConvProblem, names: tuple[str, ...], most: float
) -> tuple[ConvProblem, dict[str, float]]:
    """The same, and what S of no element of each result exceeds: the largest, mostly.

    Zeros make no S larger, so what is small enough stays so.
    """
    bits = dict.fromkeys(names, 0)
    found: dict[str, float] = {}
    for sums_of in (_largest_of_db, _largest_of_grads, _largest_of_y):
        while True:
            largest = sums_of(problem)
            name = next((name for name, one in largest.items() if one > most), None)
            if name is None:
                break
            operands = [operand for operand in OPERANDS[name] if operand in names]
            further = math.floor(math.log2(largest[name] / most)) // len(operands)
            for operand in operands:
                bits[operand] += max(1, further)
                assert bits[operand] < 64, "one product is more than the format can hold"
                problem = _without(problem, operand, bits[operand])
        found |= largest
    return problem, found


def _without(problem: ConvProblem, name: str, bits: int) -> ConvProblem:
    """`problem` with 1 in 2^`bits` of the elements of `name` kept, the others zero."""
    array = getattr(problem, name)
    if array is None or not bits:
        return problem
    places = np.arange(array.size, dtype=np.uint64).reshape(array.shape) * _GOLDEN
    kept = (places >> np.uint64(20)) & np.uint64(2**bits - 1) == 0
    changed: dict[str, Any] = {name: np.where(kept, array, 0)}
    return replace(problem, **changed)


def _largest_sums(problem: ConvProblem) -> dict[str, float]:
    """The largest S of each result."""
    return _largest_of_db(problem) | _largest_of_grads(problem) | _largest_of_y(problem)


def _largest_of_db(problem: ConvProblem) -> dict[str, float]:
    axes = tuple(range(problem.dy.ndim - 1))
    return {"db": 0 if problem.b is None else largest_in(np.abs(problem.dy).sum(axis=axes))}


def _largest_of_grads(problem: ConvProblem) -> dict[str, float]:
    x, w, dy = map(np.abs, (problem.x, problem.w, problem.dy))
    grads = conv_backward(x, w, dy, problem.params)
    return {"dw": largest_in(grads.dw), "dx": largest_in(grads.dx)}


def _largest_of_y(problem: ConvProblem) -> dict[str, float]:
    b = None if problem.b is None else np.abs(problem.b)
    y = conv_forward(np.abs(problem.x), np.abs(problem.w), b, problem.params)
    return {"y": largest_in(y)}


def _hash(seeds: Array, name: str) -> Array:
    """64 bits that depend on an element's byte and place, and on the array."""
    places = np.arange(seeds.size, dtype=np.uint64).reshape(seeds.shape)
    mixed = (places * np.uint64(4) + np.uint64(ARRAYS.index(name))) * np.uint64(256) + seeds
    for shift in (29, 32):
        mixed = mixed * _GOLDEN
        mixed ^= mixed >> np.uint64(shift)
    return mixed * _GOLDEN


def _problem(seeds: Seeds, params: ConvParams, values: Callable[[str], Array]) -> ConvProblem:
    x, w, dy = (values(name).astype(np.float64) for name in WIDE)
    b = values("b").astype(np.float64) if "b" in seeds else None
    return ConvProblem(x, w, b, dy, params)


def _scaled(problem: ConvProblem, exponent: int) -> ConvProblem:
    """All products times 2^(2 `exponent`), and the bias with them."""
    b = None if problem.b is None else np.ldexp(problem.b, 2 * exponent)
    x, w, dy = (np.ldexp(array, exponent) for array in (problem.x, problem.w, problem.dy))
    return ConvProblem(x, w, b, dy, problem.params)


def _as_type(problem: ConvProblem, dtype: str, tiny: float = 0.0) -> ConvProblem:
    """`problem` in `dtype`, which holds all of its numbers but those below `tiny`, now zero."""

    def converted() -> Iterator[Array | None]:
        for array in (problem.x, problem.w, problem.b, problem.dy):
            if array is None:
                yield None
            else:
                yield np.where(np.abs(array) < tiny, 0, array).astype(dtype)

    x, w, b, dy = converted()
    assert x is not None
    assert w is not None
    assert dy is not None
    return ConvProblem(x, w, b, dy, problem.params)
