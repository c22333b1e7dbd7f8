"""The table of the problem space: what is asked for is what is drawn, and nothing is left out."""

from __future__ import annotations

import itertools

import hypothesis
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.strategies import DataObject

from oracles.protocol import DTYPES, GROUP_KINDS, Box, Domain
from oracles.registry import find, names
from reference.problem import RANKS, ConvProblem, same_padding
from reference.rounding import FORMATS, expect
from tests.support import layouts
from tests.support.coverage import (
    AXIS,
    Coverage,
    Met,
    combinations_of,
    coverage_of,
    problems_of,
    triples,
    wish,
    words,
)
from tests.support.regions import REGIONS, regions_of
from tests.support.space import Facts, axes_of, can_be, problems_like, table
from tests.support.strategies import Fill, problems

ANY = Domain(Box(ranks=RANKS, dtypes=DTYPES))
PLAIN = Domain(
    Box((2,), ("float32",), groups=("one",), stride="one", dilation="one", padding="zero")
)
BOXES = st.builds(
    Box,
    ranks=st.sampled_from([(1,), (2,), (3,), RANKS]),
    dtypes=st.sampled_from([("float64",), ("float16", "float64")]),
    groups=st.lists(st.sampled_from(GROUP_KINDS), min_size=1, unique=True).map(tuple),
    stride=st.sampled_from(["one", "equal", "any"]),
    dilation=st.sampled_from(["one", "any"]),
    padding=st.sampled_from(["zero", "symmetric", "any"]),
    empty_batch=st.booleans(),
    max_elements=st.none() | st.integers(128, 5000),
)
FILLS: tuple[Fill, ...] = ("small", "wide", "reals")
few = settings(max_examples=40)


def test_the_table() -> None:
    """Its figures are those of the problems made from it; each axis reads the input somewhere."""
    axes = table()
    rng = np.random.default_rng(0)
    for number in rng.integers(0, len(axes.cells), 300):
        taps, dilation, stride, lo, hi, cells = (
            int(getattr(axes, name)[number])
            for name in ("taps", "dilation", "stride", "lo", "hi", "cells")
        )
        reads = [
            out * stride + tap * dilation - lo
            for out, tap in itertools.product(range(int(axes.out[number])), range(taps))
        ]
        assert any(0 <= place < cells for place in reads)
        assert (cells + lo + hi - axes.extent[number] - axes.rest[number]) % stride == 0
        [same] = same_padding([cells], [taps], [stride], [dilation])
        assert same == (axes.same[0][number], axes.same[1][number])


@few
@given(data=st.data(), box=BOXES, name=st.sampled_from(sorted(REGIONS)))
def test_every_region_is_reached(data: DataObject, box: Box, name: str) -> None:
    """What is drawn for a region lies in it and in the domain, whatever the domain is."""
    domain = Domain(box)
    rank, dtype = data.draw(st.sampled_from(domain.cells()))
    if can_be(REGIONS[name], domain, rank, dtype):
        fill = data.draw(st.sampled_from(FILLS))
        problem = data.draw(problems_like(REGIONS[name], domain, rank, dtype, fill))
        assert domain.refusal(problem) is None
        assert REGIONS[name].holds(Facts.of(problem))
        assert name in regions_of(problem)


@pytest.mark.parametrize("name", REGIONS)
def test_every_region_exists(name: str) -> None:
    """In a domain without limits there are problems of each, of all ranks that it can have."""
    ranks = [rank for rank in RANKS if can_be(REGIONS[name], ANY, rank, "float32")]
    several = REGIONS[name].is_distinct or REGIONS[name].others is not None
    assert ranks == [2, 3] if several else [1, 2, 3]


@given(problem=problems(PLAIN, 2, "float32"))
def test_no_region_is_everything(problem: ConvProblem) -> None:
    """What a plain layer is not in, it is not said to be in."""
    absent = {"depthwise", "window in the low padding", "stride > kernel", "dilation > input"}
    absent |= {"bias" if problem.b is None else "no bias", "low padding only", "memory: Fortran"}
    assert absent.isdisjoint(regions_of(problem))


@few
@given(data=st.data(), name=st.sampled_from(layouts.NAMES), fill=st.sampled_from(FILLS))
@pytest.mark.parametrize("dtype", DTYPES)
def test_layouts_keep_what_the_values_promise(
    data: DataObject, name: str, fill: Fill, dtype: str
) -> None:
    """Integers stay exact in any order of summation, reals do not overflow."""
    like = REGIONS[f"memory: {name}"]
    problem = data.draw(problems_like(like, ANY, data.draw(st.sampled_from(RANKS)), dtype, fill))
    assert layouts.name_of(problem) == name
    expected = expect(problem)
    for result in ("dx", "dw", "db", "y"):
        allowed = getattr(expected.allowed, result)
        if allowed is not None and fill != "reals":
            assert not allowed.any()
        if allowed is not None:
            assert np.isfinite(allowed.astype(np.float64)).all() or dtype == "bfloat16"
            want = getattr(expected.want, result).astype(np.float64)
            assert np.all(np.abs(want) <= FORMATS[dtype].largest)


@pytest.mark.parametrize("name", [*names(), "any", "plain"])
def test_the_covering_array_is_complete(name: str) -> None:
    """Every three levels that can meet, meet: counted by hand from the table, one by one."""
    domain = {"any": ANY, "plain": PLAIN}.get(name) or find(name).oracle.domain
    coverage = coverage_of(domain)
    covered = set(triples(coverage.array).ravel().tolist())
    assert covered >= set(coverage.valid.tolist())
    assert len(coverage.array) < 300


def test_what_can_meet() -> None:
    """Three levels that some random problem has are never taken for impossible."""
    coverage = Coverage(ANY)
    valid = set(coverage.valid.tolist())

    @settings(max_examples=300)
    @given(problem=problems_like(REGIONS["bias"], ANY, 2, "float32", "small"))
    def look(problem: ConvProblem) -> None:
        found = combinations_of(problem, "small")
        assert found is not None
        assert valid.issuperset(triples(found).ravel().tolist())

    look()


@few
@given(data=st.data())
@pytest.mark.parametrize("name", [*names(), "plain"])
def test_a_combination_is_drawn(name: str, data: DataObject) -> None:
    """A problem drawn for a combination has it, and its triples are counted as met."""
    domain = PLAIN if name == "plain" else find(name).oracle.domain
    coverage = coverage_of(domain)
    combination = data.draw(st.sampled_from(list(coverage.array)), label="combination")
    problem = data.draw(problems_of(domain, combination))
    like, fill = wish(combination)
    assert domain.refusal(problem) is None
    assert like.holds(Facts.of(problem))
    found = combinations_of(problem, fill)
    assert found is not None
    assert (found == combination).all(axis=1).any(), words(combination)


def test_what_has_met_is_counted() -> None:
    """Nothing at first, all of a problem's triples after it, and all of them in the end."""
    coverage = Coverage(PLAIN)
    met = Met(coverage)
    assert met.met == 0

    for number, combination in enumerate(coverage.array):
        problem, fill = (
            hypothesis.find(problems_of(PLAIN, combination), lambda _: True),
            wish(combination)[1],
        )
        met.meet(problem, fill)
        if number == 0:
            found = combinations_of(problem, fill)
            assert found is not None
            assert met.met == len(np.unique(triples(found)))
            assert len(met.missing) == len(coverage.valid) - met.met
    assert met.met == met.valid == len(coverage.valid)
    assert not met.missing


def test_levels_exclude_each_other() -> None:
    """An axis has at most one level of each factor, and every level is some axis's."""
    for levels in AXIS.values():
        holds = np.array([condition(table()) for condition in levels.values()])
        assert holds.sum(axis=0).max() == 1
        assert holds.any(axis=1).all()


def test_axes_of_a_problem() -> None:
    """They are what the problem says."""

    @given(problem=problems(ANY, 3, "float32"))
    def look(problem: ConvProblem) -> None:
        axes = axes_of(problem)
        assert tuple(axis.out for axis in axes) == problem.dy.shape[1:-1]
        assert tuple(axis.extent for axis in axes) == problem.extent

    look()
