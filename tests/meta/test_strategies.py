"""The strategies give what they promise: legal problems of every kind of box that shrink."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import find, given, settings
from hypothesis import strategies as st
from hypothesis.strategies import DataObject, DrawFn, SearchStrategy

from oracles.protocol import GROUP_KINDS, Box, Domain, GroupKind, group_kind
from reference import ConvParams, ConvProblem, same_padding
from tests.support.strategies import one_of, problems, problems_in_box, whole

ANY = Domain(Box(ranks=(1, 2, 3), dtypes=("float32",)))
each_rank = pytest.mark.parametrize("rank", [1, 2, 3])


@given(data=st.data())
def test_problems_lie_in_their_box(data: DataObject) -> None:
    """Whatever a box asks for, nothing is drawn outside it, and nothing had to be thrown away."""
    rank = data.draw(st.sampled_from([1, 2, 3]))
    box = Box(
        ranks=(rank,),
        dtypes=("float64",),
        groups=tuple(sorted(data.draw(st.sets(st.sampled_from(GROUP_KINDS), min_size=1)))),
        stride=data.draw(st.sampled_from(["one", "equal", "any"])),
        dilation=data.draw(st.sampled_from(["one", "any"])),
        padding=data.draw(st.sampled_from(["zero", "symmetric", "any"])),
        empty_batch=data.draw(st.booleans()),
        max_elements=data.draw(st.none() | st.integers(128, 5000)),
    )
    problem = data.draw(problems_in_box(box, rank, "float64"))
    assert box.misfit(problem) is None
    assert Domain(box).accepts(problem)


KINDS = {
    "empty batch": lambda p: p.x.shape[0] == 0,
    "one group": lambda p: group_kind(p) == "one",
    "some groups": lambda p: group_kind(p) == "some",
    "depthwise with a multiplier": lambda p: (
        group_kind(p) == "depthwise" and p.w.shape[-1] > p.x.shape[-1]
    ),
    "asymmetric padding": lambda p: any(lo != hi for lo, hi in p.params.padding),
    "SAME": lambda p: (
        any(map(any, p.params.padding))
        and p.params.padding
        == same_padding(p.spatial, p.kernel, p.params.stride, p.params.dilation)
    ),
    "padding of a whole window": lambda p: any(
        lo >= extent for (lo, _), extent in zip(p.params.padding, p.extent)
    ),
    "kernel wider than the input": lambda p: any(e > s for e, s in zip(p.extent, p.spatial)),
    "stride larger than the kernel": lambda p: any(
        s > e for s, e in zip(p.params.stride, p.extent)
    ),
    "trailing input": lambda p: any(
        (o - 1) * s + e - lo < size
        for o, s, e, (lo, _), size in zip(
            p.dy.shape[1:-1], p.params.stride, p.extent, p.params.padding, p.spatial
        )
    ),
    "dilation and stride": lambda p: max(p.params.dilation) > 1 < max(p.params.stride),
    "pointwise with a stride": lambda p: set(p.kernel) == {1} and min(p.params.stride) > 1,
    "one output of many inputs": lambda p: p.dy[0:1, ..., 0].size == 1 < min(p.spatial),
    "long sums": lambda p: p.dy[..., 0].size > 256,
}


@each_rank
def test_every_kind_is_drawn(rank: int) -> None:
    """Among 500 problems of a rank there are some of every kind that broke a framework."""
    missing = dict(KINDS)

    @settings(max_examples=500, derandomize=True, database=None)
    @given(problem=problems(ANY, rank, "float32"))
    def look(problem: ConvProblem) -> None:
        for kind in [kind for kind, is_it in missing.items() if is_it(problem)]:
            del missing[kind]

    look()
    assert not missing


@each_rank
def test_data_are_seldom_zero(rank: int) -> None:
    """Few problems have an x, w or dy that is all zero, in which nothing could be seen to fail."""
    weak = []

    @settings(max_examples=500, derandomize=True, database=None)
    @given(problem=problems(ANY, rank, "float32"))
    def look(problem: ConvProblem) -> None:
        if problem.x.shape[0]:
            weak.append(not all(np.any(a) for a in (problem.x, problem.w, problem.dy)))

    look()
    assert np.mean(weak) < 0.1


def test_data_are_small_integers() -> None:
    """Every value is an integer from -4 to 4, so that every partial sum is exact in float32."""

    @given(problem=problems(ANY, 2, "float32"))
    def look(problem: ConvProblem) -> None:
        for array in (problem.x, problem.w, problem.dy):
            assert np.all((array == np.round(array)) & (np.abs(array) <= 4))
        assert 16 * max(problem.x.size, problem.w.size, problem.dy.size) < 2**24

    look()


@pytest.mark.parametrize("choice", [lambda n: one_of(tuple(range(n))), lambda n: whole(1, n)])
def test_one_possibility_is_a_choice_too(choice: Callable[[int], SearchStrategy[int]]) -> None:
    """Where a simpler choice leaves more to choose from, what is drawn later stays what it was."""
    begun = False

    @st.composite
    def later(draw: DrawFn) -> tuple[int, int]:
        """How many possibilities there are, one or two, and a number drawn after one of them."""
        count = 2 - draw(whole(0, 1))
        draw(choice(count))
        return count, draw(whole(0, 1000))

    def wrong(drawn: tuple[int, int]) -> bool:
        nonlocal begun
        count, number = drawn
        begun = begun or (count == 1 and number >= 700)
        return begun and number >= 700

    most = settings(max_examples=5000, database=None, derandomize=True)
    assert find(later(), wrong, settings=most) == (2, 700)


@each_rank
def test_the_smallest_problem(rank: int) -> None:
    """Everything shrinks to one cell, one tap, one channel."""
    problem = find(problems(ANY, rank, "float32"), lambda _: True)
    assert problem.x.size == problem.w.size == problem.dy.size == 1
    assert problem.b is None
    ones = (1,) * rank
    assert problem.params == ConvParams(ones, ((0, 0),) * rank, ones, 1)


@each_rank
@pytest.mark.parametrize(
    ("first", "least"),
    [("depthwise", (2, 1, 2)), ("some", (2, 1, 2)), ("one", (1, 1, 1))],
    ids=["depthwise", "some groups", "one group"],
)
@pytest.mark.parametrize("bias", [False, True], ids=["no bias", "bias"])
def test_large_examples_shrink_to_the_smallest(
    first: GroupKind, least: tuple[int, int, int], bias: bool, rank: int
) -> None:
    """From an axis so long that there is hardly room for channels, whatever their groups.

    Where the choices for fewer cells mean something else than for many, shrinking ends there.
    """
    begun = False

    def wrong(problem: ConvProblem) -> bool:
        """True at first for large problems only, then for all that have several groups."""
        nonlocal begun
        large = problem.x.size > 512 and group_kind(problem) == first
        begun = begun or (large and (problem.b is not None) is bias)
        several = problem.params.groups > 1 or first == "one"
        return begun and several and problem.dy.any() and problem.w.any()

    most = settings(max_examples=20_000, database=None, derandomize=True)
    smallest = find(problems(ANY, rank, "float32", "integers"), wrong, settings=most)
    channels, inputs, filters = least
    ones = (1,) * rank
    assert (smallest.x.shape, smallest.w.shape) == ((1, *ones, channels), (*ones, inputs, filters))
    assert smallest.b is None
    assert np.abs(smallest.w).sum() == np.abs(smallest.dy).sum() == 1
