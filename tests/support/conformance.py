"""The contract of an oracle, promise by promise: each `check_*` fails where one is broken.

A check asks an oracle for a problem, and for others made of it, and raises `Broken` with one
sentence. None needs a right answer, but for what is answered outside a domain.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType

import numpy as np
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from oracles.compare import first, judge
from oracles.protocol import GRADIENTS, RESULTS, Box, Domain, OracleError, Raised, describe
from oracles.worker import Connection
from reference.problem import Array, ConvGrads, ConvProblem
from tests.support.strategies import problems

Check = Callable[[Connection, ConvProblem], None]


class Broken(AssertionError):
    """An oracle breaks its contract; the message says how, and on which problem."""

    def __init__(self, oracle: Connection, words: str, problem: ConvProblem) -> None:
        super().__init__(f"{oracle.name} {words} [{describe(problem)}]")
        self.problem = problem


def check_accepts_its_domain(oracle: Connection, problem: ConvProblem) -> None:
    """Nothing inside the domain is refused."""
    try:
        oracle.grads(problem)
    except Raised as error:
        raise Broken(oracle, f"refuses what its domain has: {error}", problem) from None
    except OracleError as error:
        raise Broken(oracle, str(error), problem) from None


def check_keeps_form(oracle: Connection, problem: ConvProblem) -> None:
    """dX, dW, db and y have the shapes and dtype of x, w, b and dy."""
    likes = {"dx": problem.x, "dw": problem.w, "db": problem.b, "y": problem.dy}
    for name, array in _answers(oracle, problem).items():
        like = likes[name]
        for what in ("shape", "dtype"):
            if like is not None and getattr(array, what) != getattr(like, what):
                words = f"{name}.{what} = {getattr(array, what)}, not {getattr(like, what)}"
                raise Broken(oracle, words, problem)


def check_keeps_its_inputs(oracle: Connection, problem: ConvProblem) -> None:
    """Nothing is written to x, w, b and dy, nor around them; read-only arrays are taken."""
    frozen = {name: getattr(problem, name).copy() for name in ("x", "w", "dy")}
    for array in frozen.values():
        array.flags.writeable = False
    for asked in (problem, replace(problem, **frozen)):
        _answers(oracle, asked)


def check_same_answer_twice(oracle: Connection, problem: ConvProblem) -> None:
    """The same problem has the same answer, bit for bit."""
    before, again = _answers(oracle, problem), _answers(oracle, problem)
    for name, array in before.items():
        if array.tobytes() != again[name].tobytes():
            raise Broken(oracle, f"{name} is another one when asked again", problem)


def check_zero_dy_gives_zero(oracle: Connection, problem: ConvProblem) -> None:
    """No gradient comes out of none."""
    zero = replace(problem, dy=np.zeros_like(problem.dy))
    for name, array in _gradients(oracle, zero).items():
        if (index := first(array != 0)) is not None:
            words = f"{_at(name, index)} = {array[index]} for a dy of zeros"
            raise Broken(oracle, words, problem)


def check_linear_in_dy(oracle: Connection, problem: ConvProblem) -> None:
    """Gradients for -2 dy are -2 times those for dy; for two parts of dy they add up to them.

    On integers nothing of this is rounded, but who transforms is not asked for the second.
    """
    whole = _gradients(oracle, problem)
    doubled = _gradients(oracle, replace(problem, dy=-2 * problem.dy))
    _check_equal(oracle, problem, doubled, {name: -2 * whole[name] for name in whole}, "-2 dy")
    if not oracle.domain.exact:
        return
    is_even = np.arange(problem.dy.size).reshape(problem.dy.shape) % 2 == 0
    parts = (np.where(mask, problem.dy, 0).astype(problem.dtype) for mask in (is_even, ~is_even))
    one, other = (_gradients(oracle, replace(problem, dy=part)) for part in parts)
    sums = {name: one[name] + other[name] for name in whole}
    _check_equal(oracle, problem, whole, sums, "the sum of two dy")


def check_refuses_outside(oracle: Connection, problem: ConvProblem) -> None:
    """What lies outside the domain is refused with words, or answered rightly."""
    verdict = judge(oracle, problem)
    words = verdict.message.partition(f" [{describe(problem)}]")[0].removeprefix(f"{oracle.name} ")
    refused = verdict.kind == Raised.kind and not re.fullmatch(r"raises \w+:", words.strip())
    if verdict.kind != "agrees" and not refused:
        raise Broken(oracle, f"outside its domain {words}", problem)


def _check_equal(
    oracle: Connection,
    problem: ConvProblem,
    got: Mapping[str, Array],
    want: Mapping[str, Array],
    about: str,
) -> None:
    for name, array in got.items():
        if (index := first(~(array == want[name]))) is not None:
            words = (
                f"is not linear: {_at(name, index)} = {array[index]} for {about}, but should be "
                f"{want[name][index]}"
            )
            raise Broken(oracle, words, problem)


def _answers(oracle: Connection, problem: ConvProblem) -> dict[str, Array]:
    try:
        grads: ConvGrads = oracle.grads(problem)
    except OracleError as error:
        raise Broken(oracle, str(error), problem) from None
    return {name: value for name in RESULTS if (value := getattr(grads, name)) is not None}


def _gradients(oracle: Connection, problem: ConvProblem) -> dict[str, Array]:
    answers = _answers(oracle, problem)
    return {name: array for name, array in answers.items() if name in GRADIENTS}


def _at(name: str, index: tuple[int, ...]) -> str:
    return f"{name}[{', '.join(map(str, index))}]"


CHECKS: Mapping[str, Check] = MappingProxyType(
    {name: value for name, value in list(globals().items()) if name.startswith("check_")}
)


def problems_for(check: str, domain: Domain) -> SearchStrategy[ConvProblem]:
    """The problems that a check is made on: of every rank and dtype of the domain.

    For one of what lies outside they are of any kind; those inside are to be passed over.
    """
    cells = domain.cells()
    if check == "check_refuses_outside":
        sizes = [box.max_elements for box in domain.boxes if box.max_elements is not None]
        domain = Domain(
            *(
                Box(ranks=(rank,), dtypes=(dtype,), max_elements=min(sizes, default=None))
                for rank, dtype in cells
            )
        )
    return st.sampled_from(cells).flatmap(lambda cell: problems(domain, *cell, "small"))


def concerns(check: str, domain: Domain, problem: ConvProblem) -> bool:
    """Whether a check is to be made on `problem`."""
    return domain.accepts(problem) != (check == "check_refuses_outside")
