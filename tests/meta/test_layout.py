"""An array lies in an oracle's memory as it lay in ours."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from numpy.lib.stride_tricks import as_strided

from oracles.protocol import Caller, Malformed, describe
from oracles.registry import connect, find
from oracles.wire import Inbox, decode_problem, encode_problem
from reference import ConvGrads, ConvParams, ConvProblem
from reference.layout import extent, laid_like, placed, strides_of, with_strides
from reference.problem import Array
from tests.support import layouts, zoo
from tests.support.regressions import problem_from_json, problem_to_json

BASE = np.arange(1, 61, dtype=np.float32).reshape(1, 5, 4, 3)
PARAMS = ConvParams((1, 1), ((0, 0), (0, 0)), (1, 1))


def problem(x: Array) -> ConvProblem:
    """A problem with this x."""
    w = np.ones((1, 1, 3, 2), np.float32)
    return ConvProblem(x, w, None, np.ones((*x.shape[:-1], 2), np.float32), PARAMS)


@pytest.mark.parametrize("name", layouts.LAYOUTS)
def test_it_is_sent_and_guarded(name: str) -> None:
    """Values, strides and whether it may be written to, through a message and to the oracle."""
    given = problem(layouts.LAYOUTS[name](BASE))
    assert np.array_equal(given.x, BASE)
    inbox = Inbox(limit=1 << 20)
    inbox.feed(encode_problem(given))
    message = inbox.message()
    assert message is not None
    received = decode_problem(*message)
    seen: list[ConvProblem] = []

    class Sees(zoo.Citizen):
        def grads(self, problem: ConvProblem) -> ConvGrads:
            seen.append(problem)
            return zoo.right.grads(problem)

    Caller(Sees())(received)
    for arrived in (received.x, seen[0].x):
        assert np.array_equal(arrived, given.x)
        assert arrived.strides == given.x.strides
        assert arrived.flags.writeable == given.x.flags.writeable


@pytest.mark.parametrize("name", ["strided view", "reversed"])
def test_what_lies_between_is_not_part_of_it(name: str) -> None:
    """An oracle that takes a view for a dense array reads NaN, or the wrong elements."""

    class Dense(zoo.Citizen):
        def grads(self, problem: ConvProblem) -> ConvGrads:
            first = problem.x[tuple(slice(-1, None) if s < 0 else slice(1) for s in strides)]
            x = as_strided(first, problem.x.shape, BASE.strides)
            return zoo.right.grads(replace(problem, x=x))

    given = problem(layouts.LAYOUTS[name](BASE))
    strides = given.x.strides
    right = zoo.right.grads(given)
    assert not np.array_equal(Caller(Dense())(given).dw, right.dw)
    strides = BASE.strides
    assert np.array_equal(Caller(Dense())(problem(BASE)).dw, right.dw)


def test_harm_is_seen_in_any_layout() -> None:
    """Writing to a view, or to what lies between its elements."""

    class Writes(zoo.Citizen):
        def grads(self, problem: ConvProblem) -> ConvGrads:
            as_strided(problem.x, (2,), (4,))[1] = 7
            return zoo.right.grads(problem)

    with pytest.raises(Malformed, match="writes to its input x"):
        Caller(Writes())(problem(layouts.LAYOUTS["strided view"](BASE)))


def test_a_process_gets_it() -> None:
    """The whole way to another process and back."""
    worker = connect(find("tests.support.zoo:needs_c_order"))
    try:
        with pytest.raises(Exception, match="x is not C-contiguous"):
            worker.grads(problem(layouts.LAYOUTS["Fortran"](BASE)))
        assert np.array_equal(worker.grads(problem(BASE)).dx, zoo.right.grads(problem(BASE)).dx)
    finally:
        worker.close()


def test_extents() -> None:
    """Elements spanned, and those before the first."""
    assert extent((2, 3), None) == (6, 0)
    assert extent((2, 3), (-6, 2)) == (11, 6)
    assert extent((4, 3), (0, 1)) == (3, 0)
    assert extent((0, 3), (9, 1)) == (0, 0)
    assert strides_of(BASE) is None
    assert strides_of(BASE[:, ::-1]) == (60, -12, 3, 1)
    assert with_strides(BASE, None) is BASE
    assert placed(BASE, bytearray(BASE.nbytes + 8), 8).strides == BASE.strides


@pytest.mark.parametrize("name", layouts.LAYOUTS)
def test_it_is_kept(name: str) -> None:
    """In a file, and in the constructor that a failure prints, and said in words."""
    given = problem(layouts.LAYOUTS[name](BASE))
    names = {"np": np, "ConvProblem": ConvProblem, "ConvParams": ConvParams, "nan": np.nan}
    kept = problem_from_json(json.loads(json.dumps(problem_to_json(given))))
    pasted = eval(repr(given), names)
    for again in (kept, pasted):
        assert np.array_equal(again.x, given.x)
        assert again.x.strides == given.x.strides
    assert kept.x.flags.writeable == given.x.flags.writeable
    assert ("x with strides" in describe(given)) == (given.x.strides != BASE.strides)
    assert ("x read-only" in describe(given)) == (name == "read-only")


@pytest.mark.parametrize("name", layouts.LAYOUTS)
def test_a_smaller_array_lies_alike(name: str) -> None:
    """It is told to be of the same layout, and is a copy."""
    original = np.repeat(BASE, 2, axis=0)
    laid = layouts.LAYOUTS[name](original)
    smaller = laid_like(original[:, 1:4, 1:], laid)
    assert np.array_equal(smaller, original[:, 1:4, 1:])
    assert layouts.name_of(problem(smaller)) == layouts.name_of(problem(laid)) == name
    assert not np.shares_memory(smaller, laid)


def test_a_smaller_expanded_array_is_expanded() -> None:
    """One sample is shown for all."""
    laid = laid_like(np.ones((3, 2, 4), np.float32), np.broadcast_to(BASE[0, :1], (5, 4, 3)))
    assert strides_of(laid) == (0, 4, 1)
