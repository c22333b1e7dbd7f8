"""The bounds: nothing computed honestly exceeds them, and little else keeps to them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from functools import partial
from random import Random

import ml_dtypes  # noqa: F401  # makes the name "bfloat16" known to NumPy
import numpy as np
import pytest
from hypothesis import Phase, Verbosity, given, settings
from hypothesis import strategies as st

from oracles.protocol import Box, Domain
from reference import ConvParams, ConvProblem, rounding
from reference.problem import Array
from reference.rounding import (
    ACCUMULATION,
    FACTORS,
    FORMATS,
    RESULTS,
    absolute_sums,
    as_doubles,
    as_rationals,
    expect,
    upper_bounds,
)
from tests.support.fills import STYLES, reals
from tests.support.strategies import Fill, problems, problems_in_box
from tests.support.sums import ORDERS, Term, rounded, summed, terms

each_dtype = pytest.mark.parametrize("dtype", FORMATS)
each_higher = pytest.mark.parametrize("higher", ["longdouble", "rationals"])

HAS_LONGDOUBLE = np.finfo(np.longdouble).nmant > 52

WITHOUT_PADDING = ConvParams((1,), ((0, 0),), (1,))


def line(values: object, dtype: str) -> Array:
    """A 1-D signal as x or dy: (1, S, 1)."""
    return np.array(values, np.float64).astype(dtype).reshape(1, -1, 1)


def kernel(values: object, dtype: str) -> Array:
    """A 1-D kernel: (K, 1, 1)."""
    return np.array(values, np.float64).astype(dtype).reshape(-1, 1, 1)


def in_line(
    x: object, w: object, dy: object, dtype: str = "float32", b: float | None = None
) -> ConvProblem:
    """A 1-D problem of one sample, one channel and one filter."""
    bias = None if b is None else np.array([b]).astype(dtype)
    return ConvProblem(line(x, dtype), kernel(w, dtype), bias, line(dy, dtype), WITHOUT_PADDING)


def without_longdouble(patch: pytest.MonkeyPatch) -> None:
    """As on a platform whose longdouble is a float64."""
    patch.setattr(np, "longdouble", np.float64)


def small(ranks: tuple[int, ...], dtype: str, *kinds: Fill) -> st.SearchStrategy[ConvProblem]:
    """Problems of few elements, so that rational arithmetic is quick."""
    domain = Domain(few_elements(ranks, dtype))
    return st.sampled_from(ranks).flatmap(
        lambda rank: st.sampled_from(kinds).flatmap(
            lambda fill: problems(domain, rank, dtype, fill)
        )
    )


def tiny(ranks: tuple[int, ...], dtype: str) -> st.SearchStrategy[ConvProblem]:
    """The same, of products near the least normal number."""
    box = few_elements(ranks, dtype)
    return st.sampled_from(ranks).flatmap(
        lambda rank: problems_in_box(box, rank, dtype, "reals", ("tiny",))
    )


def few_elements(ranks: tuple[int, ...], dtype: str) -> Box:
    """All that is small."""
    return Box(ranks=ranks, dtypes=(dtype,), max_elements=128)


def chosen(of_result: dict[tuple[int, ...], list[Term]], random: Random) -> list[tuple[int, ...]]:
    """The element with the longest sum, and another one."""
    longest = max(of_result, key=lambda index: len(of_result[index]))
    return [longest, random.choice(list(of_result))]


def cut(number: Fraction, factors: str, random: Random) -> Fraction:
    """`number` with as many bits as the format has, rounded or cut off."""
    mantissa, exponent = math.frexp(float(number))
    scaled = math.ldexp(mantissa, FACTORS[factors].precision)
    whole = random.choice((round, math.trunc))(scaled)
    return Fraction(math.ldexp(whole, exponent - FACTORS[factors].precision))


def sum_honestly(
    dtype: str,
    accumulation: str | None = None,
    *,
    factors: str | None = None,
    shrink: bool = True,
    examples: int = 60,
    every: st.SearchStrategy[ConvProblem] | None = None,
) -> None:
    """Assert that sums of random problems, in random orders, are as near as they must be."""
    stored, to = FORMATS[dtype], FORMATS[accumulation or ACCUMULATION[dtype]]
    if every is None:
        every = small((1, 2, 3), dtype, "reals", "reals", "integers")
    phases = (Phase.generate, Phase.shrink) if shrink else (Phase.generate,)

    @settings(max_examples=examples, phases=phases, derandomize=True, verbosity=Verbosity.quiet)
    @given(
        problem=every,
        order=st.sampled_from(ORDERS),
        flush=st.booleans(),
        seed=st.integers(0, 99),
    )
    def honest(problem: ConvProblem, order: str, flush: bool, seed: int) -> None:
        random = Random(seed)
        expected = expect(problem, accumulation, factors=factors)
        for name, of_result in terms(problem).items():
            if not of_result or (name == "db" and problem.b is None):
                continue
            for index in chosen(of_result, random):
                parts = of_result[index]
                kept = parts
                if factors is not None and (name != "y" or problem.b is None):
                    kept = [(cut(a, factors, random), cut(b, factors, random)) for a, b in parts]
                got = rounded(summed(kept, order, to, flush, random), stored, flush)
                right = sum((a * b for a, b in parts), Fraction(0))
                allowed = getattr(expected.allowed, name)[index]
                assert abs(got - right) <= allowed, "exceeds the bound"

    honest()


@pytest.mark.parametrize(
    ("dtype", "accumulation"),
    [(dtype, None) for dtype in FORMATS] + [("float16", "float16"), ("bfloat16", "bfloat16")],
)
def test_honest_sums_keep_to_the_bound(dtype: str, accumulation: str | None) -> None:
    """Products, fused or not, flushed or not, summed in any order and rounded where stored."""
    sum_honestly(dtype, accumulation)


@pytest.mark.parametrize("factors", FACTORS)
def test_cut_factors_keep_to_the_bound(factors: str) -> None:
    """Factors are cut to fewer bits, rounded or not, before they are multiplied."""
    sum_honestly("float32", factors=factors, examples=200)


def test_cut_factors_need_their_part_of_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it an honest sum of them is found to exceed the bound."""
    monkeypatch.setattr(rounding, "_cut", lambda *_: rounding._NOTHING_CUT)
    with pytest.raises(AssertionError, match="exceeds the bound"):
        sum_honestly("float32", factors="tfloat32", shrink=False, examples=200)


@pytest.mark.parametrize("factors", FACTORS)
def test_a_cut_factor_by_hand(factors: str) -> None:
    """All but all of a unit in the last place is cut off both: 0.8 of the bound, twice is wrong."""
    unit = 2.0 ** (1 - FACTORS[factors].precision)
    number = 1 + unit - 2.0**-23
    problem = in_line([number], [number], [1.0], "float32")
    expected = expect(problem, factors=factors)
    got = np.ones((1, 1, 1), np.float32)
    [ratio] = expected.ratios("y", got)
    assert 0.8 < ratio <= 1
    assert expected.wrong("y", got - np.float32(2 * unit)).all()
    assert (
        expect(in_line([1.5], [3], [1.0], "float32"), factors=factors).allowed.y
        == expect(in_line([1.5], [3], [1.0], "float32")).allowed.y
    )


def test_honest_sums_keep_to_the_bound_without_longdouble(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same where the right results are rationals."""
    without_longdouble(monkeypatch)
    sum_honestly("float64", examples=20)


def without_underflow(patch: pytest.MonkeyPatch) -> None:
    """No result of a sum is taken to underflow."""
    formats = {name: replace(one, tiny=0.0) for name, one in FORMATS.items()}
    patch.setattr(rounding, "FORMATS", formats)


def without_underflow_where_stored(patch: pytest.MonkeyPatch) -> None:
    """No float16 is taken to underflow."""
    patch.setattr(
        rounding, "FORMATS", {**FORMATS, "float16": replace(FORMATS["float16"], tiny=0.0)}
    )


def without_rounding_where_stored(patch: pytest.MonkeyPatch) -> None:
    """Float16 and bfloat16 are taken to hold what float32 does."""
    formats = {
        name: replace(one, precision=max(one.precision, 24)) for name, one in FORMATS.items()
    }
    patch.setattr(rounding, "FORMATS", formats)


def with_one_rounding(patch: pytest.MonkeyPatch) -> None:
    """A sum of any length is taken to be rounded once."""
    patch.setattr(rounding, "gamma", lambda count, unit: np.where(count > 0, unit, 0.0))


def relative_to_the_result(patch: pytest.MonkeyPatch) -> None:
    """Errors are taken to be relative to the sum itself, not to S."""
    patch.setattr(
        rounding,
        "absolute_sums",
        lambda problem: rounding._each(np.abs, rounding._of(problem, lambda a: a.astype(float))),
    )


@pytest.mark.parametrize(
    ("weaken", "dtype"),
    [
        (without_underflow, "bfloat16"),
        (without_underflow, "float32"),
        (without_underflow, "float64"),
        (without_underflow_where_stored, "float16"),
        (without_rounding_where_stored, "float16"),
        (without_rounding_where_stored, "bfloat16"),
        (with_one_rounding, "float32"),
        (with_one_rounding, "float64"),
        (relative_to_the_result, "float32"),
        (relative_to_the_result, "float64"),
    ],
)
def test_every_ingredient_is_needed(
    weaken: Callable[[pytest.MonkeyPatch], None], dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without it an honest sum is found to exceed the bound."""
    weaken(monkeypatch)
    is_about_underflow = weaken in (without_underflow, without_underflow_where_stored)
    every = tiny((1, 2, 3), dtype) if is_about_underflow else None
    with pytest.raises(AssertionError, match="exceeds the bound"):
        sum_honestly(dtype, shrink=False, examples=200, every=every)


@each_dtype
@pytest.mark.parametrize("name", ["y", "dx", "dw"])
def test_the_bound_is_sharp(dtype: str, name: str) -> None:
    """A product of which nearly half a unit in the last place is lost comes to 0.9 of it."""
    stored, random = FORMATS[dtype], Random(0)
    scale = 2 ** (stored.precision - 1)

    def loss(factors: tuple[int, int]) -> Fraction:
        right = Fraction(factors[0] * factors[1])
        return abs(rounded(right, stored, flush=False) - right) / right

    pairs = [[random.randrange(scale, 2 * scale) for _ in "ab"] for _ in range(2000)]
    a, b = (number / scale for number in max(map(tuple, pairs), key=loss))
    arrays = {"y": (a, b, 1), "dx": (1, a, b), "dw": (a, 1, b)}[name]
    problem = in_line(*arrays, dtype)
    expected = expect(problem)
    right = Fraction(a) * Fraction(b)
    got = np.full((1, 1, 1), float(rounded(right, stored, flush=False))).astype(dtype)
    assert not expected.wrong(name, got).any()
    [ratio] = expected.ratios(name, got)
    assert 0.9 < ratio <= 1
    for further in (1 + 4 * stored.unit, 1 - 4 * stored.unit):  # two to four numbers away
        assert expected.wrong(name, (got.astype(np.float64) * further).astype(dtype)).all()


@each_dtype
@given(data=st.data())
def test_what_the_bound_counts(dtype: str, data: st.DataObject) -> None:
    """It lies between the formula, in rationals, for the products a loop finds and for one more.

    So zeros and taps in the padding are not counted, the bias is, and where nothing is counted
    nothing is allowed.
    """
    stored, to = FORMATS[dtype], FORMATS[ACCUMULATION[dtype]]
    problem = data.draw(small((1, 2, 3), dtype, "reals"))
    expected = expect(problem)

    def allowed(count: int, products: list[Fraction], losses: int) -> Fraction:
        unit, right = Fraction(to.unit), abs(sum(products, Fraction(0)))
        off = count * unit / (1 - count * unit) * sum(map(abs, products))
        off += losses * Fraction(to.tiny)
        if stored is not to:
            underflows = right - off < (1 + losses - count) * Fraction(stored.tiny)
            off += Fraction(stored.unit) * (right + off) + underflows * Fraction(stored.tiny)
        return off

    if all(np.all(a == np.rint(a)) for a in (problem.x, problem.w, problem.dy)):
        return  # integers are exact
    for name, of_result in terms(problem).items():
        if name == "db" and problem.b is None:
            continue
        for index, parts in of_result.items():
            products = [a * b for a, b in parts if a * b]
            count, bound = len(products), getattr(expected.allowed, name)[index]
            assert (bound == 0) == (count == 0)
            if count:  # what is lost in an underflow was at least one product: at most n are lost
                assert allowed(count, products, losses=count) <= bound
                assert bound < allowed(count + 1, products, losses=2 * (count + 1))


def test_what_the_bound_counts_by_hand() -> None:
    """One cell under three taps, two of them in the padding."""
    params = ConvParams((1,), ((1, 1),), (1,))
    one = in_line([0.1], [0.3], [1.1], b=0.7)
    problem = ConvProblem(one.x, kernel([0.3, 0.5, 0.9], "float32"), one.b, one.dy, params)
    expected = expect(problem)
    unit, x, w, dy = 2.0**-24, 0.1, 0.5, 1.1
    assert expected.allowed.dw.ravel()[[0, 2]].tolist() == [0, 0]
    for bound, once in (
        (expected.allowed.dx.item(), dy * w),
        (expected.allowed.dw.ravel()[1], x * dy),
        (expected.allowed.db.item(), dy),
    ):
        assert once * unit < bound < 2 * once * unit
    twice = (x * w + 0.7) * unit
    assert 2 * twice < expected.allowed.y.item() < 3 * twice


@each_dtype
@given(data=st.data())
def test_the_right_results(dtype: str, data: st.DataObject) -> None:
    """They are as near to rational arithmetic as their own format puts them; S is no less."""
    problem = data.draw(small((1, 2, 3), dtype, "reals", "integers"))
    expected = expect(problem)
    unit = Fraction(1, 2**64 if dtype == "float64" and HAS_LONGDOUBLE else 2**53)
    for name, of_result in terms(problem).items():
        if name == "db" and problem.b is None:
            continue
        wants, sums = as_rationals(getattr(expected.want, name)), getattr(expected.sums, name)
        for index, parts in of_result.items():
            products = [a * b for a, b in parts]
            size = sum(map(abs, products), Fraction(0))
            assert abs(wants[index] - sum(products)) <= len(parts) * unit * size
            assert abs(Fraction(sums[index]) - size) <= len(parts) * Fraction(1, 2**53) * size


@given(data=st.data())
def test_the_right_results_without_longdouble(data: st.DataObject) -> None:
    """They are rationals then, and exact."""
    problem = data.draw(small((1, 2, 3), "float64", "reals"))
    with pytest.MonkeyPatch.context() as patch:
        without_longdouble(patch)
        expected = expect(problem)
    for name, of_result in terms(problem).items():
        if name == "db" and problem.b is None:
            assert expected.want.db is None
            continue
        want = getattr(expected.want, name)
        assert want.dtype == object
        for index, parts in of_result.items():
            assert want[index] == sum(a * b for a, b in parts)


@each_dtype
@each_higher
def test_what_is_no_number_is_wrong(
    dtype: str, higher: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NaN and Inf are, whatever is allowed; a zero is right with either sign."""
    if higher == "rationals":
        without_longdouble(monkeypatch)
    problem = in_line([1.5, 0, 0], [0.75], [1, 1, 1], dtype)
    expected = expect(problem)
    assert expected.allowed.y[0, 0, 0] > 0 == expected.allowed.y[0, 1, 0]
    generous = replace(expected, allowed=replace(expected.allowed, y=np.full((1, 3, 1), np.inf)))
    for value in (np.nan, np.inf, -np.inf):
        for one in (expected, generous):
            got = line([1.125, value, value], dtype)
            assert one.wrong("y", got).ravel().tolist() == [False, True, True]
            got = line([value, 0, 0], dtype)
            assert one.wrong("y", got).ravel().tolist() == [True, False, False]
            assert one.bits("y", got, 24) == 0
    for zero in (0.0, -0.0):
        assert not expected.wrong("y", line([1.125, zero, zero], dtype)).any()
    assert expected.ratios("y", line([1.125, 0, 0], dtype)).tolist() == [0]
    assert not generous.ratios("y", line([1.125, 0, 0], dtype)).size


@each_dtype
@each_higher
def test_special_values_must_be_where_a_product_with_them_goes(
    dtype: str, higher: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There nothing else is right; elsewhere all is as without them, though a sum is rounded."""
    if higher == "rationals":
        without_longdouble(monkeypatch)
    inf, nan = np.inf, np.nan
    problem = in_line([1.5, nan, -inf, 3, 0], [-0.75], [1, 1, 1, inf, inf], dtype)
    expected = expect(problem)
    finite = expect(in_line([1.5, 0, 0, 3, 0], [-0.75], [1, 1, 1, 0, 0], dtype))
    for name in ("want", "allowed"):  # of the element that no special value reaches
        of_all, of_finite = (getattr(one, name).y[0, [0, 3], 0] for one in (expected, finite))
        assert of_all.tolist() == of_finite.tolist()
    right = line([-1.125, nan, inf, -2.25, 0], dtype)
    assert not expected.wrong("y", right).any()
    assert not expected.wrong("dw", kernel([nan], dtype)).any()
    assert not expected.wrong("dx", line([-0.75, -0.75, -0.75, -inf, -inf], dtype)).any()
    assert expected.ratios("y", right).size == 2
    for index, values in {0: (nan, inf, 0), 1: (0, inf, 2), 2: (nan, -inf, 0)}.items():
        for value in values:
            got = right.copy()
            got[0, index, 0] = value
            assert np.flatnonzero(expected.wrong("y", got)).tolist() == [index]
    assert np.flatnonzero(expect(problem).wrong("dw", kernel([inf], dtype))).tolist() == [0]


@each_dtype
@each_higher
def test_a_sum_that_is_too_large(dtype: str, higher: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is Inf of its sign and nothing else; where rounding may go either way, both are right."""
    if higher == "rationals":
        without_longdouble(monkeypatch)
    inf, unit, largest = np.inf, FORMATS[dtype].unit, FORMATS[dtype].largest
    root = 2.0 ** (FORMATS[dtype].maxexp // 2)
    x = [1.5 * root, 0, -root, 0, (1 - unit) * root, root / 2, root / 2, 0]  # in twos
    arrays = line(x, dtype), kernel([root, unit * root], dtype), None, line(np.zeros(4), dtype)
    expected = expect(ConvProblem(*arrays, replace(WITHOUT_PADDING, stride=(2,))))
    for near in (largest, inf):
        right = line([inf, -inf, near, root / 2 * root], dtype)
        assert not expected.wrong("y", right).any()
        assert not np.nan_to_num(expected.ratios("y", right), nan=2).max(initial=0) > 1
    for wrong in ([-inf, inf, -inf, inf], [np.nan] * 4, [0, 0, largest / 2, -inf]):
        is_wrong = expected.wrong("y", line(wrong, dtype)).ravel()
        of_others = dtype != "float64"  # S of the others is too large for float64: who knows
        assert is_wrong.tolist() == [of_others, of_others, of_others, True]
    is_infinite = expected.is_infinite("y").ravel()  # of the second, the largest is near enough
    assert is_infinite.tolist() == [of_others, False, False, False]


@pytest.mark.parametrize("conventional", [True, False])
@each_dtype
@each_higher
def test_a_partial_sum_that_is_too_large(
    dtype: str, higher: str, conventional: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever sums so many in that format may come to Inf, -Inf or NaN, or be right."""
    if higher == "rationals":
        without_longdouble(monkeypatch)
    inf, nan, unit = np.inf, np.nan, FORMATS[dtype].unit
    root = 2.0 ** (FORMATS[dtype].maxexp // 2)
    half = root / 2  # two products with it are too large
    narrow = partial(expect, accumulation=dtype, conventional=conventional)
    for x, right, honest in (
        ([half, half, -half, -half], 0, {inf, -inf, nan}),
        ([half, half, -half / 2, 0], 1.5 * half * root, {inf}),
        ([half, half / 2, -half, 0], half / 2 * root, set()),
        ([half, (1 - 4 * unit) * half, -half, 0], (1 - 4 * unit) * half * root, {inf}),
    ):
        problem = in_line(x, [root] * 4, [0], dtype)
        for value in (inf, -inf, nan):
            may_be = value in honest or not conventional or dtype == "float64"  # S is too large
            assert narrow(problem).wrong("y", line([value], dtype)).all() != may_be
            beside = replace(problem, dy=line([nan], dtype))  # as y is without it
            assert not conventional or narrow(beside).wrong("y", line([value], dtype)) != may_be
        assert not narrow(problem).wrong("y", line([right], dtype)).any()
        if conventional and dtype != "float64":
            assert narrow(problem).wrong("y", line([right - root * half / 2], dtype)).all()
    if ACCUMULATION[dtype] != dtype and dtype != "bfloat16":  # whose exponents float32 has
        wide = expect(in_line([half, half, -half, -half], [root] * 4, [0], dtype))
        for value in (inf, -inf, nan):
            assert wide.wrong("y", line([value], dtype)).all()


def test_rationals_that_are_too_large() -> None:
    """They are Inf in float64, of their sign."""
    values = np.array([Fraction(2**1024), -Fraction(2**1024), Fraction(1, 3), np.nan], object)
    assert repr(as_doubles(values).tolist()) == repr([np.inf, -np.inf, 1 / 3, np.nan])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
def test_infinitely_much_is_allowed_of_sums_too_long(dtype: str) -> None:
    """A sum of as many numbers as the unit roundoff is small may come to anything finite."""
    count = 256
    ones, half = np.ones(count), np.full(count, 0.5)
    expected = expect(in_line(ones, ones[:1], half, dtype), "bfloat16")
    assert np.isinf(expected.allowed.dw).all()
    assert not expected.wrong("dw", kernel([7], dtype)).any()
    assert expected.wrong("dw", kernel([np.inf], dtype)).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@each_higher
def test_integers_up_to_the_precision(
    dtype: str, higher: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are exact while S is at most 2^p, element by element."""
    if higher == "rationals":
        without_longdouble(monkeypatch)
    most = 2.0 ** FORMATS[dtype].precision
    below = in_line([most - 3, -1, 1, 1], [1, 1], [0, 0, 0], dtype)
    for array in (getattr(expect(below).allowed, name) for name in ("dx", "dw", "y")):
        assert not array.any()
    above = in_line([most - 1, -1, 4, 1], [1, 1], [1, 0, 0], dtype, b=2)
    assert (expect(above).allowed.y > 0).ravel().tolist() == [True, False, False]
    assert not expect(above).allowed.dx.any()


@each_higher
def test_s_is_not_rounded_down(higher: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Integers whose S float64 rounds to 2^53 are not taken for exact: 2^53 + 1 + 1 + 1."""
    if higher == "rationals":
        without_longdouble(monkeypatch)
    expected = expect(in_line([2.0**53, 1, 1, 1], [1, 1, 1, 1], [1], "float64"))
    for honest in (2.0**53, 2.0**53 + 4):
        assert not expected.wrong("y", line([honest], "float64")).any()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_integers_rounded_where_stored(dtype: str) -> None:
    """A sum that float32 holds is exact if the narrower format holds it, else rounded once."""
    most = 2 ** FORMATS[dtype].precision
    x = [most, -most, most - 1, 1, 2]  # in twos: 0, -1, most, 3
    expected = expect(in_line(x, [1, 1], [0, 0, 0, 0], dtype))
    assert not expected.allowed.y.any()
    expected = expect(in_line([most, 1, most], [1, 1], [0, 0], dtype, b=0))
    right = np.array([most + 1, most + 1])
    assert (expected.allowed.y > 0).all()
    assert not expected.wrong("y", line(right, dtype)).any()
    assert expected.wrong("y", line(right + 4, dtype)).all()


def test_a_narrow_number_is_not_taken_to_underflow() -> None:
    """The least normal float16 is allowed only where the result may be that small."""
    near, far = (
        expect(in_line([x], [1.25], [1], "float16")).allowed.y.item() for x in (2.0**-14, 2.0**-12)
    )
    assert near > 2.0**-14
    assert far < 2.0**-22


def wide_in_x(dtype: str) -> ConvProblem:
    """Odd integers of all bits, each multiplied by 1."""
    precision = FORMATS[dtype].precision
    random = Random(precision)
    odd = [2 ** (precision - 1) + 2 * random.randrange(2 ** (precision - 2)) + 1 for _ in range(99)]
    return in_line(odd, [1], np.zeros(99), dtype)


def narrowed(array: Array, precision: int) -> Array:
    """`array` with that many bits of the mantissa."""
    mantissa, exponent = np.frexp(array.astype(np.float64))
    nearest = np.rint(np.ldexp(mantissa, precision))
    return np.ldexp(nearest, exponent - precision).astype(array.dtype)


@each_higher
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("carried", [8, 11, 16])
def test_bits(dtype: str, higher: str, carried: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is right carries all bits; what was rounded to TF32's 11, bfloat16's 8, so many."""
    if higher == "rationals":
        without_longdouble(monkeypatch)
    problem, precision = wide_in_x(dtype), FORMATS[dtype].precision
    expected = expect(problem)
    assert expected.bits("y", problem.x, precision) == precision
    assert expected.bits("y", narrowed(problem.x, carried), precision) == carried
    assert expected.bits("y", -problem.x, precision) == 0


def test_bits_at_the_edges() -> None:
    """An honest rounding of a real carries all bits and no more; something for nothing, none."""
    problem = in_line([1.1, 0], [1.3], [0, 0])
    expected = expect(problem)
    honest = expected.want.y.astype(np.float32)
    assert 0 < expected.error("y", honest)[0, 0, 0] < 2.0**-25 * expected.sums.y[0, 0, 0]
    assert expected.bits("y", honest, 24) == 24
    for garbage in (1e-30, np.nan):
        assert expected.bits("y", honest + line([0, garbage], "float32"), 24) == 0
    empty = replace(expected, want=replace(expected.want, y=np.zeros((0, 2, 1))))
    assert empty.bits("y", np.zeros((0, 2, 1), np.float32), 24) == 24


@each_dtype
@given(data=st.data())
def test_upper_bounds(dtype: str, data: st.DataObject) -> None:
    """S exceeds none, and comes to each where all elements are equal and no tap is in a padding."""
    problem = data.draw(problems(Domain(Box((2,), (dtype,))), 2, dtype, "small"))
    equal = replace(
        problem,
        x=np.full_like(problem.x, 2),
        w=np.full_like(problem.w, 3),
        b=None if problem.b is None else np.full_like(problem.b, 5),
        dy=np.full_like(problem.dy, 7),
    )
    for one in (problem, equal):
        bounds, sums = upper_bounds(one), absolute_sums(one)
        for name in RESULTS:
            if (of_each := getattr(sums, name)) is not None:
                assert np.max(of_each, initial=0) <= bounds[name]

    taps, filters = math.prod(problem.kernel), problem.w.shape[-1] // problem.params.groups
    no_padding = ConvParams(problem.params.stride, ((0, 0), (0, 0)), (1, 1), problem.params.groups)
    one_output = np.full((2, *problem.kernel, problem.x.shape[-1]), 2).astype(dtype)
    dy = np.full((2, 1, 1, problem.w.shape[-1]), 7).astype(dtype)
    whole = ConvProblem(one_output, equal.w, equal.b, dy, no_padding)
    bounds, sums = upper_bounds(whole), absolute_sums(whole)
    assert np.all(sums.y == bounds["y"])
    assert np.all(sums.dw == bounds["dw"])
    assert np.all(sums.dx * taps == bounds["dx"])  # each cell is read by one tap only
    assert np.all(sums.dx == 3 * 7 * filters)
    assert sums.db is None or np.all(sums.db == bounds["db"])


@each_dtype
@given(data=st.data())
def test_normwise_bounds_are_no_smaller(dtype: str, data: st.DataObject) -> None:
    """What transforms are allowed is what sums are, or more, even where these must be exact."""
    problem = data.draw(small((1, 2, 3), dtype, "reals", "integers"))
    conventional, normwise = (expect(problem, conventional=c) for c in (True, False))
    for name in RESULTS:
        if (allowed := getattr(conventional.allowed, name)) is not None:
            assert np.all(allowed <= getattr(normwise.allowed, name))


def test_norms_of_parallel_operands(monkeypatch: pytest.MonkeyPatch) -> None:
    """There S is their product, and no less is allowed even if nothing is mixed."""
    monkeypatch.setattr(rounding, "_transform_size", lambda _: 0)
    one, many = np.array([0.7]), np.random.default_rng(0).normal(size=50)
    for name, shapes in {
        "y": {"x": (1, 1, 50), "w": (1, 50, 1), "dy": (1, 1, 1)},
        "dx": {"x": (1, 1, 1), "w": (1, 1, 50), "dy": (1, 1, 50)},
        "dw": {"x": (1, 50, 1), "w": (1, 1, 1), "dy": (1, 50, 1)},
    }.items():
        x, w, dy = ((many if 50 in s else one).reshape(s) for s in shapes.values())
        problem = ConvProblem(x, w, None, dy, WITHOUT_PADDING)
        few, more = (getattr(expect(problem, conventional=c).allowed, name) for c in (True, False))
        assert few.item() <= more.item() * (1 + 2.0**-44)  # 50 squares, each rounded
        assert more.item() < 2 * few.item()


def test_transforms_round_integers() -> None:
    """What must be equal where products are summed as they are need not where they are mixed."""
    problem = in_line([1, 2], [3], [4, 5], b=6)
    exact, mixed = (expect(problem, conventional=c).allowed for c in (True, False))
    for name in RESULTS:
        assert np.all(getattr(exact, name) == 0)
        assert np.all(getattr(mixed, name) > 0)


@pytest.mark.parametrize("style", STYLES)
@each_higher
def test_norms_do_not_overflow(style: str, higher: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The squares of float64 would, and would vanish; what is allowed is still no less."""
    if higher == "rationals":
        without_longdouble(monkeypatch)
    shapes = {"x": (2, 6, 3), "w": (3, 3, 4), "b": (4,), "dy": (2, 4, 4)}
    every = np.arange(256, dtype=np.uint8)
    seeds = {name: np.resize(every, shape) for name, shape in shapes.items()}
    problem = reals(seeds, WITHOUT_PADDING, "float64", style)
    problem.x[1] *= 1 if style == "tiny" else 2.0**-600  # a sample far smaller than the other
    conventional, normwise = (expect(problem, conventional=c) for c in (True, False))
    for name in RESULTS:
        few, many = (getattr(expected.allowed, name) for expected in (conventional, normwise))
        assert np.all(few <= many)
        assert np.isfinite(many).all()


def winograd(x: Array, w: Array) -> Array:
    """The y (N, O, F) of x (N, S, C) and w (3, C, F), by F(2, 3)."""
    of_x = x.dtype.type([[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]])
    of_w = x.dtype.type([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])
    of_y = x.dtype.type([[1, 1, 1, 0], [0, 1, -1, -1]])
    tiles = [x[:, first : first + 4] for first in range(0, x.shape[1] - 3, 2)]
    mixed_w = np.tensordot(of_w, w, 1)
    return np.concatenate(
        [
            np.einsum("ta,naf->ntf", of_y, np.einsum("nac,acf->naf", of_x @ tile, mixed_w))
            for tile in tiles
        ],
        axis=1,
    )


def fourier(x: Array, w: Array) -> Array:
    """The same, for any number of taps, in the frequencies."""
    of_x, of_w = np.fft.rfft(x, axis=1), np.fft.rfft(w, x.shape[1], axis=0)
    products = np.einsum("nqc,qcf->nqf", of_x, of_w.conj())
    return np.fft.irfft(products, x.shape[1], axis=1)[:, : x.shape[1] - w.shape[0] + 1]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("transform", [winograd, fourier])
def test_transforms_keep_to_the_normwise_bound(
    transform: Callable[[Array, Array], Array], dtype: str
) -> None:
    """Winograd's and Fourier's do, and not to what products summed as they are keep to."""
    shapes = {"x": (3, 18, 5), "w": (3, 5, 4), "dy": (3, 16, 4)}
    beyond = 0
    for seed in range(40):
        bits = np.random.default_rng(seed)
        seeds = {name: bits.integers(0, 256, shape, np.uint8) for name, shape in shapes.items()}
        problem = reals(seeds, WITHOUT_PADDING, dtype, STYLES[seed % 3])
        # dX is the convolution of dy, padded, with w turned round
        padded = np.pad(problem.dy, ((0, 0), (2, 2), (0, 0)))
        got = {
            "y": transform(problem.x, problem.w),
            "dx": transform(padded, problem.w[::-1].swapaxes(1, 2)),
        }
        for name, array in got.items():
            array = array.astype(dtype, copy=False)
            assert not expect(problem, conventional=False).wrong(name, array).any()
            beyond += expect(problem).wrong(name, array).any()
    assert beyond
