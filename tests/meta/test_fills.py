"""The data are what they promise: integers exact and wide, reals in range; weak problems known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.strategies import DataObject

from oracles.compare import reference_grads
from oracles.protocol import DTYPES, Box, Domain
from reference import ConvParams, ConvProblem
from reference.problem import Array, Size
from reference.rounding import (
    ACCUMULATION,
    FORMATS,
    RESULTS,
    absolute_sums,
    as_rationals,
    expect,
    gamma,
)
from tests.support import fills
from tests.support.fixed import layer, probes
from tests.support.strategies import Fill, problems, problems_in_box, styles_of
from tests.support.verification import is_weak

each_rank = pytest.mark.parametrize("rank", [1, 2, 3])
each_dtype = pytest.mark.parametrize("dtype", FORMATS)

PLAIN = ConvParams((1,), ((0, 0),), (1,))
SHAPES: dict[str, Size] = {"x": (2, 9, 4), "w": (3, 4, 5), "b": (5,), "dy": (2, 7, 5)}


def any_of(dtype: str) -> Domain:
    """All problems of one dtype."""
    return Domain(Box(ranks=(1, 2, 3), dtypes=(dtype,)))


def every_byte(shapes: dict[str, Size]) -> fills.Seeds:
    """Seeds in which all bytes come up, in an order that no axis repeats."""
    shuffled = np.random.default_rng(0).permutation(251).astype(np.uint8)
    return {name: np.resize(shuffled, shape) for name, shape in shapes.items()}


def arrays(problem: ConvProblem) -> dict[str, Array]:
    """The arrays of a problem by name."""
    return {name: a for name in fills.ARRAYS if (a := getattr(problem, name)) is not None}


def largest_sum(problem: ConvProblem) -> float:
    """The largest S of all results."""
    sums = absolute_sums(problem)
    found = (getattr(sums, name) for name in RESULTS)
    return max(float(np.max(array, initial=0)) for array in found if array is not None)


def check_integers(problem: ConvProblem, dtype: str) -> None:
    """Assert that every partial sum is exact."""
    for array in arrays(problem).values():
        assert array.dtype.name == dtype
        assert all(isinstance(value, int) for value in as_rationals(array).flat)
    assert largest_sum(problem) <= 2 ** FORMATS[dtype].precision
    allowed = expect(problem).allowed
    assert not any(array.any() for array in (allowed.dx, allowed.dw, allowed.y))


@each_dtype
@given(data=st.data())
def test_integers_are_exact(dtype: str, data: DataObject) -> None:
    """Whatever is drawn, S is at most 2^p."""
    rank = data.draw(st.sampled_from([1, 2, 3]))
    check_integers(data.draw(problems(any_of(dtype), rank, dtype, "integers")), dtype)


def filled(fill: str, seeds: fills.Seeds, dtype: str, params: ConvParams = PLAIN) -> ConvProblem:
    """A problem by a fill's name: "small", "wide in x" and so on, or a style of reals."""
    if fill == "small":
        return fills.small_integers(seeds, params, dtype)
    if fill.startswith("wide"):
        return fills.wide_integers(seeds, params, dtype, fill.split()[-1], share=2)
    return fills.reals(seeds, params, dtype, fill)


INTEGERS = ("small", *(f"wide in {name}" for name in fills.WIDE))
EVERY_FILL = (*INTEGERS, *fills.STYLES)
each_fill = pytest.mark.parametrize("fill", EVERY_FILL)


@each_dtype
@each_fill
def test_nothing_is_rounded_away(fill: str, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The numbers that a fill computes in float64 are those of the problem, but for tiny ones."""
    seen: list[ConvProblem] = []
    as_type = fills._as_type

    def watched(problem: ConvProblem, *args: Any, **kwargs: Any) -> ConvProblem:
        seen.append(problem)
        return as_type(problem, *args, **kwargs)

    monkeypatch.setattr(fills, "_as_type", watched)
    problem = filled(fill, every_byte(SHAPES), dtype)
    for name, got in arrays(problem).items():
        [before] = (arrays(one)[name] for one in seen)
        kept = np.abs(before) >= (FORMATS[dtype].tiny if fill in fills.STYLES else 0)
        assert np.array_equal(got.astype(np.float64), np.where(kept, before, 0))
        assert np.all(kept | (before == 0)) or fill == "mixed"


def test_what_would_be_subnormal_is_zero() -> None:
    """A fill that scales its numbers down makes none that some processors take for zero."""
    small = 2.0 ** np.array([-13, -14, -14.5, -15, -24]).reshape(1, 5, 1)
    problem = ConvProblem(small, small[:, :1], None, small, PLAIN)
    got = fills._as_type(problem, "float16", tiny=FORMATS["float16"].tiny).x
    assert got.ravel().tolist() == [2.0**-13, 2.0**-14, 0, 0, 0]


@each_dtype
@each_fill
@pytest.mark.parametrize("with_bias", [False, True])
def test_zero_bytes_are_zeros(fill: str, dtype: str, with_bias: bool) -> None:
    """The byte 0, to which Hypothesis shrinks, is the number 0."""
    shapes = SHAPES if with_bias else {name: SHAPES[name] for name in fills.WIDE}
    zeros = {name: np.zeros(shape, np.uint8) for name, shape in shapes.items()}
    problem = filled(fill, zeros, dtype)
    assert set(arrays(problem)) == set(shapes)
    assert not any(array.any() for array in arrays(problem).values())


@each_dtype
@each_fill
def test_small_bytes_are_small_integers(fill: str, dtype: str) -> None:
    """The byte 1 is the number 1, which "tiny" and "huge" multiply by a power of 2."""
    one = {name: np.zeros(shape, np.uint8) for name, shape in SHAPES.items()}
    for name in fills.WIDE:
        one[name].flat[0] = 1
    problem = filled(fill, one, dtype)
    for name in fills.WIDE:
        first, *others = getattr(problem, name).astype(np.float64).flat
        assert first == 1 or (fill in ("tiny", "huge") and np.frexp(first)[0] == 0.5)
        assert not any(others)


@each_dtype
@pytest.mark.parametrize("wide", fills.WIDE)
@pytest.mark.parametrize("share", fills.SHARES)
def test_wide_integers(wide: str, share: int, dtype: str) -> None:
    """Odd, of all bits but a share, where seeds are large; -1, 0, 1 elsewhere; S below 2^p."""
    seeds = every_byte(SHAPES)
    problem = fills.wide_integers(seeds, PLAIN, dtype, wide, share)
    check_integers(problem, dtype)
    precision = FORMATS[dtype].precision
    assert largest_sum(problem) < 2**precision
    for name, array in arrays(problem).items():
        values = np.abs(array.astype(np.float64))
        if name == wide:
            assert np.all((values % 2 == 1) | (values == 0))
            assert np.max(values) >= 2.0 ** (precision - precision // share - 1)
            assert np.all(values[seeds[name] < 9] <= 1)
        else:
            assert np.max(values) <= 1
        assert values.any() or (name == "b" and share == 64)


def narrowed(array: Array, precision: int) -> Array:
    """`array` with that many bits of the mantissa."""
    mantissa, exponent = np.frexp(array.astype(np.float64))
    return np.ldexp(np.rint(np.ldexp(mantissa, precision)), exponent - precision)


def shows(problem: ConvProblem, wide: str, precision: int) -> bool:
    """Whether any result changes if the array `wide` is rounded to that many bits."""
    exact = {name: array.astype(np.float64) for name, array in arrays(problem).items()}
    rounded = {**exact, wide: narrowed(exact[wide], precision)}
    got, want = (
        reference_grads(ConvProblem(a["x"], a["w"], a.get("b"), a["dy"], problem.params))
        for a in (rounded, exact)
    )
    return any(np.any(getattr(got, name) != getattr(want, name)) for name in ("dx", "dw", "y"))


@pytest.mark.parametrize(("dtype", "carried"), [("float32", 11), ("float64", 24)])
@each_rank
def test_wide_integers_show_a_narrower_format(rank: int, dtype: str, carried: int) -> None:
    """TF32 in the place of float32, float32 in that of float64, shows nearly always."""
    shown = []

    @settings(max_examples=50, derandomize=True, database=None)
    @given(
        like=problems(any_of(dtype), rank, dtype),
        wide=st.sampled_from(fills.WIDE),
        share=st.sampled_from(fills.SHARES),
    )
    def look(like: ConvProblem, wide: str, share: int) -> None:
        seeds = every_byte({name: array.shape for name, array in arrays(like).items()})
        problem = fills.wide_integers(seeds, like.params, dtype, wide, share)
        check_integers(problem, dtype)
        if not is_weak(problem):
            shown.append(shows(problem, wide, carried))

    look()
    assert len(shown) > 25
    assert np.mean(shown) > 0.9


def test_wide_integers_of_a_large_layer() -> None:
    """With 64 channels of 56 x 56 cells in a batch of 8 too, and most elements are reached."""
    params = ConvParams((1, 1), ((0, 0), (0, 0)), (1, 1))
    shapes, params = layer((8, 56, 56, 64), (1, 1), 32, params)
    problem = fills.wide_integers(every_byte(shapes), params, "float32", "x", share=2)
    sums = absolute_sums(problem)
    assert largest_sum(problem) < 2**24
    assert shows(problem, "x", 11)
    assert all(np.mean(getattr(sums, name) > 0) > 0.5 for name in RESULTS)


@each_rank
def test_probes_show_a_narrower_format(rank: int) -> None:
    """Every probe tells 11 bits from all, and S leaves room for a whole bit less."""
    domain = Domain(Box(ranks=(rank,), dtypes=("float32",)))
    for number, problem in enumerate(probes(domain, rank, "float32")):
        wide = fills.WIDE[number % len(fills.WIDE)]
        assert largest_sum(problem) < 2**24
        rounded = narrowed(arrays(problem)[wide], 11).astype("float32")
        changed = replace(problem, **{wide: rounded})
        got, expected = reference_grads(changed), expect(problem)
        bits = [expected.bits(name, getattr(got, name), 24) for name in ("dx", "dw", "y")]
        assert min(bits) < 24


@each_dtype
@given(data=st.data())
def test_reals_are_in_range(dtype: str, data: DataObject) -> None:
    """None is subnormal, and no partial sum overflows in any order, rounding included."""
    rank = data.draw(st.sampled_from([1, 2, 3]))
    domain = Domain(Box(ranks=(1, 2, 3), dtypes=(dtype,)), accumulation={dtype: dtype})
    problem = data.draw(problems(domain, rank, dtype, "reals"))
    stored, to = FORMATS[dtype], FORMATS[ACCUMULATION[dtype]]
    for array in arrays(problem).values():
        size = np.abs(array.astype(np.float64))
        assert array.dtype.name == dtype
        assert np.all((size == 0) | ((size >= stored.tiny) & (size <= stored.largest)))
    longest = np.array(problem.w.size + problem.dy.size + 1)
    most = min(stored.largest, to.largest) / (1 + gamma(longest, to.unit))
    assert largest_sum(problem) <= most


@given(data=st.data())
def test_sums_that_return(data: DataObject) -> None:
    """Every result is finite, and of two samples the first alone is beyond float16 in dW."""
    rank = data.draw(st.sampled_from([1, 2, 3]))
    box = Box(ranks=(1, 2, 3), dtypes=("float16",))
    problem = data.draw(problems_in_box(box, rank, "float16", "reals", (fills.RETURNING,)))
    largest, want = FORMATS["float16"].largest, expect(problem).want
    for result in (want.dx, want.dw, want.db, want.y):
        assert result is None or np.all(np.abs(result) <= largest)
    first = replace(problem, x=problem.x[:1], dy=problem.dy[:1])
    if len(problem.x) > 1 and np.any(expect(first).want.dw):
        assert np.max(np.abs(expect(first).want.dw)) > largest


def test_sums_return_only_where_they_may() -> None:
    """Not in float16 for who sums in float16, and for no other dtype; transforms get less."""
    box = Box(ranks=(1,), dtypes=DTYPES)
    assert styles_of(Domain(box), "float16") == (*fills.STYLES, fills.RETURNING)
    narrow = Domain(box, accumulation={"float16": "float16"})
    assert styles_of(narrow, "float16") == fills.STYLES
    assert all(styles_of(Domain(box), dtype) == fills.STYLES for dtype in DTYPES[1:])
    assert styles_of(Domain(box, exact=False), "float16") == fills.MODEST


@each_dtype
def test_long_db_does_not_overflow(dtype: str) -> None:
    """Where x and w are zero db alone can be large, and dy is scaled but once."""
    seeds = every_byte({"x": (40, 999, 1), "w": (1, 1, 2), "b": (2,), "dy": (40, 999, 2)})
    seeds = {name: array if name == "dy" else 0 * array for name, array in seeds.items()}
    for style in fills.STYLES:
        problem = fills.reals(seeds, PLAIN, dtype, style)
        assert problem.dy.any()
        most = min(FORMATS[dtype].largest, FORMATS[ACCUMULATION[dtype]].largest) / 2
        assert largest_sum(problem) <= most


@each_dtype
def test_what_styles_are_like(dtype: str) -> None:
    """Mantissas of all bits, exponents far apart, factors alike but for signs, tiny, huge."""
    stored, to = FORMATS[dtype], FORMATS[ACCUMULATION[dtype]]
    of = {style: filled(style, every_byte(SHAPES), dtype) for style in fills.STYLES}
    for style in ("unit", "mixed", "tiny", "huge"):
        x = of[style].x
        changed = narrowed(x, stored.precision - 1) != x.astype(np.float64)
        assert np.mean(changed) > 0.3, style

    def exponents(style: str) -> Array:
        return np.frexp(np.abs(of[style].x[of[style].x != 0]).astype(np.float64))[1]

    assert np.ptp(exponents("unit")) <= 3
    assert np.max(np.frexp(np.abs(of["unit"].x.astype(np.float64)))[0]) > 0.9
    assert np.ptp(exponents("mixed")) >= 6
    alike = of["cancelling"].x.astype(np.float64)[every_byte(SHAPES)["x"] >= 9]
    assert np.max(np.frexp(np.abs(alike))[0]) <= 0.5 + 3 * stored.unit
    assert (np.min(alike) < 0) & (np.max(alike) > 0)
    tiny = max(stored.tiny, to.tiny)
    factors = np.abs(of["tiny"].x[of["tiny"].x != 0].astype(np.float64))
    assert np.min(factors) ** 2 < 2 * tiny
    assert largest_sum(of["huge"]) > min(stored.largest, to.largest) / 16


def test_every_style_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hypothesis comes to all of them, and to each array as the wide one."""
    seen: set[str] = set()
    reals, wide_integers = fills.reals, fills.wide_integers

    def watched_reals(*args: Any, style: str) -> ConvProblem:
        seen.add(style)
        return reals(*args, style=style)

    def watched_integers(*args: Any, wide: str, share: int) -> ConvProblem:
        seen.add(f"wide in {wide}")
        return wide_integers(*args, wide=wide, share=share)

    monkeypatch.setattr(fills, "reals", watched_reals)
    monkeypatch.setattr(fills, "wide_integers", watched_integers)
    box = Domain(Box(ranks=(1,), dtypes=("float32",), max_elements=128))
    kinds: tuple[Fill, ...] = ("reals", "integers")
    for fill in kinds:

        @settings(max_examples=150, derandomize=True, database=None)
        @given(problem=problems(box, 1, "float32", fill))
        def look(problem: ConvProblem) -> None:
            pass

        look()
    assert seen == {*fills.STYLES, *(f"wide in {name}" for name in fills.WIDE)}


def ones(shapes: dict[str, Size]) -> ConvProblem:
    """A problem of ones."""
    made = {name: np.ones(shape) for name, shape in shapes.items()}
    return ConvProblem(made["x"], made["w"], made.get("b"), made["dy"], PLAIN)


@pytest.mark.parametrize("most", [2, 3, 10, 30, 100])
def test_thinning(most: int) -> None:
    """Every S is brought down, the first elements stay, and so does what is not thinned out."""
    full = ones(SHAPES)
    thin = fills.thinned(full, fills.ARRAYS, most)
    assert largest_sum(thin) <= most
    for name, array in arrays(thin).items():
        assert array.flat[0] == 1, name
        assert set(np.unique(array)) <= {0, 1}
    if largest_sum(full) <= most:
        assert all(np.array_equal(arrays(thin)[name], arrays(full)[name]) for name in SHAPES)


def test_thinning_spares_what_is_not_too_large() -> None:
    """A long sum of dy in db leaves x and w as they are, and thus the sums of y."""
    full = ones({"x": (1, 300, 1), "w": (1, 1, 1), "b": (1,), "dy": (1, 300, 1)})
    thin = fills.thinned(full, fills.ARRAYS, 40)
    assert 8 <= thin.dy.sum() <= 40
    assert thin.x.all()
    assert thin.w.all()
    assert thin.b is not None
    assert thin.b.all()


def test_thinning_what_cannot_be() -> None:
    """A single product that is too large is an error of the fill."""
    with pytest.raises(AssertionError, match="one product is more than the format can hold"):
        fills.thinned(ones(dict.fromkeys(fills.WIDE, (1, 1, 1))), fills.ARRAYS, 0.5)


def problem_of(
    x: object,
    w: object,
    dy: object,
    padding: tuple[int, int] = (0, 0),
    b: float | None = None,
    dilation: int = 1,
) -> ConvProblem:
    """A 1-D problem of one channel and one filter."""
    x, w, dy = (np.array(values, np.float32) for values in (x, w, dy))
    bias = None if b is None else np.array([b], np.float32)
    params = ConvParams((1,), (padding,), (dilation,))
    return ConvProblem(x.reshape(1, -1, 1), w.reshape(-1, 1, 1), bias, dy.reshape(1, -1, 1), params)


def of_ones(channels: int, filters: int, groups: int = 1, batch: int = 1) -> ConvProblem:
    """Ones, one cell and one tap."""
    return ConvProblem(
        np.ones((batch, 1, channels)),
        np.ones((1, channels // groups, filters)),
        None,
        np.ones((batch, 1, filters)),
        ConvParams((1,), ((0, 0),), (1,), groups),
    )


@pytest.mark.parametrize(
    ("make", "weak"),
    [
        pytest.param(lambda: problem_of([1, 2], [3], [0, 0]), True, id="dy zero"),
        pytest.param(lambda: problem_of([1, 2], [3], [0, 0], b=1), True, id="dy zero, bias"),
        pytest.param(lambda: problem_of([0, 0], [3], [1, 1]), True, id="x zero: no dW"),
        pytest.param(lambda: problem_of([1, 2], [0], [1, 1]), True, id="w zero: no dX"),
        pytest.param(lambda: problem_of([2], [3], [5]), True, id="one product each"),
        pytest.param(lambda: problem_of([2], [3], [5], b=7), True, id="one product each, bias"),
        pytest.param(
            lambda: problem_of([2], [3], [4, 0, 4], (1, 1)), True, id="dy in the padding only"
        ),
        pytest.param(
            lambda: problem_of([2], [3, 4], [5], (1, 1), dilation=2), True, id="taps in the padding"
        ),
        pytest.param(
            lambda: problem_of([2], [3, 4], [5, 6], (1, 1)), False, id="some taps in the padding"
        ),
        pytest.param(lambda: problem_of([1, 2], [3], [4, 5]), False, id="dW of two products"),
        pytest.param(lambda: problem_of([1, 2], [3, 4], [5]), False, id="y of two products"),
        pytest.param(lambda: of_ones(1, 2), False, id="dX of two products"),
        pytest.param(lambda: of_ones(2, 1), False, id="y of two channels"),
        pytest.param(lambda: of_ones(1, 1, batch=2), False, id="dW of two samples"),
        pytest.param(lambda: of_ones(2, 4, 2), False, id="dX of two products, depthwise"),
        pytest.param(lambda: of_ones(2, 2, 2), True, id="one product each, depthwise"),
        pytest.param(lambda: of_ones(2, 2, batch=0), True, id="empty batch"),
        pytest.param(lambda: problem_of([1, -1], [3], [4, 4]), False, id="dW cancels"),
        pytest.param(lambda: problem_of([2], [3, -3], [4, 4], (1, 1)), False, id="dX cancels"),
    ],
)
def test_weak_problems(make: Callable[[], ConvProblem], weak: bool) -> None:
    """Where dX or dW is zero, or no result is a sum, hardly a fault could show."""
    assert is_weak(make()) is weak
    assert is_weak(make(), expect(make()).want) is weak
