"""Every plan of the reference, asked in turn: the same sums, within the memory that is promised."""

from __future__ import annotations

import math
import os
import platform
import re
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from itertools import combinations
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from oracles.protocol import Box, Domain
from reference import (
    ConvParams,
    ConvProblem,
    conv,
    conv_backward,
    conv_forward,
    depthwise,
    groups,
    naive_conv_backward,
    naive_conv_forward,
    plans,
    products,
    threads,
    windows,
)
from reference.plans import PLANS, choose
from reference.problem import RANKS, Array, Size
from reference.shapes import Backward, Forward, Grads, Shapes
from tests.support.layers import Layer, real_layers
from tests.support.prepared import forget
from tests.support.prepared import nothing_prepared as nothing_prepared
from tests.support.regions import REGIONS
from tests.support.space import Condition, Wish, can_be, problems_like, table
from tests.support.strategies import problems, special_problems

ANY_DTYPE = ("float16", "bfloat16", "float32", "float64")
ONE_GROUP = Box(RANKS, ANY_DTYPE, ("one",), empty_batch=False)
KINDS = {  # of problems, and the plans that take them
    "of one tap": (replace(ONE_GROUP, stride="one", padding="zero"), ("point",)),
    "dense": (ONE_GROUP, ("x columns", "dy columns", "rows")),
    "depthwise": (replace(ONE_GROUP, groups=("depthwise",)), ("depthwise",)),
    "groups": (replace(ONE_GROUP, groups=("some", "depthwise")), ("groups",)),
    "any": (Box(RANKS, ANY_DTYPE), ("taps",)),
}
LIMIT = 2048  # elements of x and of w: the definition is slow
ANY = Domain(KINDS["any"][0])
pytestmark = pytest.mark.usefixtures("nothing_prepared")
each_kind = pytest.mark.parametrize("kind", KINDS)
each_plan = pytest.mark.parametrize("plan", PLANS)
each_rank = pytest.mark.parametrize("rank", RANKS)


def test_every_plan_is_asked() -> None:
    """None is left out here."""
    assert sorted(plan for _, asked in KINDS.values() for plan in asked) == sorted(PLANS)


def littered(shape: Size, dtype: Any, empty: Callable[..., Array] = np.empty) -> Array:
    """What np.empty may give: memory that others have written to."""
    array = empty(shape, dtype)
    array[...] = 7
    return array


def same(got: Array, want: Array) -> bool:
    """Equal in shape, dtype and every value; NaN equals NaN."""
    equal = (got == want) | ((got != got) & (want != want))
    return got.shape == want.shape and got.dtype == want.dtype and bool(np.all(equal))


def check(p: ConvProblem, *asked: str) -> None:
    """Assert that each gives what the definition gives, from inputs that it may not write to.

    Without a bias, db is not part of the problem, and need not fit into a narrow format.
    """
    x, w, dy = (array.view() for array in (p.x, p.w, p.dy))
    for array in (x, w, dy):
        array.flags.writeable = False
    want = naive_conv_backward(x, w, dy, p.params)
    want_y = naive_conv_forward(x, w, p.b, p.params)
    for plan in asked:
        got = conv_backward(x, w, dy, p.params, plan=plan)
        for name in ("dx", "dw", "db") if p.b is not None else ("dx", "dw"):
            assert same(getattr(got, name), getattr(want, name)), f"{plan}: {name} {p!r:.2000}"
        y = conv_forward(x, w, p.b, p.params, plan=plan)
        assert same(y, want_y), f"{plan}: y {p!r:.2000}"


def one_tap(condition: Condition | None) -> Condition:
    """The condition, of axes of one tap."""
    return lambda a: (a.taps == 1) & (True if condition is None else condition(a))


def narrowed(kind: str, wish: Wish, rank: int) -> Wish:
    """What is left of a region where kernels have one tap."""
    if kind != "of one tap":
        return wish
    others = one_tap(wish.others) if rank > 1 else wish.others
    return replace(wish, axis=one_tap(wish.axis), others=others)


@each_kind
@pytest.mark.parametrize("region", REGIONS)
def test_every_plan_is_exact_in_every_region(kind: str, region: str) -> None:
    """Bit for bit the definition, of every rank of which the region has problems of the kind."""
    box, asked = KINDS[kind]
    domain = Domain(box)
    for rank in RANKS:
        wish = narrowed(kind, REGIONS[region], rank)
        if wish.above:  # of so many samples there shall be little else
            few = wish.group_out or (1, 2, 3)
            wish = replace(wish, limit=min(wish.limit, 16 * wish.above), group_out=few)
        else:
            wish = replace(wish, limit=LIMIT)
        beside = wish.others is None or wish.others(table()).any()
        if beside and can_be(wish, domain, rank, "float32"):
            drawn = problems_like(wish, domain, rank, "float32", "integers")

            @settings(
                max_examples=2, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
            )
            @given(drawn)
            def agrees(problem: ConvProblem) -> None:
                check(problem, *asked)

            agrees()


@each_rank
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "of one tap"])
@pytest.mark.parametrize(
    "limits",
    [
        [(plans, "_COLUMNS", 1 << 16), (depthwise, "_PART", 1 << 16)],
        [
            *[(plans, "_COLUMNS", 60), (plans, "_SPAN", 0), (plans, "_WIDE", 0)],
            *[(depthwise, "_PART", 60), (depthwise, "_LONG_PART", 60)],
        ],
        [(plans, "_COLUMNS", 60), (plans, "_SPAN", 1)],
        [(products, "_SMALL", 60), (products, "_LEAST", 1)],
        [(windows, "_SHORT", 0)],
        [(windows, "_BORDERED", 0), (np, "empty", littered)],
    ],
    ids=[
        "one block",
        "many blocks",
        "blocks as large as w",
        "small products",
        "runs of numbers",
        "zeros around what is there",
    ],
)
def test_every_plan_is_exact_on_random_problems(
    kind: str, rank: int, limits: list[tuple[ModuleType, str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit for bit the definition; of 16-bit formats too, which are summed in float32.

    Blocks are computed side by side.
    """
    box, asked = KINDS[kind]
    few = Domain(replace(box, max_elements=LIMIT))
    monkeypatch.setattr(threads, "THREADS", 3)
    monkeypatch.setattr(threads, "_SHARED", 1)
    for module, name, value in limits:
        monkeypatch.setattr(module, name, value)

    @settings(max_examples=25)
    @given(st.sampled_from(ANY_DTYPE).flatmap(partial(problems, few, rank)))
    def agrees(problem: ConvProblem) -> None:
        check(problem, *asked)

    agrees()


@pytest.mark.parametrize("few", [0, 16])
@pytest.mark.parametrize("small", [0, 2000, 10**6])
@pytest.mark.parametrize("channels", [2, 16, 17])
@pytest.mark.parametrize("slight", [0, 10**6])
def test_points_in_blocks(
    few: int, small: int, channels: int, slight: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of few channels in several blocks, of more in one, bit for bit the definition."""
    monkeypatch.setattr(threads, "THREADS", 2)
    monkeypatch.setattr(plans, "_SLIGHT", slight)
    monkeypatch.setattr(plans, "_COLUMNS", 60)
    monkeypatch.setattr(plans, "_FEW", few)
    monkeypatch.setattr(products, "_SMALL", small)
    monkeypatch.setattr(products, "_LEAST", 1)
    check(integers_of((2, 5, 3, channels), (1, 1, channels, 19), ConvParams(), np.float32), "point")


@each_rank
@pytest.mark.parametrize(
    "limits",
    [
        {"_LANES": 0},
        {"_LANES": 6, "_MANY": 0},
        {"_COPIED": range(10**9), "_ASKED": 0},
        {"_FEW": 10**9, "_OUTPUTS": 0},
    ],
    ids=["alone", "some", "dW tap by tap", "y and dX tap by tap"],
)
def test_ways_to_sum_channel_by_channel(
    rank: int, limits: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Depthwise sums are the same over one output or several, of one tap or all together."""
    for name, value in limits.items():
        monkeypatch.setattr(depthwise, name, value)

    @settings(max_examples=25)
    @given(problems(Domain(KINDS["depthwise"][0]), rank, "float32"))
    def agrees(problem: ConvProblem) -> None:
        check(problem, "depthwise")

    agrees()


@each_rank
@pytest.mark.parametrize(("cells", "lanes", "sides"), [(7, 6, [2, 1]), (11, 8, [3, 2])])
@pytest.mark.parametrize("taps", [2, 3])
def test_a_rest_of_outputs(
    rank: int,
    cells: int,
    lanes: int,
    sides: list[int],
    taps: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Outputs of two channels are summed some together, and those that are left."""
    monkeypatch.setattr(depthwise, "_LANES", lanes)
    assert [strip.side for strip in depthwise._strips(cells, 2, 1)] == sides
    params = ConvParams((1,) * rank, ((taps - 1, 0),) * rank, (1,) * rank, groups=2)
    x_shape, w_shape = (2, *(3,) * (rank - 1), cells, 2), (*(taps,) * rank, 1, 4)
    check(integers_of(x_shape, w_shape, params, np.float32), "depthwise")


@each_rank
@pytest.mark.parametrize(("gap", "are_apart"), [(1, True), (2, True), (3, False)])
@pytest.mark.parametrize("most", [60, 1 << 19])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int16, np.longdouble])
def test_outputs_that_are_apart(
    rank: int, gap: int, are_apart: bool, most: int, dtype: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each sees inputs of its own, some of them in the padding; some inputs are seen by none."""
    padding = ((1, 3), (0, 1), (2, 0))
    params = ConvParams((3, 3, 2)[:rank], padding[:rank], (gap, 1, 1)[:rank])
    problem = integers_of((2, *(11, 10, 7)[:rank], 5), (*(2, 3, 1)[:rank], 5, 6), params, dtype)
    asked = []
    patches = plans._patches_backward
    monkeypatch.setattr(
        plans, "_patches_backward", lambda *args: asked.append(args) or patches(*args)
    )
    monkeypatch.setattr(plans, "_COLUMNS", most)
    monkeypatch.setattr(plans, "_SPAN", 0)
    monkeypatch.setattr(threads, "THREADS", 3)
    monkeypatch.setattr(threads, "_SHARED", 1)
    check(problem, "x columns")
    assert bool(asked) == are_apart


@pytest.mark.parametrize("size", [1, 4, 9])
@pytest.mark.parametrize("padding", [(0, 0), (3, 1), (0, 7)])
@pytest.mark.parametrize("stride", [1, 3])
@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("bordered", [0, 10**9])
def test_rows_see_what_all_see(
    size: int,
    padding: tuple[int, int],
    stride: int,
    dilation: int,
    bordered: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Some outputs of an axis, of their part of it, padding included, and nothing else."""
    monkeypatch.setattr(windows, "_BORDERED", bordered)
    monkeypatch.setattr(np, "empty", littered)
    taps, others = 2, ((0, 1),)
    params = ConvParams((stride, 1), (padding, *others), (dilation, 1))
    x = np.arange(1, 1 + 2 * size).reshape(1, size, 2, 1)
    whole = windows.frame_of(x.shape, params.padding).around(x)
    extent = (taps - 1) * dilation + 1
    outputs = (size + sum(padding) - extent) // stride + 1
    for start, stop in combinations(range(outputs + 1), 2):
        seen = windows.padding_of_rows(slice(start, stop), size, taps, params.padding, params)
        want = whole[:, start * stride : (stop - 1) * stride + extent]
        assert np.array_equal(windows.frame_of(x.shape, seen).around(x), want)


@pytest.mark.parametrize(
    ("kernel", "stride", "channels", "plan"),
    [
        (2, 2, 128, "x columns"),
        (16, 16, 3, "x columns"),
        (2, 3, 32, "x columns"),
        (2, 2, 129, "taps"),
        (1, 2, 128, "taps"),
    ],
)
def test_patches_are_columns(kernel: int, stride: int, channels: int, plan: str) -> None:
    """Of up to 128 channels, unless a kernel has one tap."""
    shape, params = (2, 32, 32, channels), ConvParams((stride, stride))
    assert choose(shape, (kernel, kernel, channels, channels), params) == plan


@pytest.mark.parametrize(
    ("size", "kernel", "channels", "filters", "stride", "plan"),
    [
        (28, 3, 48, 96, 1, "x columns"),
        (28, 3, 48, 95, 1, "rows"),
        (28, 3, 47, 94, 1, "rows"),
        (28, 3, 48, 96, 2, "x columns"),
        (28, 1, 48, 96, 2, "taps"),
        (7, 3, 128, 256, 1, "x columns"),
        (16, 3, 129, 258, 1, "x columns"),
        (15, 3, 129, 258, 1, "taps"),
    ],
)
def test_wide_columns(
    size: int, kernel: int, channels: int, filters: int, stride: int, plan: str
) -> None:
    """Of many channels, where there are twice as many filters and images are not too small."""
    params = ConvParams((stride, stride), ((kernel // 2, kernel // 2),) * 2)
    w_shape = (kernel, kernel, channels, filters)
    assert choose((1, size, size, channels), w_shape, params) == plan


@pytest.mark.parametrize(
    ("channels", "filters", "count"), [(3, 512, 1), (64, 64, 2), (256, 170, 3), (256, 342, 1)]
)
def test_blocks_of_columns(channels: int, filters: int, count: int) -> None:
    """Of half a million elements, or thrice as many as w: each adds all of dW to those before."""
    assert len(plans._column_blocks((1, 32, 32, filters), 9 * channels)) == count


@pytest.mark.parametrize(("channels", "last"), [(47, 3), (48, 4)])
def test_what_a_tap_feeds_lies_in_long_rows(
    channels: int, last: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of channels where there are many, of cells where there are few."""
    seen = []
    fed_by_tap = plans._fed_by_tap

    def spied(*args: Any) -> Array:
        seen.append(fed_by_tap(*args))
        return seen[-1]

    monkeypatch.setattr(plans, "_fed_by_tap", spied)
    check(
        integers_of((2, 6, 7, channels), (2, 2, channels, 7), ConvParams(), np.float32), "x columns"
    )
    assert seen[0].shape == (4, 2, 5, 6, channels)
    assert seen[0].strides[last] == 4


@each_rank
@pytest.mark.parametrize("wide", [1, 4, 6, 10**6])
def test_groups_together(rank: int, wide: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """One group at a time, several, some left over at the end, or all."""
    monkeypatch.setattr(groups, "_WIDE", wide)

    @settings(max_examples=25)
    @given(problems(Domain(KINDS["groups"][0]), rank, "float32"))
    def agrees(problem: ConvProblem) -> None:
        check(problem, "groups")

    agrees()


def test_groups_are_parted() -> None:
    """Seven of three channels and filters, as many as 16 channels have room for."""
    parts = groups._parts(7, 3, 2)
    assert [part.groups for part in parts] == [slice(0, 5), slice(5, 7)]
    assert [part.channels for part in parts] == [slice(0, 15), slice(15, 21)]
    assert [part.filters for part in parts] == [slice(0, 10), slice(10, 14)]


@pytest.mark.parametrize(
    ("dtype", "plan"),
    [
        ("float16", "groups"),
        ("float32", "groups"),
        ("float64", "groups"),
        ("longdouble", "taps"),
        ("int16", "taps"),
        ("int64", "taps"),
        ("object", "taps"),
    ],
)
def test_groups_are_joined_for_blas_alone(dtype: str, plan: str) -> None:
    """Where NumPy multiplies by itself, it takes its time over zeros too."""
    p = PROBLEMS["groups"](dtype)
    assert choose(p.x.shape, p.w.shape, p.params) == "groups"
    shapes = conv._shapes(p.x.shape, p.w.shape, p.dtype, p.params)
    assert conv._plan(None, shapes) is PLANS[plan]


@each_rank
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "of one tap"])
def test_every_plan_keeps_special_values_where_they_belong(kind: str, rank: int) -> None:
    """NaN and Inf reach what the definition says, and none comes out of padding that is stored."""
    box, asked = KINDS[kind]

    @settings(max_examples=25)
    @given(special_problems(Domain(box), rank, "float32"))
    def agrees(problem: ConvProblem) -> None:
        with np.errstate(invalid="ignore"):
            check(problem, *asked)

    agrees()


@each_plan
@pytest.mark.parametrize("cells", ["many", "few"])
@pytest.mark.parametrize("name", ["x", "w", "dy"])
@pytest.mark.parametrize(("value", "others"), [(math.nan, 1), (-math.inf, 0)])
def test_every_plan_keeps_one_special_value_where_it_belongs(
    plan: str, cells: str, name: str, value: float, others: float
) -> None:
    """Wherever it is; all others are integers, or zero. Few cells are less than w has."""
    problem = PROBLEMS[plan](np.float32)
    if cells == "few":
        problem = few_cells(problem)
    arrays = {key: getattr(problem, key) * np.float32(others) for key in ("x", "w", "dy")}
    for place in range(arrays[name].size):
        special = arrays[name].copy()
        special.flat[place] = value
        with np.errstate(invalid="ignore"):
            check(replace(problem, **{**arrays, name: special}), plan)


@each_plan
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_every_plan_keeps_a_special_object_where_it_belongs(plan: str, value: float) -> None:
    """Python's own floats, whose sums NumPy's BLAS never sees."""
    problem = PROBLEMS[plan](object)
    for name in ("x", "w", "dy"):
        special = getattr(problem, name).copy()
        special.flat[-1] = value
        check(replace(problem, **{name: special}), plan)


@each_plan
def test_what_is_prepared_serves_several_at_once(plan: str) -> None:
    """Threads that ask for the same shapes and take turns all the time each get their own."""
    p = PROBLEMS[plan](np.float32)
    asked = [replace(p, x=p.x + n, dy=p.dy - 2 * n) for n in range(8)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(check, 5 * asked, 5 * [plan] * len(asked)))
    finally:
        sys.setswitchinterval(interval)


@each_plan
def test_what_is_prepared_is_for_these_params_and_this_dtype(plan: str) -> None:
    """Of the same arrays, with more padding, without, and in a narrower format."""
    p = PROBLEMS[plan](np.float32)
    for padding in (p.params.padding, ((0, 3), (4, 0)), ((0, 0), (0, 0))):
        params = replace(p.params, padding=padding)
        if PLANS[plan].fits(p.x.shape, p.w.shape, params):
            for dtype in (np.float32, np.float16, np.int64):
                check(integers_of(p.x.shape, p.w.shape, params, dtype), plan)


@each_plan
@pytest.mark.parametrize(("small", "wide"), [(60, 0), (300, 48), (10**6, 0)])
@pytest.mark.parametrize("dtype", [np.longdouble, np.int16, np.uint16, np.int32, np.int64, object])
def test_every_plan_takes_other_numbers(
    plan: str, dtype: Any, small: int, wide: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Integers of 16 bits are not taken for floating-point numbers, nor are sums made wider."""
    monkeypatch.setattr(plans, "_WIDE", wide)
    monkeypatch.setattr(products, "_SMALL", small)
    monkeypatch.setattr(products, "_LEAST", 1)
    check(PROBLEMS[plan](dtype), plan)


@each_plan
@pytest.mark.parametrize("name", ["y", "dx", "dw"])
def test_a_wrong_plan_is_seen(plan: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One element that is off by one is enough; and it is this plan that has been asked."""
    right = PLANS[plan]

    def forward(shapes: Shapes) -> Forward:
        def compute(x: Array, w: Array) -> Array:
            y = right.forward(shapes)(x, w)
            y.flat[-1] += 1
            return y

        return compute

    def backward(shapes: Shapes) -> Backward:
        def compute(x: Array, w: Array, dy: Array) -> Grads:
            grads = right.backward(shapes)(x, w, dy)
            grads[name == "dw"].flat[-1] += 1
            return grads

        return compute

    wrong = right._replace(forward=forward) if name == "y" else right._replace(backward=backward)
    check(PROBLEMS[plan](np.float32), plan)
    monkeypatch.setattr(conv, "PLANS", {**PLANS, plan: wrong})
    forget()
    with pytest.raises(AssertionError, match=f"{plan}: {name}"):
        check(PROBLEMS[plan](np.float32), plan)


def integers_of(
    x: tuple[int, ...], w: tuple[int, ...], params: ConvParams, dtype: Any
) -> ConvProblem:
    """Integers that no unsigned type is too narrow for."""
    layer = Layer("", x, w, params)
    arrays = (
        (np.arange(math.prod(shape)) * 7 % 11).reshape(shape).astype(dtype)
        for shape in (layer.x, layer.w, layer.w[-1:], layer.dy)
    )
    return ConvProblem(*arrays, params)


PROBLEMS = {
    "point": partial(integers_of, (2, 4, 3, 5), (1, 1, 5, 6), ConvParams()),
    "depthwise": partial(
        integers_of, (2, 6, 5, 4), (3, 2, 1, 8), ConvParams((1, 2), ((1, 0), (0, 2)), (2, 1), 4)
    ),
    "x columns": partial(
        integers_of, (2, 6, 5, 3), (3, 2, 3, 4), ConvParams((1, 2), ((1, 0), (0, 2)), (2, 1))
    ),
    "dy columns": partial(
        integers_of, (2, 6, 5, 3), (3, 2, 3, 4), ConvParams((1, 2), ((1, 0), (0, 2)), (2, 1))
    ),
    "rows": partial(
        integers_of, (2, 6, 5, 3), (3, 2, 3, 4), ConvParams((1, 1), ((1, 0), (0, 2)), (2, 1))
    ),
    "groups": partial(
        integers_of, (2, 6, 5, 9), (3, 2, 3, 6), ConvParams((1, 2), ((1, 0), (0, 2)), (2, 1), 3)
    ),
    "taps": partial(
        integers_of, (2, 6, 5, 4), (3, 2, 2, 6), ConvParams((1, 2), ((1, 0), (0, 2)), (2, 1), 2)
    ),
}


def few_cells(p: ConvProblem) -> ConvProblem:
    """The same of so few cells that w has more elements; some outputs see the padding only."""
    if not any(map(any, p.params.padding)):
        return integers_of((1, 1, 1, p.x.shape[-1]), p.w.shape, p.params, p.x.dtype)
    params = ConvParams((1, 1), ((1, 0), (0, 2)), (2, 1), p.params.groups)
    few = integers_of((1, 4, 1, p.x.shape[-1]), p.w.shape, params, p.x.dtype)
    assert few.w.size > few.x.size + few.dy.size
    return few


@given(st.sampled_from(RANKS).flatmap(lambda rank: problems(ANY, rank, "float32")))
def test_the_chosen_plan_fits(problem: ConvProblem) -> None:
    """Whatever the shapes are."""
    shapes = problem.x.shape, problem.w.shape, problem.params
    assert PLANS[choose(*shapes)].fits(*shapes)


def test_every_plan_is_of_use() -> None:
    """Each is chosen for some layer of a published network."""
    chosen = {choose(layer.x, layer.w, layer.params) for layer in real_layers()}
    assert chosen == set(PLANS)


@pytest.mark.parametrize("plan", ["point", "depthwise", "groups", "fastest"])
def test_a_plan_that_does_not_fit_is_refused(plan: str) -> None:
    """The error names those that do."""
    p = PROBLEMS["x columns"](np.float32)
    allowed = re.escape("'x columns', 'dy columns', 'rows', 'taps'")
    with pytest.raises(ValueError, match=f"plan={plan!r}: .*{allowed}"):
        conv_backward(p.x, p.w, p.dy, p.params, plan=plan)
    with pytest.raises(ValueError, match=f"plan={plan!r}: .*{allowed}"):
        conv_forward(p.x, p.w, None, p.params, plan=plan)


LARGE = Layer("224", (8, 224, 224, 64), (3, 3, 64, 8), ConvParams(padding=((1, 1), (1, 1))))


@pytest.mark.parametrize("layer", [*real_layers(), LARGE], ids=str)
def test_memory(layer: Layer) -> None:
    """Beside the results at most twice the bytes of x, w, y, dX and dW together are in use."""
    arrays = [np.zeros(shape, np.float32) for shape in (layer.x, layer.w, layer.dy)]
    results = 4 * (math.prod(layer.x) + math.prod(layer.w))
    conv._keep_memory()  # what is kept for all calls is none of this one's
    peak = peak_of(lambda: conv_backward(*arrays, layer.params))
    assert peak - results <= 2 * 4 * layer.elements


def test_memory_is_seen() -> None:
    """Arrays that are let go of before the end count."""
    assert peak_of(lambda: np.zeros(10**6).sum()) > 8 * 10**6


def peak_of(call: Callable[[], object]) -> int:
    """The most bytes that a call has in use at once, NumPy's arrays included."""
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


FAULTS = """
import resource
import numpy as np
from reference import ConvParams, conv_backward, conv_forward
x, w = np.ones((8, 164, 32), np.float32), np.ones((2, 32, 32), np.float32)
dy, params = np.ones((8, 163, 32), np.float32), ConvParams((1,), ((0, 0),), (1,))
call = lambda: (conv_forward(x, w, None, params), conv_backward(x, w, dy, params))
for _ in range(10):
    call()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(100):
    call()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="is about glibc's allocator")
@pytest.mark.parametrize("keeps", [True, False])
def test_memory_is_kept_for_the_next_call(keeps: bool) -> None:
    """In a process that has seen nothing large, or the system is asked for it every time."""
    script = FAULTS if keeps else f"from reference import conv\nconv._keep_memory = int\n{FAULTS}"
    assert (printed(script) < 30) == keeps


RESIDENT = """
import re
from pathlib import Path
from reference import conv
most = lambda: int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
before = most()
conv._keep_memory()
print((most() - before) // 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc how much memory there was in use")
@pytest.mark.parametrize("perturb", [{}, {"MALLOC_PERTURB_": "165"}], ids=["plain", "filled"])
def test_no_memory_is_filled_to_keep_it(perturb: dict[str, str]) -> None:
    """By glibc, as in the oracles' processes: that would take 20 ms of each."""
    assert printed(RESIDENT, **perturb) < 8  # MB


def printed(script: str, **variables: str) -> int:
    """The number that `script` prints, whatever the allocator is told here."""
    others = ("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD")
    environment = {key: os.environ[key] for key in os.environ if not key.startswith(others)}
    environment |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", **variables}
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return int(done.stdout)
