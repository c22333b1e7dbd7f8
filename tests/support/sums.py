"""Sums of products in any format and order, every rounding done in rational arithmetic.

It shares nothing with what it is a judge of: no NumPy arithmetic, no convolution of the reference.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from random import Random

import numpy as np

from reference.problem import ConvProblem
from reference.rounding import Format, as_rationals

Term = tuple[Fraction, Fraction]
"""Two factors."""
Index = tuple[int, ...]

ORDERS = ("forward", "shuffled", "pairwise", "lanes", "fused")

_LANES = 4


def terms(problem: ConvProblem) -> dict[str, dict[Index, list[Term]]]:
    """The products that each element of dx, dw, db and y is the sum of, taps in the padding not."""
    x, w, dy = (as_rationals(array) for array in (problem.x, problem.w, problem.dy))
    found: dict[str, dict[Index, list[Term]]] = {
        name: {index: [] for index in np.ndindex(shape)}
        for name, shape in (("dx", x.shape), ("dw", w.shape), ("db", w.shape[-1:]), ("y", dy.shape))
    }
    one = Fraction(1)
    if problem.b is not None:
        for n, *o, f in np.ndindex(dy.shape):
            found["y"][(n, *o, f)].append((as_rationals(problem.b[f : f + 1])[0], one))
            found["db"][(f,)].append((dy[(n, *o, f)], one))
    for of_x, of_w, of_y in products(problem):
        found["y"][of_y].append((x[of_x], w[of_w]))
        found["dx"][of_x].append((dy[of_y], w[of_w]))
        found["dw"][of_w].append((x[of_x], dy[of_y]))
    return found


def products(problem: ConvProblem) -> Iterator[tuple[Index, Index, Index]]:
    """Where in x, w and dy every product's factors are; a tap in the padding is no product."""
    params = problem.params
    group_in, group_out = problem.w.shape[-2], problem.w.shape[-1] // params.groups
    for n, *o, f in np.ndindex(problem.dy.shape):
        for k in np.ndindex(problem.kernel):
            cell = tuple(
                out * stride + tap * dilation - lo
                for out, stride, tap, dilation, (lo, _) in zip(
                    o, params.stride, k, params.dilation, params.padding
                )
            )
            if not all(0 <= place < size for place, size in zip(cell, problem.spatial)):
                continue
            for c in range(group_in):
                yield (n, *cell, f // group_out * group_in + c), (*k, c, f), (n, *o, f)


def rounded(value: Fraction, to: Format, flush: bool) -> Fraction:
    """The number of a format nearest to `value`, ties to even; below `tiny` 0 if `flush`."""
    if not value:
        return value
    tiny = Fraction(to.tiny)
    exponent = _exponent(max(abs(value), tiny)) - to.precision + 1
    step = Fraction(2) ** exponent
    nearest = round(value / step) * step
    return Fraction(0) if flush and abs(nearest) < tiny else nearest


def summed(parts: list[Term], order: str, to: Format, flush: bool, random: Random) -> Fraction:
    """The sum of products in a format, in one of the `ORDERS`."""

    def forward(numbers: list[Fraction]) -> Fraction:
        total = Fraction(0)
        for number in numbers:
            total = rounded(total + number, to, flush)
        return total

    if order == "fused":  # multiply-add, which rounds but once
        return forward([a * b for a, b in parts])
    products = [rounded(a * b, to, flush) for a, b in parts]
    if order == "shuffled":
        random.shuffle(products)
    if order == "lanes":
        return forward([forward(products[lane::_LANES]) for lane in range(_LANES)])
    while order == "pairwise" and len(products) > 1:
        products = [forward(products[i : i + 2]) for i in range(0, len(products), 2)]
    return forward(products)


def _exponent(value: Fraction) -> int:
    """The e with 2^e <= `value` < 2^(e + 1)."""
    exponent = value.numerator.bit_length() - value.denominator.bit_length()
    return exponent if value >= Fraction(2) ** exponent else exponent - 1
