"""The table of the problem space: what is asked for is what is drawn, and nothing is left out."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import hypothesis
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.strategies import DataObject

from oracles.protocol import DTYPES, GROUP_KINDS, Box, Domain
from oracles.registry import entries, find
from reference.problem import RANKS, ConvProblem, same_padding
from reference.rounding import FORMATS, expect
from tests.support import layouts
from tests.support.classes import (
    SAME_SHAPES,
    alike,
    ask_one,
    region_names,
    regions,
    three_classes,
)
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
from tests.support.regions import REGIONS, regions_in_common, regions_of
from tests.support.reporting import Tally
from tests.support.space import Facts, axes_of, can_be, problems_like, table, various
from tests.support.strategies import Fill, problems
from tests.support.verification import Verification
from tests.verification import test_coverage

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
each_rank = pytest.mark.parametrize("rank", [2, 3])


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


@given(problem=various(ANY, 2, "float32", "small") | various(ANY, 3, "float32", "small"))
def test_regions_of_a_problem(problem: ConvProblem) -> None:
    """All that hold, in their order, whichever axes have been looked at before."""
    facts = Facts.of(problem)
    assert regions_of(problem) == [name for name, wish in REGIONS.items() if wish.holds(facts)]


@each_rank
@pytest.mark.parametrize("most", [128, 448, None])
def test_axes_that_differ_fit(rank: int, most: int | None) -> None:
    """However few elements an oracle takes."""
    name = "all axes different"
    domain = Domain(Box((rank,), ("float32",), max_elements=most))

    @given(problem=problems_like(REGIONS[name], domain, rank, "float32", "small"))
    def draw(problem: ConvProblem) -> None:
        assert domain.refusal(problem) is None
        assert name in regions_of(problem)

    draw()


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


REQUIRED = [entry.name for entry in entries() if entry.required]


@pytest.mark.parametrize("name", [*REQUIRED, "any", "plain"])
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
@pytest.mark.parametrize("name", [*REQUIRED, "plain"])
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


def test_regions_come_in_turn() -> None:
    """Each of them once, in any rank and dtype, before any comes again; another seed, others."""
    found = regions(ANY, 1)
    names = region_names(ANY)
    assert {of.name for of in found[: len(names)]} == set(names)
    cells = {(of.rank, of.dtype) for of in found[: len(names)]}
    assert len(cells) > 6
    assert [of.name for of in found] != [of.name for of in regions(ANY, 2)]
    assert SAME_SHAPES in names
    assert "NaN in dy" not in names
    special = region_names(Domain(Box((1,), ("float32",)), special_values=True))
    assert {"NaN in dy", "Inf in x", "-Inf in w"} < set(special)


@few
@given(data=st.data(), box=BOXES)
def test_alike(data: DataObject, box: Box) -> None:
    """What is asked after a problem has its shapes, lies in the domain and is not the same."""
    domain = Domain(box)
    problem = data.draw(problems(domain, *data.draw(st.sampled_from(domain.cells()))))
    for other in alike(problem, domain):
        assert domain.refusal(other) is None
        for name in ("x", "w", "dy"):
            assert getattr(other, name).shape == getattr(problem, name).shape
    signs = [np.any(getattr(problem, name)) for name in ("x", "w", "dy")]
    assert len({repr(other) for other in alike(problem, domain)} - {repr(problem)}) >= sum(signs)


def a_verification(*left_out: str) -> Verification:
    """One of the numerical oracle, which does not ask problems of the regions `left_out`."""
    verification = Verification(
        [find("numerical")], Tally(), in_process=True, time_limit=30, regressions=Path()
    )
    verification.known = lambda _, problem: not set(left_out).isdisjoint(regions_of(problem))
    return verification


def test_three_classes_that_are_not_asked_are_red(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are named; but not those that the ledger keeps away."""
    verification = a_verification("bias")
    oracle = verification.connection("numerical")
    few_classes = three_classes(oracle.domain, 0)[:20]
    monkeypatch.setattr(test_coverage, "three_classes", lambda *_: few_classes)
    with pytest.raises(AssertionError, match="not asked where these meet: rank 1, dtype"):
        test_coverage.test_every_three_classes_meet(oracle, verification, math.inf)

    kept_away = a_verification(*REGIONS)
    oracle = kept_away.connection("numerical")
    monkeypatch.setattr(test_coverage, "three_classes", three_classes)
    test_coverage.test_every_three_classes_meet(oracle, kept_away, math.inf)
    assert kept_away.met(oracle).met == 0


def test_an_empty_region_is_red(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is named; a region that the ledger keeps away is not empty."""
    verification = a_verification("depthwise")
    oracle = verification.connection("numerical")
    others = [of for of in regions(oracle.domain) if of.name not in ("odd batch", "bias")][:90]
    monkeypatch.setattr(test_coverage, "regions", lambda *_: others)
    # as if problems were not what they were drawn for
    monkeypatch.setattr(verification, "_count_regions", lambda *_: None)
    for of in others[:60]:
        if of.name != "depthwise":
            verification.tally.add_region("numerical", of.name)
    with pytest.raises(AssertionError, match="no problem for numerical was in: ") as caught:
        test_coverage.test_every_region(oracle, verification, math.inf)
    assert "odd batch" in str(caught.value)
    assert "depthwise;" not in str(caught.value)


def test_regions_in_common() -> None:
    """Those that all failures are in and few passes, the rarest first."""
    drawn: list[ConvProblem] = []
    for of in regions(ANY)[:120]:
        ask_one(of, lambda problem, _: drawn.append(problem) or True)
    wish = REGIONS["window in the low padding"]
    failing = [problem for problem in drawn if wish.holds(Facts.of(problem))]
    passing = [problem for problem in drawn if not wish.holds(Facts.of(problem))]
    assert "window in the low padding" in regions_in_common(failing, passing)
    assert regions_in_common(drawn, drawn) == []
